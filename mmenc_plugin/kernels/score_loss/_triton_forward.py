"""The streaming kernels of score_loss: a tile of X stays, tiles of Y pass by, and no score leaves the chip.

X are the queries and Y the items, or the other way round; what belongs to a row of either is a base-2 exponent:
`x_terms` [n_x] and `y_terms` [n_y] are added to scale * log2(e) * (x . y). Events are entries (x, y) that differ from
the rest: excluded ones and positives. They are sorted by row, so each row of X remembers the next one of its own, and
a tile is looked at only where the nearest of all lies in it.
"""

# The arguments of a kernel are pointers, tiles and constants of the compiler, not of Python.
# ruff: noqa: ANN001, ANN202, N803, PLR0913, SIM102, SIM108
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

LOWEST = tl.constexpr(-1e30)  # a start for the maximum that leaves no inf - inf where all scores are -inf
LOG2_E = tl.constexpr(1.4426950408889634)
NO_EVENT = tl.constexpr(2**31 - 1)  # after the last event of a row
SIZES = ["n_x", "n_y", "span"]


@triton.jit
def rows_at(base, ids, start, n, D: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, HAS_IDS: tl.constexpr,
            RAGGED: tl.constexpr, UPCAST: tl.constexpr):  # fmt: skip
    """[BLOCK, BLOCK_D] of the rows from `start` on, through ids if there are any; 0 beyond row n and column D."""
    rows, columns = tl.arange(0, BLOCK), tl.arange(0, BLOCK_D)
    mask = None
    if RAGGED:
        mask = (start + rows < n)[:, None] & (columns < D)[None, :]
    elif D != BLOCK_D:
        mask = (columns < D)[None, :] & (rows >= 0)[:, None]
    if HAS_IDS:
        if RAGGED:
            ids_of = tl.load(ids + start + rows, mask=start + rows < n, other=0)
        else:
            ids_of = tl.load(ids + start + rows)
        places = base + ids_of[:, None] * D + columns[None, :]
    else:
        places = (base + tl.cast(start, tl.int64) * D) + (rows[:, None] * D + columns[None, :])
    values = tl.load(places) if mask is None else tl.load(places, mask=mask, other=0.0)
    return values.to(tl.float32) if UPCAST else values


@triton.jit
def terms_at(terms, start, n, BLOCK: tl.constexpr, RAGGED: tl.constexpr):
    """[BLOCK] exponents from `start` on; -inf beyond row n."""
    places = (terms + start) + tl.arange(0, BLOCK)
    if RAGGED:
        return tl.load(places, mask=start + tl.arange(0, BLOCK) < n, other=float("-inf"))
    return tl.load(places)


@triton.jit
def next_event(event_y, place, end):
    """Of each row of X, the row of Y of the event at `place`."""
    return tl.load(event_y + place, mask=place < end, other=NO_EVENT)


@triton.jit
def first_events(event_bounds, event_y, x_rows, n_x, split, n_splits):
    """Of each row of X: the place of its first event in this split, the end, and its row of Y."""
    bounds = event_bounds + x_rows.to(tl.int64) * (n_splits + 1) + split
    place = tl.load(bounds, mask=x_rows < n_x, other=0)
    end = tl.load(bounds + 1, mask=x_rows < n_x, other=0)
    return place, end, next_event(event_y, place, end)


@triton.jit
def lse_step(x, Y, IDS, Y_TERMS, EVENT_Y, start, n_y, scale, top, total, place, end, nearest,
             D: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_D: tl.constexpr, Y_IDS: tl.constexpr,
             HAS_TERMS: tl.constexpr, HAS_EVENTS: tl.constexpr, RAGGED: tl.constexpr,
             PRECISION: tl.constexpr, UPCAST: tl.constexpr):  # fmt: skip
    """One tile: the running maximum `top` and the sum `total` of 2 ** (score - top), each of a row of X."""
    y = rows_at(Y, IDS, start, n_y, D, BLOCK_Y, BLOCK_D, Y_IDS, RAGGED, UPCAST)
    scores = tl.dot(x, tl.trans(y), input_precision=PRECISION)
    if HAS_TERMS:  # in units of log2; without terms the products themselves are compared, which spares a multiplication
        scores = scores * scale + terms_at(Y_TERMS, start, n_y, BLOCK_Y, RAGGED)[None, :]
    columns = start + tl.arange(0, BLOCK_Y)
    if RAGGED and not HAS_TERMS:
        scores = tl.where((columns < n_y)[None, :], scores, float("-inf"))
    if HAS_EVENTS:
        if nearest < start + BLOCK_Y:
            following = next_event(EVENT_Y, place, end)
            while tl.min(following, 0) < start + BLOCK_Y:
                scores = tl.where(columns[None, :] == following[:, None], float("-inf"), scores)
                place += (following < start + BLOCK_Y).to(tl.int64)
                following = next_event(EVENT_Y, place, end)
            nearest = tl.min(following, 0)
    unit = 1.0 if HAS_TERMS else scale
    new_top = tl.maximum(top, tl.max(scores, 1))
    total = total * tl.exp2((top - new_top) * unit)
    if HAS_TERMS:
        total += tl.sum(tl.exp2(scores - new_top[:, None]), 1)
    else:
        total += tl.sum(tl.exp2(scores * scale - (new_top * scale)[:, None]), 1)
    return new_top, total, place, nearest


