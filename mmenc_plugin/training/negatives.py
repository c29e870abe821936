"""Hard negatives of image-text matching: pairs that do not belong together and look as if they did.

Li et al., "Align before Fuse", NeurIPS 2021 (section 3.2); VLMo takes them over.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmenc_plugin.kernels.checks import CSR
from mmenc_plugin.kernels.score_loss.problem import rows_of

_BLOCK = 1024  # rows of the similarities at a time


def hard_negatives(queries: Tensor, others: Tensor, scale: Tensor, true: CSR, draws: Tensor) -> Tensor:
    """For each query one other that is none of its matches, drawn by exp(scale * cosine).

    Args:
        queries: [B, D] of any length.
        others: [B, D].
        scale: [] the inverse temperature.
        true: which others belong to which query, and may never be drawn.
        draws: [B] uniform in 0..1, float64: the same ones draw the same, whoever computes.

    Returns:
        [B] int64, -1 for a query to which all others belong.
    """
    queries, others = (F.normalize(x.detach(), dim=1) for x in (queries, others))
    rows, found = rows_of(true), []
    for start in range(0, len(queries), _BLOCK):
        scores = scale.detach() * queries[start : start + _BLOCK] @ others.T
        mine = (rows >= start) & (rows < start + _BLOCK)
        scores[rows[mine] - start, true[1][mine]] = -torch.inf
        found.append(_drawn(scores.double(), draws[start : start + _BLOCK].to(scores.device)))
    return torch.cat(found) if found else rows[:0]


def _drawn(scores: Tensor, draws: Tensor) -> Tensor:
    """A column of each row [b], by the softmax of the scores [b, N]; -1 where all are -inf."""
    possible = scores > -torch.inf
    weights = (scores - scores.amax(1, keepdim=True).nan_to_num(neginf=0)).exp().where(possible, 0)
    reached = weights.cumsum(1) / weights.sum(1, keepdim=True).clamp(min=1e-300)
    # The first column whose cumulated weight lies above the draw has a weight itself.
    columns = (reached <= draws[:, None]).sum(1)
    last = possible.long().cumsum(1).argmax(1)
    return torch.where(possible.any(1), torch.minimum(columns, last), -1)
