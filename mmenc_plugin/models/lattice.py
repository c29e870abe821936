"""LATTICE: item embeddings convolved over graphs of like items, one part of which is learned.

Zhang et al., "Mining Latent Structures for Multimedia Recommendation", MM 2021.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mmenc_plugin.models.base import ItemFeatures, ModelSettings, MultimodalRecommender, register
from mmenc_plugin.models.blocks.graph import averaging, bipartite, distinct, inverse_root, light_gcn
from mmenc_plugin.models.blocks.item_graph import cosine_graph, nearest_items, nearest_rows
from mmenc_plugin.models.blocks.learned_graph import Pattern
from mmenc_plugin.models.blocks.losses import l2
from mmenc_plugin.models.blocks.unit import unit_rows
from mmenc_plugin.types import Citation, Embeddings, Interactions, TripletBatch


class LATTICESettings(ModelSettings):
    """Settings of LATTICE."""

    reg_weight: float = Field(0.0, ge=0, description="weight of the L2 penalty on the batch's propagated embeddings")
    n_layers: int = Field(2, ge=0, le=16, description="layers of the graph of users and items; 0: factorisation alone")
    n_item_layers: int = Field(1, ge=1, le=16, description="layers of the graph of items")
    knn_k: int = Field(10, ge=1, le=1000, description="neighbours of an item by each modality, itself among them")
    content_size: int = Field(64, ge=1, le=65536, description="width of the projected features that are compared")
    frozen_weight: float = Field(
        0.9, ge=0, le=1, description="share of the graph of the raw features; that of the projected ones has the rest"
    )
    graph_gradient: Literal["each_step", "first_step"] = Field(
        "each_step",
        description="when the loss trains the graph of items; first_step: once an epoch, as in the authors' code, "
        "which keeps the graph of that step for the others",
    )
    normalise: Literal["each", "sum"] = Field(
        "each", description="each modality's learned graph is normalised, or (authors' code) their weighted sum"
    )
    propagation: Literal["symmetric", "averaging"] = Field(
        "symmetric", description="of users and items: LightGCN's, or (authors' code) means of neighbours and itself"
    )


# The share of a modality, its graph of raw features, and the places and values of its learned one.
Latent = tuple[Tensor, nn.Module, Pattern, Tensor]


@register
class LATTICE(MultimodalRecommender):
    """Score = u~ . (i~ + h_i / |h_i|), with u~ and i~ of LightGCN and h of the latent graph A of items (equation 8).

    A is the sum over the modalities, by learned shares, of lambda S + (1 - lambda) S' (equations 5 and 6): S has the
    cosines of the k nearest items by the raw features, S' those by the projected features, whose gradient trains
    the projection. The neighbours in S' are chosen anew for each epoch and each evaluation.
    """

    settings = LATTICESettings
    citation = Citation(
        "Mining Latent Structures for Multimedia Recommendation",
        "Zhang et al.",
        2021,
        "https://arxiv.org/abs/2104.09036",
    )

    def __init__(self, settings: LATTICESettings, features: ItemFeatures, interactions: Interactions) -> None:
        super().__init__(settings, features, interactions)
        self.options, modalities = settings, features.modalities
        self.user_id = nn.Embedding(self.n_users, settings.embedding_size)
        self.item_id = nn.Embedding(self.n_items, settings.embedding_size)
        for embedding in (self.user_id, self.item_id):
            nn.init.xavier_uniform_(embedding.weight)
        self.projections = nn.ModuleDict({m: nn.Linear(features.width(m), settings.content_size) for m in modalities})
        if len(modalities) > 1:
            self.importance = nn.Parameter(torch.zeros(len(modalities)))
        pairs = *distinct(interactions), self.n_users, self.n_items
        self.graph = bipartite(*pairs) if settings.propagation == "symmetric" else averaging(*pairs, itself=True)
        self.features_changed()
        self.begin_epoch()

    def features_changed(self) -> None:
        """Build the graphs of the raw features."""
        edges = {m: nearest_items(self.features, m, self.options.knn_k) for m in self.features.modalities}
        self.frozen = nn.ModuleDict({m: cosine_graph(edges[m], self.n_items) for m in edges})

    def begin_epoch(self) -> None:
        """Let go of the learned graph: the first step of the epoch chooses its neighbours."""
        self.patterns = nn.ModuleDict()
        self.of_first_step: list[Latent] | None = None

    def embed(self) -> Embeddings:
        """[U, D] and [I, D]."""
        users, items = light_gcn(self.graph, self.user_id.weight, self.item_id.weight, self.options.n_layers)
        hidden, weight = self.item_id.weight, self.options.frozen_weight
        latent = self._latent()
        for _ in range(self.options.n_item_layers):
            mixed = [
                share * (weight * frozen(hidden) + (1 - weight) * pattern.multiply(values, hidden))
                for share, frozen, pattern, values in latent
            ]
            hidden = torch.stack(mixed).sum(0)
        return Embeddings(users, items + unit_rows(hidden))

    def loss(self, batch: TripletBatch) -> dict[str, Tensor]:
        """BPR, and the L2 penalty."""
        all_ = self.embed()
        rows = all_.users[batch.users], all_.items[batch.positives], all_.items[batch.negatives]
        return {
            **self.ranking_loss(all_, batch),
            "reg": self.options.reg_weight * l2(*rows),
        }

    def _latent(self) -> list[Latent]:
        """The latent graph's parts, a modality each."""
        if self.training and self.of_first_step is not None:
            return self.of_first_step
        units = [unit_rows(p(self.features.table(m))) for m, p in self.projections.items()]  # type: ignore[arg-type]
        patterns = self._patterns(units)
        shares = self.importance.softmax(0) if len(units) > 1 else torch.ones_like(units[0][0, :1])
        cosines = [p.products(unit, unit).clamp(min=0) for p, unit in zip(patterns, units, strict=True)]
        sums = torch.stack([p.row_sums(values) for p, values in zip(patterns, cosines, strict=True)])  # [M, I]
        if self.options.normalise == "sum":
            sums = (shares @ sums).expand_as(sums)
        learned = [p.scaled(v, r, r) for p, v, r in zip(patterns, cosines, inverse_root(sums), strict=True)]
        latent = list(zip(shares, self.frozen.values(), patterns, learned, strict=True))
        if self.training and self.options.graph_gradient == "first_step":
            self.of_first_step = [(share.detach(), s, p, values.detach()) for share, s, p, values in latent]
        return latent

    def _patterns(self, units: list[Tensor]) -> list[Pattern]:
        """Which items are neighbours by the projected features [I, D] of each modality; in training, for the epoch."""
        if self.training and len(self.patterns):
            return list(self.patterns.values())  # type: ignore[arg-type]
        chosen: dict[str, Pattern] = {}
        for m, unit in zip(self.features.modalities, units, strict=True):
            edges = nearest_rows(unit.detach() * self.features.present(m)[:, None], self.options.knn_k)
            chosen[m] = Pattern(edges.rows, edges.columns, (self.n_items, self.n_items))
        if self.training:
            self.patterns = nn.ModuleDict(chosen)
        return list(chosen.values())
