"""score_loss in tiles of queries x columns: one tile in memory beside the inputs and their gradients.

Two ways, by how many whole rows of scores fit the budget. Chunks of whole rows have their softmax at once, so one
product gives loss and gradients (3 products in all). Otherwise tiles of some columns, twice: for the log-sum-exp,
and again for the gradients (4 products). Chunks of a few rows would spend their time on adding up the items' gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mmenc_plugin.kernels.score_loss.problem import Gradients, Needs, Problem, has_positive, rows_of, transposed

TILE = 1 << 20  # scores in memory at once (float32: 4 MB, which stay in the cache)
FEWEST_ROWS = 128  # below which chunks of whole rows do not pay
SMALL = 30.0  # scores up to this need no maximum taken out: all of e^-30 .. e^30 are far from the ends of float32


@dataclass
class _Tile:
    """Scores [R, C] of some queries and some columns, excluded ones -inf.

    Attributes:
        rows: the queries.
        columns: the columns.
        keys: [C, D] the columns' items.
        scores: [R, C]; whoever reads it may write into it.
        small: none lies beyond SMALL, but for those that are -inf.
        targets: the positives that lie in it, as a slice of the positives in `_Sorted` order.
        positives: their row and column within the tile.
    """

    rows: slice
    columns: slice
    keys: Tensor
    scores: Tensor
    small: bool
    targets: slice
    positives: tuple[Tensor, Tensor]


def losses(p: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [B], log-sum-exp of each query's scores [B], and of each column's (symmetric: [N], else empty)."""
    row_lse = p.scale.new_full((len(p.queries),), -torch.inf)
    column_lse = p.scale.new_full((p.n_columns if p.symmetric else 0,), -torch.inf)
    tiling = _Tiling(p)
    for tile in tiling:
        tiling.keep_positives(tile)
        if p.symmetric:
            column_lse[tile.columns] = torch.logaddexp(column_lse[tile.columns], tile.scores.logsumexp(0))
        row_lse[tile.rows] = torch.logaddexp(row_lse[tile.rows], _exp_(tile)[1])
    return tiling.losses(row_lse, column_lse), row_lse, column_lse


def gradients(p: Problem, coefficients: Tensor, row_lse: Tensor, column_lse: Tensor, needs: Needs) -> Gradients:
    """Gradients of sum_b coefficients[b] * loss[b], for those of queries, items, scale and bias that are needed."""
    sums = _Sums(p, coefficients, needs)
    slopes = _Slopes(p, coefficients, column_lse)
    for tile in _Tiling(p):
        slopes.from_scores_(tile, row_lse[tile.rows])
        sums.add(tile)
    return sums.gradients()


def at_once(p: Problem, coefficients: Tensor, needs: Needs) -> tuple[Tensor, Gradients]:
    """Loss [B] and the gradients of sum_b coefficients[b] * loss[b]."""
    tiling = _Tiling(p)
    if p.symmetric or tiling.width < p.n_columns:
        loss, row_lse, column_lse = losses(p)
        return loss, gradients(p, coefficients, row_lse, column_lse, needs)
    sums, slopes = _Sums(p, coefficients, needs), _Slopes(p, coefficients, p.scale.new_empty(0))
    row_lse = p.scale.new_empty(len(p.queries))
    for tile in tiling:
        tiling.keep_positives(tile)
        totals, row_lse[tile.rows] = _exp_(tile)
        slopes.from_exponentials_(tile, totals)
        sums.add(tile, totals)
    return tiling.losses(row_lse, p.scale.new_empty(0)), sums.gradients()


