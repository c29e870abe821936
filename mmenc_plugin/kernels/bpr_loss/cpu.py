"""bpr_loss in blocks of users whose gathered rows [b, 1 + K, D] stay in the cache. Runs on any device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmenc_plugin.kernels.bpr_loss.parts import Forward, Groups

BLOCK_BYTES = 2**22  # of gathered rows: few blocks, each still in the cache when it is read again
TABLE_BYTES = 2**24  # of a gradient of half width, summed in float32 before it is rounded


def forward(  # noqa: PLR0913
    users: Tensor,
    items: Tensor,
    user_ids: Tensor,
    positive_ids: Tensor,
    negative_ids: Tensor,
    bias: Tensor | None,
    log_q: Tensor | None,
    loss: str,
    gradients: bool,
    user_gradient: bool,
) -> Forward:
    """The losses, and what they are derived from: see `parts.Forward`.

    Each block of rows is gathered once, for its scores and for the gradient of its users.
    """
    wide = torch.promote_types(users.dtype, torch.float32)
    size, candidates, width = len(user_ids), 1 + negative_ids.shape[1], users.shape[1]
    losses = users.new_empty(size, dtype=wide)
    coefficients = users.new_empty((size, candidates), dtype=wide) if gradients else None
    user_rows = users.new_empty((size, width), dtype=wide) if user_gradient else None
    step = max(1, BLOCK_BYTES // (candidates * width * wide.itemsize))
    for start in range(0, size, step):
        block = slice(start, start + step)
        ids = torch.cat([positive_ids[block, None], negative_ids[block]], 1)
        rows = items.index_select(0, ids.view(-1)).to(wide).view(*ids.shape, width)
        scores = torch.bmm(rows, users.index_select(0, user_ids[block]).to(wide)[:, :, None])[:, :, 0]
        if bias is not None:
            scores += bias[ids]
        if log_q is not None:
            scores -= log_q[ids]
        margins = scores[:, 1:] - scores[:, :1]
        losses[block], slopes = _derive(margins, loss)
        losses[block] += 0 * scores[:, 0]  # NaN where the positive's score is infinite
        if coefficients is not None:
            here = coefficients[block]
            here[:, 1:] = slopes
            torch.sum(slopes, 1, out=here[:, 0]).neg_()
            if user_rows is not None:
                _weigh(here, rows, user_rows[block])
    return Forward(losses, coefficients, user_rows)


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


def sum_rows(source: Tensor | None, repeats: int, coefficients: Tensor, groups: Groups, dtype: torch.dtype) -> Tensor:
    """Sum coefficient times source row over the pairs of each group.

    Args:
        source: [P / repeats, D]; pair p belongs to source[p // repeats]. None stands for a column of ones.
        repeats: pairs for each row of the source.
        coefficients: [P].
        groups: of the pairs.
        dtype: of the result; the sums are made in that of `coefficients`.

    Returns:
        [R, D], or [R] without a source.
    """
    wide, total = coefficients.dtype, len(groups)
    values = coefficients[groups.order]
    if source is None:
        ones, rows = values.new_ones(1, 1), torch.zeros_like(groups.order)
    else:
        ones, rows = source.to(wide), groups.order.div(repeats, rounding_mode="floor")
    step = total if dtype == wide else max(1, TABLE_BYTES // (ones.shape[1] * wide.itemsize))
    if step >= total:
        out = _bags(ones, rows, values, groups.offsets).to(dtype)
    else:
        out = torch.empty((total, ones.shape[1]), dtype=dtype, device=values.device)
        for start in range(0, total, step):
            offsets = groups.offsets[start : start + step + 1]
            pairs = slice(int(offsets[0]), int(offsets[-1]))
            out[start : start + step] = _bags(ones, rows[pairs], values[pairs], offsets - offsets[0])
    return out[:, 0] if source is None else out


def _bags(source: Tensor, rows: Tensor, coefficients: Tensor, offsets: Tensor) -> Tensor:
    """Sums [R, D] of coefficient times source[row] over the pairs between two offsets."""
    if not len(rows):
        return source.new_zeros(len(offsets) - 1, source.shape[1])
    return F.embedding_bag(rows, source, offsets, mode="sum", per_sample_weights=coefficients, include_last_offset=True)
