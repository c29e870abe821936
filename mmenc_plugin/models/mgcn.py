"""MGCN: views of behaviour and of content kept apart, and fused by what each user and item prefers.

Yu et al., "Multi-View Graph Convolutional Network for Multimedia Recommendation", MM 2023.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from mmenc_plugin.models.base import ItemFeatures, register
from mmenc_plugin.models.blocks.behaviour import BehaviourAndSide, BehaviourSettings
from mmenc_plugin.models.blocks.item_graph import cosine_graph, nearest_items
from mmenc_plugin.types import Citation, Interactions, Modality


class MGCNSettings(BehaviourSettings):
    """Settings of MGCN."""

    scale_shared: bool = Field(
        False,
        description="divide what the modalities share and their own parts together by their number plus one "
        "(authors' code), rather than only their own parts by their number",
    )


@register
class MGCN(BehaviourAndSide):
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
        self.projections = nn.ModuleDict({m: nn.Linear(features.width(m), width) for m in modalities})
        self.gates = nn.ModuleDict({m: nn.Linear(width, width) for m in modalities})
        if len(modalities) > 1:  # one modality alone is all that is shared
            self.attention = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1, bias=False))
            self.preferences = nn.ModuleDict({m: nn.Linear(width, width) for m in modalities})
        self.features_changed()

    def features_changed(self) -> None:
        """Build the graphs of like items."""
        alike = {m: nearest_items(self.features, m, self.options.knn_k) for m in self.features.modalities}
        self.item_graphs = nn.ModuleDict({m: cosine_graph(alike[m], self.n_items) for m in alike})

    def contents(self) -> list[Tensor]:
        """Each modality's content [U + I, D]."""
        return [self._content(m) for m in self.features.modalities]

    def side(self, behaviour: Tensor, contents: list[Tensor]) -> Tensor:
        """What the modalities share, and what each has of its own as far as behaviour prefers it [N, D]."""
        content = torch.stack(contents)  # [M, N, D]
        n = len(content)
        if n == 1:
            shared, own = content[0], torch.zeros_like(content[0])
        else:
            shared = (self.attention(content).softmax(0) * content).sum(0)
            preference = torch.stack([p(behaviour) for p in self.preferences.values()]).sigmoid()
            own = (preference * (content - shared)).sum(0)
        return (shared + own) / (n + 1) if self.options.scale_shared else shared + own / n

    def _content(self, modality: Modality) -> Tensor:
        """One modality's view [U + I, D]: purified, over the graph of items, and from them to the users."""
        projected = self.projections[modality](self.features.table(modality))
        return self.enriched(projected, self.gates[modality], self.item_graphs[modality])
