"""Two blocks, or two stores, side by side."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmenc_plugin.features.manage import block_folders
from mmenc_plugin.features.store import MANIFEST, FeatureBlock, open_block

CHUNK = 16384  # rows compared at once


@dataclass(frozen=True)
class Cosines:
    """How alike the features of items are that two blocks share.

    Attributes:
        n_items: that have features in both.
        mean: of the items' cosines.
        least: the smallest of them.
        item: the id that has it.
        largest_difference: between two numbers in one place.
    """

    n_items: int
    mean: float
    least: float
    item: str
    largest_difference: float


@dataclass(frozen=True)
class BlockDifference:
    """Two blocks side by side.

    Attributes:
        recipe: the parts of the recipes that differ, each with both values.
        same_files: whether every file has the same bytes.
        shared: items of both.
        only: ids of the first alone, of the second alone.
        masked: shared ids without features in the first alone, in the second alone.
        widths: D of each.
        cosines: over the shared items that have features in both; None without any, or with two widths.
    """

    recipe: dict[str, tuple[Any, Any]]
    same_files: bool
    shared: int
    only: tuple[list[str], list[str]]
    masked: tuple[list[str], list[str]]
    widths: tuple[int, int]
    cosines: Cosines | None

    @property
    def same(self) -> bool:
        """Whether the two are one block."""
        return self.same_files and not self.recipe


@dataclass(frozen=True)
class StoreDifference:
    """Two stores side by side.

    Attributes:
        only: keys of the first alone, of the second alone.
        shared: key -> the difference of the two blocks.
    """

    only: tuple[list[str], list[str]]
    shared: dict[str, BlockDifference]

    @property
    def same(self) -> bool:
        """Whether the two hold the same blocks."""
        return not any(self.only) and all(difference.same for difference in self.shared.values())


def compare_stores(first: Path, second: Path) -> StoreDifference:
    """Which blocks two stores share, and whether these are the same.

    Raises:
        StoreError: no such store, or a block in both that is damaged.
    """
    mine, theirs = ({folder.name: folder for folder in block_folders(store)} for store in (first, second))
    shared = {key: compare_blocks(open_block(mine[key]), open_block(theirs[key])) for key in mine if key in theirs}
    return StoreDifference((_without(mine, theirs), _without(theirs, mine)), shared)


def compare_blocks(first: FeatureBlock, second: FeatureBlock) -> BlockDifference:
    """Two blocks, item by item."""
    rows = {item: row for row, item in enumerate(second.ids)}
    pairs = [(item, row, rows[item]) for row, item in enumerate(first.ids) if item in rows]
    masked: tuple[list[str], list[str]] = ([], [])
    both = []
    for item, one, other in pairs:
        has = bool(first.present[one]), bool(second.present[other])
        if all(has):
            both.append((item, one, other))
        elif any(has):
            masked[0 if has[1] else 1].append(item)
    widths = first.values.shape[1], second.values.shape[1]
    return BlockDifference(
        recipe=_differing(first.recipe, second.recipe),
        same_files=_files(first) == _files(second),
        shared=len(pairs),
        only=(_without(first.ids, rows), _without(second.ids, set(first.ids))),
        masked=masked,
        widths=widths,
        cosines=_cosines(first.values, second.values, both) if both and widths[0] == widths[1] else None,
    )


def _without(names: Any, others: Any) -> list[str]:
    return [name for name in names if name not in others]


def _files(block: FeatureBlock) -> Any:
    return json.loads((block.folder / MANIFEST).read_text(encoding="utf-8"))["files"]


def _differing(one: dict[str, Any], other: dict[str, Any], at: str = "") -> dict[str, tuple[Any, Any]]:
    """The leaves in which two nested mappings differ, by their dotted names."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in sorted({*one, *other}):
        left, right = one.get(name), other.get(name)
        if isinstance(left, dict) and isinstance(right, dict):
            found |= _differing(left, right, f"{at}{name}.")
        elif left != right:
            found[f"{at}{name}"] = (left, right)
    return found


def _cosines(first: Tensor, second: Tensor, both: list[tuple[str, int, int]]) -> Cosines:
    """Over [N, D] and [M, D], for the given pairs of rows; two rows of zeros count as alike."""
    parts, largest = [], 0.0
    for start in range(0, len(both), CHUNK):
        _, mine, theirs = zip(*both[start : start + CHUNK], strict=True)
        one, other = first[list(mine)].double(), second[list(theirs)].double()
        cosine = torch.nn.functional.cosine_similarity(one, other, dim=1, eps=1e-300)
        parts.append(torch.where((one == other).all(1), 1.0, cosine))
        largest = max(largest, float((one - other).abs().max()))
    cosines = torch.cat(parts)
    least = int(cosines.argmin())
    return Cosines(len(both), float(cosines.mean()), float(cosines[least]), both[least][0], largest)
