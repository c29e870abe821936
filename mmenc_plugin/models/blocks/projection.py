"""From an encoder's width to the model's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmenc_plugin.models.base import ItemFeatures
from mmenc_plugin.types import Modality

CHUNK = 2**20  # numbers gathered at once


def project_rows(
    features: ItemFeatures, modality: Modality, items: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Features of some items through a linear map.

    An item's features are read once, however often it occurs. Those of frozen features are read a few items at a time,
    once more for the gradient, so that no copy of them is made.

    Args:
        features: of the items.
        modality: which of them.
        items: [N] rows, in any order.
        weight: [D', D].
        bias: [D'] or None.

    Returns:
        [N, D'].
    """
    distinct, place = torch.unique(items, return_inverse=True)
    if features.frozen:
        projected = cast(Tensor, _Projected.apply(weight, features.table(modality), distinct))  # type: ignore[no-untyped-call]
    else:
        projected = F.linear(features.rows(modality, distinct), weight)
    return F.embedding(place, projected if bias is None else projected + bias)


class _Projected(torch.autograd.Function):
    """table[rows] @ weight^T, with a gradient for the weight alone."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, table: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(table, rows)
        ctx.type = weight.dtype
        factor = weight.to(table.dtype).T
        out = table.new_empty(len(rows), factor.shape[1])
        with torch.autocast(table.device.type, enabled=False):
            for span, values in _gathered(table, rows):
                torch.mm(values, factor, out=out[span])
        return out

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, None, None]:
        table, rows = ctx.saved_tensors
        upper = above[0].to(table.dtype)
        of_weight = table.new_zeros(upper.shape[1], table.shape[1])
        for span, values in _gathered(table, rows):
            of_weight.addmm_(upper[span].T, values)
        return of_weight.to(ctx.type), None, None


def _gathered(table: Tensor, rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows [N] of the table [I, D], a span of N at a time; each overwrites the one before."""
    step = len(rows) if table.is_cuda else max(1, CHUNK // table.shape[1])
    room = table.new_empty(min(step, len(rows)), table.shape[1])
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        yield slice(start, start + step), torch.index_select(table, 0, part, out=room[: len(part)])


class ModalityProjection(nn.Module):
    """One matrix a modality, summed: the same as one matrix over the concatenated features.

    Args:
        features: whose modalities and widths are projected.
        width: D of the result.
    """

    def __init__(self, features: ItemFeatures, width: int) -> None:
        super().__init__()
        self.matrices = nn.ModuleDict({m: nn.Linear(features.width(m), width, bias=False) for m in features.modalities})
        for weight in self.matrices.parameters():
            nn.init.xavier_normal_(weight)

    def weight(self, modality: Modality) -> Tensor:
        """[D, D_m] of a modality."""
        return cast(Tensor, self.matrices[modality].weight)

    def forward(self, features: ItemFeatures, items: Tensor | None = None) -> Tensor:
        """[B, D] of the item rows [B], or [I, D] of all items."""
        if items is not None:
            parts = [project_rows(features, m, items, self.weight(m)) for m in features.modalities]
        else:
            parts = [F.linear(features.table(m), self.weight(m)) for m in features.modalities]
        return torch.stack(parts).sum(0)
