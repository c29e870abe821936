"""LGMRec: what users and items share with their neighbours, and with everyone by way of a few hyperedges.

Guo et al., "LGMRec: Local and Global Graph Learning for Multimodal Recommendation", AAAI 2024.
"""

from __future__ import annotations

from itertools import combinations
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mmenc_plugin.models.base import ItemFeatures, ModelSettings, MultimodalRecommender, register
from mmenc_plugin.models.blocks.contrast import info_nce
from mmenc_plugin.models.blocks.graph import Graph, bipartite, degrees, distinct, light_gcn
from mmenc_plugin.models.blocks.losses import l2, norms
from mmenc_plugin.models.blocks.unit import unit_rows
from mmenc_plugin.types import Citation, Embeddings, Interactions, TripletBatch

Pair = tuple[Tensor, Tensor]  # of users [U, ...] and of items [I, ...]


class LGMRecSettings(ModelSettings):
    """Settings of LGMRec."""

    reg_weight: float = Field(1e-6, ge=0, description="weight of the penalty on the batch's embeddings")
    penalty: Literal["squares", "norms"] = Field(
        "squares", description="squares: half the squared length of a row, on average; norms: Frobenius norms (MMRec's)"
    )
    n_layers: int = Field(2, ge=0, le=16, description="layers of the graph of users and items, for the ids")
    n_modality_layers: int = Field(2, ge=0, le=16, description="layers of that graph for the modalities")
    n_hyper_layers: int = Field(1, ge=1, le=16, description="passes from items over the hyperedges and back")
    n_hyperedges: int = Field(4, ge=1, le=65536, description="hyperedges of each modality")
    global_weight: float = Field(0.3, ge=0, description="weight of what comes over the hyperedges")
    temperature: float = Field(0.2, gt=0, description="of belonging to a hyperedge, and of the contrastive loss")
    noise: float = Field(1.0, ge=0, description="scale of the Gumbel noise on belonging to a hyperedge, in training")
    dropout: float = Field(0.5, ge=0, lt=1, description="share of the belongings to hyperedges left out in training")
    contrast_weight: float = Field(
        0.2, ge=0, description="weight of the mean contrastive loss; the published 1e-4 is of the sum over 2048 rows"
    )


