"""The kernels of score_topk: a tile of users stays, tiles of items pass by, and no score leaves the chip.

X are the users and Y the items [n, D]. Events are a user's excluded items, sorted; each row of X remembers the next one
of its own, and a tile is looked at only where the nearest of all lies in it.
"""

# The arguments of a kernel are pointers, tiles and constants of the compiler, not of Python.
# ruff: noqa: ANN001, ANN202, N803, PLR0913, SIM102
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

NO_EVENT = tl.constexpr(2**31 - 1)  # after the last event of a row
SIZES = ["n_x", "n_y", "span"]


@triton.jit
def larger(a, b):
    """The maximum; NaN where one is, so that it comes up for its refusal."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def part_of_rows(base, rows, d, D: tl.constexpr, BLOCK_D: tl.constexpr, UPCAST: tl.constexpr):
    """[len(rows), BLOCK_D] of the rows' columns from d on; 0 beyond column D."""
    columns = d + tl.arange(0, BLOCK_D)
    places = base + rows[:, None] * D + columns[None, :]
    if D % BLOCK_D == 0:
        values = tl.load(places)
    else:
        values = tl.load(places, mask=(columns < D)[None, :] & (rows >= 0)[:, None], other=0.0)
    return values.to(tl.float32) if UPCAST else values


@triton.jit
def product(X, x_rows, x, Y, y_rows, D: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
            UPCAST: tl.constexpr):  # fmt: skip
    """[len(x_rows), len(y_rows)] inner products; `x` are the rows of X where D fits in BLOCK_D."""
    if D <= BLOCK_D:
        y = part_of_rows(Y, y_rows, 0, D, BLOCK_D, UPCAST)
        return tl.dot(x, tl.trans(y), input_precision=PRECISION)
    scores = tl.zeros([x_rows.shape[0], y_rows.shape[0]], tl.float32)
    for d in range(0, D, BLOCK_D):
        part = part_of_rows(X, x_rows, d, D, BLOCK_D, UPCAST)
        y = part_of_rows(Y, y_rows, d, D, BLOCK_D, UPCAST)
        scores = tl.dot(part, tl.trans(y), scores, input_precision=PRECISION)
    return scores


@triton.jit
def first_events(EVENT_BOUNDS, EVENT_Y, x, split, n_splits):
    """Of each row of X: the place of its first event in this split, the end, and the column of the nearest of all."""
    bounds = EVENT_BOUNDS + x.to(tl.int64) * (n_splits + 1) + split
    place, end = tl.load(bounds), tl.load(bounds + 1)
    return place, end, tl.min(tl.load(EVENT_Y + place, mask=place < end, other=NO_EVENT), 0)


@triton.jit
def admissible_scores(X, x_rows, x, Y, BIAS, EVENT_Y, start, n_y, place, end, nearest, D: tl.constexpr,
                      BLOCK_Y: tl.constexpr, BLOCK_D: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_EVENTS: tl.constexpr,
                      RAGGED: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr):  # fmt: skip
    """Scores of the tile from `start` on, -inf at events and beyond n_y; and where the events then stand."""
    within = tl.arange(0, BLOCK_Y)
    columns = start + within
    if RAGGED:
        within = tl.minimum(within, n_y - 1 - start)
    scores = product(X, x_rows, x, Y + tl.cast(start, tl.int64) * D, within, D, BLOCK_D, PRECISION, UPCAST)
    if HAS_BIAS:
        scores += tl.load((BIAS + start) + within)[None, :]
    if RAGGED:
        scores = tl.where((columns < n_y)[None, :], scores, float("-inf"))
    if HAS_EVENTS:
        if nearest < start + BLOCK_Y:
            following = tl.load(EVENT_Y + place, mask=place < end, other=NO_EVENT)
            while tl.min(following, 0) < start + BLOCK_Y:
                scores = tl.where(columns[None, :] == following[:, None], float("-inf"), scores)
                place += (following < start + BLOCK_Y).to(tl.int64)
                following = tl.load(EVENT_Y + place, mask=place < end, other=NO_EVENT)
            nearest = tl.min(following, 0)
    return scores, columns, place, nearest


