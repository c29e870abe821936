"""The mathematics of score_topk, with the whole [B, N] matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from mmenc_plugin.types import TopK


def score_topk(
    users: Tensor, items: Tensor, k: int, bias: Tensor | None, exclude: tuple[Tensor, Tensor] | None
) -> TopK:
    """See `mmenc_plugin.kernels.score_topk`; ties go to the smaller item row."""
    scores = users @ items.T
    if bias is not None:
        scores = scores + bias
    if exclude is not None:
        offsets, seen = exclude
        scores[
            torch.repeat_interleave(torch.arange(len(users), device=users.device), offsets.diff()), seen
        ] = -torch.inf
    order = torch.sort(scores, dim=1, descending=True, stable=True)
    best, ids = order.values[:, :k], order.indices[:, :k]
    return TopK(ids.masked_fill(best == -torch.inf, -1), best)
