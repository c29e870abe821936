"""What RecBole's metrics are computed from, made by `kernels.score_topk` instead of from a matrix of all scores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from recbole.evaluator.collector import Collector
from recbole.evaluator.register import metric_information
from torch import Tensor

from mmenc_plugin.errors import SettingsError
from mmenc_plugin.hosts.recbole.factors import Factors
from mmenc_plugin.hosts.recbole.processes import gathered
from mmenc_plugin.hosts.recbole.ranked import Kept, hits, mean_ranks, ranks_in
from mmenc_plugin.kernels import score_topk
from mmenc_plugin.kernels.checks import CSR
from mmenc_plugin.kernels.csr import make_csr, row_numbers, rows_of
from mmenc_plugin.kernels.dispatch import Scorer

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
        kept: where the ranking of each user is put down for the slices of the test, if anywhere.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.pieces: dict[str, list[Tensor]] = defaultdict(list)
        self.kept: Kept | None = None
        self.hindrance = foreign_need(self.register.metrics)

    def eval_batch_collect(self, scores_tensor: Any, interaction: Any, positive_u: Any, positive_i: Any) -> None:
        """See RecBole; `scores_tensor` may be a `RankingBatch`, and the positives then stand in it."""
        if isinstance(scores_tensor, RankingBatch):
            self._rank(scores_tensor)
            return
        super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
        if self.kept is not None:
            pairs = torch.sort(positive_u * scores_tensor.shape[1] + positive_i).values.to(scores_tensor.device)
            self._keep(interaction[self.config["USER_ID_FIELD"]], scores_tensor, pairs)

    def _keep(self, users: Tensor, scores: Tensor, pairs: Tensor) -> None:
        """Put down what RecBole's way found; `pairs` are row * I + item of what is to be found, rising."""
        n_items = scores.shape[1]
        positives = make_csr(pairs // n_items, pairs % n_items, len(users))
        ranks = ranks_in(scores, positives) if self.register.need("rec.meanrank") else None
        best, left = scores.topk(max(self.topk)).indices, (scores > -torch.inf).sum(1)
        self.kept.add(users, best, left, positives, ranks)  # type: ignore[union-attr]

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
            self.pieces["rec.topk"].append(hits(found.ids, positives, batch.n_items))
        items = found.ids
        if self.register.need("rec.items") or self.kept is not None:
            items = _filled(items, users, batch.factors, masked)
        if self.register.need("rec.items"):
            self.pieces["rec.items"].append(items)
        left, ranks = batch.n_items - masked[0].diff(), None
        if found.ranks is not None:
            precision = torch.promote_types(batch.factors.items.dtype, torch.float32)  # that of the scores, as theirs
            ranks = (1 + found.ranks.above + found.ranks.tied.double() / 2).to(precision)
            self.pieces["rec.meanrank"].append(mean_ranks(ranks, positives[0], left))
        if self.kept is not None:
            self.kept.add(batch.users, items, left, positives, ranks)

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
        return torch.cat(gathered(rows, self.config))


def foreign_need(metrics: Sequence[str]) -> str | None:
    """Why these metrics of RecBole cannot be made from a ranking, or None."""
    needs = {need: metric.lower() for metric in metrics for need in metric_information.get(metric.lower(), ())}
    foreign = [need for need in needs if need not in _MADE_HERE | _OF_THE_DATA]
    return f"the metric {needs[foreign[0]]} needs '{foreign[0]}'" if foreign else None


def _to(lists: CSR, device: torch.device) -> CSR:
    return lists[0].to(device), lists[1].to(device)


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