@register
class LGMRec(MultimodalRecommender):
    """Score = e_u . e_i with e = local + alpha global / |global|.

    local: the ids' LightGCN, and each modality's projected features after the last layer of the same graph, scaled to
    length 1; a user's are the mean of their items'. global: the ids' embeddings gathered by hyperedges, to which items
    belong by their features and users by those of their items; see `_over_hyperedges`.
    """

    settings = LGMRecSettings
    citation = Citation(
        "LGMRec: Local and Global Graph Learning for Multimodal Recommendation",
        "Guo, Li, Li, Wang, Shi and Ruan",
        2024,
        "https://arxiv.org/abs/2312.16400",
    )

    def __init__(self, settings: LGMRecSettings, features: ItemFeatures, interactions: Interactions) -> None:
        super().__init__(settings, features, interactions)
        self.options, width = settings, settings.embedding_size
        self.user_id, self.item_id = nn.Embedding(self.n_users, width), nn.Embedding(self.n_items, width)
        self.projections, self.hyperedges = (
            nn.ModuleDict({m: nn.Linear(features.width(m), n, bias=False) for m in features.modalities})
            for n in (width, settings.n_hyperedges)
        )
        for part in (self.user_id, self.item_id, *self.projections.values(), *self.hyperedges.values()):
            nn.init.xavier_uniform_(part.weight)  # type: ignore[arg-type]
        users, items = distinct(interactions)
        self.graph = bipartite(users, items, self.n_users, self.n_items)
        self.taken = Graph(users, items, torch.ones(len(users)), (self.n_users, self.n_items))
        self.register_buffer("n_taken", degrees(users, self.n_users).clamp(min=1)[:, None], persistent=False)

    def embed(self) -> Embeddings:
        """[U, D] and [I, D]."""
        return Embeddings(*self._local_and_global()[0])

    def loss(self, batch: TripletBatch) -> dict[str, Tensor]:
        """BPR, the contrastive loss of each two modalities, and the penalty."""
        (users, items), global_ = self._local_and_global()
        parts = self.ranking_loss(Embeddings(users, items), batch)
        if len(global_) > 1:
            parts["contrast"] = self.options.contrast_weight * self._contrast(global_, batch)
        penalty = l2 if self.options.penalty == "squares" else norms
        rows = users[batch.users], items[batch.positives], items[batch.negatives]
        return parts | {"reg": self.options.reg_weight * penalty(*rows)}

    def _contrast(self, global_: list[Pair], batch: TripletBatch) -> Tensor:
        """A user's, and an item's, global embedding by one modality against all users', or items', by another."""
        losses = [
            info_nce(a[side][rows], b[side], self.options.temperature, rows)
            for a, b in combinations(global_, 2)
            for side, rows in enumerate((batch.users, batch.positives))
        ]
        return torch.stack(losses).sum()

    def _local_and_global(self) -> tuple[Pair, list[Pair]]:
        """The embeddings, and for each modality what came over its hyperedges."""
        ids = light_gcn(self.graph, self.user_id.weight, self.item_id.weight, self.options.n_layers)
        projected, logits = self._mapped()
        content, belonging = self._content(projected), self._belonging(logits)
        global_ = [self._over_hyperedges(*of_modality, ids[1]) for of_modality in belonging]
        users, items = (
            own
            + torch.stack([unit_rows(c[side]) for c in content]).sum(0)
            + self.options.global_weight * unit_rows(torch.stack([g[side] for g in global_]).sum(0))
            for side, own in enumerate(ids)
        )
        return (users, items), global_

    def _mapped(self) -> tuple[Tensor, Tensor]:
        """All items' features through both maps of each modality, read once: [I, M D] and [I, M K], side by side."""
        sizes, content, logits = [self.options.embedding_size, self.options.n_hyperedges], [], []
        for m, projection in self.projections.items():
            both = torch.cat([projection.weight, self.hyperedges[m].weight])  # type: ignore[list-item]
            parts = torch.split(F.linear(self.features.table(m), both), sizes, dim=1)  # type: ignore[arg-type]
            content.append(parts[0])
            logits.append(parts[1])
        return torch.cat(content, dim=1), torch.cat(logits, dim=1)

    def _content(self, items: Tensor) -> list[Pair]:
        """For each modality [U, D] and [I, D], the graph's last layer; all modalities pass it side by side."""
        layer = torch.cat([self.taken(items) / self.n_taken, items])
        for _ in range(self.options.n_modality_layers):
            layer = self.graph(layer)
        return _split(layer[: self.n_users], layer[self.n_users :], len(self.projections))

    def _belonging(self, items: Tensor) -> list[Pair]:
        """For each modality, how much users [U, K] and items [I, K] belong to its K hyperedges.

        A relaxed choice of one hyperedge each (Jang et al., "Categorical Reparameterization with Gumbel-Softmax", ICLR
        2017); without noise, and so the same each time, outside training.
        """
        pairs = _split(self.taken(items), items, len(self.hyperedges))
        return [(self._relaxed_choice(users), self._relaxed_choice(items)) for users, items in pairs]

    def _relaxed_choice(self, logits: Tensor) -> Tensor:
        if self.training:
            logits = logits - self.options.noise * torch.empty_like(logits).exponential_().log()
        chosen = (logits / self.options.temperature).softmax(dim=1)
        return F.dropout(chosen, self.options.dropout, self.training)

    def _over_hyperedges(self, users: Tensor, items: Tensor, embeddings: Tensor) -> Pair:
        """[U, D] and [I, D]: hyperedges gather items' embeddings [I, D] and give to all that belong to them."""
        for _ in range(self.options.n_hyper_layers):
            gathered = items.T @ embeddings
            embeddings = items @ gathered
        return users @ gathered, embeddings


def _split(users: Tensor, items: Tensor, n: int) -> list[Pair]:
    """What lies side by side for each of n modalities."""
    return list(zip(users.chunk(n, dim=1), items.chunk(n, dim=1), strict=True))
