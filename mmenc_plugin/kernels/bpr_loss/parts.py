"""What the implementations of bpr_loss have in common: the problem, results, and the pairs grouped by table row.

A pair is one candidate of one row of the batch: P = B * (1 + K), the positive first. The derivative of the loss by
a score is the pair's coefficient, and every gradient is a sum of coefficients times rows over the pairs of a table
row. So the pairs are sorted by table row once, and each row of a gradient is summed and written once, in the order
of the pairs: no atomics, and the same bits on every run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmenc_plugin.kernels.precision import summed_in

PART = 2**16  # pairs that are numbered at once


@dataclass(frozen=True)
class Problem:
    """B rows of a batch, each of a user, an item that it took and K that it did not; checked.

    Attributes:
        users: [U, D] of any floating type.
        items: [I, D] of the same type.
        user_ids: [B] rows of `users`, int64.
        positive_ids: [B] rows of `items`, int64.
        negative_ids: [B, K] rows of `items`, int64.
        bias: [I], or None.
        log_q: [I], or None.
        loss: bpr or softmax.
    """

    users: Tensor
    items: Tensor
    user_ids: Tensor
    positive_ids: Tensor
    negative_ids: Tensor
    bias: Tensor | None = None
    log_q: Tensor | None = None
    loss: str = "bpr"

    @property
    def dtype(self) -> torch.dtype:
        """The type that is computed in."""
        return summed_in(self.users.dtype)

    def __len__(self) -> int:
        """B."""
        return len(self.user_ids)

    def candidates(self, rows: slice = slice(None)) -> Tensor:
        """The positive and the negatives [B, 1 + K] of some rows of the batch."""
        return torch.cat([self.positive_ids[rows, None], self.negative_ids[rows]], 1)


class Forward(NamedTuple):
    """Results of a forward pass, in float32 (float64 for float64 tables).

    Attributes:
        losses: [B], not finite where the positive's score is infinite.
        coefficients: [B, 1 + K] derivatives of each row's loss by its scores, or None where not asked for.
        user_rows: [B, D] derivatives of each row's loss by its user's embedding, or None where not asked for.
    """

    losses: Tensor
    coefficients: Tensor | None
    user_rows: Tensor | None


@dataclass(frozen=True)
class Groups:
    """Pairs sorted by the table row that they belong to; within a row in their own order.

    Attributes:
        order: [P] the pairs, row by row, int32 where that holds their number.
        offsets: [R + 1] order[offsets[r] : offsets[r + 1]] are the pairs of group r, int64.
        ids: [R] the table rows that have pairs; None where the groups are all rows of the table.
    """

    order: Tensor
    offsets: Tensor
    ids: Tensor | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1


def group(ids: list[Tensor], rows: int, *, distinct: bool) -> Groups:
    """Group pairs by their table row.

    Args:
        ids: [S, C_1], [S, C_2], ... rows of a table; side by side they are the pairs [S, C], P = S * C.
        rows: of the table, R.
        distinct: only the rows that have pairs, rather than all.
    """
    keys, order = _sort(ids, rows)
    if distinct:
        present, counts = torch.unique_consecutive(keys, return_counts=True)
    else:
        present, counts = None, torch.bincount(keys, minlength=rows)
    offsets = F.pad(counts.cumsum(0), (1, 0))
    return Groups(order, offsets, None if present is None else present.long())


def _sort(ids: list[Tensor], rows: int) -> tuple[Tensor, Tensor]:
    """The ids [P] in order, and the places that they had, rising among equal ones."""
    pairs = torch.cat([part.long() for part in ids], 1).view(-1)
    if max(rows, len(pairs)) >= 2**31:
        return torch.sort(pairs, stable=True)
    if not pairs.is_cpu:
        keys, order = torch.sort(pairs.int(), stable=True)  # half the digits to sort by
        return keys, order.int()
    pairs.bitwise_left_shift_(32)  # the id above, the place below
    for start in range(0, len(pairs), PART):
        part = pairs[start : start + PART]
        part += torch.arange(start, start + len(part))
    pairs.numpy().sort()  # in place: torch.sort takes four times the memory
    order = pairs.int()
    return pairs.bitwise_right_shift_(32), order


def upstream_rows(gradient: Tensor, weights: Tensor | None, reduction: str, rows: int) -> Tensor:
    """The factor [B] of each row's derivatives, from the gradient of the reduced loss."""
    if weights is None:
        return (gradient / rows if reduction == "mean" else gradient).expand(rows)
    weights = weights.to(gradient.dtype)
    return gradient * (weights / weights.sum() if reduction == "mean" else weights)


def reduce(losses: Tensor, weights: Tensor | None, reduction: str) -> Tensor:
    """The loss [B] or [], from the losses [B] of the rows."""
    if weights is None:
        return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()
    weights = weights.to(losses.dtype)
    losses = losses * weights
    return losses if reduction == "none" else losses.sum() / (weights.sum() if reduction == "mean" else 1)
