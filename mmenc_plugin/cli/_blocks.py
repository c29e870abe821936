"""A block of features in a few lines."""

from __future__ import annotations

from mmenc_plugin.features import FeatureBlock
from mmenc_plugin.types import Modality


def print_block(modality: Modality, block: FeatureBlock) -> None:
    """Print where a block lies, and the first items without features."""
    present, width = int(block.present.sum()), block.values.shape[1]
    print(f"{modality}: {present} of {len(block.ids)} items, width {width}, {block.folder}")
    for item, reason in list(block.rejected.items())[:10]:
        print(f"  without features: {item}: {reason}")
    if len(block.rejected) > 10:
        print(f"  ... and {len(block.rejected) - 10} more in {block.folder / 'rejected.json'}")
