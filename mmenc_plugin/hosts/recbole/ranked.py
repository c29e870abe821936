"""What the ranking of users found, put down once, and the tensors of RecBole's metrics made from it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from recbole.evaluator.collector import DataStruct
from torch import Tensor

from mmenc_plugin.hosts.recbole.processes import gathered
from mmenc_plugin.kernels.checks import CSR
from mmenc_plugin.kernels.csr import make_csr, row_numbers, rows_of

_COMPARED = 2**24  # scores at once


@dataclass(frozen=True)
class Ranked:
    """The users of an evaluation, by rising id, with their lists and the places of what they should get.

    Attributes:
        users: [U] ids.
        items: [U, K] the best items, best first.
        left: [U] how many items were ranked for each.
        positives: offsets [U + 1] and ids [T] of the items to be found.
        ranks: [T] of those, from 1, ties at their mean; None where no metric asks.
    """

    users: Tensor
    items: Tensor
    left: Tensor
    positives: CSR
    ranks: Tensor | None

    def only(self, targets: Tensor) -> Ranked:
        """The same lists with some items alone to be found, and of the users those who have any of them.

        Args:
            targets: [I] bool.
        """
        offsets, ids = self.positives
        kept = targets[ids]
        rows = row_numbers(offsets)[kept]
        users, rows = torch.unique(rows, return_inverse=True)
        ranks = None if self.ranks is None else self.ranks[kept]
        positives = make_csr(rows, ids[kept], len(users))
        return Ranked(self.users[users], self.items[users], self.left[users], positives, ranks)

    def struct(self, of_the_data: Any, n_items: int) -> Any:
        """RecBole's DataStruct, out of which its Evaluator makes its metrics.

        Args:
            of_the_data: a DataStruct with what is known of the training part.
            n_items: I.
        """
        struct = DataStruct()
        for name in ("data.num_items", "data.num_users", "data.count_items", "data.count_users"):
            if name in of_the_data:
                struct.set(name, of_the_data.get(name))
        struct.set("rec.items", self.items)
        struct.set("rec.topk", hits(self.items, self.positives, n_items))
        if self.ranks is not None:
            struct.set("rec.meanrank", mean_ranks(self.ranks, self.positives[0], self.left))
        return struct


class Kept:
    """Puts down what each batch's ranking found."""

    def __init__(self) -> None:
        self.pieces: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, users: Tensor, items: Tensor, left: Tensor, positives: CSR, ranks: Tensor | None) -> None:
        """A batch, as in `Ranked`; `positives` by rising row and id."""
        parts = {"users": users, "items": items, "left": left, "lengths": positives[0].diff(), "ids": positives[1]}
        for name, part in (parts if ranks is None else parts | {"ranks": ranks}).items():
            self.pieces[name].append(part.cpu())

    def ranked(self, config: Any) -> Ranked:
        """All of it, of every process, and a user who was ranked twice once."""
        whole: dict[str, Tensor] = {}
        for name in ("users", "items", "left", "lengths", "ids", "ranks"):
            found = gathered(torch.cat(self.pieces[name]) if self.pieces[name] else None, config)
            if found:
                whole[name] = torch.cat(found)
        order = torch.from_numpy(np.unique(whole["users"].numpy(), return_index=True)[1])
        lengths = whole["lengths"]
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        positives = rows_of((offsets, whole["ids"]), order)
        ranks = rows_of((offsets, whole["ranks"]), order)[1] if "ranks" in whole else None
        return Ranked(whole["users"][order], whole["items"][order], whole["left"][order], positives, ranks)


def hits(ids: Tensor, positives: CSR, n_items: int) -> Tensor:
    """RecBole's rec.topk [B, K + 1]: whether each item of the list is to be found, and how many there are to find.

    Args:
        ids: [B, K] ranked items, -1 where there is none.
        positives: of each row the items to be found, rising.
        n_items: I.
    """
    offsets, wanted = positives
    pairs = row_numbers(offsets) * n_items + wanted  # rising
    asked = torch.arange(len(ids), device=ids.device)[:, None] * n_items + ids
    place = torch.searchsorted(pairs, asked).clamp(max=len(pairs) - 1)
    hit = (pairs[place] == asked) & (ids >= 0)
    return torch.cat([hit.long(), offsets.diff()[:, None]], dim=1)


def mean_ranks(ranks: Tensor, offsets: Tensor, left: Tensor) -> Tensor:
    """RecBole's rec.meanrank [B, 3]: sum of the positives' ranks [T]; number ranked; positives."""
    total = torch.zeros_like(left, dtype=torch.float64).index_add_(0, row_numbers(offsets), ranks.double())
    return torch.stack([total, left.double(), offsets.diff().double()], dim=1).to(ranks.dtype)


def ranks_in(scores: Tensor, positives: CSR) -> Tensor:
    """Ranks [T], from 1, of the positives among their row of scores [B, I], ties at their mean."""
    rows, ids = row_numbers(positives[0]), positives[1]
    parts = []
    for start in range(0, len(ids), step := max(1, _COMPARED // scores.shape[1])):
        row, own = scores[rows[start : start + step]], ids[start : start + step, None]
        score = row.gather(1, own)
        parts.append(1 + (row > score).sum(1) + ((row == score).sum(1) - 1) / 2)
    return torch.cat(parts).to(torch.promote_types(scores.dtype, torch.float32))
