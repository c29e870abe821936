"""Features for items without a modality, from the items that the same users took."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from mmenc_plugin.features.align import AlignedFeatures

NEIGHBOURS = 10


def fill_from_neighbours(
    table: AlignedFeatures, users: Tensor, items: Tensor, n_neighbours: int = NEIGHBOURS
) -> AlignedFeatures:
    """Give an item without the modality the mean of the items that have it and share most users with it.

    Malitesta et al., "Do We Really Need to Drop Items with Missing Modalities in Multimodal Recommendation?", CIKM
    2024, call it NeighMean. Of items that share as many users, the smaller row comes first. An item that shares none
    keeps what it had, and the marks of what is present stay as they are.

    Args:
        table: values [I, D] and marks [I].
        users: [N] of the training part; a repeated pair counts once.
        items: [N] rows of the table.
        n_neighbours: items whose mean is taken, fewer where there are fewer.
    """
    present = table.present
    neighbour_of, neighbours = _neighbours(present, users, items, n_neighbours)
    found = torch.bincount(neighbour_of, minlength=len(present))[:, None]
    sums = torch.zeros_like(table.values).index_add_(0, neighbour_of, table.values[neighbours])
    return AlignedFeatures(torch.where(found > 0, sums / found.clamp(min=1), table.values), present)


def _neighbours(present: Tensor, users: Tensor, items: Tensor, n_neighbours: int) -> tuple[Tensor, Tensor]:
    """Items without the modality [E], each several times, and their neighbours [E]."""
    users, items = torch.unique(torch.stack([users, items]), dim=1)
    shape = (len(present), int(users.max()) + 1 if len(users) else 1)
    has = present[items]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls the layout that it computes in new
        lacking, having = (
            torch.sparse_coo_tensor(torch.stack([items[part], users[part]]), torch.ones(int(part.sum())), shape)
            for part in (~has, has)
        )
        shared: Tensor = torch.sparse.mm(lacking, having.T).coalesce()
    row, neighbour = shared.indices()  # by rising row, then by rising neighbour
    order = torch.argsort(shared.values(), descending=True, stable=True)
    order = order[torch.argsort(row[order], stable=True)]
    row, neighbour = row[order], neighbour[order]
    rank = torch.arange(len(row)) - torch.searchsorted(row, row)
    return row[rank < n_neighbours], neighbour[rank < n_neighbours]
