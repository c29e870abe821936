"""The one place where item ids become rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from mmenc_plugin.errors import DataError, some
from mmenc_plugin.features.store import FeatureBlock
from mmenc_plugin.types import ItemTable, Modality


@dataclass(frozen=True)
class AlignedFeatures:
    """Features in a host's row order.

    Attributes:
        values: [I, D] float32.
        present: [I] bool; false for items without the modality, and for a padding row.
    """

    values: Tensor
    present: Tensor


def align(
    block: FeatureBlock,
    tokens: Sequence[str],
    *,
    missing: Literal["mean", "zeros", "error"] = "mean",
    padding_row: bool = False,
    scaling: Literal["standard", "l2", "none"] = "none",
) -> AlignedFeatures:
    """Put a block's rows into a host's order.

    Args:
        block: features with their ids.
        tokens: the host's item ids, row by row, without the padding row.
        missing: what the row of an item without the modality gets: the mean of the others, zeros,
            or an error.
        padding_row: whether the host has a row 0 that is no item (RecBole has); it gets zeros.
        scaling: "standard" subtracts the mean over the host's items and divides by the root of their
            mean squared norm, one number for the whole table, so that the centred rows keep their
            angles and have unit length on average, whatever D is; "l2" gives unit rows; "none"
            leaves the values.

    Returns:
        [I, D] values and [I] marks, I = len(tokens) + padding_row.

    Raises:
        DataError: a token that the block does not know, or (missing="error") an item without the
            modality.
    """
    row_of = {item: row for row, item in enumerate(block.ids)}
    unknown = [token for token in tokens if token not in row_of]
    if unknown:
        raise DataError(
            f"{len(unknown)} of {len(tokens)} items of the interactions have no row in the item file "
            f"({some(unknown)}). Add a row for each; leave its cells empty where nothing is known."
        )
    rows = torch.tensor([row_of[token] for token in tokens], dtype=torch.int64)
    values, present = block.values[rows], block.present[rows]
    if missing == "error" and not present.all():
        absent = [token for token, has in zip(tokens, present.tolist(), strict=True) if not has]
        reasons = [f"{token}: {block.rejected.get(token, 'unknown')}" for token in absent]
        raise DataError(
            f"{len(absent)} of {len(tokens)} items have no {block.recipe['modality']} ({some(reasons)}). Mend them, or "
            "set missing to mean, neighbours or zeros."
        )
    # Standardised rows have mean zero; computed, it is noise, which some models would scale to length 1.
    values = _fill(scaled(values, present, scaling), present, "zeros" if scaling == "standard" else missing)
    if padding_row:
        values = torch.cat([torch.zeros(1, values.shape[1]), values])
        present = torch.cat([torch.zeros(1, dtype=torch.bool), present])
    return AlignedFeatures(values, present)


def scaled(values: Tensor, present: Tensor, scaling: str) -> Tensor:
    """Features [N, D] under `feature_scaling` (see `align`), which is of those [N] that are present."""
    return Scaling.of(values[present], scaling)(values)


@dataclass(frozen=True)
class Scaling:
    """`feature_scaling`, with the constants of some table of features; see `align`.

    Attributes:
        kind: standard, l2 or none.
        mean: [D] that standard subtracts.
        length: [] that standard divides by.
    """

    kind: str
    mean: Tensor
    length: Tensor

    @classmethod
    def of(cls, values: Tensor, kind: str) -> Scaling:
        """The constants of features [N, D]; of none, nothing is scaled."""
        if kind != "standard" or not len(values):
            return cls("l2" if kind == "l2" else "none", values.new_zeros(()), values.new_ones(()))
        mean = values.mean(0)
        length, raw = (rows.square().sum(1).mean().sqrt() for rows in (values - mean, values))
        return cls(kind, mean, torch.maximum(length, 1e-5 * raw).clamp(min=1e-12))  # equal rows stay (nearly) zero

    def __call__(self, values: Tensor) -> Tensor:
        """Features [N, D] of the same kind, scaled."""
        if self.kind == "l2":
            return nn.functional.normalize(values, dim=1)
        return (values - self.mean) / self.length if self.kind == "standard" else values


def _fill(values: Tensor, present: Tensor, missing: str) -> Tensor:
    if present.all() or not present.any():
        return values
    filler = values[present].mean(0) if missing == "mean" else torch.zeros(values.shape[1])
    return torch.where(present[:, None], values, filler)


def arrange(items: ItemTable, tokens: Sequence[str], padding_row: bool = False) -> ItemTable:
    """The items in a host's order, with an item that has nothing for a padding row.

    Args:
        items: N items, those of the tokens among them.
        tokens: as for `align`.
        padding_row: as for `align`.
    """
    row_of = {item: row for row, item in enumerate(items.ids)}
    rows = [row_of[token] for token in tokens]
    nothing = [""] * padding_row
    ids, texts, images = ([*nothing, *(cells[row] for row in rows)] for cells in (items.ids, items.texts, items.images))
    return ItemTable(ids, texts, images, items.image_dir)


class FrozenFeatures(nn.Module):
    """The aligned features of every modality, on the model's device, not trained.

    The tables are neither parameters nor saved with the model, and a copy of the module shares them.

    Args:
        tables: modality -> aligned features.
    """

    frozen = True
    version = 0

    def __init__(self, tables: Mapping[Modality, AlignedFeatures]) -> None:
        super().__init__()
        self.modalities = tuple(tables)
        for modality, table in tables.items():
            self.register_buffer(f"{modality}_values", table.values, persistent=False)
            self.register_buffer(f"{modality}_present", table.present, persistent=False)

    def width(self, modality: Modality) -> int:
        """D of the modality."""
        return int(self.table(modality).shape[1])

    def table(self, modality: Modality) -> Tensor:
        """All items' features [I, D]."""
        return cast(Tensor, getattr(self, f"{modality}_values"))

    def rows(self, modality: Modality, items: Tensor) -> Tensor:
        """Features [B, D] of the item rows [B]."""
        return self.table(modality)[items]

    def present(self, modality: Modality) -> Tensor:
        """[I] bool: the items that have the modality."""
        return cast(Tensor, getattr(self, f"{modality}_present"))

    def __deepcopy__(self, memo: dict[int, object]) -> FrozenFeatures:
        return FrozenFeatures({m: AlignedFeatures(self.table(m), self.present(m)) for m in self.modalities})
