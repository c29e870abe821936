"""What RecBole's metrics are computed from, made by `kernels.score_topk` instead of from a matrix of all scores."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from recbole.evaluator.collector import Collector
from recbole.evaluator.register import metric_information
from torch import Tensor

from mmenc_plugin.errors import SettingsError
from mmenc_plugin.hosts.recbole.factors import Factors
from mmenc_plugin.kernels import score_topk
from mmenc_plugin.kernels.checks import CSR
from mmenc_plugin.kernels.csr import row_numbers, rows_of
from mmenc_plugin.kernels.dispatch import Scorer
from mmenc_plugin.types import TargetRanks

_MADE_HERE = {"rec.items", "rec.topk", "rec.meanrank"}
_OF_THE_DATA = {"data.num_items", "data.num_users", "data.count_items", "data.count_users"}
_WHOLE_ROWS = 2**22  # scores at once of the users who have fewer items left than are asked for


@dataclass(frozen=True)
class RankingBatch:
    """Users to be ranked, on the CPU, and what they are ranked with; RecBole carries it as a batch and as its scores.

    Attributes:
        users: [B] ids.
        masked: per user the items that are not ranked, the padding item among them.
        positives: per user the items to be found, none of them masked.
        factors: of the model.
        n_items: I.
        scorer: implementation of the kernel.
    """

    users: Tensor
    masked: CSR
    positives: CSR
    factors: Factors
    n_items: int
    scorer: Scorer

    def __len__(self) -> int:
        return len(self.users)  # the weight of this process's metrics among several processes'


class RankingCollector(Collector):
    """RecBole's Collector, which ranks a `RankingBatch` itself; other batches are RecBole's business.

    The values are RecBole's, with two liberties: equal scores go to the smaller item id (`torch.topk` leaves their
    order open), and several processes gather their users, so that each metric is that of one process.

    Attributes:
        hindrance: why the metrics of the settings cannot be made here, or None.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.pieces: dict[str, list[Tensor]] = defaultdict(list)
        needs = {need: metric for metric in self.register.metrics for need in metric_information[metric]}
        foreign = [need for need in needs if need not in _MADE_HERE | _OF_THE_DATA]
        self.hindrance = f"the metric {needs[foreign[0]]} needs '{foreign[0]}'" if foreign else None

    def eval_batch_collect(self, scores_tensor: Any, interaction: Any, positive_u: Any, positive_i: Any) -> None:
        """See RecBole; `scores_tensor` may be a `RankingBatch`, and the positives then stand in it."""
        if isinstance(scores_tensor, RankingBatch):
            self._rank(scores_tensor)
        else:
            super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)

    def _rank(self, batch: RankingBatch) -> None:
        k, device = max(self.topk), batch.factors.items.device
        if k > batch.n_items:
            raise SettingsError(f"topk asks for {k} items, but the data set has {batch.n_items}: lower topk.")
        masked, positives = (_to(lists, device) for lists in (batch.masked, batch.positives))
        users = batch.factors.users(batch.users.to(device))
        found = score_topk(
            users, batch.factors.items, k, batch.factors.bias, masked,
            targets=positives if self.register.need("rec.meanrank") else None, scorer=batch.scorer,
        )  # fmt: skip
        if self.register.need("rec.topk"):
            self.pieces["rec.topk"].append(_hits(found.ids, positives, batch.n_items))
        if self.register.need("rec.items"):
            self.pieces["rec.items"].append(_filled(found.ids, users, batch.factors, masked))
        if found.ranks is not None:
            left = batch.n_items - masked[0].diff()
            precision = torch.promote_types(batch.factors.items.dtype, torch.float32)  # that of the scores, as theirs
            self.pieces["rec.meanrank"].append(_mean_ranks(found.ranks, positives[0], left).to(precision))

    def get_data_struct(self) -> Any:
        """See RecBole."""
        for name in list(self.pieces) if self.config["single_spec"] else self._names_everywhere():
            self.data_struct.set(name, self._joined(name))
        self.pieces.clear()
        return super().get_data_struct()

    def _names_everywhere(self) -> list[str]:
        """What is ranked here in any process: the same order in all."""
        mine: list[list[str]] = [[]] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(mine, sorted(self.pieces))
        return sorted({name for names in mine for name in names})

    def _joined(self, name: str) -> Tensor:
        """All users' rows, of every process."""
        rows = torch.cat(self.pieces[name]).cpu() if self.pieces[name] else None
        if self.config["single_spec"]:
            everywhere = [rows]
        else:
            everywhere = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(everywhere, rows)
        return torch.cat([part for part in everywhere if part is not None])


def _to(lists: CSR, device: torch.device) -> CSR:
    return lists[0].to(device), lists[1].to(device)


def _hits(ids: Tensor, positives: CSR, n_items: int) -> Tensor:
    """RecBole's rec.topk [B, K + 1]: whether each item of the list is to be found, and how many there are to find."""
    offsets, wanted = positives
    pairs = row_numbers(offsets) * n_items + wanted  # rising
    asked = torch.arange(len(ids), device=ids.device)[:, None] * n_items + ids
    place = torch.searchsorted(pairs, asked).clamp(max=len(pairs) - 1)
    hit = (pairs[place] == asked) & (ids >= 0)
    return torch.cat([hit.long(), offsets.diff()[:, None]], dim=1)


def _filled(ids: Tensor, users: Tensor, factors: Factors, masked: CSR) -> Tensor:
    """RecBole's rec.items [B, K]; lists of users with fewer than K items left end in the masked items it takes."""
    short = (ids[:, -1] < 0).nonzero()[:, 0]
    for rows in torch.split(short, max(_WHOLE_ROWS // len(factors.items), 1)):
        scores = users[rows] @ factors.items.T
        scores = scores if factors.bias is None else scores + factors.bias
        offsets, left_out = rows_of(masked, rows)
        scores[row_numbers(offsets), left_out] = -torch.inf
        ids[rows] = scores.topk(ids.shape[1]).indices
    return ids


def _mean_ranks(ranks: TargetRanks, offsets: Tensor, left: Tensor) -> Tensor:
    """RecBole's rec.meanrank [B, 3]: sum of the positives' ranks, ties at their mean; number ranked; positives."""
    rank = 1 + ranks.above + ranks.tied.double() / 2
    total = torch.zeros_like(left, dtype=torch.float64).index_add_(0, row_numbers(offsets), rank)
    return torch.stack([total, left.double(), offsets.diff().double()], dim=1)
