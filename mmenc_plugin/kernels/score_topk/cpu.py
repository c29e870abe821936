"""score_topk in tiles of users x items: memory O(ROWS * (k + AREA / ROWS)) beside the inputs and the answer.

Within a tile, only groups of items whose largest score beats the user's k-th best so far are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mmenc_plugin.kernels.checks import CSR
from mmenc_plugin.kernels.score_topk.ranks import Counter
from mmenc_plugin.kernels.score_topk.select import kth_best, refuse_nan, the_best
from mmenc_plugin.kernels.score_topk.tiles import Columns, Tiles
from mmenc_plugin.types import TargetRanks, TopK

ROWS = 512  # users of a tile
AREA = 2**20  # scores of a tile: as many as stay in the cache of a core or two
WIDEST = 2**16  # items of a tile, where there are few users
VALUES = 2**22  # of a tile's items, where they are wide
FIRST = 4  # tiles in one, to begin with: a good k-th best score early spares later ones
GROUP = 32  # items that share one maximum
ENTRIES = 2**22  # of `exclude` in a block of users: they are sorted, so their number is bounded
WAITING = 64  # places for what may join the k best, at least


def score_topk(
    users: Tensor,
    items: Tensor,
    k: int,
    bias: Tensor | None = None,
    exclude: CSR | None = None,
    candidates: Tensor | None = None,
    targets: CSR | None = None,
) -> TopK:
    """See `mmenc_plugin.kernels.score_topk`; order and ties are exactly those of the returned scores."""
    columns = Columns.of(items, bias, candidates, targets)
    k = min(k, len(columns) - len(columns.closed))
    wide = torch.float64 if users.dtype == torch.float64 else torch.float32
    ids = torch.empty(len(users), k, dtype=torch.int64, device=users.device)
    scores = torch.empty(len(users), k, dtype=wide, device=users.device)
    counts = [ids.new_zeros(3, 0)]
    exclude = exclude or (ids.new_zeros(len(users) + 1), ids.new_zeros(0))
    for block in _blocks(exclude[0]) if len(columns) else ():
        width = _width(block.stop - block.start, len(columns), users.shape[1])
        tiles = Tiles(users[block].to(wide), columns, width, FIRST, _csr_rows(exclude, block))
        counter = None if targets is None else Counter(tiles, _csr_rows(targets, block))
        scores[block], ids[block] = _rank(tiles, k, counter)
        counts += [] if counter is None else [counter.counts]
    ranks = None if targets is None else TargetRanks(*(row.clone() for row in torch.cat(counts, 1)))
    return TopK(ids, scores, ranks)


def _blocks(offsets: Tensor) -> Iterator[slice]:
    """Blocks of at most ROWS users and, but for single users, ENTRIES excluded items."""
    start, users = 0, len(offsets) - 1
    while start < users:
        stop = min(start + ROWS, users)
        few = int(torch.searchsorted(offsets[start : stop + 1], offsets[start] + ENTRIES, right=True)) - 1
        yield slice(start, start + max(few, 1))
        start += max(few, 1)


def _width(rows: int, columns: int, dimension: int) -> int:
    """Items of a span: all columns, or a multiple of GROUP.

    The product of a single user and a matrix is rounded otherwise at a ragged end, so it has none.
    """
    most = max(min(AREA // rows, WIDEST, max(AREA // ROWS, VALUES // max(dimension, 1))) // GROUP, 1) * GROUP
    if columns <= FIRST * most and rows > 1:
        return columns
    spans = max(-(-columns // most), 1 if columns <= GROUP else 2)
    return -(-columns // (spans * GROUP)) * GROUP


def _csr_rows(csr: CSR, block: slice) -> CSR:
    offsets = csr[0][block.start : block.stop + 1]
    return offsets - offsets[0], csr[1][int(offsets[0]) : int(offsets[-1])]


def _rank(tiles: Tiles, k: int, counter: Counter | None) -> tuple[Tensor, Tensor]:
    """Scores and item rows [R, k]; the counter, if there is one, sees the same tiles."""
    best = _Only(k) if k and tiles.is_one else _Best(tiles.users, k)
    for start, tile in tiles.masked():
        if k:
            best.offer(start, tile)
        if counter is not None:
            counter.count(start, tile)
    scores, columns = best.ranked()
    return scores, tiles.columns.to_rows(columns).masked_fill_(scores == -torch.inf, -1)


class _Only:
    """The k best of each of R users, where all scores are in one tile."""

    def __init__(self, k: int) -> None:
        self.k = k

    def offer(self, start: int, tile: Tensor) -> None:
        """Take in the tile [R, W].

        Raises:
            ValueError: a score is NaN.
        """
        scores, self.columns = tile.topk(min(self.k + 1, tile.shape[1]), dim=1)
        refuse_nan(scores[:, 0])  # it comes first
        self.scores = scores[:, : self.k]
        # topk takes equal scores in any order, and any of those equal to the k-th.
        tied = (scores[:, 1:] == scores[:, :-1]) & (scores[:, 1:] > -torch.inf)
        rows = tied[:, : self.k - 1].any(1).nonzero()[:, 0]
        columns = self.columns[rows, : self.k].sort(dim=1).values
        order = tile[rows[:, None], columns].sort(dim=1, descending=True, stable=True).indices
        self.columns[rows, : self.k] = columns.gather(1, order)
        for rows in torch.split(tied[:, self.k - 1 :].any(1).nonzero()[:, 0], max(1, AREA // tile.shape[1])):
            order = tile[rows].sort(dim=1, descending=True, stable=True).indices
            self.columns[rows, : self.k] = order[:, : self.k]

    def ranked(self) -> tuple[Tensor, Tensor]:
        """As that of `_Best`."""
        return self.scores, self.columns[:, : self.k]


class _Best:
    """The k best of each of R users so far, and after them a few places for what waits to join.

    Within a row, the best and what waits stand by rising column, so that the first of equal scores is the one to
    keep. `worst` [R] is the k-th best score when the row was last settled: no later column that scores as low can
    be among the k best, whatever came since.
    """

    def __init__(self, users: Tensor, k: int) -> None:
        self.k, self.waiting = k, max(2 * k, WAITING)
        self.scores = users.new_full((len(users), k + self.waiting), -torch.inf)
        self.columns = torch.zeros_like(self.scores, dtype=torch.int64)
        self.counts = torch.zeros(len(users), dtype=torch.int64, device=users.device)
        self.worst = users.new_full((len(users),), -torch.inf)

    def offer(self, start: int, tile: Tensor) -> None:
        """Take in a tile [R, W] of scores; its first column is `start`, larger than all before.

        Raises:
            ValueError: a score is NaN.
        """
        if bool((self.counts > self.k).any()):
            self._settle(self.scores, self.columns)
        peaks = tile.view(len(tile), -1, GROUP).amax(2)  # NaN where any of the group is
        row, column, scores = self._passing(tile, peaks, None if start else self._bar(peaks))
        fresh = torch.bincount(row, minlength=len(tile))
        if bool((fresh > self.waiting).any()):
            row, column, scores = self._passing(tile, peaks, self._bar(tile))
            fresh = torch.bincount(row, minlength=len(tile))
        if bool((self.counts + fresh > self.waiting).any()):
            self._settle(self.scores, self.columns)
        if bool((fresh > self.waiting).any()):  # most scores are equal
            columns = torch.arange(start, start + tile.shape[1], device=tile.device).expand(len(tile), -1)
            self._settle(torch.cat([self.scores, tile], 1), torch.cat([self.columns, columns], 1))
            return
        place = self.k + self.counts[row] + torch.arange(len(row), device=row.device) - (fresh.cumsum(0) - fresh)[row]
        self.scores[row, place], self.columns[row, place] = scores, column + start
        self.counts += fresh

    def _bar(self, scores: Tensor) -> Tensor | None:
        """The k-th best of each row of a tile, or of its peaks: nothing below it can be among the k best."""
        return kth_best(scores, self.k) if scores.shape[1] > self.k else None

    def _passing(self, tile: Tensor, peaks: Tensor, bar: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Row, column and score of what may join: better than the worst, and not below the bar [R, 1]."""

        def passes(scores: Tensor, row: Tensor | slice) -> Tensor:
            fails = scores <= self.worst[row, None]  # NaN does not, and comes up for its refusal
            return (fails if bar is None else fails.logical_or_(scores < bar[row])).logical_not_()

        row, group = passes(peaks, slice(None)).nonzero(as_tuple=True)
        if len(row) * 2 > peaks.numel():
            row, column = passes(tile, slice(None)).nonzero(as_tuple=True)
            scores = tile.view(-1).index_select(0, row * tile.shape[1] + column)
        else:
            found = tile.view(-1, GROUP).index_select(0, row * peaks.shape[1] + group)
            passed, within = passes(found, row).nonzero(as_tuple=True)
            scores, row, column = found[passed, within], row[passed], group[passed] * GROUP + within
        refuse_nan(scores)
        return row, column, scores

    def ranked(self) -> tuple[Tensor, Tensor]:
        """Scores [R, k] and columns [R, k], best first, equal scores by the smaller column."""
        if self.k:
            self._settle(self.scores, self.columns)
        scores, order = self.scores[:, : self.k].sort(dim=1, descending=True, stable=True)
        return scores, self.columns[:, : self.k].gather(1, order)

    def _settle(self, scores: Tensor, columns: Tensor) -> None:
        """Keep the k best of [R, more than k] scores, the first of equal ones, in their order."""
        kept, worst = the_best(scores, self.k)
        self.scores[:, : self.k] = scores[kept].view(-1, self.k)
        self.columns[:, : self.k] = columns[kept].view(-1, self.k)
        self.scores[:, self.k :] = -torch.inf
        self.counts.zero_()
        self.worst = worst[:, 0]
