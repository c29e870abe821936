"""The mathematics of score_loss, with the whole [B, N] matrix. `losses` can also be differentiated by torch."""

from __future__ import annotations

import torch
from torch import Tensor

from mmenc_plugin.kernels.score_loss.problem import Gradients, Needs, Problem, rows_of


def losses(p: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [B], log-sum-exp of each query's scores [B], and of each column's (symmetric: [N], else empty)."""
    scores, counts = _scores(p), _counts(p)
    loss = _softmax_loss(scores, counts)
    if not p.symmetric:
        return loss, scores.logsumexp(1), scores.new_empty(0)
    return (loss + _softmax_loss(scores.T, counts.T)) / 2, scores.logsumexp(1), scores.logsumexp(0)


def gradients(p: Problem, coefficients: Tensor, row_lse: Tensor, column_lse: Tensor, needs: Needs) -> Gradients:
    """Gradients of sum_b coefficients[b] * loss[b]: those of the scores, and from there by the chain rule."""
    scores, counts, coefficients = _scores(p), _counts(p), coefficients.to(p.dtype)
    slopes = _slopes(scores, counts, coefficients)
    if p.symmetric:
        slopes = (slopes + _slopes(scores.T, counts.T, coefficients).T) / 2
    queries, columns = p.queries.to(p.dtype), _columns(p)
    items = p.scale * (slopes.T @ queries)
    if p.item_ids is not None:
        items = torch.zeros_like(p.items, dtype=p.dtype).index_put_((p.item_ids,), items, accumulate=True)
    all_ = p.scale * (slopes @ columns), items, (slopes * (queries @ columns.T)).sum(), slopes.sum(0)
    return tuple(g if need else None for g, need in zip(all_, needs, strict=True))  # type: ignore[return-value]


def _columns(p: Problem) -> Tensor:
    return (p.items if p.item_ids is None else p.items[p.item_ids]).to(p.dtype)


def _scores(p: Problem) -> Tensor:
    """[B, N], excluded ones -inf."""
    scores = p.scale * (p.queries.to(p.dtype) @ _columns(p).T)
    if p.bias is not None:
        scores = scores + p.bias
    excluded = torch.zeros_like(scores, dtype=torch.bool)
    excluded[rows_of(p.exclude), p.exclude[1]] = True
    return scores.masked_fill(excluded, -torch.inf)


def _counts(p: Problem) -> Tensor:
    """[B, N] how often a column is listed as the query's positive."""
    counts = torch.zeros(len(p.queries), p.n_columns, dtype=p.dtype, device=p.queries.device)
    return counts.index_put_((rows_of(p.targets), p.targets[1]), counts.new_ones(()), accumulate=True)


def _softmax_loss(scores: Tensor, counts: Tensor) -> Tensor:
    """logsumexp_n s_bn less the mean of the positives' scores [B]; 0 for a row without positives."""
    n = counts.sum(1)
    mean = (counts * scores.where(counts > 0, 0)).sum(1) / n.clamp(min=1)
    scores = scores.where((n > 0)[:, None], 0)  # so that a row that does not count may be wholly -inf
    return (scores.logsumexp(1) - mean).where(n > 0, 0)


def _slopes(scores: Tensor, counts: Tensor, coefficients: Tensor) -> Tensor:
    """Derivatives [B, N] of sum_b coefficients[b] * loss[b] by the scores: c_b (softmax_bn - counts_bn / n_b)."""
    n = counts.sum(1, keepdim=True)
    scores = scores.where(n > 0, 0)
    return coefficients[:, None] * (scores.softmax(1) - counts / n.clamp(min=1)).where(n > 0, 0)
