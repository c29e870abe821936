"""GRCN: a graph of users and items whose edges are weighed by how well content and taste agree.

Wei et al., "Graph-Refined Convolutional Network for Multimedia Recommendation with Implicit Feedback", MM 2020.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mmenc_plugin.models.base import ItemFeatures, ModelSettings, MultimodalRecommender, register
from mmenc_plugin.models.blocks.edges import Edges
from mmenc_plugin.models.blocks.graph import distinct
from mmenc_plugin.models.blocks.losses import l2
from mmenc_plugin.models.blocks.unit import unit_rows
from mmenc_plugin.types import Citation, Embeddings, Interactions, TripletBatch


class GRCNSettings(ModelSettings):
    """Settings of GRCN."""

    n_layers: int = Field(2, ge=0, le=16, description="layers of the refined graph")
    n_routings: int = Field(
        3,
        ge=0,
        le=100,
        description="rounds in which users gather the content of their items; 0 is what the published code does, "
        "whose messages run the other way and reach no user",
    )
    content_size: int = Field(64, ge=1, le=65536, description="width of the projected features, and of preferences")
    pruning: Literal["soft", "hard"] = Field(
        "soft", description="soft keeps every edge with its weight; hard cuts those of negative weight"
    )


class Refinement(nn.Module):
    """Users' prototypes and the attention of the edges, by one modality.

    Args:
        width: D_m of the features.
        n_users: U.
        settings: of the model.
    """

    def __init__(self, width: int, n_users: int, settings: GRCNSettings) -> None:
        super().__init__()
        self.n_routings = settings.n_routings
        self.preference = nn.Embedding(n_users, settings.content_size)
        self.projection = nn.Linear(width, settings.content_size)
        for weight in (self.preference.weight, self.projection.weight):
            nn.init.xavier_normal_(weight)

    def forward(self, features: Tensor, edges: Edges) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Content of users [U, C] and items [I, C], and the attention [E] of users and of items to their edges."""
        items = unit_rows(F.leaky_relu(self.projection(features)))
        users = unit_rows(self.preference.weight)
        for _ in range(self.n_routings):
            attention = edges.softmax_of_users(edges.dots(users, items))
            users = unit_rows(users + edges.to_users(attention, items))
        scores = edges.dots(users, items)
        of_users, of_items = edges.softmax_of_users(scores), edges.softmax_of_items(scores)
        return users + edges.to_users(of_users, items), items + edges.to_items(of_items, users), of_users, of_items


@register
class GRCN(MultimodalRecommender):
    """Score = u . i + sum_m u_m . i_m: embeddings propagated over the refined graph, and content by each modality.

    A user's prototype in a modality is routed towards the items that are like it. How much of an edge's sender
    reaches its receiver is the receiver's attention times the confidence that the sender has in the modality, the
    most of all modalities.
    """

    settings = GRCNSettings
    citation = Citation(
        "Graph-Refined Convolutional Network for Multimedia Recommendation with Implicit Feedback",
        "Wei et al.",
        2020,
        "https://arxiv.org/abs/2111.02036",
    )

    def __init__(self, settings: GRCNSettings, features: ItemFeatures, interactions: Interactions) -> None:
        super().__init__(settings, features, interactions)
        self.options = settings
        self.user_id = nn.Embedding(self.n_users, settings.embedding_size)
        self.item_id = nn.Embedding(self.n_items, settings.embedding_size)
        self.user_confidence = nn.Embedding(self.n_users, len(features.modalities))
        self.item_confidence = nn.Embedding(self.n_items, len(features.modalities))
        for embedding in (self.user_id, self.item_id, self.user_confidence, self.item_confidence):
            nn.init.xavier_normal_(embedding.weight)
        self.of_modality = nn.ModuleDict(
            {m: Refinement(features.width(m), self.n_users, settings) for m in features.modalities}
        )
        self.edges = Edges(*distinct(interactions), self.n_users, self.n_items)

    def embed(self) -> Embeddings:
        """[U, D] and [I, D] with D = embedding_size + content_size for each modality."""
        contents = [
            part(self.features.table(m), self.edges)
            for m, part in zip(self.features.modalities, self._parts(), strict=True)
        ]
        of_users, of_items, to_users, to_items = zip(*contents, strict=True)
        users, items = self._propagate(
            self._weight(to_users, self.item_confidence(self.edges.items)),
            self._weight(to_items, self.user_confidence(self.edges.users)),
        )
        return Embeddings(torch.cat([users, *of_users], dim=1), torch.cat([items, *of_items], dim=1))

    def loss(self, batch: TripletBatch) -> dict[str, Tensor]:
        """BPR, and the L2 penalty of the batch's embeddings and preferences."""
        all_ = self.embed()
        rows = [self.user_id(batch.users), self.item_id(batch.positives), self.item_id(batch.negatives)]
        rows += [part.preference(batch.users) for part in self._parts()]
        return {
            **self.ranking_loss(all_, batch),
            "reg": self.options.reg_weight * l2(*rows),
        }

    def _weight(self, attentions: tuple[Tensor, ...], confidence: Tensor) -> Tensor:
        """[E] of the receivers' attentions [E] by each modality and the senders' confidence [E, M]."""
        weight = (torch.stack(attentions, dim=1) * confidence).amax(1)
        return weight.relu() if self.options.pruning == "hard" else weight

    def _propagate(self, to_users: Tensor, to_items: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of the layers 0..n_layers over the edges' weights [E] in both directions."""
        users, items = unit_rows(self.user_id.weight), unit_rows(self.item_id.weight)
        all_users, all_items = users, items
        for _ in range(self.options.n_layers):
            users, items = self.edges.to_users(to_users, items), self.edges.to_items(to_items, users)
            all_users, all_items = all_users + users, all_items + items
        return all_users, all_items

    def _parts(self) -> list[Refinement]:
        return [cast(Refinement, part) for part in self.of_modality.values()]