@triton.jit
def peaks_step(X, x_rows, x, Y, BIAS, EVENT_Y, PEAKS, inside, start, n_y, n_groups, place, end, nearest,
               D: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_D: tl.constexpr,
               GROUP: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_EVENTS: tl.constexpr, RAGGED: tl.constexpr,
               PRECISION: tl.constexpr, UPCAST: tl.constexpr, INTERPRETED: tl.constexpr):  # fmt: skip
    """One tile of `peaks_kernel`."""
    scores, _, place, nearest = admissible_scores(
        X, x_rows, x, Y, BIAS, EVENT_Y, start, n_y, place, end, nearest, D, BLOCK_Y, BLOCK_D, HAS_BIAS, HAS_EVENTS,
        RAGGED, PRECISION, UPCAST)  # fmt: skip
    scores = tl.reshape(scores, [BLOCK_X, BLOCK_Y // GROUP, GROUP])
    if INTERPRETED:  # it reduces with a function of ours an element at a time
        peaks = tl.where(tl.sum((scores != scores).to(tl.int32), 2) > 0, float("nan"), tl.max(scores, 2))
    else:
        peaks = tl.reduce(scores, 2, larger)
    groups = start // GROUP + tl.arange(0, BLOCK_Y // GROUP)
    mask = inside[:, None]
    if RAGGED:
        mask = mask & (groups < n_groups)[None, :]
    tl.store(PEAKS + x_rows[:, None] * n_groups + groups[None, :], peaks, mask=mask)
    return place, nearest


@triton.jit(do_not_specialize=[*SIZES, "n_groups"])
def peaks_kernel(X, Y, BIAS, EVENT_BOUNDS, EVENT_Y, PEAKS, n_x, n_y, n_groups, span,
                 D: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_D: tl.constexpr,
                 GROUP: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_EVENTS: tl.constexpr, PRECISION: tl.constexpr,
                 UPCAST: tl.constexpr, INTERPRETED: tl.constexpr):  # fmt: skip
    """PEAKS[x, g] = the largest admissible score of x in group g of GROUP items. Grid: X tiles, splits of Y."""
    rows = tl.program_id(0) * BLOCK_X + tl.arange(0, BLOCK_X)
    split = tl.program_id(1)
    x_rows = tl.minimum(rows, n_x - 1).to(tl.int64)
    x = part_of_rows(X, x_rows, 0, D, BLOCK_D, UPCAST)
    place, end, nearest = 0, 0, 0
    if HAS_EVENTS:
        place, end, nearest = first_events(EVENT_BOUNDS, EVENT_Y, x_rows, split, tl.num_programs(1))
    first = split * tl.multiple_of(span, BLOCK_Y)
    last = tl.minimum(first + span, n_y)
    whole = first + (last - first) // BLOCK_Y * BLOCK_Y
    for start in range(first, whole, BLOCK_Y):
        place, nearest = peaks_step(
            X, x_rows, x, Y, BIAS, EVENT_Y, PEAKS, rows < n_x, start, n_y, n_groups, place, end, nearest, D, BLOCK_X,
            BLOCK_Y, BLOCK_D, GROUP, HAS_BIAS, HAS_EVENTS, False, PRECISION, UPCAST, INTERPRETED)  # fmt: skip
    if whole < last:
        place, nearest = peaks_step(
            X, x_rows, x, Y, BIAS, EVENT_Y, PEAKS, rows < n_x, whole, n_y, n_groups, place, end, nearest, D, BLOCK_X,
            BLOCK_Y, BLOCK_D, GROUP, HAS_BIAS, HAS_EVENTS, True, PRECISION, UPCAST, INTERPRETED)  # fmt: skip


@triton.jit(do_not_specialize=["n_y"])
def rescore_kernel(X, Y, BIAS, ROWS, GROUPS, SCORES, n_y, D: tl.constexpr, BLOCK_D: tl.constexpr, GROUP: tl.constexpr,
                   HAS_BIAS: tl.constexpr):  # fmt: skip
    """SCORES[p, j] = score of user ROWS[p] and item j of group GROUPS[p], summed in float32. Grid: p."""
    pair = tl.program_id(0)
    row, group = tl.load(ROWS + pair), tl.load(GROUPS + pair)
    columns = group * GROUP + tl.arange(0, GROUP)
    inside = columns < n_y
    scores = tl.zeros([GROUP], tl.float32)
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        x = tl.load(X + row * D + d, mask=d < D, other=0.0).to(tl.float32)
        mask = inside[:, None] & (d < D)[None, :]
        y = tl.load(Y + columns[:, None] * D + d[None, :], mask=mask, other=0.0).to(tl.float32)
        scores += tl.sum(x[None, :] * y, 1)
    if HAS_BIAS:
        scores += tl.load(BIAS + columns, mask=inside, other=0.0)
    tl.store(SCORES + pair.to(tl.int64) * GROUP + tl.arange(0, GROUP), tl.where(inside, scores, float("-inf")))


@triton.jit(do_not_specialize=["n_targets"])
def own_kernel(X, Y, BIAS, ROWS, COLUMNS, OWN, n_targets, D: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
               HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr):  # fmt: skip
    """OWN[t] = score of target t, the diagonal of a tile: rounded as those it is compared with. Grid: blocks of t."""
    targets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    t = tl.minimum(targets, n_targets - 1)
    x_rows, y_rows = tl.load(ROWS + t), tl.load(COLUMNS + t)
    x = part_of_rows(X, x_rows, 0, D, BLOCK_D, UPCAST)
    scores = product(X, x_rows, x, Y, y_rows, D, BLOCK_D, PRECISION, UPCAST)
    diagonal = tl.arange(0, BLOCK)[:, None] == tl.arange(0, BLOCK)[None, :]
    own = tl.sum(tl.where(diagonal, scores, 0.0), 1)
    if HAS_BIAS:
        own += tl.load(BIAS + y_rows)
    tl.store(OWN + targets, own, mask=targets < n_targets)


@triton.jit
def count_step(X, x_rows, x, Y, BIAS, EVENT_Y, own, column, above, tied, before, start, n_y, place, end, nearest,
               D: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_D: tl.constexpr, HAS_BIAS: tl.constexpr,
               HAS_EVENTS: tl.constexpr, RAGGED: tl.constexpr, PRECISION: tl.constexpr,
               UPCAST: tl.constexpr):  # fmt: skip
    """One tile of `count_kernel`."""
    scores, columns, place, nearest = admissible_scores(
        X, x_rows, x, Y, BIAS, EVENT_Y, start, n_y, place, end, nearest, D, BLOCK_Y, BLOCK_D, HAS_BIAS, HAS_EVENTS,
        RAGGED, PRECISION, UPCAST)  # fmt: skip
    other = columns[None, :] != column[:, None]
    equal = other & (scores == own[:, None]) & (scores > float("-inf"))
    above += tl.sum((other & (scores > own[:, None])).to(tl.int32), 1)
    tied += tl.sum(equal.to(tl.int32), 1)
    before += tl.sum((equal & (columns[None, :] < column[:, None])).to(tl.int32), 1)
    return above, tied, before, place, nearest


@triton.jit(do_not_specialize=[*SIZES, "n_targets"])
def count_kernel(X, Y, BIAS, ROWS, COLUMNS, OWN, EVENT_BOUNDS, EVENT_Y, COUNTS, n_targets, n_y, span,
                 D: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_D: tl.constexpr,
                 HAS_BIAS: tl.constexpr, HAS_EVENTS: tl.constexpr, PRECISION: tl.constexpr,
                 UPCAST: tl.constexpr):  # fmt: skip
    """COUNTS[split, :, t] = admissible items above target t, tied, and tied before it. Grid: tiles of t, splits."""
    targets = tl.program_id(0) * BLOCK_X + tl.arange(0, BLOCK_X)
    split = tl.program_id(1)
    t = tl.minimum(targets, n_targets - 1)
    x_rows, column, own = tl.load(ROWS + t), tl.load(COLUMNS + t), tl.load(OWN + t)
    x = part_of_rows(X, x_rows, 0, D, BLOCK_D, UPCAST)
    place, end, nearest = 0, 0, 0
    if HAS_EVENTS:
        place, end, nearest = first_events(EVENT_BOUNDS, EVENT_Y, t, split, tl.num_programs(1))
    above, tied = tl.zeros([BLOCK_X], tl.int32), tl.zeros([BLOCK_X], tl.int32)
    before = tl.zeros([BLOCK_X], tl.int32)
    first = split * tl.multiple_of(span, BLOCK_Y)
    last = tl.minimum(first + span, n_y)
    whole = first + (last - first) // BLOCK_Y * BLOCK_Y
    for start in range(first, whole, BLOCK_Y):
        above, tied, before, place, nearest = count_step(
            X, x_rows, x, Y, BIAS, EVENT_Y, own, column, above, tied, before, start, n_y, place, end, nearest, D,
            BLOCK_Y, BLOCK_D, HAS_BIAS, HAS_EVENTS, False, PRECISION, UPCAST)  # fmt: skip
    if whole < last:
        above, tied, before, place, nearest = count_step(
            X, x_rows, x, Y, BIAS, EVENT_Y, own, column, above, tied, before, whole, n_y, place, end, nearest, D,
            BLOCK_Y, BLOCK_D, HAS_BIAS, HAS_EVENTS, True, PRECISION, UPCAST)  # fmt: skip
    out = COUNTS + split.to(tl.int64) * 3 * n_targets + targets
    tl.store(out, above, mask=targets < n_targets)
    tl.store(out + n_targets, tied, mask=targets < n_targets)
    tl.store(out + tl.cast(n_targets, tl.int64) * 2, before, mask=targets < n_targets)
