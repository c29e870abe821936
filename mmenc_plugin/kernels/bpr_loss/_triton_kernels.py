"""The Triton kernels of bpr_loss. Each value is float32 from the moment it is loaded; row offsets are int64."""

# The arguments of a kernel are pointers, tiles and constants of the compiler, not of Python.
# ruff: noqa: ANN001, ANN202, C901, N803, PLR0913
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _log1p(x):
    """ln(1 + x), exact for small x too: the rounding of 1 + x is divided out (Kahan)."""
    u = 1.0 + x
    return tl.where(u == 1.0, x, tl.log(u) * (x / tl.where(u == 1.0, 1.0, u - 1.0)))


@triton.jit
def _offset(bias, log_q, ids, mask):
    """What is added to the scores of item rows `ids`."""
    offset = tl.zeros(ids.shape, tl.float32)
    if bias is not None:
        offset += tl.load(bias + ids, mask=mask, other=0.0).to(tl.float32)
    if log_q is not None:
        offset -= tl.load(log_q + ids, mask=mask, other=0.0).to(tl.float32)
    return offset


@triton.jit(do_not_specialize=["size", "negatives"])
def loss_kernel(
    users, items, user_ids, positive_ids, negative_ids, bias, log_q,
    losses, coefficients, user_rows, size, negatives,
    WIDTH: tl.constexpr, SOFTMAX: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, STAGES: tl.constexpr,
) -> None:  # fmt: skip
    """Losses, coefficients and user gradients of BLOCK_B rows of the batch; the latter two where they are not None.

    The running state of the softmax is that of ln(1 + sum_k e^margin_k): `top`, the largest margin but at least 0,
    and `rest`, the sum of e^(margin - top). That of BPR needs no top.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    d = tl.arange(0, BLOCK_D)
    alive = row < size
    there = alive[:, None] & (d < WIDTH)[None, :]
    user = tl.load(user_ids + row, mask=alive, other=0).to(tl.int64)
    u = tl.load(users + user[:, None] * WIDTH + d[None, :], mask=there, other=0.0).to(tl.float32)
    positive = tl.load(positive_ids + row, mask=alive, other=0).to(tl.int64)
    p = tl.load(items + positive[:, None] * WIDTH + d[None, :], mask=there, other=0.0).to(tl.float32)
    score = tl.sum(u * p, axis=1) + _offset(bias, log_q, positive, alive)
    loss = score * 0  # NaN where the positive's score is infinite
    top = tl.zeros([BLOCK_B], tl.float32)
    rest = tl.zeros([BLOCK_B], tl.float32)
    gradient = tl.zeros([BLOCK_B, BLOCK_D], tl.float32)
    for k in tl.range(0, negatives, num_stages=STAGES):
        negative = tl.load(negative_ids + row * negatives + k, mask=alive, other=0).to(tl.int64)
        n = tl.load(items + negative[:, None] * WIDTH + d[None, :], mask=there, other=0.0).to(tl.float32)
        margin = tl.sum(u * n, axis=1) + _offset(bias, log_q, negative, alive) - score
        if SOFTMAX:
            before = top
            top = tl.maximum(top, margin)
            shrink = tl.exp(before - top)
            weight = tl.exp(margin - top)
            rest = rest * shrink
            gradient = gradient * shrink[:, None]
            kept = margin
        else:
            small = tl.exp(-tl.abs(margin))
            weight = tl.where(margin >= 0, 1.0, small) / (1.0 + small) / negatives
            loss += (tl.maximum(margin, 0.0) + _log1p(small)) / negatives
            kept = weight
        rest += weight
        if user_rows is not None:
            gradient += weight[:, None] * n
        if coefficients is not None:
            tl.store(coefficients + row * (negatives + 1) + 1 + k, kept, mask=alive)
    if SOFTMAX:
        others = rest + (tl.exp(-top) - 1.0)  # the sum of all terms, the positive's too, less 1
        loss += top + _log1p(others)
        part = 1.0 / (1.0 + others)
        rest = rest * part
        gradient = gradient * part[:, None]
        if coefficients is not None:
            tl.debug_barrier()  # the margins may have been stored by other threads
            for k in range(0, negatives):
                place = coefficients + row * (negatives + 1) + 1 + k
                tl.store(place, tl.exp(tl.load(place, mask=alive, other=0.0) - top) * part, mask=alive)
    tl.store(losses + row, loss, mask=alive)
    if coefficients is not None:
        tl.store(coefficients + row * (negatives + 1), -rest, mask=alive)
    if user_rows is not None:
        tl.store(user_rows + row[:, None] * WIDTH + d[None, :], gradient - rest[:, None] * p, mask=there)


@triton.jit
def _take(source, rows, coefficients, place, d, mask, WIDTH: tl.constexpr):
    """Coefficient times source row of the pairs at `place`."""
    weight = tl.load(coefficients + place, mask=mask, other=0.0)[:, None]
    row = tl.load(rows + place, mask=mask, other=0).to(tl.int64)[:, None]
    there = mask[:, None] & (d < WIDTH)[None, :]
    return weight * tl.load(source + row * WIDTH + d[None, :], mask=there, other=0.0)


@triton.jit
def whole_blocks_kernel(
    source, rows, coefficients, is_whole, partial,
    WIDTH: tl.constexpr, PAIRS: tl.constexpr, BLOCK_D: tl.constexpr,
) -> None:  # fmt: skip
    """The sum of a block of PAIRS pairs, if all are of one group; nothing is written if not."""
    block = tl.program_id(0).to(tl.int64)
    first = block * PAIRS
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    if tl.load(is_whole + block):
        place = first + tl.arange(0, PAIRS)
        total = tl.sum(_take(source, rows, coefficients, place, d, place >= 0, WIDTH), axis=0)
        tl.store(partial + block * WIDTH + d, total, mask=d < WIDTH)


@triton.jit(do_not_specialize=["groups"])
def rows_kernel(
    source, rows, coefficients, offsets, partial, out, groups,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, PAIRS: tl.constexpr, BLOCK_D: tl.constexpr,
) -> None:  # fmt: skip
    """The sums of ROWS groups: pairs before and after the whole blocks of each, then the sums of those blocks."""
    group = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    alive = group < groups
    start = tl.load(offsets + group, mask=alive, other=0)
    end = tl.load(offsets + group + 1, mask=alive, other=0)
    first, last = (start + PAIRS - 1) // PAIRS, end // PAIRS
    blocks = tl.maximum(last - first, 0)
    before = tl.where(blocks > 0, first * PAIRS, end) - start
    single = before + tl.where(blocks > 0, end - last * PAIRS, 0)
    total = tl.zeros([ROWS, BLOCK_D], tl.float32)
    for j in range(0, tl.max(single, axis=0)):
        place = start + j + tl.where(j < before, 0, blocks * PAIRS)
        total += _take(source, rows, coefficients, place, d, j < single, WIDTH)
    for j in range(0, tl.max(blocks, axis=0)):
        there = (j < blocks)[:, None] & (d < WIDTH)[None, :]
        total += tl.load(partial + (first + j)[:, None] * WIDTH + d[None, :], mask=there, other=0.0)
    place = group[:, None] * WIDTH + d[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=alive[:, None] & (d < WIDTH)[None, :])
