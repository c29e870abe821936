"""Items as they lie on disk: RecBole's atomic files, pictures, and their digests."""

from mmenc_plugin.data.items import read_items
from mmenc_plugin.data.media import open_image

__all__ = ["open_image", "read_items"]
