"""VBPR: matrix factorisation with a second, visual half.

He and McAuley, "VBPR: Visual Bayesian Personalized Ranking from Implicit Feedback", AAAI 2016.
"""

from __future__ import annotations

from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from mmenc_plugin.models.base import ItemFeatures, ModelSettings, MultimodalRecommender, register
from mmenc_plugin.models.blocks.losses import l2
from mmenc_plugin.models.blocks.projection import ModalityProjection, project_rows
from mmenc_plugin.types import Citation, Embeddings, Interactions, TripletBatch


class VBPRSettings(ModelSettings):
    """Settings of VBPR."""

    content_size: int = Field(64, ge=1, le=65536, description="width of the projected features")
    projection_reg: float = Field(0.0, ge=0, description="weight of the L2 penalty on projection and content bias")


@register
class VBPR(MultimodalRecommender):
    """Score = b_i + gamma_u . gamma_i + theta_u . (E f_i) + beta' . f_i  (the paper's equation 4).

    f_i are the item's features of all modalities, concatenated; the paper's global and user offsets
    change no ranking and are left out.
    """

    settings = VBPRSettings
    citation = Citation(
        "VBPR: Visual Bayesian Personalized Ranking from Implicit Feedback",
        "He and McAuley",
        2016,
        "https://arxiv.org/abs/1510.01784",
    )

    def __init__(self, settings: VBPRSettings, features: ItemFeatures, interactions: Interactions) -> None:
        super().__init__(settings, features, interactions)
        self.reg_weight, self.projection_reg = settings.reg_weight, settings.projection_reg
        self.user_id = nn.Embedding(self.n_users, settings.embedding_size)
        self.item_id = nn.Embedding(self.n_items, settings.embedding_size)
        self.user_content = nn.Embedding(self.n_users, settings.content_size)
        self.item_bias = nn.Embedding(self.n_items, 1)
        self.projection = ModalityProjection(features, settings.content_size)
        self.content_bias = ModalityProjection(features, 1)
        for embedding in (self.user_id, self.item_id, self.user_content):
            nn.init.xavier_normal_(embedding.weight)
        for start_at_zero in (self.item_bias, *self.content_bias.matrices.values()):
            nn.init.zeros_(cast(Tensor, start_at_zero.weight))

    def embed(self) -> Embeddings:
        """[U, D] and [I, D] with D = embedding_size + content_size, and the bias [I]."""
        users = torch.cat([self.user_id.weight, self.user_content.weight], dim=1)
        items = torch.cat([self.item_id.weight, self.projection(self.features)], dim=1)
        bias = self.item_bias.weight + self.content_bias(self.features)
        return Embeddings(users, items, bias.squeeze(1))

    def loss(self, batch: TripletBatch) -> dict[str, Tensor]:
        """The ranking loss, and the L2 penalty of the embeddings in the batch."""
        read = self.ranking_loss.items(batch)
        rows = torch.cat([batch.positives, batch.negatives]) if read is None else read
        users = torch.cat([self.user_id(batch.users), self.user_content(batch.users)], dim=1)
        item_ids, item_bias = self.item_id(rows), self.item_bias(rows).squeeze(1)
        if read is None:
            embeddings = self.embed()
        else:
            content, content_bias = self._content(read)
            embeddings = Embeddings(users, torch.cat([item_ids, content], dim=1), item_bias + content_bias)
        main = self.ranking_loss(embeddings, batch, gathered=read is not None)
        penalty = self.reg_weight * l2(users, item_ids, item_bias)
        if self.projection_reg:
            weights = [*self.projection.parameters(), *self.content_bias.parameters()]
            penalty = penalty + self.projection_reg * sum(w.square().sum() for w in weights) / 2
        return main | {"reg": penalty}

    def _content(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """E f_i [N, D] and beta' . f_i [N] of item rows [N]: one matrix, so that features are read once for both."""
        both = torch.zeros((), device=items.device)
        for m in self.features.modalities:
            weight = torch.cat([self.projection.weight(m), self.content_bias.weight(m)])
            both = both + project_rows(self.features, m, items, weight)
        return both[:, :-1], both[:, -1]
