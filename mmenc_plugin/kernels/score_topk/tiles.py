"""The score matrix in tiles: a block of users by a span of columns, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

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
        """The item rows of columns."""
        return columns if self.rows is None else self.rows[columns]


class Spans:
    """The columns cut into spans of one width, and sorted columns into those of each span."""

    def __init__(self, columns: int, width: int) -> None:
        self.all = [slice(start, min(start + width, columns)) for start in range(0, columns, width)]

    def cut(self, ordered: Tensor) -> list[slice]:
        """Where in the ascending `ordered` the columns of each span lie."""
        starts = torch.tensor([span.start for span in self.all], dtype=torch.int64, device=ordered.device)
        bounds = [*torch.searchsorted(ordered, starts).tolist(), len(ordered)]
        return [slice(low, high) for low, high in pairwise(bounds)]


class Tiles:
    """The scores of a block of users, in tiles [R, W] that are overwritten by the next one.

    Args:
        users: [R, D], in the type of the scores.
        columns: what they are scored with.
        width: W, of every tile; the last one is filled up with -inf.
        exclude: CSR of the block: offsets [R + 1] and item rows.
    """

    def __init__(self, users: Tensor, columns: Columns, width: int, exclude: CSR) -> None:
        self.users, self.columns = users, columns
        self.spans = Spans(len(columns), width)
        self._tile = users.new_empty(len(users), width)
        self._closed = self.spans.cut(columns.closed)
        at, there = columns.of_rows(exclude[1])
        at, order = at[there].sort()
        self._excluded = torch.stack([rows_of(exclude[0])[there][order], at])  # user and column, by column
        self._masks = self.spans.cut(at)

    def raw(self, number: int) -> Tensor:
        """Scores [R, width of the span] of span `number`, nothing masked; a view of the tile."""
        span = self.spans.all[number]
        table = self.columns.table(span).to(self.users.dtype)
        # All products are of one shape, the last one too, since others are rounded otherwise: so equal items tie.
        missing = self._tile.shape[1] - len(table)
        torch.mm(self.users, functional.pad(table, (0, 0, 0, missing)).T if missing else table.T, out=self._tile)
        scores, bias = self._tile[:, : len(table)], self.columns.biases(span)
        return scores if bias is None else scores.add_(bias)

    def masked(self) -> Iterator[tuple[int, Tensor]]:
        """Each span's first column and tile [R, W]; -inf where an item is not admissible."""
        for number, span in enumerate(self.spans.all):
            self.raw(number)
            self._tile[:, span.stop - span.start :] = -torch.inf
            row, column = self._excluded[:, self._masks[number]]
            self._tile.view(-1).index_fill_(0, row * self._tile.shape[1] + (column - span.start), -torch.inf)
            self._tile.index_fill_(1, self.columns.closed[self._closed[number]] - span.start, -torch.inf)
            yield span.start, self._tile
