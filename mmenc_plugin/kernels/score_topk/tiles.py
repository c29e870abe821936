"""The score matrix in tiles: a block of users by a span of columns, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mmenc_plugin.kernels.checks import CSR
from mmenc_plugin.kernels.score_topk.reference import rows_of


@dataclass(frozen=True)
class Columns:
    """The items that are scored: all of them, or the candidates and, for their ranks, the targets.

    Attributes:
        items: [N, D].
        bias: [N] or None.
        rows: [C] the items' rows, ascending; None where the columns are the N items themselves.
        closed: columns, ascending, that nobody may get: targets that are no candidates.
    """

    items: Tensor
    bias: Tensor | None
    rows: Tensor | None
    closed: Tensor

    @classmethod
    def of(cls, items: Tensor, bias: Tensor | None, candidates: Tensor | None, targets: CSR | None) -> Columns:
        """The columns of a call."""
        if candidates is None:
            return cls(items, bias, None, torch.zeros(0, dtype=torch.int64, device=items.device))
        rows = candidates if targets is None else torch.cat([candidates, targets[1]])
        rows = torch.unique(rows)
        return cls(items, bias, rows, (~torch.isin(rows, candidates)).nonzero()[:, 0])

    def __len__(self) -> int:
        return len(self.items) if self.rows is None else len(self.rows)

    def table(self, span: slice) -> Tensor:
        """The span's rows of `items`."""
        return self.items[span] if self.rows is None else self.items[self.rows[span]]

    def biases(self, span: slice) -> Tensor | None:
        """The span's biases."""
        if self.bias is None or self.rows is None:
            return None if self.bias is None else self.bias[span]
        return self.bias[self.rows[span]]

    def of_rows(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The columns of item rows, and whether each has one."""
        if self.rows is None:
            return rows, torch.ones_like(rows, dtype=torch.bool)
        columns = torch.searchsorted(self.rows, rows).clamp_(max=len(self.rows) - 1)
        return columns, self.rows[columns] == rows

    def to_rows(self, columns: Tensor) -> Tensor:
        """The item rows of columns, any row for one beyond the end."""
        return columns if self.rows is None else self.rows[columns.clamp(max=len(self.rows) - 1)]


class Spans:
    """The columns cut into spans of one width, and sorted columns into those of each span.

    The last span ends where the columns do, so it may begin before the one before it ends.
    """

    def __init__(self, columns: int, width: int) -> None:
        last = max(columns - width, 0)
        starts = [*range(0, last, width), last] if columns else []
        self.all = [slice(start, min(start + width, columns)) for start in starts]

    def cut(self, ordered: Tensor) -> list[slice]:
        """Where in the ascending `ordered` the columns of each span lie; a single one has all, in any order."""
        if len(self.all) == 1:
            return [slice(0, len(ordered))]
        bounds = [bound for span in self.all for bound in (span.start, span.stop)]
        ends = torch.searchsorted(ordered, torch.tensor(bounds, dtype=torch.int64, device=ordered.device)).tolist()
        return [slice(low, high) for low, high in zip(ends[::2], ends[1::2], strict=True)]


class Tiles:
    """The scores of a block of users, in tiles [R, W] that are overwritten by the next one.

    Args:
        users: [R, D], in the type of the scores.
        columns: what they are scored with.
        width: of every span of columns; a table that is narrower is filled up.
        first: how many spans make the first tile; all others are one span.
        exclude: CSR of the block: offsets [R + 1] and item rows.
    """

    def __init__(self, users: Tensor, columns: Columns, width: int, first: int, exclude: CSR) -> None:
        self.users, self.columns, self.width = users, columns, width
        self.spans = Spans(len(columns), width)
        self._first = min(first, len(self.spans.all))
        self._closed = self.spans.cut(columns.closed)
        users_of, (at, there) = rows_of(exclude[0]), columns.of_rows(exclude[1])
        if columns.rows is not None:
            users_of, at = users_of[there], at[there]
        if len(self.spans.all) > 1:
            at, order = at.sort()
            users_of = users_of[order]
        self._excluded = users_of, at  # user and column, by column
        self._masks = self.spans.cut(at)

    def raw(self, number: int, out: Tensor) -> Tensor:
        """Scores [R, width] of span `number`, nothing masked, in `out`; beyond the span's end they mean nothing."""
        span = self.spans.all[number]
        table, bias = self.columns.table(span).to(self.users.dtype), self.columns.biases(span)
        # All products are of one shape, the last one too, since others are rounded otherwise: so equal items tie.
        missing = self.width - len(table)
        torch.mm(self.users, functional.pad(table, (0, 0, 0, missing)).T if missing else table.T, out=out)
        if bias is not None:
            out[:, : len(bias)].add_(bias)
        return out

    def masked(self) -> Iterator[tuple[int, Tensor]]:
        """Each tile's first column and scores [R, W]; -inf where an item is not admissible, or was in a tile before."""
        done = max(self.spans.all[self._first - 1].stop, self.width) if self._first else 0
        tile = self.users.new_empty(len(self.users), done)
        for number in range(self._first):
            start = self.spans.all[number].start
            self._fill(number, tile[:, start : start + self.width])
        if self._first:
            yield 0, tile
        tile = tile.view(-1)[: len(self.users) * self.width].view(-1, self.width)
        for number in range(self._first, len(self.spans.all)):
            span = self.spans.all[number]
            self._fill(number, tile)
            tile[:, : done - span.start] = -torch.inf
            done = span.stop
            yield span.start, tile

    @property
    def is_one(self) -> bool:
        """Whether the first tile is the only one."""
        return 0 < self._first == len(self.spans.all)

    def _fill(self, number: int, out: Tensor) -> None:
        span = self.spans.all[number]
        self.raw(number, out)[:, span.stop - span.start :] = -torch.inf
        row, column = (part[self._masks[number]] for part in self._excluded)
        out[row, column - span.start] = -torch.inf
        out[:, self.columns.closed[self._closed[number]] - span.start] = -torch.inf
