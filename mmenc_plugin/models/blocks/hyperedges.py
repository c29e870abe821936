"""A few hyperedges, to which users and items belong and by way of which all of them meet.

Guo et al., "LGMRec: Local and Global Graph Learning for Multimodal Recommendation", AAAI 2024, section 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmenc_plugin.kernels import score_loss
from mmenc_plugin.models.blocks.unit import SHORTEST

Pair = tuple[Tensor, Tensor]  # of users [U, ...] and of items [I, ...]


@dataclass(frozen=True)
class Global:
    """What came over the hyperedges of one modality.

    Attributes:
        belonging: of users [U, K] and items [I, K] to the hyperedges.
        gathered: [K, D] what each hyperedge gathered.
        embeddings: belonging times gathered, of users [U, D] and items [I, D].
    """

    belonging: Pair
    gathered: Tensor
    embeddings: Pair

    def unit(self, side: int) -> Tensor:
        """Belonging [N, K] with which the embeddings of users (0) or items (1) would have length 1."""
        length: Tensor = torch.linalg.vector_norm(self.embeddings[side], dim=1, keepdim=True)
        return self.belonging[side] / length.clamp(min=SHORTEST)


def over_hyperedges(users: Tensor, items: Tensor, embeddings: Tensor, n_layers: int) -> Global:
    """Hyperedges gather items' embeddings [I, D] and give to the users [U, K] and items [I, K] that belong to them."""
    for _ in range(n_layers):
        gathered = items.T @ embeddings
        embeddings = items @ gathered
    return Global((users, items), gathered, (users @ gathered, embeddings))


def contrast(a: Global, b: Global, side: int, rows: Tensor, temperature: float) -> Tensor:
    """InfoNCE of the embeddings of users (0) or items (1) in some rows [B] by `a` against all of them by `b`.

    As `contrast.info_nce` of the embeddings; but since these are combinations of K vectors, their products are taken in
    K dimensions.
    """
    queries = a.unit(side)[rows] @ (a.gathered @ b.gathered.T)
    return score_loss(queries, b.unit(side), rows, scale=1 / temperature)
