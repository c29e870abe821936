"""Ranks of target items, counted in the tiles of the score matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from mmenc_plugin.kernels.checks import CSR
from mmenc_plugin.kernels.score_topk.reference import rows_of
from mmenc_plugin.kernels.score_topk.tiles import Tiles


class Counter:
    """Counts, tile by tile, the items that score above a block's targets, or as high.

    A target's own score is read from the tile it lies in, not computed apart: products of other shapes are rounded
    otherwise, and items equal to the target would no longer tie with it.

    Args:
        tiles: of the block of users.
        targets: CSR of the block: offsets [R + 1] and item rows [T].
    """

    def __init__(self, tiles: Tiles, targets: CSR) -> None:
        offsets, items = targets
        self._rows = rows_of(offsets)
        self._columns, _ = tiles.columns.of_rows(items)
        self._scores = self._own_scores(tiles)
        self.counts = items.new_zeros(3, len(items))  # above, tied, tied before
        # First every user's first target, then the second ones, ...: a part of R may then be one of each user.
        nth = torch.arange(len(items), device=items.device) - offsets[self._rows]
        self._parts = torch.split(nth.sort(stable=True).indices, max(len(tiles.users), 1))
        users = torch.arange(len(tiles.users), device=items.device)
        self._one_each = [torch.equal(self._rows[part], users) for part in self._parts]
        self._flags = torch.empty(0)

    def _own_scores(self, tiles: Tiles) -> Tensor:
        columns, order = self._columns.sort()
        scores = tiles.users.new_empty(len(columns))
        tile = tiles.users.new_empty(len(tiles.users), tiles.width)
        for number, (span, part) in enumerate(zip(tiles.spans.all, tiles.spans.cut(columns), strict=True)):
            if part.stop > part.start:
                here = order[part]
                scores[here] = tiles.raw(number, tile)[self._rows[here], columns[part] - span.start]
        if bool(scores.isnan().any()):
            raise ValueError("the score of a target is not a number (infinite users, items or bias).")
        return scores

    def count(self, start: int, tile: Tensor) -> None:
        """Add the tile [R, W] of the columns from `start` on, in parts of at most R targets."""
        if self._flags.shape != tile.shape:
            self._flags = torch.empty_like(tile)
        for part, one_each in zip(self._parts, self._one_each, strict=True):
            scores = tile if one_each else tile.index_select(0, self._rows[part])
            own, flags = self._scores[part, None], self._flags[: len(part)]
            # 0 and 1 in the type of the scores: faster than bools, and exact up to tiles of 2^24 items.
            self.counts[0, part] += torch.gt(scores, own, out=flags).sum(1).long()
            equal = torch.eq(scores, own, out=flags).sum(1)
            tied = ((equal > 0) & (own[:, 0] > -torch.inf)).nonzero()[:, 0]
            if len(tied):
                self._count_ties(part[tied], flags[tied] > 0, start)

    def _count_ties(self, part: Tensor, equal: Tensor, start: int) -> None:
        """Add the flags [T', W] of the targets `part`, their own excepted."""
        own = self._columns[part, None] - start
        columns = torch.arange(equal.shape[1], device=equal.device)
        self.counts[1, part] += (equal & (columns != own)).sum(1)
        self.counts[2, part] += (equal & (columns < own)).sum(1)
