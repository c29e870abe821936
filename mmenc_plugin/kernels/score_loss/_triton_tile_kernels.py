"""Kernels over a tile of products [R, C] in memory, float32, which torch has multiplied."""

# The arguments of a kernel are pointers, tiles and constants of the compiler, not of Python.
# ruff: noqa: ANN001, ANN202, N803, PLR0913
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from mmenc_plugin.kernels.score_loss._triton_forward import LOG2_E, LOWEST

SIZES = ["n_rows", "n_columns", "first_row", "first_column", "n_events"]


@triton.jit
def event_at(ROWS, COLUMNS, n_events, first_row, first_column, n_rows, n_columns, BLOCK: tl.constexpr):
    """A block of events: their numbers, rows and columns in the tile, and which of them lie in it."""
    events = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    rows = tl.load(ROWS + events, mask=events < n_events, other=-1) - first_row
    columns = tl.load(COLUMNS + events, mask=events < n_events, other=-1) - first_column
    inside = (rows >= 0) & (rows < n_rows) & (columns >= 0) & (columns < n_columns) & (events < n_events)
    return events, rows, columns, inside


@triton.jit(do_not_specialize=SIZES)
def events_kernel(PRODUCTS, SCALE, BIAS, ROWS, COLUMNS, SCORES, first_row, first_column, n_rows, n_columns, n_events,
                  BLOCK: tl.constexpr, HAS_BIAS: tl.constexpr, EXCLUDE: tl.constexpr):  # fmt: skip
    """Excluded entries become -inf; of positives, the score is noted in SCORES[t]. Grid: blocks of events."""
    events, rows, columns, inside = event_at(
        ROWS, COLUMNS, n_events, first_row, first_column, n_rows, n_columns, BLOCK)  # fmt: skip
    places = PRODUCTS + rows.to(tl.int64) * n_columns + columns
    if EXCLUDE:
        tl.store(places, tl.full([BLOCK], float("-inf"), tl.float32), mask=inside)
    else:
        scores = tl.load(places, mask=inside, other=0.0) * tl.load(SCALE)
        if HAS_BIAS:
            scores += tl.load(BIAS + columns, mask=inside, other=0.0)
        tl.store(SCORES + events, scores, mask=inside)


@triton.jit
def exponents_of(products, scale, terms):
    """In units of log2; an excluded entry (-inf) stays one whatever the scale's sign, and at a scale of 0."""
    return tl.where(products == float("-inf"), products, products * scale + terms)


@triton.jit(do_not_specialize=["n_x", "n_y", "span"])
def tile_lse_kernel(PRODUCTS, SCALE, Y_TERMS, LSE, n_x, n_y, span, stride_x, stride_y,
                    BLOCK_X: tl.constexpr, BLOCK_Y: tl.constexpr, HAS_TERMS: tl.constexpr):  # fmt: skip
    """LSE[split, x] = log2 of the sum of 2 ** score over the split's `span` y. Grid: blocks of X, splits."""
    x_rows = tl.program_id(0) * BLOCK_X + tl.arange(0, BLOCK_X)
    split = tl.program_id(1)
    scale = tl.load(SCALE) * LOG2_E
    top = tl.full([BLOCK_X], LOWEST, tl.float32)
    total = tl.zeros([BLOCK_X], tl.float32)
    for start in range(split * span, tl.minimum((split + 1) * span, n_y), BLOCK_Y):
        y = start + tl.arange(0, BLOCK_Y)
        places = PRODUCTS + x_rows[:, None].to(tl.int64) * stride_x + y[None, :].to(tl.int64) * stride_y
        mask = (x_rows < n_x)[:, None] & (y < n_y)[None, :]
        terms = tl.load(Y_TERMS + y, mask=y < n_y, other=0.0) if HAS_TERMS else tl.zeros([BLOCK_Y], tl.float32)
        exponents = exponents_of(tl.load(places, mask=mask, other=float("-inf")), scale, terms[None, :])
        new_top = tl.maximum(top, tl.max(exponents, 1))
        total = total * tl.exp2(top - new_top) + tl.sum(tl.exp2(exponents - new_top[:, None]), 1)
        top = new_top
    tl.store(LSE + split.to(tl.int64) * n_x + x_rows, top + tl.log2(total), mask=x_rows < n_x)


