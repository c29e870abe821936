"""FREEDOM: a frozen graph of like items, and a pruned graph of users and items.

Zhou and Shen, "A Tale of Two Graphs: Freezing and Denoising Graph Structures for Multimodal Recommendation", MM 2023.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from mmenc_plugin.models.base import ItemFeatures, ModelSettings, MultimodalRecommender, register
from mmenc_plugin.models.blocks.graph import Graph, bipartite, degrees, distinct, light_gcn, symmetrically_normalised
from mmenc_plugin.models.blocks.item_graph import nearest_items, shares
from mmenc_plugin.models.blocks.losses import bpr
from mmenc_plugin.models.blocks.projection import project_rows
from mmenc_plugin.types import Citation, Embeddings, Interactions, TripletBatch


class FREEDOMSettings(ModelSettings):
    """Settings of FREEDOM."""

    reg_weight: float = Field(0.0, ge=0, description="weight of the L2 penalty, which the paper has not")
    n_layers: int = Field(2, ge=0, le=16, description="layers of the graph of users and items")
    n_item_layers: int = Field(1, ge=0, le=16, description="layers of the graph of items")
    knn_k: int = Field(10, ge=1, le=1000, description="neighbours of an item by each modality, itself among them")
    image_weight: float = Field(
        0.1, ge=0, le=1, description="share of the pictures in the graph of items; other modalities share the rest"
    )
    edge_dropout: float = Field(0.8, ge=0, lt=1, description="share of the edges left out in each training epoch")
    modality_weight: float = Field(1e-3, ge=0, description="weight of the BPR losses of the projected features")


@register
class FREEDOM(MultimodalRecommender):
    """Score = u~ . (i~ + h_i): embeddings propagated over interactions, and h over the graph of like items.

    Training prunes the interactions anew in each epoch, popular ones more often (the paper's section 3.2), and adds a
    BPR loss of the propagated user against each modality's projected features (equation 13).
    """

    settings = FREEDOMSettings
    citation = Citation(
        "A Tale of Two Graphs: Freezing and Denoising Graph Structures for Multimodal Recommendation",
        "Zhou and Shen",
        2023,
        "https://arxiv.org/abs/2211.06924",
    )

    def __init__(self, settings: FREEDOMSettings, features: ItemFeatures, interactions: Interactions) -> None:
        super().__init__(settings, features, interactions)
        self.options = settings
        self.user_id = nn.Embedding(self.n_users, settings.embedding_size)
        self.item_id = nn.Embedding(self.n_items, settings.embedding_size)
        for embedding in (self.user_id, self.item_id):
            nn.init.xavier_uniform_(embedding.weight)
        self.projections = nn.ModuleDict(
            {m: nn.Linear(features.width(m), settings.embedding_size) for m in features.modalities}
        )
        self.edges = distinct(interactions)
        self.whole_graph = bipartite(*self.edges, self.n_users, self.n_items)
        self.pruned_graph = self.whole_graph
        self.features_changed()

    def features_changed(self) -> None:
        """Build the graph of like items."""
        self.item_graph = self._item_graph()

    def items_read(self, batch: TripletBatch) -> Tensor:
        """Positives and negatives: the modalities' BPR losses compare them, whatever the main loss."""
        return torch.cat([batch.positives, batch.negatives])

    def begin_epoch(self) -> None:
        """Draw the edges of this epoch without replacement, by chances 1 / sqrt(d_u d_i)."""
        users, items = self.edges
        n_kept = int(len(users) * (1 - self.options.edge_dropout))
        if n_kept == len(users):
            return
        odds = (degrees(users, self.n_users)[users] * degrees(items, self.n_items)[items]).rsqrt()
        # The smallest of exponential waiting times are such a draw (Efraimidis and Spirakis, 2006).
        kept = torch.topk(torch.empty_like(odds).exponential_() / odds, n_kept, largest=False).indices
        graph = bipartite(users[kept], items[kept], self.n_users, self.n_items)
        self.pruned_graph = graph.to(self.user_id.weight)

    def embed(self) -> Embeddings:
        """[U, D] and [I, D], over the pruned graph in training and the whole one otherwise."""
        graph = self.pruned_graph if self.training else self.whole_graph
        users, items = light_gcn(graph, self.user_id.weight, self.item_id.weight, self.options.n_layers)
        alike = self.item_id.weight
        for _ in range(self.options.n_item_layers):
            alike = self.item_graph(alike)
        return Embeddings(users, items + alike)

    def loss(self, batch: TripletBatch) -> dict[str, Tensor]:
        """BPR, and for each modality BPR of the users against the projected features."""
        all_ = self.embed()
        parts = self.ranking_loss(all_, batch)
        both, row = torch.cat([batch.positives, batch.negatives]), torch.arange(len(batch.users)).to(batch.users)
        for m, projection in self.projections.items():
            content = project_rows(self.features, m, both, projection.weight, projection.bias)  # type: ignore[arg-type]
            within = TripletBatch(batch.users, row, row + len(row))
            parts[f"bpr_{m}"] = self.options.modality_weight * bpr(Embeddings(all_.users, content), within)
        return parts

    def _item_graph(self) -> Graph:
        """The weighted sum of the modalities' graphs, each an unweighted kNN graph, normalised."""
        of_modality = shares(self.features.modalities, self.options.image_weight)
        edges = [nearest_items(self.features, m, self.options.knn_k) for m in self.features.modalities]
        values = [
            weight * symmetrically_normalised(e.rows, e.columns, torch.ones_like(e.cosines), self.n_items)
            for e, weight in zip(edges, of_modality, strict=True)
        ]
        rows, columns = torch.cat([e.rows for e in edges]), torch.cat([e.columns for e in edges])
        return Graph(rows, columns, torch.cat(values), (self.n_items, self.n_items))
