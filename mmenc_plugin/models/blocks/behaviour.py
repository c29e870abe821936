"""Behaviour and side information of users and items, added, and drawn together by their contrast.

What MGCN (Yu et al., MM 2023) and SMORE (Ong and Khong, WSDM 2025) share; they differ in the side information.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mmenc_plugin.models.base import ItemFeatures, ModelSettings, MultimodalRecommender
from mmenc_plugin.models.blocks.contrast import info_nce
from mmenc_plugin.models.blocks.graph import bipartite, distinct, mean_of_layers, of_users
from mmenc_plugin.models.blocks.losses import l2
from mmenc_plugin.types import Embeddings, Interactions, TripletBatch


class BehaviourSettings(ModelSettings):
    """Settings that such models share."""

    reg_weight: float = Field(1e-4, ge=0, description="weight of the L2 penalty on the batch's final embeddings")
    n_layers: int = Field(2, ge=0, le=16, description="layers of the graph of users and items")
    n_item_layers: int = Field(1, ge=0, le=16, description="layers of the graph of items")
    knn_k: int = Field(10, ge=1, le=1000, description="neighbours of an item by each modality, itself among them")
    contrast_weight: float = Field(0.01, ge=0, description="weight of the contrast between content and behaviour")
    temperature: float = Field(0.2, gt=0, le=100, description="of the contrast: smaller is sharper")


class BehaviourAndSide(MultimodalRecommender):
    """Score = (c_u + s_u) . (c_i + s_i): behaviour c of LightGCN, and side information s, which a model computes."""

    def __init__(self, settings: BehaviourSettings, features: ItemFeatures, interactions: Interactions) -> None:
        super().__init__(settings, features, interactions)
        self.shared = settings
        self.user_id = nn.Embedding(self.n_users, settings.embedding_size)
        self.item_id = nn.Embedding(self.n_items, settings.embedding_size)
        for embedding in (self.user_id, self.item_id):
            nn.init.xavier_uniform_(embedding.weight)
        edges = distinct(interactions)
        self.graph = bipartite(*edges, self.n_users, self.n_items)
        self.user_graph = of_users(*edges, self.n_users, self.n_items)

    def contents(self) -> list[Tensor]:
        """What side information is made of, of users and items: [U + I, D] each."""
        raise NotImplementedError

    def side(self, behaviour: Tensor, contents: list[Tensor]) -> Tensor:
        """Side information [N, D] of some users and items, given their behaviour and their contents, [N, D] each."""
        raise NotImplementedError

    def embed(self) -> Embeddings:
        """[U, D] and [I, D]."""
        behaviour, side = self._views()
        return self._split(behaviour + side, self.n_users)

    def loss(self, batch: TripletBatch) -> dict[str, Tensor]:
        """The ranking loss, the L2 penalty, and InfoNCE of side information and behaviour of the batch's rows."""
        behaviour, contents, all_ = self._behaviour(), self.contents(), None
        if self.ranking_loss.items(batch) is None:
            all_ = self._split(behaviour + self.side(behaviour, contents), self.n_users)
        # Side information is made row by row: what the loss reads is a part of the rows.
        read = torch.cat([batch.users, self.n_users + batch.positives, self.n_users + batch.negatives])
        c = F.embedding(read, behaviour)
        s = self.side(c, [F.embedding(read, content) for content in contents])
        return {
            **self._ranking(all_, c + s, batch),
            "reg": self.shared.reg_weight * l2(*(c + s).split(len(batch.users))),  # type: ignore[no-untyped-call]
            "contrast": self.shared.contrast_weight * self._contrast(s, c, len(batch.users)),
        }

    def _ranking(self, all_: Embeddings | None, rows: Tensor, batch: TripletBatch) -> dict[str, Tensor]:
        """The ranking loss of all embeddings, or of the batch's [3 B, D]."""
        if all_ is not None:
            return self.ranking_loss(all_, batch)
        gathered = self._split(rows, len(batch.users))
        if self.ranking_loss.loss_type == "in_batch":
            gathered = Embeddings(gathered.users, gathered.items[: len(batch.users)])
        return self.ranking_loss(gathered, batch, gathered=True)

    def _contrast(self, side: Tensor, behaviour: Tensor, size: int) -> Tensor:
        """InfoNCE of the two views [3 B, D] of the batch's users, and of its positives."""
        of_users, of_items = slice(0, size), slice(size, 2 * size)
        return torch.stack(
            [info_nce(side[rows], behaviour[rows], self.shared.temperature) for rows in (of_users, of_items)]
        ).sum()

    def enriched(self, view: Tensor, gate: nn.Module, graph: nn.Module) -> Tensor:
        """A view [I, D] gated into the items' embeddings, over a graph of items, and on to the users: [U + I, D]."""
        items = self.item_id.weight * gate(view).sigmoid()
        for _ in range(self.shared.n_item_layers):
            items = graph(items)
        return torch.cat([self.user_graph(items), items])

    def _views(self) -> tuple[Tensor, Tensor]:
        """Behaviour and side information of all users and items, [U + I, D] each."""
        behaviour = self._behaviour()
        return behaviour, self.side(behaviour, self.contents())

    def _behaviour(self) -> Tensor:
        return mean_of_layers(self.graph, (self.user_id.weight, self.item_id.weight), self.shared.n_layers)

    def _split(self, both: Tensor, n: int) -> Embeddings:
        return Embeddings(both[:n], both[n:])
