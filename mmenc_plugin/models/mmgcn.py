"""MMGCN: a graph of users and items for each modality, bridged by embeddings that all of them share.

Wei et al., "MMGCN: Multi-modal Graph Convolution Network for Personalized Recommendation of Micro-video", MM 2019.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mmenc_plugin.models.base import ItemFeatures, ModelSettings, MultimodalRecommender, register
from mmenc_plugin.models.blocks.graph import Graph, averaging, distinct
from mmenc_plugin.models.blocks.losses import l2
from mmenc_plugin.models.blocks.unit import unit_rows
from mmenc_plugin.types import Citation, Embeddings, Interactions, TripletBatch


class MMGCNSettings(ModelSettings):
    """Settings of MMGCN."""

    n_layers: int = Field(2, ge=1, le=16, description="layers of each modality's graph")
    combination: Literal["concat", "sum"] = Field(
        "concat", description="how a layer joins neighbourhood and node: equation 6 (concat) or 7 (sum)"
    )
    fusion: Literal["sum", "mean"] = Field(
        "sum", description="of the modalities: equation 9 (sum); the published code divides by their number (mean)"
    )
    content_size: int = Field(
        256, ge=1, le=65536, description="features wider than this are projected to it, as users have a row as wide"
    )
    train_embeddings: bool = Field(
        True, description="train embeddings and preferences; the published code leaves them as they were drawn"
    )


class ModalityGraph(nn.Module):
    """u_m^(L) and i_m^(L) of one modality (equations 2 and 5 to 8).

    Args:
        width: D_m of the features.
        n_users: U.
        settings: of the model.
    """

    def __init__(self, width: int, n_users: int, settings: MMGCNSettings) -> None:
        super().__init__()
        start, size = min(width, settings.content_size), settings.embedding_size
        self.projection = nn.Linear(width, start) if start < width else nn.Identity()
        self.preference = nn.Embedding(n_users, start)
        nn.init.xavier_normal_(self.preference.weight)
        self.layers = nn.ModuleList(
            Layer(start if layer == 0 else size, size, settings.combination) for layer in range(settings.n_layers)
        )

    def forward(self, features: Tensor, identity: Tensor, graph: Graph) -> Tensor:
        """[U + I, D] of the features [I, D_m] and the shared embeddings [U + I, D]."""
        # Unit length is the authors' code's; the equations start from the preferences and features as they are.
        nodes = unit_rows(torch.cat([self.preference.weight, self.projection(features)]))
        for layer in self.layers:
            nodes = layer(nodes, identity, graph)
        return nodes


class Layer(nn.Module):
    """One aggregation and one combination layer.

    Args:
        width: D' of the nodes before it.
        size: D of the nodes after it.
        combination: of neighbourhood and node.
    """

    def __init__(self, width: int, size: int, combination: str) -> None:
        super().__init__()
        self.concatenates = combination == "concat"
        self.neighbour = nn.Linear(width, width, bias=False)
        self.node = nn.Linear(width, size)
        self.both = nn.Linear(width + size if self.concatenates else width, size)
        for matrix in (self.neighbour, self.node, self.both):
            nn.init.xavier_normal_(matrix.weight)

    def forward(self, nodes: Tensor, identity: Tensor, graph: Graph) -> Tensor:
        """[U + I, D] of the nodes [U + I, D'], the shared embeddings [U + I, D] and the graph of means."""
        around = F.leaky_relu_(graph(self.neighbour(nodes)))
        own = F.leaky_relu_(self.node(nodes)) + identity
        if self.concatenates:  # both(cat(around, own)), without making the wide rows
            of_around, of_own = torch.split(self.both.weight, [around.shape[1], own.shape[1]], dim=1)
            return F.leaky_relu_(F.linear(around, of_around, self.both.bias) + F.linear(own, of_own))
        return F.leaky_relu_(self.both(around) + own)


@register
class MMGCN(MultimodalRecommender):
    """Score = (sum_m u_m) . (sum_m i_m), each m the end of a graph convolution of its own.

    A layer takes the mean of the neighbours (equation 2) and joins it with the node itself and with an embedding of
    the user or item that is the same for all modalities. Items start as their features, users as preferences.
    """

    settings = MMGCNSettings
    citation = Citation(
        "MMGCN: Multi-modal Graph Convolution Network for Personalized Recommendation of Micro-video",
        "Wei et al.",
        2019,
        "https://doi.org/10.1145/3343031.3351034",
    )

    def __init__(self, settings: MMGCNSettings, features: ItemFeatures, interactions: Interactions) -> None:
        super().__init__(settings, features, interactions)
        self.options = settings
        self.user_id = nn.Embedding(self.n_users, settings.embedding_size)
        self.item_id = nn.Embedding(self.n_items, settings.embedding_size)
        self.of_modality = nn.ModuleDict(
            {m: ModalityGraph(features.width(m), self.n_users, settings) for m in features.modalities}
        )
        for embedding in (self.user_id, self.item_id):
            nn.init.xavier_normal_(embedding.weight)
        for embedding in (self.user_id, self.item_id, *(part.preference for part in self._parts())):
            embedding.requires_grad_(settings.train_embeddings)
        self.graph = averaging(*distinct(interactions), self.n_users, self.n_items)

    def embed(self) -> Embeddings:
        """[U, D] and [I, D], the modalities' ends summed."""
        identity = torch.cat([self.user_id.weight, self.item_id.weight])
        ends = torch.stack(
            [
                part(self.features.table(m), identity, self.graph)
                for m, part in zip(self.features.modalities, self._parts(), strict=True)
            ]
        )
        fused = ends.mean(0) if self.options.fusion == "mean" else ends.sum(0)
        return Embeddings(fused[: self.n_users], fused[self.n_users :])

    def loss(self, batch: TripletBatch) -> dict[str, Tensor]:
        """BPR, and the L2 penalty of the batch's embeddings and preferences."""
        all_ = self.embed()
        rows = [self.user_id(batch.users), self.item_id(batch.positives), self.item_id(batch.negatives)]
        rows += [part.preference(batch.users) for part in self._parts()]
        return {
            **self.ranking_loss(all_, batch),
            "reg": self.options.reg_weight * l2(*rows),
        }

    def _parts(self) -> list[ModalityGraph]:
        return [cast(ModalityGraph, part) for part in self.of_modality.values()]
