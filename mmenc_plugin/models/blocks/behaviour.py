"""Behaviour and side information of users and items, added, and drawn together by their contrast.

What MGCN (Yu et al., MM 2023) and SMORE (Ong and Khong, WSDM 2025) share; they differ in the side information.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from mmenc_plugin.models.base import ItemFeatures, ModelSettings, MultimodalRecommender
from mmenc_plugin.models.blocks.contrast import info_nce
from mmenc_plugin.models.blocks.graph import bipartite, distinct, mean_of_layers, of_users
from mmenc_plugin.models.blocks.losses import l2
from mmenc_plugin.types import Embeddings, Interactions, TripletBatch


class BehaviourSettings(ModelSettings):
    """Settings that such models share."""

    reg_weight: float = Field(1e-4, ge=0, description="weight of the L2 penalty on the batch's final embeddings")
    n_layers: int = Field(2, ge=0, le=16, description="layers of the graph of users and items")
    n_item_layers: int = Field(1, ge=0, le=16, description="layers of the graph of items")
    knn_k: int = Field(10, ge=1, le=1000, description="neighbours of an item by each modality, itself among them")
    contrast_weight: float = Field(0.01, ge=0, description="weight of the contrast between content and behaviour")
    temperature: float = Field(0.2, gt=0, le=100, description="of the contrast: smaller is sharper")


class BehaviourAndSide(MultimodalRecommender):
    """Score = (c_u + s_u) . (c_i + s_i): behaviour c of LightGCN, and side information s, which a model computes."""

    def __init__(self, settings: BehaviourSettings, features: ItemFeatures, interactions: Interactions) -> None:
        super().__init__(settings, features, interactions)
        self.shared = settings
        self.user_id = nn.Embedding(self.n_users, settings.embedding_size)
        self.item_id = nn.Embedding(self.n_items, settings.embedding_size)
        for embedding in (self.user_id, self.item_id):
            nn.init.xavier_uniform_(embedding.weight)
        edges = distinct(interactions)
        self.graph = bipartite(*edges, self.n_users, self.n_items)
        self.user_graph = of_users(*edges, self.n_users, self.n_items)

    def side(self, behaviour: Tensor) -> Tensor:
        """Side information of users and items [U + I, D], given their behaviour [U + I, D]."""
        raise NotImplementedError

    def embed(self) -> Embeddings:
        """[U, D] and [I, D]."""
        behaviour, side = self._views()
        return self._split(behaviour + side)

    def loss(self, batch: TripletBatch) -> dict[str, Tensor]:
        """BPR, the L2 penalty, and InfoNCE of side information and behaviour of the batch's users and items."""
        behaviour, side = self._views()
        all_, c, s = self._split(behaviour + side), self._split(behaviour), self._split(side)
        rows = all_.users[batch.users], all_.items[batch.positives], all_.items[batch.negatives]
        contrast = info_nce(s.users[batch.users], c.users[batch.users], self.shared.temperature) + info_nce(
            s.items[batch.positives], c.items[batch.positives], self.shared.temperature
        )
        return {
            **self.ranking_loss(all_, batch),
            "reg": self.shared.reg_weight * l2(*rows),
            "contrast": self.shared.contrast_weight * contrast,
        }

    def enriched(self, view: Tensor, gate: nn.Module, graph: nn.Module) -> Tensor:
        """A view [I, D] gated into the items' embeddings, over a graph of items, and on to the users: [U + I, D]."""
        items = self.item_id.weight * gate(view).sigmoid()
        for _ in range(self.shared.n_item_layers):
            items = graph(items)
        return torch.cat([self.user_graph(items), items])

    def _views(self) -> tuple[Tensor, Tensor]:
        nodes = torch.cat([self.user_id.weight, self.item_id.weight])
        behaviour = mean_of_layers(self.graph, nodes, self.shared.n_layers)
        return behaviour, self.side(behaviour)

    def _split(self, both: Tensor) -> Embeddings:
        return Embeddings(*torch.split(both, [self.n_users, self.n_items]))
