"""Losses of recommenders."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmenc_plugin.kernels import bpr_loss, score_loss
from mmenc_plugin.kernels.csr import make_csr, row_numbers, rows_of
from mmenc_plugin.models.blocks.graph import distinct
from mmenc_plugin.settings import ModelSettings
from mmenc_plugin.types import Embeddings, Interactions, TripletBatch


class RankingLoss(nn.Module):
    """A model's main loss: what users took before what they did not, by the setting `loss_type`.

    BPR compares with the batch's negatives (see `bpr`). The others are softmax losses, in which nothing that the user
    is known to have taken counts against what they took: CE over all items, in_batch over the distinct positives of
    the batch. There popular items stand more often, so the logarithm of the chance that a batch holds the item is
    subtracted from its score: up to a constant, for all but the most popular, that of its share of the interactions.
    Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", RecSys 2019, section 4.

    Args:
        settings: whose loss_type and softmax_temperature count.
        interactions: of the training part.
    """

    offsets: Tensor
    taken: Tensor
    counts: Tensor
    __call__: Callable[..., dict[str, Tensor]]  # nn.Module's gives anything

    def __init__(self, settings: ModelSettings, interactions: Interactions) -> None:
        super().__init__()
        self.loss_type, self.scale = settings.loss_type, 1 / settings.softmax_temperature
        self.n_interactions = len(interactions.users)
        self.first_item = int(interactions.padding_row)
        if self.loss_type != "BPR":
            offsets, taken = make_csr(*distinct(interactions), interactions.n_users)
            counts = torch.bincount(interactions.items, minlength=interactions.n_items)
            for name, tensor in (("offsets", offsets), ("taken", taken), ("counts", counts)):
                self.register_buffer(name, tensor, persistent=False)

    def items(self, batch: TripletBatch) -> Tensor | None:
        """The item rows [N] of the batch that the loss reads, repeated ones among them; None for all items."""
        if self.loss_type == "BPR":
            return torch.cat([batch.positives, batch.negatives])
        return batch.positives if self.loss_type == "in_batch" else None

    def forward(self, embeddings: Embeddings, batch: TripletBatch, gathered: bool = False) -> dict[str, Tensor]:
        """The loss under its name.

        Args:
            embeddings: of all users and items; or, if `gathered`, those of the batch's users [B, D] and of the items
                that `items` names [N, D].
            batch: rows of the users and items.
            gathered: see `embeddings`; not for CE.
        """
        if self.loss_type == "BPR":
            return {"bpr": bpr(embeddings, _within(batch) if gathered else batch)}
        users = embeddings.users if gathered else embeddings.users[batch.users]
        if self.loss_type == "in_batch":
            return {"in_batch": self._over_batch(users, embeddings, batch, gathered)}
        return {"ce": self._over_all(users, embeddings, batch)}

    def _over_batch(self, users: Tensor, embeddings: Embeddings, batch: TripletBatch, gathered: bool) -> Tensor:
        columns, positive = torch.unique(batch.positives, return_inverse=True)
        rows = _first_places(positive, len(columns)) if gathered else columns
        bias = None if embeddings.item_bias is None else embeddings.item_bias[rows]
        offsets, seen = rows_of((self.offsets, self.taken), batch.users)
        place = torch.searchsorted(columns, seen).clamp(max=len(columns) - 1)
        here = columns[place] == seen
        known = make_csr(row_numbers(offsets)[here], rows[place[here]], len(users))
        log_q = self._log_chance(columns, len(users))
        return score_loss(
            users, embeddings.items, positive, scale=self.scale, bias=bias, log_q=log_q, exclude=known, item_ids=rows
        )

    def _over_all(self, users: Tensor, embeddings: Embeddings, batch: TripletBatch) -> Tensor:
        items, bias, first = embeddings.items, embeddings.item_bias, self.first_item
        offsets, known = rows_of((self.offsets, self.taken), batch.users)
        return score_loss(
            users, items[first:], batch.positives - first, scale=self.scale,
            bias=None if bias is None else bias[first:], exclude=(offsets, known - first),
        )  # fmt: skip

    def _log_chance(self, items: Tensor, size: int) -> Tensor:
        """[N] ln(1 - (1 - share)^B): of the chance that an item is among B interactions drawn from all."""
        share = self.counts[items].clamp(min=1).double() / self.n_interactions
        return torch.log(-torch.expm1(size * torch.log1p(-share)))


def _within(batch: TripletBatch) -> TripletBatch:
    """The batch, as rows of its users and of its positives and negatives one after the other."""
    rows = torch.arange(2 * len(batch.users), device=batch.users.device)
    return TripletBatch(rows[: len(batch.users)], rows[: len(batch.users)], rows[len(batch.users) :])


def _first_places(numbers: Tensor, n: int) -> Tensor:
    """[n] where each of 0..n-1 first stands in `numbers` [B], which holds them all."""
    places = torch.arange(len(numbers), device=numbers.device)
    return places.new_full((n,), len(numbers)).scatter_reduce_(0, numbers, places, "amin")


def bpr(embeddings: Embeddings, batch: TripletBatch) -> Tensor:
    """Mean of -ln sigmoid(score of the positive - score of the negative) over a batch.

    Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009, equation 4. The kernel
    reads the batch's rows and makes no copy of the negatives'.

    Args:
        embeddings: of all users and items; or those of the batch alone, with a batch that counts within them.
        batch: rows of `embeddings`.
    """
    return bpr_loss(
        embeddings.users,
        embeddings.items,
        batch.users,
        batch.positives,
        batch.negatives,
        bias=embeddings.item_bias,
    )


def l2(*rows: Tensor) -> Tensor:
    """Half the sum of squares of embeddings [.., D] or biases [..], a row of the batch.

    Args:
        rows: those that belong to the batch; the first has a row for each row of it.
    """
    return sum((r.square().sum() for r in rows), start=rows[0].new_zeros(())) / (2 * len(rows[0]))


def norms(*tables: Tensor) -> Tensor:
    """The sum of the Frobenius norms of tables [N, D], not squared, by the N of the last.

    No paper's penalty, but that of much published code.
    """
    return sum((torch.linalg.norm(t) for t in tables), start=tables[0].new_zeros(())) / len(tables[-1])
