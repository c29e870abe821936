"""score_loss by tiles of products that torch multiplies: for wide rows, and for float32 to its last bit.

Where a product costs more than reading its result from memory, three products are better than the four (without the
symmetric form) of the streaming kernels, and the library's are the best there are. Few queries' whole rows fit in a
tile where N is small: then the gradients come with the loss. Otherwise tiles are columns, so that the gradient of the
items, the larger side, is written once and never added to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mmenc_plugin.kernels.score_loss._triton_config import BLOCK_EVENTS, BLOCK_TILE, upcasts
from mmenc_plugin.kernels.score_loss._triton_events import Split
from mmenc_plugin.kernels.score_loss._triton_slopes import LOG2_E, UNIT, Slopes, add_up, less_mean, times_scale
from mmenc_plugin.kernels.score_loss._triton_tile_kernels import (
    events_kernel,
    positives_kernel,
    slopes_kernel,
    tile_lse_kernel,
)  # fmt: skip
from mmenc_plugin.kernels.score_loss.problem import Gradients, Needs, Problem, rows_of

TILE = 1 << 24  # products in memory at once: 64 MB, and half as much for their slopes in a half type
FEWEST = 256  # rows or columns of a tile, below which products do not fill the GPU
FEWEST_WHOLE = 1024  # whole rows of a tile, below which adding up the items' gradient takes longer than a product


@dataclass(frozen=True)
class _Tile:
    """Products [R, C] of some queries and some columns, excluded ones -inf.

    Attributes:
        rows: the queries.
        columns: the columns.
        queries: [R, D].
        keys: [C, D] the columns' items.
        products: [R, C] float32.
        bias: [C] or None.
    """

    rows: slice
    columns: slice
    queries: Tensor
    keys: Tensor
    products: Tensor
    bias: Tensor | None


def losses(p: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [B], log-sum-exp of each query's scores [B], and of each column's (symmetric: [N], else empty)."""
    parts, columns, positives = [], [], _Positives(p)
    for tile in _tiles(p, len(p.queries), _width(p)):
        positives.note(tile)
        parts.append(_lse(p, tile))
        if p.symmetric:
            columns.append(_column_lse(p, tile))
    row_lse = torch.logsumexp(torch.stack(parts), 0)
    column_lse = torch.cat(columns) if p.symmetric else row_lse.new_empty(0)
    return less_mean(p, row_lse, column_lse, positives.scores), row_lse, column_lse


def gradients(p: Problem, coefficients: Tensor, row_lse: Tensor, column_lse: Tensor, needs: Needs) -> Gradients:
    """Gradients of sum_b coefficients[b] * loss[b], for those of queries, items, scale and bias that are needed."""
    slopes, positives = Slopes.of(p, coefficients, row_lse, column_lse), _Positives(p)
    sums = _Sums(p, needs, slopes.factor, whole_rows=False)
    for tile in _tiles(p, len(p.queries), _width(p)):
        positives.note(tile)
        sums.add(tile, positives.subtract(tile, slopes, _softmaxes(p, tile, slopes)))
    return sums.gradients()


