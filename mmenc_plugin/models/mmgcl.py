"""MMGCL: two views, by dropping edges and by masking a modality, and negatives that are nearly right.

Yi et al., "Multi-modal Graph Contrastive Learning for Micro-video Recommendation", SIGIR 2022. The authors' code
(github.com/zxy-ml84/MMGCL) departs from it: it contrasts the first view with itself, twice, and computes the
challenging negatives without adding them to the loss. `views` and `masking` bring that back.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mmenc_plugin.errors import SettingsError
from mmenc_plugin.models.base import ItemFeatures, ModelSettings, MultimodalRecommender, register
from mmenc_plugin.models.blocks.branches import Branches
from mmenc_plugin.models.blocks.contrast import info_nce
from mmenc_plugin.models.blocks.graph import Graph, bipartite, distinct
from mmenc_plugin.models.blocks.losses import l2
from mmenc_plugin.types import Citation, Embeddings, Interactions, Modality, TripletBatch


class MMGCLSettings(ModelSettings):
    """Settings of MMGCL."""

    reg_weight: float = Field(
        0.0, ge=0, description="weight of the L2 penalty on the batch's id embeddings; the authors use weight_decay"
    )
    n_layers: int = Field(3, ge=0, le=16, description="layers of each branch's graph of users and items")
    contrast_weight: float = Field(0.4, ge=0, description="weight of the contrastive losses")
    temperature: float = Field(0.2, gt=0, description="of the contrastive losses")
    edge_dropout: float = Field(
        0.05, ge=0, lt=1, description="share of the edges left out of the first view, drawn in each training epoch"
    )
    mask_chances: dict[Modality, Annotated[float, Field(ge=0)]] = Field(
        {}, description="relative chances that a batch masks a modality in the second view; 1 for one not named"
    )
    masking: Literal["random", "nodes"] = Field(
        "random",
        description="of the second view's modality. random: random embeddings enter its branch; nodes: a graph without "
        "edge_dropout of the users and of the items (the authors' code)",
    )
    challenging: bool = Field(
        True, description="add to a user's negatives the items taken, with one modality from an item not taken"
    )
    views: Literal["both", "first"] = Field(
        "both",
        description="both: one view against the other; first: users against items of the first view, twice, without "
        "challenging negatives (the authors' code)",
    )


@register
class MMGCL(MultimodalRecommender):
    """Score = W_u [u_id; u_m ...] . W_i [i_id; i_m ...], one LightGCN for the ids and one a modality."""

    settings = MMGCLSettings
    citation = Citation(
        "Multi-modal Graph Contrastive Learning for Micro-video Recommendation",
        "Yi, Wang, Ounis and Macdonald",
        2022,
        "https://doi.org/10.1145/3477495.3532027",
    )

    def __init__(self, settings: MMGCLSettings, features: ItemFeatures, interactions: Interactions) -> None:
        super().__init__(settings, features, interactions)
        self.options = settings
        self.branches = Branches(features, self.n_users, settings.embedding_size)
        self.chances = torch.tensor([settings.mask_chances.get(m, 1.0) for m in features.modalities])
        if not self.chances.any():
            raise SettingsError(
                f"mask_chances is {settings.mask_chances}, which masks none of {', '.join(features.modalities)}: "
                "give one of them a chance above 0, or leave contrast to contrast_weight: 0."
            )
        self.edges = distinct(interactions)
        self.graph = bipartite(*self.edges, self.n_users, self.n_items)
        self.fewer_edges = self.fewer_nodes = self.graph

    def begin_epoch(self) -> None:
        """Draw the edges, and where they are asked for the nodes, of this epoch."""
        users, items = self.edges
        kept = torch.randperm(len(users), device=users.device)[: int(len(users) * (1 - self.options.edge_dropout))]
        self.fewer_edges = self._graph(kept)
        if self.options.masking == "nodes":
            kept = self._some(self.n_users)[users] & self._some(self.n_items)[items]
            self.fewer_nodes = self._graph(kept)

    def items_read(self, batch: TripletBatch) -> Tensor:
        """The positives, and the negatives where a part of the loss reads them."""
        both = torch.cat([batch.positives, batch.negatives])
        return both if self.options.challenging else super().items_read(batch)

    def embed(self) -> Embeddings:
        """[U, D] and [I, D]."""
        return Embeddings(*self.branches.fuse(*self._propagated(self.graph)))

    def loss(self, batch: TripletBatch) -> dict[str, Tensor]:
        """BPR, the contrastive losses, and the L2 penalty if it has a weight."""
        whole = self._propagated(self.graph)
        parts = self.ranking_loss(Embeddings(*self.branches.fuse(*whole)), batch)
        parts["contrast"] = self.options.contrast_weight * self._contrast(whole, batch)
        if self.options.reg_weight:
            ids = (
                self.branches.user_id(batch.users),
                self.branches.item_id(torch.cat([batch.positives, batch.negatives])),
            )
            parts["reg"] = self.options.reg_weight * l2(*ids)
        return parts

    def _contrast(self, whole: tuple[Tensor, Tensor], batch: TripletBatch) -> Tensor:
        """A user's item among the batch's, and an item's user, each from one view to the other."""
        users, items = self._propagated(self.fewer_edges)
        users_1, items_1 = self.branches.fuse(users[batch.users], items[batch.positives])
        if self.options.views == "first":
            return 2 * info_nce(users_1, items_1, self.options.temperature)
        users, items = self._masked(whole)
        users_2, items_2 = self.branches.fuse(users[batch.users], items[batch.positives])
        candidates = torch.cat([items_2, self._challenging(items, batch)]) if self.options.challenging else items_2
        of_users = info_nce(users_1, candidates, self.options.temperature)
        return of_users + info_nce(items_1, users_2, self.options.temperature)

    def _masked(self, whole: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The branches of the whole graph, [U, (M + 1) D] and [I, (M + 1) D], with another one for some modality."""
        branch = 1 + int(torch.multinomial(self.chances, 1))
        if self.options.masking == "random":
            tables = self.branches.user_id.weight, self.branches.item_id.weight
            noise = [nn.init.xavier_uniform_(torch.empty_like(table)) for table in tables]
            other = self.branches.propagate(self.graph, noise[1], self.options.n_layers, users=noise[0])
        else:
            entering = self.branches.part(self.branches.items(self.features), branch)
            other = self.branches.propagate(self.fewer_nodes, entering, self.options.n_layers)
        users, items = (self.branches.replaced(a, branch, b) for a, b in zip(whole, other, strict=True))
        return users, items

    def _challenging(self, items: Tensor, batch: TripletBatch) -> Tensor:
        """[B, D] the batch's positives with one modality, drawn for the batch, of its negatives."""
        branch = 1 + int(torch.randint(self.branches.n_branches - 1, ()))
        wrong = self.branches.part(items[batch.negatives], branch)
        return self.branches.item_fusion(self.branches.replaced(items[batch.positives], branch, wrong))  # type: ignore[no-any-return]

    def _propagated(self, graph: Graph) -> tuple[Tensor, Tensor]:
        return self.branches.propagate(graph, self.branches.items(self.features), self.options.n_layers)

    def _some(self, n: int) -> Tensor:
        """[n] bool: which nodes stay."""
        stays = torch.ones(n, dtype=torch.bool, device=self.edges[0].device)
        stays[torch.randperm(n)[: int(n * self.options.edge_dropout)]] = False
        return stays

    def _graph(self, kept: Tensor) -> Graph:
        users, items = self.edges
        return bipartite(users[kept], items[kept], self.n_users, self.n_items).to(self.branches.user_id.weight)
