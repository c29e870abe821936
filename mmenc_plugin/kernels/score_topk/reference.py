"""The mathematics of score_topk, with the whole [B, N] matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from mmenc_plugin.kernels.checks import CSR
from mmenc_plugin.types import TargetRanks, TopK


def score_topk(
    users: Tensor,
    items: Tensor,
    k: int,
    bias: Tensor | None = None,
    exclude: CSR | None = None,
    candidates: Tensor | None = None,
    targets: CSR | None = None,
) -> TopK:
    """See `mmenc_plugin.kernels.score_topk`; ties go to the smaller item row."""
    wide = torch.float64 if users.dtype == torch.float64 else torch.float32
    scores = users.to(wide) @ items.to(wide).T
    if bias is not None:
        scores = scores + bias
    admissible = _admissible(scores, exclude, candidates)
    if bool((scores.isnan() & admissible).any()):
        raise ValueError("a score is not a number (infinite users, items or bias), so there is no order of scores.")
    masked = scores.masked_fill(~admissible, -torch.inf)
    order = torch.sort(masked, dim=1, descending=True, stable=True)
    k = min(k, len(items) if candidates is None else len(candidates))
    best, ids = order.values[:, :k].contiguous(), order.indices[:, :k]
    ranks = None if targets is None else _ranks(scores, masked, *targets)
    return TopK(ids.masked_fill(best == -torch.inf, -1), best, ranks)


def rows_of(offsets: Tensor) -> Tensor:
    """The row [nnz] of each entry of a CSR."""
    return torch.repeat_interleave(torch.arange(len(offsets) - 1, device=offsets.device), offsets.diff())


def _admissible(scores: Tensor, exclude: CSR | None, candidates: Tensor | None) -> Tensor:
    admissible = torch.ones_like(scores, dtype=torch.bool)
    if candidates is not None:
        admissible[:] = False
        admissible[:, candidates] = True
    if exclude is not None:
        offsets, seen = exclude
        admissible[rows_of(offsets), seen] = False
    return admissible


def _ranks(scores: Tensor, masked: Tensor, offsets: Tensor, targets: Tensor) -> TargetRanks:
    """Of each target, by its own score, among the others' masked scores."""
    rows = rows_of(offsets)
    own, others = scores[rows, targets][:, None], masked[rows]
    others[torch.arange(len(rows), device=rows.device), targets] = -torch.inf
    if bool(own.isnan().any()):
        raise ValueError("the score of a target is not a number (infinite users, items or bias).")
    equal = (others == own) & (others > -torch.inf)
    smaller = torch.arange(scores.shape[1], device=scores.device) < targets[:, None]
    return TargetRanks((others > own).sum(1), equal.sum(1), (equal & smaller).sum(1))
