"""The streaming gradient kernel of score_loss: dX from a resident tile of X and passing tiles of Y.

See `_triton_forward` for X and Y, terms and events. A slope is the loss's derivative by a score: the exponential of
the score less its log-sum-exp, less the share of a positive. All slopes come scaled by one power of two (in the terms
and in the events' weights), which `factors` takes back: so they keep their bits in float16, too.
"""

# The arguments of a kernel are pointers, tiles and constants of the compiler, not of Python.
# ruff: noqa: ANN001, ANN202, C901, N803, PLR0913, SIM102
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from mmenc_plugin.kernels.score_loss._triton_forward import LOG2_E, SIZES, first_events, next_event, rows_at, terms_at


@triton.jit
def with_events(slopes, EVENT_Y, EVENT_WEIGHT, start, place, end, BLOCK_Y: tl.constexpr):
    """Excluded entries become 0, positives lose their weight; one event of each row at a time."""
    columns = tl.arange(0, BLOCK_Y)
    following = next_event(EVENT_Y, place, end)
    while tl.min(following, 0) < start + BLOCK_Y:
        weight = tl.load(EVENT_WEIGHT + place, mask=place < end, other=0.0)
        changed = tl.where((weight != weight)[:, None], 0.0, slopes - weight[:, None])
        slopes = tl.where(columns[None, :] == (following - start)[:, None], changed, slopes)
        place += (following < start + BLOCK_Y).to(tl.int64)
        following = next_event(EVENT_Y, place, end)
    return slopes, place, tl.min(following, 0)


@triton.jit
def signs_at(signs, start, n, BLOCK: tl.constexpr):
    """[BLOCK] of the coefficients from `start` on."""
    places = start + tl.arange(0, BLOCK)
    return tl.load(signs + places, mask=places < n, other=0.0)


@triton.jit
def gradient_step(x, x_terms, x_terms_2, x_signs, signed, Y, IDS, Y_TERMS, Y_TERMS_2, Y_SIGNS, EVENT_Y, EVENT_WEIGHT,
                  start, n_y, scale, sums, row_sums, place, end, nearest,
                  D: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_D: tl.constexpr, Y_IDS: tl.constexpr,
                  X_TERMS: tl.constexpr, HAS_Y_TERMS: tl.constexpr, SYMMETRIC: tl.constexpr, SIGNS: tl.constexpr,
                  ROW_SUMS: tl.constexpr, RAGGED: tl.constexpr, PRECISION: tl.constexpr,
                  UPCAST: tl.constexpr):  # fmt: skip
    """One tile: sums[x] += sum_y slope(x, y) * Y[y], and row_sums[x] += sum_y slope(x, y)."""
    y = rows_at(Y, IDS, start, n_y, D, BLOCK_Y, BLOCK_D, Y_IDS, RAGGED, UPCAST)
    scores = tl.dot(x, tl.trans(y), input_precision=PRECISION) * scale
    exponents = scores
    if HAS_Y_TERMS:
        exponents += terms_at(Y_TERMS, start, n_y, BLOCK_Y, RAGGED)[None, :]
    if X_TERMS:
        exponents += x_terms[:, None]
    slopes = tl.exp2(exponents)
    if SYMMETRIC:
        by_y = tl.exp2(scores + terms_at(Y_TERMS_2, start, n_y, BLOCK_Y, RAGGED)[None, :] + x_terms_2[:, None])
        if signed:
            slopes *= x_signs[:, None]
            by_y *= signs_at(Y_SIGNS, start, n_y, BLOCK_Y)[None, :]
        slopes += by_y
    elif SIGNS:
        if signed:
            slopes *= signs_at(Y_SIGNS, start, n_y, BLOCK_Y)[None, :]
    if RAGGED:
        slopes = tl.where((start + tl.arange(0, BLOCK_Y) < n_y)[None, :], slopes, 0.0)
    if nearest < start + BLOCK_Y:
        slopes, place, nearest = with_events(slopes, EVENT_Y, EVENT_WEIGHT, start, place, end, BLOCK_Y)
    if ROW_SUMS:
        row_sums += tl.sum(slopes, 1)
    sums = tl.dot(slopes.to(y.dtype), y, sums, input_precision=PRECISION)
    return sums, row_sums, place, nearest


