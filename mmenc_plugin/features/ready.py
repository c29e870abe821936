"""Features that somebody already has, as a block of the store."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

from mmenc_plugin.encoders import ReadyFeatures
from mmenc_plugin.errors import DataError
from mmenc_plugin.features.contents import DIGEST, Contents
from mmenc_plugin.features.recipe import Recipe
from mmenc_plugin.features.store import BlockWriter, FeatureBlock, open_block
from mmenc_plugin.types import ItemTable, Modality

CHUNK = 16384  # rows read at once


def write_ready_block(items: ItemTable, features: ReadyFeatures, modality: Modality, store: Path) -> FeatureBlock:
    """The block of ready features, from the store, or copied into it row by row.

    Args:
        items: N items.
        features: theirs, or some of theirs.
        modality: what the features are of.
        store: folder of the store.

    Raises:
        DataError: not one item has a row.
    """
    rows = features.rows(items)
    digests = np.zeros((len(items), DIGEST), dtype=np.uint8)
    for item, row in enumerate(rows.tolist()):
        if row >= 0:
            digests[item] = np.frombuffer(hashlib.sha256(f"row {row}".encode()).digest(), dtype=np.uint8)
    contents = Contents(digests, digests, {})
    recipe = Recipe.of(features.spec, modality, len(items), contents.digest(items.ids), CHUNK, CHUNK)
    folder = store / recipe.key
    if not folder.is_dir():
        has = (rows >= 0).nonzero().squeeze(1)
        if not len(has):
            raise DataError(f"not one of {len(items)} items has a row in {features.spec.weights}.")
        writer = BlockWriter(store, recipe, features.spec.width[modality])
        for part in torch.split(has, CHUNK):
            writer.put(part.numpy(), features.values(rows[part]).float())
        absent = (rows < 0).nonzero().squeeze(1).tolist()
        reasons = {items.ids[item]: "no row in the feature file" for item in absent}
        writer.finish(items.ids, (rows >= 0).numpy(), digests, reasons)
    return open_block(folder, recipe)
