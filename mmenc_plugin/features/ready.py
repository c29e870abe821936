"""Features that somebody already has, as a block of the store."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmenc_plugin.encoders import ReadyFeatures
from mmenc_plugin.errors import DataError
from mmenc_plugin.features.contents import DIGEST, Contents
from mmenc_plugin.features.recipe import Recipe
from mmenc_plugin.features.store import BlockWriter
from mmenc_plugin.types import ItemTable, Modality

CHUNK = 16384  # rows read at once


def ready_recipe(items: ItemTable, features: ReadyFeatures, modality: Modality) -> Recipe:
    """The recipe of a block of ready features: their bytes, and which row is whose."""
    contents = _contents(features.rows(items))
    return Recipe.of(features.spec, modality, len(items), contents.digest(items.ids), CHUNK, CHUNK)


def write_ready_block(store: Path, recipe: Recipe, items: ItemTable, features: ReadyFeatures) -> None:
    """Copy ready features into the store, row by row.

    Args:
        store: folder of the store.
        recipe: of the block.
        items: N items.
        features: theirs, or some of theirs.

    Raises:
        DataError: not one item has a row.
    """
    rows = features.rows(items)
    has = (rows >= 0).nonzero().squeeze(1)
    if not len(has):
        raise DataError(f"not one of {len(items)} items has a row in {features.spec.weights}.")
    writer = BlockWriter(store, recipe, features.spec.width[recipe.modality])
    for part in torch.split(has, CHUNK):
        writer.put(part.numpy(), features.values(rows[part]).float())
    absent = (rows < 0).nonzero().squeeze(1).tolist()
    reasons = {items.ids[item]: f"no row in {Path(features.spec.weights).name}" for item in absent}
    writer.finish(items.ids, (rows >= 0).numpy(), _contents(rows).digests, reasons)


def _contents(rows: Tensor) -> Contents:
    """What each of N items is made from: its row, zeros for none."""
    digests = np.zeros((len(rows), DIGEST), dtype=np.uint8)
    for item, row in enumerate(rows.tolist()):
        if row >= 0:
            digests[item] = np.frombuffer(hashlib.sha256(f"row {row}".encode()).digest(), dtype=np.uint8)
    return Contents(digests, digests, {})
