"""BM3: users, items and modalities predict one another's embeddings, with no negatives.

Zhou et al., "Bootstrap Latent Representations for Multi-modal Recommendation", WWW 2023.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mmenc_plugin.models.base import ItemFeatures, MultimodalRecommender, register
from mmenc_plugin.models.blocks.graph import bipartite, distinct, light_gcn
from mmenc_plugin.models.blocks.losses import l2, norms
from mmenc_plugin.models.blocks.projection import project_rows
from mmenc_plugin.settings import OwnLossSettings
from mmenc_plugin.types import Citation, Embeddings, Interactions, TripletBatch


class BM3Settings(OwnLossSettings):
    """Settings of BM3."""

    reg_weight: float = Field(
        1e-3,
        ge=0,
        description="weight of the penalty on the propagated embeddings; the published 0.1 and 0.01 go with norms",
    )
    penalty: Literal["squares", "norms"] = Field(
        "squares",
        description="what is penalised. squares: half the squared length of the batch's rows, on average; norms: the "
        "Frobenius norms of both whole tables, by the number of items (MMRec's)",
    )
    n_layers: int = Field(1, ge=0, le=16, description="layers of the graph of users and items")
    dropout: float = Field(0.3, ge=0, lt=1, description="share of the entries left out of the embeddings predicted")
    modality_weight: float = Field(1.0, ge=0, description="weight of the losses of the modalities; 2 in MMRec")


@register
class BM3(MultimodalRecommender):
    """Score = q(h_u) . q(h_i), with h propagated over interactions, h_i += its id's embedding, and q one linear map.

    Training makes q(h) of one side point where the other side's h does, after dropout and without gradient; and q of
    an item's projected features where its h, and where those features themselves, do. Features guide the training
    only: they are not read in ranking.
    """

    settings = BM3Settings
    citation = Citation(
        "Bootstrap Latent Representations for Multi-modal Recommendation",
        "Zhou, Zhou, Liu, Zeng, Miao, Wang, You and Jiang",
        2023,
        "https://arxiv.org/abs/2207.05969",
    )

    def __init__(self, settings: BM3Settings, features: ItemFeatures, interactions: Interactions) -> None:
        super().__init__(settings, features, interactions)
        self.options, width = settings, settings.embedding_size
        self.user_id, self.item_id = nn.Embedding(self.n_users, width), nn.Embedding(self.n_items, width)
        for embedding in (self.user_id, self.item_id):
            nn.init.xavier_uniform_(embedding.weight)
        self.predictor = nn.Linear(width, width)
        self.projections = nn.ModuleDict({m: nn.Linear(features.width(m), width) for m in features.modalities})
        for linear in (self.predictor, *self.projections.values()):
            nn.init.xavier_normal_(linear.weight)  # type: ignore[arg-type]
        self.graph = bipartite(*distinct(interactions), self.n_users, self.n_items)

    def items_read(self, batch: TripletBatch) -> Tensor:
        """The positives alone."""
        return batch.positives

    def embed(self) -> Embeddings:
        """[U, D] and [I, D], after the predictor."""
        users, items = self._propagated()
        return Embeddings(self.predictor(users), self.predictor(items))

    def loss(self, batch: TripletBatch) -> dict[str, Tensor]:
        """Of each pair's user and item, of each modality, and the penalty; the batch's negatives are not read."""
        all_ = self._propagated()
        users, items = all_[0][batch.users], all_[1][batch.positives]
        user_target, item_target = self._target(users), self._target(items)
        parts = {"pairs": self._apart(users, item_target) + self._apart(items, user_target)}
        for m, projection in self.projections.items():
            content = project_rows(self.features, m, batch.positives, projection.weight, projection.bias)  # type: ignore[arg-type]
            of_modality = self._apart(content, item_target) + self._apart(content, self._target(content))
            parts[m] = self.options.modality_weight * of_modality
        penalty = l2(users, items) if self.options.penalty == "squares" else norms(*all_)
        return parts | {"reg": self.options.reg_weight * penalty}

    def _propagated(self) -> tuple[Tensor, Tensor]:
        """h_u [U, D] and h_i [I, D] (the paper's equations 1 to 3)."""
        users, items = light_gcn(self.graph, self.user_id.weight, self.item_id.weight, self.options.n_layers)
        return users, items + self.item_id.weight

    def _target(self, rows: Tensor) -> Tensor:
        """The view [B, D] that is to be predicted."""
        return F.dropout(rows.detach(), self.options.dropout, self.training)

    def _apart(self, online: Tensor, target: Tensor) -> Tensor:
        """Mean of 1 - cos(q(online), target) over rows [B, D]."""
        cosines: Tensor = torch.cosine_similarity(self.predictor(online), target)
        return 1 - cosines.mean()