@triton.jit(do_not_specialize=SIZES)
def lse_kernel(X, Y, IDS, SCALE, Y_TERMS, EVENT_BOUNDS, EVENT_Y, LSE, n_x, n_y, span,
               D: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_D: tl.constexpr,
               X_IDS: tl.constexpr, Y_IDS: tl.constexpr, HAS_TERMS: tl.constexpr, HAS_EVENTS: tl.constexpr,
               PRECISION: tl.constexpr, UPCAST: tl.constexpr):  # fmt: skip
    """LSE[split, x] = log2 of the sum of 2 ** score over the split's `span` rows of Y. Grid: X tiles, splits."""
    x_start, split = tl.program_id(0) * BLOCK_X, tl.program_id(1)
    x_rows = x_start + tl.arange(0, BLOCK_X)
    x = rows_at(X, IDS, x_start, n_x, D, BLOCK_X, BLOCK_D, X_IDS, True, UPCAST)
    scale = tl.load(SCALE) * LOG2_E
    if not HAS_TERMS:  # the order of the products must be that of the scores; a scale of 0 must not meet -inf
        x = tl.where(scale < 0, -x, x)
        scale = tl.maximum(tl.abs(scale), 1e-37)
    top = tl.full([BLOCK_X], LOWEST, tl.float32)
    total = tl.zeros([BLOCK_X], tl.float32)
    place, end, nearest = 0, 0, 0
    if HAS_EVENTS:
        place, end, following = first_events(EVENT_BOUNDS, EVENT_Y, x_rows, n_x, split, tl.num_programs(1))
        nearest = tl.min(following, 0)
    first = split * tl.multiple_of(span, BLOCK_Y)
    last = tl.minimum(first + span, n_y)
    whole = first + (last - first) // BLOCK_Y * BLOCK_Y
    for start in range(first, whole, BLOCK_Y):
        top, total, place, nearest = lse_step(
            x, Y, IDS, Y_TERMS, EVENT_Y, start, n_y, scale, top, total, place, end, nearest, D, BLOCK_Y, BLOCK_D,
            Y_IDS, HAS_TERMS, HAS_EVENTS, False, PRECISION, UPCAST)  # fmt: skip
    if whole < last:
        top, total, place, nearest = lse_step(
            x, Y, IDS, Y_TERMS, EVENT_Y, whole, n_y, scale, top, total, place, end, nearest, D, BLOCK_Y, BLOCK_D,
            Y_IDS, HAS_TERMS, HAS_EVENTS, True, PRECISION, UPCAST)  # fmt: skip
    lse = (top if HAS_TERMS else top * scale) + tl.log2(total)
    tl.store(LSE + split.to(tl.int64) * n_x + x_rows, lse, mask=x_rows < n_x)


@triton.jit(do_not_specialize=["n_pairs"])
def pair_kernel(X, Y, IDS, SCALE, BIAS, ROWS, COLUMNS, SCORES, n_pairs, D: tl.constexpr, BLOCK: tl.constexpr,
                BLOCK_D: tl.constexpr, Y_IDS: tl.constexpr, HAS_BIAS: tl.constexpr):  # fmt: skip
    """SCORES[t] = scale * X[ROWS[t]] . Y[COLUMNS[t]] + BIAS[COLUMNS[t]]. Grid: blocks of pairs."""
    pairs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pairs < n_pairs
    column = tl.load(COLUMNS + pairs, mask=inside, other=0)
    place = tl.load(IDS + column, mask=inside, other=0) if Y_IDS else column
    row = tl.load(ROWS + pairs, mask=inside, other=0)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        mask = inside[:, None] & (d < D)[None, :]
        x = tl.load(X + row[:, None] * D + d[None, :], mask=mask, other=0.0)
        y = tl.load(Y + place[:, None] * D + d[None, :], mask=mask, other=0.0)
        total += tl.sum(x.to(tl.float32) * y.to(tl.float32), 1)
    total *= tl.load(SCALE)
    if HAS_BIAS:
        total += tl.load(BIAS + column, mask=inside, other=0.0)
    tl.store(SCORES + pairs, total, mask=inside)
