"""bpr_loss with the whole gathered copy [B, 1 + K, D]: the mathematics.

`bpr_loss` is what the kernel computes, differentiable by autograd. `forward` is the same with its derivatives
written out, which is what an implementation of the operator gives.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmenc_plugin.kernels.bpr_loss.parts import Forward, Groups, Problem


def bpr_loss(  # noqa: PLR0913
    users: Tensor,
    items: Tensor,
    user_ids: Tensor,
    positive_ids: Tensor,
    negative_ids: Tensor,
    *,
    bias: Tensor | None = None,
    log_q: Tensor | None = None,
    loss: str = "bpr",
    weights: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """As `kernels.bpr_loss`, for negative_ids [B, K], without checks."""
    scores = _scores(users, items, user_ids, positive_ids, negative_ids, bias, log_q)
    margins = scores[:, 1:] - scores[:, :1]
    if loss == "bpr":
        losses = F.softplus(margins).mean(1)
    else:
        losses = torch.cat([torch.zeros_like(margins[:, :1]), margins], 1).logsumexp(1)
    weights = torch.ones_like(losses) if weights is None else weights.to(losses.dtype)
    if reduction == "none":
        return weights * losses
    total = (weights * losses).sum()
    return total / weights.sum() if reduction == "mean" else total


def _scores(
    users: Tensor,
    items: Tensor,
    user_ids: Tensor,
    positive_ids: Tensor,
    negative_ids: Tensor,
    bias: Tensor | None,
    log_q: Tensor | None,
) -> Tensor:
    """Of the positive and the negatives [B, 1 + K]."""
    ids = torch.cat([positive_ids[:, None], negative_ids], 1)
    scores = torch.einsum("bd,bkd->bk", users[user_ids], items[ids])
    if bias is not None:
        scores = scores + bias[ids]
    if log_q is not None:
        scores = scores - log_q[ids]
    return scores


def forward(p: Problem, gradients: bool, user_gradient: bool) -> Forward:
    """The losses, and what they are derived from: see `parts.Forward`."""
    users, items = p.users.to(p.dtype), p.items.to(p.dtype)
    scores = _scores(users, items, p.user_ids, p.positive_ids, p.negative_ids, p.bias, p.log_q).to(p.dtype)
    margins = scores[:, 1:] - scores[:, :1]
    if p.loss == "bpr":
        losses, slopes = F.softplus(margins).mean(1), margins.sigmoid() / margins.shape[1]
    else:
        with_positive = torch.cat([torch.zeros_like(margins[:, :1]), margins], 1)
        losses, slopes = with_positive.logsumexp(1), with_positive.softmax(1)[:, 1:]
    losses = losses + 0 * scores[:, 0]
    coefficients = torch.cat([-slopes.sum(1, keepdim=True), slopes], 1)
    user_rows = torch.einsum("bk,bkd->bd", coefficients, items[p.candidates()])
    return Forward(losses, coefficients if gradients else None, user_rows if user_gradient else None)


def sum_rows(source: Tensor, coefficients: Tensor, groups: Groups, dtype: torch.dtype) -> Tensor:
    """As `cpu.sum_rows`."""
    target = torch.arange(len(groups), device=source.device).repeat_interleave(groups.offsets.diff())
    rows = (coefficients[:, :, None] * source[:, None]).flatten(0, 1)[groups.order]
    return source.new_zeros(len(groups), source.shape[1]).index_add_(0, target, rows).to(dtype)
