"""score_topk in blocks of items: memory O(B * (k + block)) beside the inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from mmenc_plugin.types import TopK

BLOCK = 8192  # items


def score_topk(
    users: Tensor, items: Tensor, k: int, bias: Tensor | None, exclude: tuple[Tensor, Tensor] | None
) -> TopK:
    """See `mmenc_plugin.kernels.score_topk`; equal to the reference, ties included."""
    best = users.new_full((len(users), 0), -torch.inf)
    ids = torch.zeros(len(users), 0, dtype=torch.int64, device=users.device)
    for start in range(0, len(items), BLOCK):
        block = slice(start, min(start + BLOCK, len(items)))
        scores = users @ items[block].T
        if bias is not None:
            scores = scores + bias[block]
        if scores.isnan().any():
            raise ValueError("a score is not a number (infinite users or items), so there is no order of scores.")
        if exclude is not None:
            _mask(scores, exclude, block)
        best, ids = _merge(best, ids, scores, start, k)
    return TopK(ids.masked_fill(best == -torch.inf, -1), best)


def _mask(scores: Tensor, exclude: tuple[Tensor, Tensor], block: slice) -> None:
    offsets, seen = exclude
    inside = (seen >= block.start) & (seen < block.stop)
    rows = torch.repeat_interleave(torch.arange(len(scores), device=scores.device), offsets.diff())
    scores[rows[inside], seen[inside] - block.start] = -torch.inf


def _merge(best: Tensor, ids: Tensor, scores: Tensor, start: int, k: int) -> tuple[Tensor, Tensor]:
    """The k best of those so far and the block's; earlier columns are smaller rows, and win ties."""
    columns = torch.arange(start, start + scores.shape[1], device=scores.device).expand(len(scores), -1)
    order = torch.sort(torch.cat([best, scores], dim=1), dim=1, descending=True, stable=True)
    return order.values[:, :k], torch.cat([ids, columns], dim=1).gather(1, order.indices[:, :k])
