"""bpr_loss in blocks of users whose gathered rows [b, 1 + K, D] stay in the cache. Runs on any device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmenc_plugin.kernels.bpr_loss.parts import Forward, Groups, Problem

BLOCK_BYTES = 2**22  # of gathered rows: few blocks, each still in the cache when it is read again
SUM_BYTES = 2**20  # of rows of a gradient and of what their pairs take, which are in memory at once


def forward(p: Problem, gradients: bool, user_gradient: bool) -> Forward:
    """The losses, and what they are derived from: see `parts.Forward`.

    Each block of rows is gathered once, for its scores and for the gradient of its users.
    """
    size, candidates, width = len(p), 1 + p.negative_ids.shape[1], p.users.shape[1]
    losses = p.users.new_empty(size, dtype=p.dtype)
    coefficients = p.users.new_empty((size, candidates), dtype=p.dtype) if gradients else None
    user_rows = p.users.new_empty((size, width), dtype=p.dtype) if user_gradient else None
    step = max(1, BLOCK_BYTES // (candidates * width * p.dtype.itemsize))
    buffer = losses.new_empty(min(step, size), candidates, width)
    for start in range(0, size, step):
        block = slice(start, start + step)
        ids = p.candidates(block)
        rows = _gather(p.items, ids, buffer[: len(ids)])
        scores = torch.bmm(rows, p.users.index_select(0, p.user_ids[block]).to(p.dtype)[:, :, None])[:, :, 0]
        if p.bias is not None:
            scores += p.bias[ids]
        if p.log_q is not None:
            scores -= p.log_q[ids]
        margins = scores[:, 1:] - scores[:, :1]
        losses[block], slopes = _derive(margins, p.loss)
        losses[block] += 0 * scores[:, 0]  # NaN where the positive's score is infinite
        if coefficients is not None:
            here = coefficients[block]
            here[:, 1:] = slopes
            torch.sum(slopes, 1, out=here[:, 0]).neg_()
            if user_rows is not None:
                _weigh(here, rows, user_rows[block])
    return Forward(losses, coefficients, user_rows)


def _gather(table: Tensor, ids: Tensor, out: Tensor) -> Tensor:
    """Rows [b, C, D] of the table, in `out`: new memory for each block would leave holes between what is kept."""
    flat = out.view(-1, table.shape[1])
    if table.dtype == out.dtype:
        torch.index_select(table, 0, ids.view(-1), out=flat)
    else:
        flat.copy_(table.index_select(0, ids.view(-1)))
    return out


def _weigh(coefficients: Tensor, rows: Tensor, out: Tensor) -> None:
    """Sum coefficient [b, C] times row [b, C, D] over C; small products of matrices cost more than they compute."""
    if rows.shape[1] > 3:
        torch.bmm(coefficients[:, None], rows, out=out[:, None])
    else:
        places = torch.arange(coefficients.numel(), device=rows.device).view_as(coefficients)
        out.copy_(F.embedding_bag(places, rows.flatten(0, 1), mode="sum", per_sample_weights=coefficients))


def _derive(margins: Tensor, loss: str) -> tuple[Tensor, Tensor]:
    """Losses [B] and their derivatives [B, K] by the margins, how far each negative lies above the positive.

    The sampled softmax is ln(1 + sum_k e^margin_k), here with the largest term taken out; BPR is its case K = 1.
    """
    if loss == "bpr":
        return F.softplus(margins).mean(1), margins.sigmoid().div_(margins.shape[1])
    top = margins.amax(1).clamp_(min=0)
    terms = (margins - top[:, None]).exp_()
    others = terms.sum(1) + torch.expm1(-top)  # the sum of all terms, the positive's too, less 1
    return top + torch.log1p(others), terms.div_(1 + others[:, None])


def sum_rows(source: Tensor, coefficients: Tensor, groups: Groups, dtype: torch.dtype) -> Tensor:
    """Sum coefficient times source row over the pairs of each group, some groups at a time.

    Args:
        source: [S, D].
        coefficients: [S, C] of the same type: pair s * C + c is coefficients[s, c] of source[s].
        groups: of the pairs, R.
        dtype: of the result; the sums are made in that of the coefficients.

    Returns:
        [R, D].
    """
    (each, width), flat, total = (coefficients.shape[1], source.shape[1]), coefficients.reshape(-1), len(groups)
    out = source.new_empty((total, width), dtype=dtype)
    pairs_each = -(-len(flat) // max(total, 1))
    step = max(1, SUM_BYTES // ((width + 3 * pairs_each) * flat.itemsize))
    for start in range(0, total, step):
        offsets = groups.offsets[start : start + step + 1]
        pairs = groups.order[int(offsets[0]) : int(offsets[-1])]
        rows = pairs.div(each, rounding_mode="floor")
        out[start : start + step] = _bags(source, rows, flat.index_select(0, pairs), offsets - offsets[0])
    return out


def _bags(source: Tensor, rows: Tensor, coefficients: Tensor, offsets: Tensor) -> Tensor:
    """Sums [R, D] of coefficient times source[row] over the pairs between two offsets."""
    if not len(rows):
        return source.new_zeros(len(offsets) - 1, source.shape[1])
    return F.embedding_bag(
        rows, source, offsets.to(rows.dtype), mode="sum", per_sample_weights=coefficients, include_last_offset=True
    )