class _Tiling:
    """Walks the tiles, by columns first: a block of columns is gathered and converted once."""

    def __init__(self, p: Problem) -> None:
        n_rows, n_columns = len(p.queries), p.n_columns
        whole_rows = TILE // max(n_columns, 1)
        if p.item_ids is None and whole_rows >= min(n_rows, FEWEST_ROWS):
            self.height, self.width = min(whole_rows, n_rows), n_columns
        else:
            self.height = min(n_rows, int(TILE**0.5))
            self.width = min(n_columns, TILE // max(self.height, 1))
        self.p = p
        self.queries = p.queries.to(p.dtype) * p.scale
        self.longest = _longest(self.queries)
        self.targets = _Sorted(rows_of(p.targets), p.targets[1], self, n_rows, n_columns)
        self.exclude = _Sorted(rows_of(p.exclude), p.exclude[1], self, n_rows, n_columns)
        self.positive_scores = p.scale.new_empty(len(p.targets[1]))  # in the order of self.targets

    def __iter__(self) -> Iterator[_Tile]:
        buffer = self.p.scale.new_empty(self.height * self.width)
        for j, columns in enumerate(_slices(self.p.n_columns, self.width)):
            keys = _keys(self.p, columns)
            bias = None if self.p.bias is None else self.p.bias[columns]
            small = self._small(keys, bias)
            for i, rows in enumerate(_slices(len(self.queries), self.height)):
                queries = self.queries[rows]
                scores = buffer[: len(queries) * len(keys)].view(len(queries), len(keys))
                if bias is None:
                    torch.mm(queries, keys.T, out=scores)
                else:
                    torch.addmm(bias, queries, keys.T, out=scores)
                scores[self.exclude.within(i, j, rows, columns)] = -torch.inf
                targets = self.targets.inside(i, j), self.targets.within(i, j, rows, columns)
                yield _Tile(rows, columns, keys, scores, small, *targets)

    def _small(self, keys: Tensor, bias: Tensor | None) -> bool:
        """Whether no score with these columns can be large, by the lengths of the vectors (Cauchy and Schwarz)."""
        bound = self.longest * _longest(keys)
        if bias is not None:
            bound = bound + bias.abs().where(bias > -torch.inf, 0).amax()
        return bool(bound <= SMALL)

    def keep_positives(self, tile: _Tile) -> None:
        """Note the positives' scores before the tile is written over."""
        self.positive_scores[tile.targets] = tile.scores[tile.positives]

    def losses(self, row_lse: Tensor, column_lse: Tensor) -> Tensor:
        """[B] from the log-sum-exps and the positives' scores."""
        loss = _less_mean(row_lse, self.targets.rows, self.positive_scores)
        if self.p.symmetric:
            loss = (loss + _less_mean(column_lse, self.targets.columns, self.positive_scores)) / 2
        return loss


class _Sorted:
    """Events (row, column) in the order of the tiles that they lie in."""

    def __init__(self, rows: Tensor, columns: Tensor, tiling: _Tiling, n_rows: int, n_columns: int) -> None:
        self.down = -(-n_rows // max(tiling.height, 1))
        across = -(-n_columns // max(tiling.width, 1))
        tile = columns // max(tiling.width, 1) * self.down + rows // max(tiling.height, 1)
        tile, order = torch.sort(tile, stable=True)
        self.rows, self.columns = rows[order], columns[order]
        numbers = torch.arange(across * self.down + 1, device=rows.device)
        self.bounds: list[int] = torch.searchsorted(tile, numbers).tolist()

    def inside(self, i: int, j: int) -> slice:
        """Those in the i-th tile of the j-th block of columns."""
        tile = j * self.down + i
        return slice(self.bounds[tile], self.bounds[tile + 1])

    def within(self, i: int, j: int, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """Their rows and columns, counted from the tile's first."""
        events = self.inside(i, j)
        return self.rows[events] - rows.start, self.columns[events] - columns.start


class _Slopes:
    """Turns a tile's scores into the loss's derivatives by them, in place.

    Without `symmetric` that is softmax - share of the positives, still to be multiplied by the query's coefficient:
    rather on its D numbers than here on its N.
    """

    def __init__(self, p: Problem, coefficients: Tensor, column_lse: Tensor) -> None:
        counts = p.targets[0].diff()
        self.symmetric = p.symmetric
        self.dead = counts == 0  # queries without a positive, whose scores may all be -inf
        self.any_dead = bool(self.dead.any())
        self.row_share = 1 / counts.clamp(min=1).to(p.dtype)
        if p.symmetric:
            counts = transposed(p.targets, p.n_columns)[0].diff()
            half = coefficients.to(p.dtype) / 2
            self.of_row, self.of_column = half.where(~self.dead, 0), half.where(counts > 0, 0)
            self.row_share *= self.of_row
            self.column_share = self.of_column / counts.clamp(min=1)
            self.column_lse = column_lse.where(counts > 0, torch.inf)

    def from_scores_(self, tile: _Tile, row_lse: Tensor) -> None:
        """By the log-sum-exps of whole rows (and columns)."""
        by_column = None
        if self.symmetric:
            by_column = (tile.scores - self.column_lse[tile.columns]).exp_().mul_(self.of_column[tile.columns])
        tile.scores.sub_(row_lse.where(~self.dead[tile.rows], torch.inf)[:, None]).exp_()
        if by_column is not None:
            tile.scores.mul_(self.of_row[tile.rows, None]).add_(by_column)
        self._less_positives_(tile)

    def from_exponentials_(self, tile: _Tile, totals: Tensor) -> None:
        """Where the tile holds whole rows of the softmax, times their `totals`, which they keep as a factor."""
        if self.any_dead:
            tile.scores.masked_fill_(self.dead[tile.rows, None], 0)
        self._less_positives_(tile, totals)

    def _less_positives_(self, tile: _Tile, totals: Tensor | None = None) -> None:
        rows, columns = tile.positives
        share = self.row_share[tile.rows]
        share = (share if totals is None else share * totals)[rows]
        if self.symmetric:
            share = share + self.column_share[tile.columns][columns]
        tile.scores.index_put_((rows, columns), -share, accumulate=True)


class _Sums:
    """Adds up the gradients over the tiles."""

    def __init__(self, p: Problem, coefficients: Tensor, needs: Needs) -> None:
        self.p, (self.queries_too, self.items_too, self.scale_too, self.bias_too) = p, needs
        of_row = coefficients.to(p.dtype).where(has_positive(p), 0)
        self.of_row = torch.ones_like(of_row) if p.symmetric else of_row
        self.plain = p.queries.to(p.dtype) * self.of_row[:, None]
        self.scaled = self.plain * p.scale
        with_queries = self.queries_too or self.scale_too
        self.queries = torch.zeros_like(self.plain) if with_queries else None  # still without coefficient and scale
        self.items = p.scale.new_zeros(p.items.shape) if self.items_too else None
        self.bias = p.scale.new_zeros(p.n_columns) if self.bias_too else None

    def add(self, tile: _Tile, totals: Tensor | None = None) -> None:
        """Take a tile whose scores have become derivatives, or these times the `totals` of its rows."""
        slopes, scaled, of_row = tile.scores, self.scaled[tile.rows], self.of_row[tile.rows]
        if totals is not None:
            totals = totals.where(totals > 0, 1)  # a row without any score has derivatives of 0
            scaled, of_row = scaled / totals[:, None], of_row / totals
        if self.queries is not None:
            queries = self.queries[tile.rows].addmm_(slopes, tile.keys)
            if totals is not None:
                queries /= totals[:, None]
        if self.bias is not None:
            self.bias[tile.columns] += of_row @ slopes
        if self.items is None:
            return
        if self.p.item_ids is None:
            self.items[tile.columns].addmm_(slopes.T, scaled)
        else:
            _add_rows(self.items, self.p.item_ids[tile.columns], slopes.T @ scaled)

    def gradients(self) -> Gradients:
        """Of queries, items, scale and bias; None where not needed."""
        scale = queries = None
        if self.queries is not None:
            scale = (self.plain * self.queries).sum() if self.scale_too else None
            queries = self.queries.mul_(self.of_row[:, None] * self.p.scale) if self.queries_too else None
        return queries, self.items, scale, self.bias


def _slices(n: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, n)) for start in range(0, n, max(step, 1))]


def _keys(p: Problem, columns: slice) -> Tensor:
    keys = p.items[columns] if p.item_ids is None else p.items.index_select(0, p.item_ids[columns])
    return keys.to(p.dtype)


def _add_rows(table: Tensor, ids: Tensor, rows: Tensor) -> None:
    """table[ids] += rows, repeated ids included, in the same order on every run."""
    if table.is_cuda:  # where index_add_ is not deterministic
        table.index_put_((ids,), rows, accumulate=True)
    else:
        table.index_add_(0, ids, rows)


def _longest(vectors: Tensor) -> Tensor:
    """The length of the longest [] of the vectors [R, D]; 0 for none."""
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=1)
    return lengths.amax() if len(lengths) else lengths.sum()


def _exp_(tile: _Tile) -> tuple[Tensor, Tensor]:
    """Put e^(score - base) in place of the scores, base one number a row; return their sums and log-sum-exps [R]."""
    scores, base = tile.scores, tile.scores.new_zeros(())
    if not tile.small:
        top = scores.amax(1)
        base = top.where(top > -torch.inf, 0)
        scores.sub_(base[:, None])
    totals = scores.exp_().sum(1)
    return totals, totals.log() + base


def _less_mean(lse: Tensor, groups: Tensor, scores: Tensor) -> Tensor:
    """The log-sum-exp [G] less the mean of the scores of each group; 0 for a group without any."""
    n = torch.bincount(groups, minlength=len(lse))
    total = torch.zeros_like(lse)
    _add_rows(total, groups, scores)
    return (lse - total / n.clamp(min=1)).where(n > 0, 0)
