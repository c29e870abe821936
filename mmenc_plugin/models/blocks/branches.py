"""One LightGCN for the items' ids and one for each modality, with the users' table in common."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmenc_plugin.models.base import ItemFeatures
from mmenc_plugin.models.blocks.graph import Graph, light_gcn


class Branches(nn.Module):
    """M + 1 branches that lie side by side: their embeddings are [N, (M + 1) D], the ids' first.

    One product with the graph then serves all branches, and a branch is a slice of columns: see `part`.

    Args:
        features: of the items; their rows are scaled to length 1 before they are projected.
        n_users: U.
        width: D of a branch.
    """

    def __init__(self, features: ItemFeatures, n_users: int, width: int) -> None:
        super().__init__()
        n_items = len(features.present(features.modalities[0]))
        self.width, self.n_branches = width, 1 + len(features.modalities)
        self.user_id = nn.Embedding(n_users, width)
        self.item_id = nn.Embedding(n_items, width)
        self.projections = nn.ModuleDict({m: nn.Linear(features.width(m), width) for m in features.modalities})
        self.user_fusion = nn.Linear(self.n_branches * width, width)
        self.item_fusion = nn.Linear(self.n_branches * width, width)
        for part in (self.user_id, self.item_id, *self.projections.values(), self.user_fusion, self.item_fusion):
            nn.init.xavier_uniform_(part.weight)  # type: ignore[arg-type]
        if features.frozen:
            for m in features.modalities:
                self.register_buffer(f"{m}_length", _lengths(features.table(m)), persistent=False)

    def items(self, features: ItemFeatures) -> Tensor:
        """[I, (M + 1) D] what enters the branches: the ids' embeddings and the projected features."""
        return torch.cat([self.item_id.weight, *(self._projected(features, m) for m in self.projections)], dim=1)

    def _projected(self, features: ItemFeatures, modality: str) -> Tensor:
        values, projection = features.table(modality), cast(nn.Linear, self.projections[modality])  # type: ignore[arg-type]
        # As F.normalize before the projection, without a second table of the encoder's width.
        length = getattr(self, f"{modality}_length", None)
        length = _lengths(values) if length is None else length
        projected: Tensor = F.linear(values, projection.weight) / length + projection.bias
        return projected

    def propagate(
        self, graph: Graph, items: Tensor, n_layers: int, dropout: float = 0.0, users: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """[U, C] and [I, C] by LightGCN of branches side by side.

        Args:
            graph: [U + I, U + I].
            items: [I, C] what enters any number of branches.
            n_layers: of the LightGCN.
            dropout: as in `light_gcn`.
            users: [U, C]; None for the users' table in each branch.
        """
        if users is None:
            users = self.user_id.weight.repeat(1, items.shape[1] // self.width)
        return light_gcn(graph, users, items, n_layers, dropout)

    def fuse(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """[U, D] and [I, D] of the branches of users [U, (M + 1) D] and items [I, (M + 1) D]."""
        return self.user_fusion(users), self.item_fusion(items)

    def part(self, embeddings: Tensor, branch: int) -> Tensor:
        """[N, D] one branch of embeddings [N, (M + 1) D]; 0 is the ids', then the modalities in their order."""
        return embeddings[:, branch * self.width : (branch + 1) * self.width]

    def replaced(self, embeddings: Tensor, branch: int, other: Tensor) -> Tensor:
        """[N, (M + 1) D] embeddings in which one branch is `other` [N, D]."""
        before, after = embeddings[:, : branch * self.width], embeddings[:, (branch + 1) * self.width :]
        return torch.cat([before, other, after], dim=1)


def _lengths(values: Tensor) -> Tensor:
    """[N, 1] of rows [N, D]."""
    return values.norm(dim=1, keepdim=True).clamp_min(1e-12)  # type: ignore[no-any-return]
