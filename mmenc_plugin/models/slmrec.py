"""SLMRec: branches of ids and modalities that a second, self-supervised task tells apart or brings together.

Tao et al., "Self-supervised Learning for Multimedia Recommendation", IEEE Transactions on Multimedia 2022. What the
paper leaves open (dot products without normalisation in the spaces of FAC) is as in the authors' code.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mmenc_plugin.kernels import score_loss
from mmenc_plugin.models.base import ItemFeatures, MultimodalRecommender, register
from mmenc_plugin.models.blocks.branches import Branches
from mmenc_plugin.models.blocks.contrast import info_nce
from mmenc_plugin.models.blocks.graph import bipartite, distinct
from mmenc_plugin.models.blocks.losses import l2
from mmenc_plugin.settings import OwnLossSettings
from mmenc_plugin.types import Citation, Embeddings, Interactions, TripletBatch


class SLMRecSettings(OwnLossSettings):
    """Settings of SLMRec."""

    reg_weight: float = Field(
        0.0, ge=0, description="weight of the L2 penalty on the batch's id embeddings; the authors use weight_decay"
    )
    n_layers: int = Field(3, ge=0, le=16, description="layers of each branch's graph of users and items")
    temperature: float = Field(0.2, gt=0, description="of the softmax of a user over the batch's items")
    task: Literal["FAC", "FD", "FM", "FD+FM"] = Field(
        "FAC",
        description="the second task. FAC: items alike in ever coarser spaces of the modalities; FD: two views by "
        "feature dropout; FM: two views, each without one branch; FD+FM: both",
    )
    contrast_weight: float = Field(0.1, ge=0, description="weight of the second task")
    contrast_temperature: float = Field(0.2, gt=0, description="of the second task's softmax")
    dropout: float = Field(0.3, ge=0, lt=1, description="share of the features left out in FD, after each layer")


@register
class SLMRec(MultimodalRecommender):
    """Score = W_u [u_id; u_m ...] . W_i [i_id; i_m ...], one LightGCN for the ids and one a modality.

    The main loss is the softmax of each user over the batch's items, by cosine; negatives are not asked for.
    """

    settings = SLMRecSettings
    citation = Citation(
        "Self-supervised Learning for Multimedia Recommendation",
        "Tao, Liu, Xia, Wang, Yang, Huang and Chua",
        2022,
        "https://doi.org/10.1109/TMM.2022.3187556",
    )

    def __init__(self, settings: SLMRecSettings, features: ItemFeatures, interactions: Interactions) -> None:
        super().__init__(settings, features, interactions)
        self.options = settings
        self.branches = Branches(features, self.n_users, settings.embedding_size)
        self.graph = bipartite(*distinct(interactions), self.n_users, self.n_items)
        self.spaces = nn.ModuleList()
        if settings.task == "FAC":
            self.spaces.extend(_spaces(settings.embedding_size, len(features.modalities)))

    def items_read(self, batch: TripletBatch) -> Tensor:
        """The positives alone."""
        return batch.positives

    def embed(self) -> Embeddings:
        """[U, D] and [I, D]; the authors' sigmoid of the scores changes no ranking and is left out."""
        return Embeddings(*self.branches.fuse(*self._propagated()))

    def loss(self, batch: TripletBatch) -> dict[str, Tensor]:
        """The softmax over the batch's items, the second task, and the L2 penalty if it has a weight."""
        options, rows = self.options, (batch.users, batch.positives)
        branches = self._propagated()
        users, items = self.branches.fuse(*(side[ids] for side, ids in zip(branches, rows, strict=True)))
        second = self._fine_and_coarse(branches[1][batch.positives]) if self.spaces else self._between_views(batch)
        parts = {
            "softmax": info_nce(users, items, options.temperature),
            options.task: options.contrast_weight * second,
        }
        if options.reg_weight:
            ids = self.branches.user_id(batch.users), self.branches.item_id(batch.positives)
            parts["reg"] = options.reg_weight * l2(*ids)
        return parts

    def _propagated(self) -> tuple[Tensor, Tensor]:
        """[U, (M + 1) D] and [I, (M + 1) D], the branches side by side."""
        return self.branches.propagate(self.graph, self.branches.items(self.features), self.options.n_layers)

    def _fine_and_coarse(self, items: Tensor) -> Tensor:
        """An item's ids meet its first modality in a fine space, both the next in a coarser one, and so on.

        Args:
            items: [B, (M + 1) D].
        """
        met, losses = self.branches.part(items, 0), []
        rows = torch.arange(len(items), device=items.device)
        for branch, space in enumerate(self.spaces, start=1):
            met = space["so_far"](met)  # type: ignore[index]
            modality = space["modality"](self.branches.part(items, branch))  # type: ignore[index]
            losses.append(score_loss(met, modality, rows, scale=1 / self.options.contrast_temperature))
        return torch.stack(losses).sum()

    def _between_views(self, batch: TripletBatch) -> Tensor:
        """The batch's users and items in one view against the same in another."""
        (users_1, items_1), (users_2, items_2) = self._views(batch)
        temperature = self.options.contrast_temperature
        return info_nce(users_1, users_2, temperature) + info_nce(items_1, items_2, temperature)

    def _views(self, batch: TripletBatch) -> list[tuple[Tensor, Tensor]]:
        """Twice the batch's users [B, D] and items [B, D], with features dropped or a branch's items at zero."""
        entering, views = self.branches.items(self.features), []
        left_out = torch.randperm(self.branches.n_branches).tolist() if "FM" in self.options.task else ()
        dropout = self.options.dropout if "FD" in self.options.task and self.training else 0.0
        nothing = torch.zeros_like(self.branches.item_id.weight)
        for view in range(2):
            rest = self.branches.replaced(entering, left_out[view], nothing) if left_out else entering
            users, items = self.branches.propagate(self.graph, rest, self.options.n_layers, dropout)
            views.append(self.branches.fuse(users[batch.users], items[batch.positives]))
        return views


def _spaces(width: int, n_modalities: int) -> list[nn.ModuleDict]:
    """For each modality the maps of what met before, and of its branch, into their common space.

    The last of several spaces is half as wide, as the authors have it.
    """
    spaces = []
    for place in range(1, n_modalities + 1):
        common = max(1, width // 2) if place == n_modalities > 1 else width
        space = nn.ModuleDict({name: nn.Linear(width, common) for name in ("so_far", "modality")})
        for part in space.values():
            nn.init.xavier_uniform_(part.weight)  # type: ignore[arg-type]
        spaces.append(space)
    return spaces
