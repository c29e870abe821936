"""SMORE: modalities denoised and fused in the frequency domain.

Ong and Khong, "Spectrum-based Modality Representation Fusion Graph Convolutional Network for Multimodal
Recommendation", WSDM 2025.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from mmenc_plugin.models.base import ItemFeatures, register
from mmenc_plugin.models.blocks.behaviour import BehaviourAndSide, BehaviourSettings
from mmenc_plugin.models.blocks.item_graph import cosine_graph, nearest_items, strongest
from mmenc_plugin.types import Citation, Interactions, Modality


class SMORESettings(BehaviourSettings):
    """Settings of SMORE."""

    n_layers: int = Field(3, ge=0, le=16, description="layers of the graph of users and items")
    modality_knn_k: dict[Modality, Annotated[int, Field(ge=1, le=1000)]] = Field(
        default={}, description="neighbours by single modalities, in place of knn_k: {image: 40, text: 15}"
    )
    gate_dropout: float = Field(0.0, ge=0, lt=1, description="share of each behaviour gate's outputs left out")


@register
class SMORE(BehaviourAndSide):
    """Score = (c_u + s_u) . (c_i + s_i): behaviour c of LightGCN, and side information s.

    The spectrum of each modality's projected features is filtered; the product of all spectra, filtered too, is one
    view more, the fusion. Each view, gated by the item's embedding, is enriched over its graph of like items (the
    fusion's has the stronger edge of any modality) and handed to the users over their interactions. The fusion says
    which dimensions of the others count; behaviour gates them all, and s is their mean.
    """

    settings = SMORESettings
    citation = Citation(
        "Spectrum-based Modality Representation Fusion Graph Convolutional Network for Multimodal Recommendation",
        "Ong and Khong",
        2025,
        "https://arxiv.org/abs/2412.14978",
    )

    def __init__(self, settings: SMORESettings, features: ItemFeatures, interactions: Interactions) -> None:
        super().__init__(settings, features, interactions)
        self.options, modalities, width = settings, features.modalities, settings.embedding_size
        self.projections = nn.ModuleDict({m: nn.Linear(features.width(m), width) for m in modalities})
        self.attentions = nn.ModuleDict(
            {
                m: nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width, bias=False))
                for m in modalities
            }
        )
        # Of each modality, and last of the fusion: the filter (real and imaginary part), and two gates.
        views = range(len(modalities) + 1)
        self.filters = nn.ParameterList([torch.randn(width // 2 + 1, 2) for _ in views])
        self.gates = nn.ModuleList([nn.Linear(width, width) for _ in views])
        self.preferences = nn.ModuleList([nn.Linear(width, width) for _ in views])
        self.dropout = nn.Dropout(settings.gate_dropout)
        self.features_changed()

    def features_changed(self) -> None:
        """Build the graphs of like items."""
        self.item_graphs = self._item_graphs()

    def contents(self) -> list[Tensor]:
        """Each modality's view [U + I, D], and last their fusion's."""
        parts = zip(self._spectral(), self.gates, self.item_graphs, strict=True)
        return [self.enriched(view, gate, graph) for view, gate, graph in parts]

    def side(self, behaviour: Tensor, contents: list[Tensor]) -> Tensor:
        """The mean of the attended views and the fusion, each gated by behaviour [N, D]."""
        *of_modalities, fusion = contents
        attended = [
            attention(fusion).softmax(1) * view
            for attention, view in zip(self.attentions.values(), of_modalities, strict=True)
        ]
        preferred = [
            self.dropout(preference(behaviour).sigmoid()) * view
            for preference, view in zip(self.preferences, [*attended, fusion], strict=True)
        ]
        return torch.stack(preferred).mean(0)

    def _spectral(self) -> list[Tensor]:
        """Each modality's features, denoised [I, D], and last their fusion."""
        content = [p(self.features.table(m)) for m, p in self.projections.items()]  # type: ignore[arg-type]
        spectra = torch.fft.rfft(torch.stack(content).to(self.filters[0]), norm="ortho")  # [M, I, D / 2 + 1]
        filters = torch.view_as_complex(torch.stack(list(self.filters)))[:, None]
        filtered = torch.cat([spectra, spectra.prod(0, keepdim=True)]) * filters
        return list(torch.fft.irfft(filtered, n=self.options.embedding_size, norm="ortho"))

    def _item_graphs(self) -> nn.ModuleList:
        """The graph of each modality, and last that with the stronger of their edges."""
        ks = [self.options.modality_knn_k.get(m, self.options.knn_k) for m in self.features.modalities]
        alike = [nearest_items(self.features, m, k) for m, k in zip(self.features.modalities, ks, strict=True)]
        graphs = [cosine_graph(edges, self.n_items) for edges in alike]
        return nn.ModuleList([*graphs, strongest(graphs)])
