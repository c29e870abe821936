"""Graphs of items that look or read alike: k nearest neighbours by the cosine of their features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmenc_plugin.kernels import knn_graph
from mmenc_plugin.models.base import ItemFeatures
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
    values = features.table(modality).detach() * features.present(modality)[:, None]
    found = knn_graph(values, min(k, len(values)), include_self=True)
    rows = torch.arange(len(values), device=values.device)[:, None].expand_as(found.ids)
    there = found.ids >= 0
    return Neighbours(rows[there], found.ids[there], found.weights[there])


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
