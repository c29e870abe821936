"""Graphs of items that look or read alike: k nearest neighbours by the cosine of their features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmenc_plugin.kernels import knn_graph
from mmenc_plugin.models.base import ItemFeatures
from mmenc_plugin.models.blocks.graph import Graph, symmetrically_normalised
from mmenc_plugin.types import Modality


@dataclass(frozen=True)
class Neighbours:
    """Directed edges from items to those most like them.

    Attributes:
        rows: [E] the items.
        columns: [E] their neighbours.
        cosines: [E].
    """

    rows: Tensor
    columns: Tensor
    cosines: Tensor


def nearest_items(features: ItemFeatures, modality: Modality, k: int) -> Neighbours:
    """The k nearest neighbours of each item, itself among them, by one modality.

    Items without the modality, and a padding row, have no neighbours and are nobody's.

    Args:
        features: of the items.
        modality: which features are compared.
        k: neighbours an item, at most the number of items.
    """
    return nearest_rows(features.table(modality).detach() * features.present(modality)[:, None], k)


def nearest_rows(values: Tensor, k: int) -> Neighbours:
    """The k nearest neighbours of each row of values [I, D], itself among them; a row of zeros has none.

    Args:
        values: [I, D].
        k: neighbours a row, at most I.
    """
    found = knn_graph(values, min(k, len(values)), include_self=True)
    rows = torch.arange(len(values), device=values.device)[:, None].expand_as(found.ids)
    there = found.ids >= 0
    return Neighbours(rows[there], found.ids[there], found.weights[there])


def cosine_weights(edges: Neighbours, n: int) -> Tensor:
    """[E] the cosines, symmetrically normalised over n items; those below zero count as zero.

    Zhang et al., "Mining Latent Structures for Multimedia Recommendation", MM 2021, equations 1 to 3.
    """
    return symmetrically_normalised(edges.rows, edges.columns, edges.cosines.clamp(min=0), n)


def cosine_graph(edges: Neighbours, n: int) -> Graph:
    """The matrix [n, n] of the neighbours' `cosine_weights`."""
    return Graph(edges.rows, edges.columns, cosine_weights(edges, n), (n, n))


def strongest(graphs: Sequence[Graph]) -> Graph:
    """The graph with every edge that any has, each as strong as the strongest; all of one shape [N, M]."""
    rows, columns, values = (torch.cat(parts) for parts in zip(*(graph.edges() for graph in graphs), strict=True))
    n_columns = graphs[0].shape[1]
    kept, of = torch.unique(rows * n_columns + columns, return_inverse=True)
    largest = values.new_empty(len(kept)).scatter_reduce_(0, of, values, "amax", include_self=False)
    return Graph(kept // n_columns, kept % n_columns, largest, graphs[0].shape)


def shares(modalities: tuple[Modality, ...], image_weight: float) -> list[float]:
    """What each modality counts: pictures `image_weight`, the others equal parts of the rest; equal ones without both.

    Args:
        modalities: of the features.
        image_weight: from 0 to 1.
    """
    if modalities == ("image",) or "image" not in modalities:
        return [1 / len(modalities)] * len(modalities)
    rest = (1 - image_weight) / (len(modalities) - 1)
    return [image_weight if m == "image" else rest for m in modalities]
