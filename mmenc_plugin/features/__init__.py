"""Features of items: extracted once, kept under the key of what made them, aligned to a host's rows."""

from mmenc_plugin.features.align import AlignedFeatures, FrozenFeatures, align
from mmenc_plugin.features.extract import extract
from mmenc_plugin.features.pictures import PictureOptions
from mmenc_plugin.features.recipe import Recipe
from mmenc_plugin.features.store import FeatureBlock, open_block

__all__ = [
    "AlignedFeatures",
    "FeatureBlock",
    "FrozenFeatures",
    "PictureOptions",
    "Recipe",
    "align",
    "extract",
    "open_block",
]
