"""MGCN: views of behaviour and of content kept apart, and fused by what each user and item prefers.

Yu et al., "Multi-View Graph Convolutional Network for Multimedia Recommendation", MM 2023.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from mmenc_plugin.models.base import ItemFeatures, ModelSettings, MultimodalRecommender, register
from mmenc_plugin.models.blocks.contrast import info_nce
from mmenc_plugin.models.blocks.graph import bipartite, distinct, light_gcn, of_users
from mmenc_plugin.models.blocks.item_graph import cosine_graph, nearest_items
from mmenc_plugin.models.blocks.losses import bpr, l2
from mmenc_plugin.types import Citation, Embeddings, Interactions, Modality, TripletBatch


class MGCNSettings(ModelSettings):
    """Settings of MGCN."""

    reg_weight: float = Field(1e-4, ge=0, description="weight of the L2 penalty on the batch's final embeddings")
    n_layers: int = Field(2, ge=0, le=16, description="layers of the graph of users and items")
    n_item_layers: int = Field(1, ge=0, le=16, description="layers of the graph of items")
    knn_k: int = Field(10, ge=1, le=1000, description="neighbours of an item by each modality, itself among them")
    contrast_weight: float = Field(0.01, ge=0, description="weight of the contrast between content and behaviour")
    temperature: float = Field(0.2, gt=0, le=100, description="of the contrast: smaller is sharper")
    scale_shared: bool = Field(
        False,
        description="divide what the modalities share and their own parts together by their number plus one "
        "(authors' code), rather than only their own parts by their number",
    )


@register
class MGCN(MultimodalRecommender):
    """Score = (c_u + s_u) . (c_i + s_i): behaviour c of LightGCN, and side information s.

    Each modality's features are purified by the item's behaviour embedding, enriched over the graph of like items and
    handed to the users over their interactions. s is what the modalities share, by attention, plus the rest of
    each, gated by behaviour. The loss draws s and c of a user or an item together.
    """

    settings = MGCNSettings
    citation = Citation(
        "Multi-View Graph Convolutional Network for Multimedia Recommendation",
        "Yu et al.",
        2023,
        "https://arxiv.org/abs/2308.03588",
    )

    def __init__(self, settings: MGCNSettings, features: ItemFeatures, interactions: Interactions) -> None:
        super().__init__(settings, features, interactions)
        self.options, modalities, width = settings, features.modalities, settings.embedding_size
        self.user_id = nn.Embedding(self.n_users, width)
        self.item_id = nn.Embedding(self.n_items, width)
        for embedding in (self.user_id, self.item_id):
            nn.init.xavier_uniform_(embedding.weight)
        self.projections = nn.ModuleDict({m: nn.Linear(features.width(m), width) for m in modalities})
        self.gates = nn.ModuleDict({m: nn.Linear(width, width) for m in modalities})
        if len(modalities) > 1:  # one modality alone is all that is shared
            self.attention = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1, bias=False))
            self.preferences = nn.ModuleDict({m: nn.Linear(width, width) for m in modalities})
        edges = distinct(interactions)
        self.graph = bipartite(*edges, self.n_users, self.n_items)
        self.user_graph = of_users(*edges, self.n_users, self.n_items)
        alike = {m: nearest_items(features, m, settings.knn_k) for m in modalities}
        self.item_graphs = nn.ModuleDict({m: cosine_graph(alike[m], self.n_items) for m in modalities})

    def embed(self) -> Embeddings:
        """[U, D] and [I, D]."""
        behaviour, side = self._views()
        return self._split(behaviour + side)

    def loss(self, batch: TripletBatch) -> dict[str, Tensor]:
        """BPR, the L2 penalty, and InfoNCE of the two views of the batch's users and of its items."""
        behaviour, side = self._views()
        all_, c, s = self._split(behaviour + side), self._split(behaviour), self._split(side)
        rows = all_.users[batch.users], all_.items[batch.positives], all_.items[batch.negatives]
        contrast = info_nce(s.users[batch.users], c.users[batch.users], self.options.temperature) + info_nce(
            s.items[batch.positives], c.items[batch.positives], self.options.temperature
        )
        return {
            "bpr": bpr(all_, batch),
            "reg": self.options.reg_weight * l2(*rows),
            "contrast": self.options.contrast_weight * contrast,
        }

    def _views(self) -> tuple[Tensor, Tensor]:
        """Behaviour and side information of users and items [U + I, D]."""
        users, items = light_gcn(self.graph, self.user_id.weight, self.item_id.weight, self.options.n_layers)
        behaviour = torch.cat([users, items])
        content = torch.stack([self._content(m) for m in self.features.modalities])  # [M, U + I, D]
        n = len(content)
        if n == 1:
            shared, own = content[0], torch.zeros_like(content[0])
        else:
            shared = (self.attention(content).softmax(0) * content).sum(0)
            preference = torch.stack([p(behaviour) for p in self.preferences.values()]).sigmoid()
            own = (preference * (content - shared)).sum(0)
        return behaviour, (shared + own) / (n + 1) if self.options.scale_shared else shared + own / n

    def _content(self, modality: Modality) -> Tensor:
        """One modality's view [U + I, D]: purified, over the graph of items, and from them to the users."""
        projected = self.projections[modality](self.features.table(modality))
        items = self.item_id.weight * self.gates[modality](projected).sigmoid()
        for _ in range(self.options.n_item_layers):
            items = self.item_graphs[modality](items)
        return torch.cat([self.user_graph(items), items])

    def _split(self, both: Tensor) -> Embeddings:
        return Embeddings(*torch.split(both, [self.n_users, self.n_items]))
