"""What is to be encoded: every different content once, unless a block of the same encoder has it already."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmenc_plugin.data.digests import text_digest
from mmenc_plugin.features.contents import Contents, Rows, as_keys
from mmenc_plugin.features.recipe import Recipe
from mmenc_plugin.features.store import MANIFEST, VALUES
from mmenc_plugin.types import ItemTable

CHUNK = 16384  # rows copied from another block at once


@dataclass(frozen=True)
class Copy:
    """Rows that another block has.

    Attributes:
        folder: of the other block.
        sources: [n] its rows.
        targets: [n] item rows that have the same content, ascending.
    """

    folder: Path
    sources: Rows
    targets: Rows

    def chunks(self) -> Iterator[tuple[Rows, Tensor]]:
        """Item rows [n] and their features [n, D], a part at a time."""
        with safe_open(self.folder / VALUES, framework="pt") as file:
            values = file.get_tensor("values")
            for start in range(0, len(self.targets), CHUNK):
                yield self.targets[start : start + CHUNK], values[self.sources[start : start + CHUNK]]


@dataclass(frozen=True)
class Plan:
    """The work of an extraction, the same in every process that looks at the same items and store.

    Attributes:
        work: [W] the item rows to encode, one for each content, in this order.
        copies: what other blocks have.
        key: a hash of the work's contents.
    """

    work: Rows
    copies: list[Copy]
    key: str
    _position: Rows  # [N] where in `work` each item's content is, -1 for an item that needs none
    _order: Rows  # [N] item rows, sorted by that position
    _sorted: Rows  # [N] the positions in that order

    @classmethod
    def of(cls, items: ItemTable, contents: Contents, recipe: Recipe, store: Path) -> Plan:
        """Find out what is to be done.

        Args:
            items: N items.
            contents: theirs.
            recipe: of the block to be made.
            store: where other blocks lie.
        """
        first, number = contents.distinct()
        copies, known = _known(contents, first, number, recipe, store)
        left = (~known).nonzero()[0]
        if recipe.modality == "text":  # texts of about one length together, so that little of a batch is padding
            lengths = np.array([len(items.texts[row]) for row in first[left]], dtype=np.int64)
            left = left[lengths.argsort(kind="stable")]
        place = np.full(len(first) + 1, -1, dtype=np.int64)  # the last one for items without content
        place[left] = np.arange(len(left))
        position = place[number]
        order = position.argsort(kind="stable")
        key = text_digest(contents.digests[first[left]].tobytes().hex())[:12]
        return cls(first[left], copies, key, position, order, position[order])

    def targets(self, start: int, end: int) -> tuple[Rows, Rows]:
        """The item rows of a piece of the work.

        Args:
            start: of the piece of `work`.
            end: likewise.

        Returns:
            Item rows [n], ascending, and for each the position in `work` of its content.
        """
        begin, stop = np.searchsorted(self._sorted, [start, end])
        rows = np.sort(self._order[begin:stop])
        return rows, self._position[rows]


def _known(
    contents: Contents, first: Rows, number: Rows, recipe: Recipe, store: Path
) -> tuple[list[Copy], np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """What other blocks of the same encoder have, and which of the different contents [U] these are."""
    known, copies = np.zeros(len(first), dtype=bool), []
    for folder in _siblings(recipe, store):
        try:
            with safe_open(folder / VALUES, framework="np") as file:
                theirs, present = file.get_tensor("contents"), file.get_tensor("present")
        except (SafetensorError, OSError):
            continue  # a damaged block is no source; it says so when it is asked for itself
        rows = present.nonzero()[0]
        mine = (~known).nonzero()[0]
        _, source, found = np.intersect1d(
            as_keys(theirs[rows]), as_keys(contents.digests[first[mine]]), return_indices=True
        )
        if len(found):
            row_of = np.full(len(first) + 1, -1, dtype=np.int64)
            row_of[mine[found]] = rows[source]
            targets = (row_of[number] >= 0).nonzero()[0]
            copies.append(Copy(folder, row_of[number[targets]], targets))
            known[mine[found]] = True
    return copies, known


def _siblings(recipe: Recipe, store: Path) -> list[Path]:
    """Blocks that differ from the recipe only in their items."""
    folders = []
    for manifest in sorted(store.glob(f"{recipe.modality}-*/{MANIFEST}")):
        try:
            other = json.loads(manifest.read_text(encoding="utf-8"))["recipe"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(other, dict) and {**other, **recipe.items_part()} == recipe.as_dict():
            folders.append(manifest.parent)
    return folders
