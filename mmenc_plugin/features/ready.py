"""Features that somebody already has, as a block of the store."""

from __future__ import annotations

from pathlib import Path

import torch

from mmenc_plugin.data.digests import text_digest
from mmenc_plugin.encoders import ReadyFeatures
from mmenc_plugin.errors import DataError
from mmenc_plugin.features.recipe import Recipe
from mmenc_plugin.features.store import FeatureBlock, open_block, write_block
from mmenc_plugin.types import ItemTable, Modality


def ready_recipe(items: ItemTable, features: ReadyFeatures, modality: Modality) -> Recipe:
    """The recipe of a block of ready features: their bytes, and which row is whose."""
    rows = features.rows(items).tolist()
    content = text_digest(*items.ids, *map(str, rows))
    return Recipe.of(features.spec, modality, len(items), content, 0, 0)


def write_ready_block(items: ItemTable, features: ReadyFeatures, modality: Modality, store: Path) -> FeatureBlock:
    """The block of ready features, from the store, or copied into it.

    Raises:
        DataError: not one item has a row.
    """
    rows, recipe = features.rows(items), ready_recipe(items, features, modality)
    folder = store / recipe.key
    if not folder.is_dir():
        has = rows >= 0
        if not has.any():
            raise DataError(f"not one of {len(items)} items has a row in {features.spec.weights}.")
        values = torch.zeros(len(items), features.spec.width[modality])
        values[has] = features.values(rows[has])
        absent = {items.ids[item]: "no row in the feature file" for item in (~has).nonzero()[:, 0].tolist()}
        write_block(store, recipe, items.ids, {"values": values, "present": has}, absent)
    return open_block(folder, recipe)
