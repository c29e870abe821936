"""ItemKNNContent: what looks and reads like the items that a user took, and nothing learned.

The rule of Sarwar et al., "Item-Based Collaborative Filtering Recommendation Algorithms", WWW 2001, with the cosine of
the items' features in place of the cosine of who took them: the floor for models that learn from features.
"""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmenc_plugin.kernels.checks import CSR
from mmenc_plugin.kernels.knn_graph import knn_graph
from mmenc_plugin.models.base import ItemFeatures, MultimodalRecommender, register
from mmenc_plugin.models.blocks.graph import Graph, distinct
from mmenc_plugin.models.blocks.item_graph import shares
from mmenc_plugin.settings import OwnLossSettings
from mmenc_plugin.types import Citation, Embeddings, Interactions, Neighbours, TopK, TripletBatch

_CELLS = 16_000_000  # scores that `topk` holds at once


class ItemKNNContentSettings(OwnLossSettings):
    """Settings of ItemKNNContent, which has no embeddings and no penalty."""

    knn_k: int = Field(
        10, ge=0, le=100_000, description="neighbours of an item by content; 0 for all, which is ranked without a graph"
    )
    image_weight: float = Field(
        0.5, ge=0, le=1, description="share of the pictures in the likeness; other modalities share the rest"
    )


@register
class ItemKNNContent(MultimodalRecommender):
    """Score = sum over the user's items j among the k most like i of sum_m w_m cos(f_i^m, f_j^m).

    With all items for neighbours this is the product of i's unit features with the sum of those of the user's items,
    which count themselves too; they are left out of rankings. A modality that an item has not adds nothing.
    """

    settings = ItemKNNContentSettings
    citation = Citation(
        "Item-Based Collaborative Filtering Recommendation Algorithms",
        "Sarwar et al.",
        2001,
        "https://doi.org/10.1145/371920.372071",
    )
    learns = False
    all_items: Tensor
    pairs: Tensor

    def __init__(self, settings: ItemKNNContentSettings, features: ItemFeatures, interactions: Interactions) -> None:
        super().__init__(settings, features, interactions)
        self.weights = shares(features.modalities, settings.image_weight)
        self.is_product = settings.knn_k == 0
        users, items = distinct(interactions)
        self.history = Graph(users, items, torch.ones(len(users), device=users.device), (self.n_users, self.n_items))
        if not self.is_product:
            near = self._nearest(settings.knn_k)
            self.register_buffer("all_items", torch.arange(self.n_items, device=near.ids.device), persistent=False)
            self.register_buffer("pairs", users * self.n_items + items, persistent=False)
            there = near.ids >= 0
            rows = self.all_items[:, None].expand_as(near.ids)[there]
            self.likeness = Graph(rows, near.ids[there], near.weights[there], (self.n_items, self.n_items))

    def embed(self) -> Embeddings:
        """[U, D] and [I, D], D the width of all modalities; of all neighbours alone."""
        if not self.is_product:
            raise NotImplementedError("with knn_k above 0 no embeddings have the scores for products: set it to 0.")
        rows = torch.cat([w**0.5 * F.normalize(t) for w, t in zip(self.weights, self._tables(), strict=True)], dim=1)
        return Embeddings(self.history(rows), rows)

    def loss(self, batch: TripletBatch) -> dict[str, Tensor]:
        """Nothing is learned."""
        return {}

    def scores(self, users: Tensor) -> Tensor:
        """Scores [B, I] of all items for the user rows [B]."""
        if self.is_product:
            return super().scores(users)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls the layout that it computes in new
            scores: Tensor = torch.sparse.mm(self.history.rows(users), self.likeness.rows(self.all_items).T)
        return scores.to_dense()

    def pair_scores(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores [B] of the pairs (users[b], items[b])."""
        if self.is_product:
            return super().pair_scores(users, items)
        near = self.likeness.rows(items)
        pair, neighbour = near.indices()
        taken = torch.isin(users[pair] * self.n_items + neighbour, self.pairs)
        return near.values().new_zeros(len(users)).index_add_(0, pair[taken], near.values()[taken])

    def topk(self, users: Tensor, k: int, exclude: CSR | None = None) -> TopK:
        """The k best items [B, K] for the user rows [B]; `exclude` as in `kernels.score_topk`."""
        if self.is_product:
            return super().topk(users, k, exclude)
        offsets, seen = exclude or (users.new_zeros(len(users) + 1), users.new_zeros(0))
        step = max(1, _CELLS // self.n_items)
        parts = []
        for start in range(0, max(len(users), 1), step):
            scores, bounds = self.scores(users[start : start + step]), offsets[start : start + step + 1]
            row = torch.repeat_interleave(torch.arange(len(scores), device=users.device), bounds.diff())
            scores[row, seen[bounds[0] : bounds[-1]]] = -torch.inf
            order = scores.sort(dim=1, descending=True, stable=True)  # equal scores by the smaller row
            parts.append((order.indices[:, :k], order.values[:, :k]))
        ids, best = (torch.cat(part) for part in zip(*parts, strict=True))
        return TopK(ids.masked_fill(best == -torch.inf, -1), best)

    def _tables(self) -> list[Tensor]:
        """The features [I, D] of each modality, zeros for items without it."""
        return [self.features.table(m).detach() * self.features.present(m)[:, None] for m in self.features.modalities]

    def _nearest(self, k: int) -> Neighbours:
        tables, others = self._tables(), self.n_items - 1
        if not others:
            return Neighbours(tables[0].new_zeros(1, 0, dtype=torch.int64), tables[0].new_zeros(1, 0))
        return knn_graph(tables, min(k, others), weights=self.weights)