@triton.jit
def slopes_of(exponents, ROW_LSE, ROW_FACTORS, COLUMN_LSE, COLUMN_FACTORS, rows, columns, row_mask, column_mask,
              ACROSS: tl.constexpr, SYMMETRIC: tl.constexpr):  # fmt: skip
    """Without the positives. With ACROSS every row meets every column, else they are pairs."""
    row_lse = tl.load(ROW_LSE + rows, mask=row_mask, other=0.0)
    factors = tl.load(ROW_FACTORS + rows, mask=row_mask, other=0.0)
    if ACROSS:
        row_lse, factors = row_lse[:, None], factors[:, None]
    slopes = tl.where(factors == 0, 0.0, tl.exp2(exponents - row_lse) * factors)
    if SYMMETRIC:
        column_lse = tl.load(COLUMN_LSE + columns, mask=column_mask, other=0.0)
        factors = tl.load(COLUMN_FACTORS + columns, mask=column_mask, other=0.0)
        if ACROSS:
            column_lse, factors = column_lse[None, :], factors[None, :]
        slopes += tl.where(factors == 0, 0.0, tl.exp2(exponents - column_lse) * factors)
    return slopes


@triton.jit(do_not_specialize=SIZES)
def slopes_kernel(PRODUCTS, SCALE, BIAS, ROW_LSE, ROW_FACTORS, COLUMN_LSE, COLUMN_FACTORS, OUT, n_rows, n_columns,
                  BLOCK_X: tl.constexpr, BLOCK_Y: tl.constexpr, HAS_BIAS: tl.constexpr,
                  SYMMETRIC: tl.constexpr):  # fmt: skip
    """OUT = the slopes of a tile but for its positives; it may be PRODUCTS. Grid: blocks, by rows first."""
    across = tl.cdiv(n_columns, BLOCK_Y)
    columns = tl.program_id(0) % across * BLOCK_Y + tl.arange(0, BLOCK_Y)
    rows = tl.program_id(0) // across * BLOCK_X + tl.arange(0, BLOCK_X)
    mask = (rows < n_rows)[:, None] & (columns < n_columns)[None, :]
    places = rows[:, None].to(tl.int64) * n_columns + columns[None, :]
    terms = tl.zeros([BLOCK_Y], tl.float32)
    if HAS_BIAS:
        terms = tl.load(BIAS + columns, mask=columns < n_columns, other=0.0) * LOG2_E
    products = tl.load(PRODUCTS + places, mask=mask, other=float("-inf"))
    exponents = exponents_of(products, tl.load(SCALE) * LOG2_E, terms[None, :])
    slopes = slopes_of(exponents, ROW_LSE, ROW_FACTORS, COLUMN_LSE, COLUMN_FACTORS, rows, columns, rows < n_rows,
                       columns < n_columns, True, SYMMETRIC)  # fmt: skip
    tl.store(OUT + places, slopes.to(OUT.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=SIZES)
def positives_kernel(SCORES, ROW_LSE, ROW_FACTORS, COLUMN_LSE, COLUMN_FACTORS, ROWS, COLUMNS, WEIGHTS, OUT,
                     first_row, first_column, n_rows, n_columns, n_events, BLOCK: tl.constexpr,
                     SYMMETRIC: tl.constexpr):  # fmt: skip
    """The slopes of the positives, less their weights before they are rounded. Grid: blocks of positives.

    A positive that is listed twice writes the same twice: its weight is that of both.
    """
    events, rows, columns, inside = event_at(
        ROWS, COLUMNS, n_events, first_row, first_column, n_rows, n_columns, BLOCK)  # fmt: skip
    exponents = tl.load(SCORES + events, mask=inside, other=0.0) * LOG2_E
    slopes = slopes_of(exponents, ROW_LSE, ROW_FACTORS, COLUMN_LSE, COLUMN_FACTORS, rows, columns, inside, inside,
                       False, SYMMETRIC)  # fmt: skip
    slopes -= tl.load(WEIGHTS + events, mask=inside, other=0.0)
    tl.store(OUT + rows.to(tl.int64) * n_columns + columns, slopes.to(OUT.dtype.element_ty), mask=inside)