def at_once(p: Problem, coefficients: Tensor, needs: Needs) -> tuple[Tensor, Gradients] | None:
    """Loss [B] and the gradients of sum_b coefficients[b] * loss[b]; None where whole rows do not fit a tile."""
    height = min(len(p.queries), TILE // p.n_columns)
    if p.symmetric or height < min(len(p.queries), FEWEST_WHOLE):
        return None
    row_lse, positives = p.scale.new_zeros(len(p.queries)), _Positives(p)
    slopes = Slopes.of(p, coefficients, row_lse, row_lse[:0])
    sums = _Sums(p, needs, slopes.factor, whole_rows=True)
    for tile in _tiles(p, height, p.n_columns):
        positives.note(tile)
        row_lse[tile.rows] = _lse(p, tile)
        slopes.row_lse[tile.rows] = row_lse[tile.rows] * LOG2_E
        sums.add(tile, positives.subtract(tile, slopes, _softmaxes(p, tile, slopes)))
    return less_mean(p, row_lse, row_lse[:0], positives.scores), sums.gradients()


class _Positives:
    """The positives' scores [T], noted tile by tile, and what they take off the slopes."""

    def __init__(self, p: Problem) -> None:
        self.p = p
        self.rows, self.columns = rows_of(p.targets), p.targets[1]
        self.scores = p.scale.new_empty(len(self.rows))
        keys = self.rows * p.n_columns + self.columns
        self.repeats = torch.searchsorted(keys, keys, right=True) - torch.searchsorted(keys, keys)

    def note(self, tile: _Tile) -> None:
        """The scores of those in the tile."""
        _at_events(self.p, tile, (self.rows, self.columns), self.scores)

    def subtract(self, tile: _Tile, slopes: Slopes, out: Tensor) -> Tensor:
        """Put their slopes into `out` [R, C], where their softmaxes may have been rounded already."""
        if len(self.rows):
            positives_kernel[(-(-len(self.rows) // BLOCK_EVENTS),)](
                self.scores, *_of_tile(tile, slopes), self.rows, self.columns, slopes.weights() * self.repeats, out,
                tile.rows.start, tile.columns.start, *out.shape, len(self.rows), BLOCK=BLOCK_EVENTS,
                SYMMETRIC=self.p.symmetric,
            )  # fmt: skip
        return out


class _Sums:
    """Adds up the gradients over the tiles.

    Args:
        factor: [] what gives a slope from what the kernels hold.
        whole_rows: whether tiles are rows, which the items' gradient is added up from.
    """

    def __init__(self, p: Problem, needs: Needs, factor: Tensor, whole_rows: bool) -> None:
        self.p, self.needs, self.factor = p, needs, factor
        self.whole_rows = whole_rows
        added = whole_rows or p.item_ids is not None
        kept, width = torch.float32 if added else p.items.dtype, p.queries.shape[1]
        self.queries = p.scale.new_zeros(p.queries.shape) if needs[0] or needs[2] else None
        self.items = p.items.new_zeros((p.n_columns, width), dtype=kept) if needs[1] else None
        self.bias = p.scale.new_zeros(p.n_columns) if needs[3] else None

    def add(self, tile: _Tile, slopes: Tensor) -> None:
        """Take a tile and its slopes [R, C] in a type that is multiplied with the items'."""
        if self.queries is not None:
            self.queries[tile.rows] += _product(slopes, tile.keys) * self.factor
        if self.items is not None:
            found = _product(slopes.T, tile.queries) * (self.factor * self.p.scale)
            self.items[tile.columns] = self.items[tile.columns] + found if self.whole_rows else found
        if self.bias is not None:
            self.bias[tile.columns] += slopes.sum(0, dtype=torch.float32) * self.factor

    def gradients(self) -> Gradients:
        """Of queries, items, scale and bias; None where not needed."""
        d_queries = d_scale = None
        if self.queries is not None:
            d_queries, d_scale = times_scale(self.p, self.queries, self.needs)
        items = self.items
        if items is not None and self.p.item_ids is not None:
            items = add_up(items, self.p)
        return d_queries, items, d_scale, self.bias


def _width(p: Problem) -> int:
    return min(p.n_columns, max(FEWEST, TILE // len(p.queries)))


def _tiles(p: Problem, height: int, width: int) -> Iterator[_Tile]:
    excluded = rows_of(p.exclude), p.exclude[1]
    all_queries = p.queries.contiguous()
    for start in range(0, p.n_columns, width):
        columns = slice(start, min(start + width, p.n_columns))
        keys = p.items[columns] if p.item_ids is None else p.items.index_select(0, p.item_ids[columns])
        bias = None if p.bias is None else p.bias[columns].contiguous()
        for top in range(0, len(p.queries), height):
            rows = slice(top, min(top + height, len(p.queries)))
            queries = all_queries[rows]
            tile = _Tile(rows, columns, queries, keys, _product(queries, keys.T), bias)
            _at_events(p, tile, excluded, None)
            yield tile


def _product(a: Tensor, b: Tensor) -> Tensor:
    """A @ b in float32; half types are summed in float32, too."""
    if a.dtype == b.dtype == torch.float32:
        return a @ b
    if a.is_cuda and a.dtype == b.dtype and hasattr(torch.ops.aten.mm, "dtype"):  # torch 2.8 and newer
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


def _at_events(p: Problem, tile: _Tile, entries: tuple[Tensor, Tensor], scores: Tensor | None) -> None:
    """Exclude the entries, or note their scores [T]."""
    rows, columns = entries
    if len(rows):
        nothing = tile.products
        events_kernel[(-(-len(rows) // BLOCK_EVENTS),)](
            tile.products, p.scale, nothing if tile.bias is None else tile.bias, rows, columns,
            nothing if scores is None else scores, tile.rows.start, tile.columns.start, *tile.products.shape,
            len(rows), BLOCK=BLOCK_EVENTS, HAS_BIAS=tile.bias is not None, EXCLUDE=scores is None,
        )  # fmt: skip


def _lse(p: Problem, tile: _Tile) -> Tensor:
    """[R] log-sum-exp over the tile's columns."""
    return _reduced(p, tile.products, None if tile.bias is None else tile.bias * LOG2_E, BLOCK_TILE[0], BLOCK_TILE[1])


def _column_lse(p: Problem, tile: _Tile) -> Tensor:
    """[C] log-sum-exp over the tile's rows, which are all."""
    found = _reduced(p, tile.products.T, None, BLOCK_TILE[1], BLOCK_TILE[0])
    return found if tile.bias is None else found + tile.bias


def _reduced(p: Problem, products: Tensor, terms: Tensor | None, block_x: int, block_y: int) -> Tensor:
    n_x, n_y = products.shape
    split = Split.of(n_x, n_y, block_x, block_y, products.device)
    out = p.scale.new_empty(split.n, n_x)
    tile_lse_kernel[(-(-n_x // block_x), split.n)](
        products, p.scale, out if terms is None else terms, out, n_x, n_y, split.span, *products.stride(),
        BLOCK_X=block_x, BLOCK_Y=block_y, HAS_TERMS=terms is not None, num_warps=BLOCK_TILE[2],
    )  # fmt: skip
    return torch.logsumexp(out / LOG2_E, 0)


def _softmaxes(p: Problem, tile: _Tile, slopes: Slopes) -> Tensor:
    """[R, C] the slopes without the positives, in the items' type so that they multiply; float32 in place."""
    in_place = p.items.dtype == torch.float32 or upcasts(p.items.dtype)
    out = tile.products if in_place else torch.empty_like(tile.products, dtype=p.items.dtype)
    n_rows, n_columns = out.shape
    slopes_kernel[(-(-n_rows // BLOCK_TILE[0]) * -(-n_columns // BLOCK_TILE[1]),)](
        tile.products, p.scale, out if tile.bias is None else tile.bias, *_of_tile(tile, slopes), out, n_rows,
        n_columns, BLOCK_X=BLOCK_TILE[0], BLOCK_Y=BLOCK_TILE[1], HAS_BIAS=tile.bias is not None, SYMMETRIC=p.symmetric,
        num_warps=BLOCK_TILE[2],
    )  # fmt: skip
    return out


def _of_tile(tile: _Tile, slopes: Slopes) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-sum-exps and coefficients of its rows and of its columns (the rows' again where there are none)."""
    rows = slopes.row_lse[tile.rows], slopes.rows[tile.rows] * 2.0**UNIT
    if slopes.columns is None or slopes.column_lse is None:
        return *rows, *rows
    return *rows, slopes.column_lse[tile.columns], slopes.columns[tile.columns] * 2.0**UNIT