@triton.jit(do_not_specialize=[*SIZES, "factor_step"])
def gradient_kernel(X, Y, IDS, SCALE, X_TERMS, Y_TERMS, X_TERMS_2, Y_TERMS_2, X_SIGNS, Y_SIGNS, SIGNED,
                    EVENT_BOUNDS, EVENT_Y, EVENT_WEIGHT, FACTORS, OUT, ROW_SUMS, n_x, n_y, span, factor_step,
                    D: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_D: tl.constexpr,
                    X_IDS: tl.constexpr, Y_IDS: tl.constexpr, HAS_X_TERMS: tl.constexpr, HAS_Y_TERMS: tl.constexpr,
                    SYMMETRIC: tl.constexpr, SIGNS: tl.constexpr, HAS_SUMS: tl.constexpr,
                    PRECISION: tl.constexpr, UPCAST: tl.constexpr):  # fmt: skip
    """OUT[split, x] = factor * sum_y slope(x, y) * Y[y] over the split's `span` rows. Grid: X tiles, splits."""
    x_start, split = tl.program_id(0) * BLOCK_X, tl.program_id(1)
    x_rows = x_start + tl.arange(0, BLOCK_X)
    inside = x_rows < n_x
    x = rows_at(X, IDS, x_start, n_x, D, BLOCK_X, BLOCK_D, X_IDS, True, UPCAST)
    scale = tl.load(SCALE) * LOG2_E
    signed = False
    x_terms, x_terms_2, x_signs = 0.0, 0.0, 0.0
    if HAS_X_TERMS:
        x_terms = terms_at(X_TERMS, x_start, n_x, BLOCK_X, True)
    if SYMMETRIC:
        x_terms_2 = terms_at(X_TERMS_2, x_start, n_x, BLOCK_X, True)
        x_signs = tl.load(X_SIGNS + x_rows, mask=inside, other=0.0)
    if SYMMETRIC or SIGNS:
        signed = tl.load(SIGNED) != 0
    sums = tl.zeros([BLOCK_X, BLOCK_D], tl.float32)
    row_sums = tl.zeros([BLOCK_X], tl.float32)
    place, end, following = first_events(EVENT_BOUNDS, EVENT_Y, x_rows, n_x, split, tl.num_programs(1))
    nearest = tl.min(following, 0)
    first = split * tl.multiple_of(span, BLOCK_Y)
    last = tl.minimum(first + span, n_y)
    whole = first + (last - first) // BLOCK_Y * BLOCK_Y
    for start in range(first, whole, BLOCK_Y):
        sums, row_sums, place, nearest = gradient_step(
            x, x_terms, x_terms_2, x_signs, signed, Y, IDS, Y_TERMS, Y_TERMS_2, Y_SIGNS, EVENT_Y, EVENT_WEIGHT,
            start, n_y, scale, sums, row_sums, place, end, nearest, D, BLOCK_Y, BLOCK_D, Y_IDS, HAS_X_TERMS,
            HAS_Y_TERMS, SYMMETRIC, SIGNS, HAS_SUMS, False, PRECISION, UPCAST)  # fmt: skip
    if whole < last:
        sums, row_sums, place, nearest = gradient_step(
            x, x_terms, x_terms_2, x_signs, signed, Y, IDS, Y_TERMS, Y_TERMS_2, Y_SIGNS, EVENT_Y, EVENT_WEIGHT,
            whole, n_y, scale, sums, row_sums, place, end, nearest, D, BLOCK_Y, BLOCK_D, Y_IDS, HAS_X_TERMS,
            HAS_Y_TERMS, SYMMETRIC, SIGNS, HAS_SUMS, True, PRECISION, UPCAST)  # fmt: skip
    places = split.to(tl.int64) * n_x + x_rows
    columns = tl.arange(0, BLOCK_D)
    if HAS_SUMS:
        tl.store(ROW_SUMS + places, row_sums, mask=inside)
    sums *= tl.load(FACTORS + x_rows * factor_step, mask=inside, other=0.0)[:, None]
    mask = inside[:, None] & (columns < D)[None, :]
    tl.store(OUT + places[:, None] * D + columns[None, :], sums.to(OUT.dtype.element_ty), mask=mask)
