"""What each user of a full-ranking loader may not get and what they should get, as two lists of lists.

RecBole's loader holds a small tensor a user and joins thousands of them for each batch; here they are joined once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from mmenc_plugin.kernels.checks import CSR
from mmenc_plugin.kernels.csr import make_csr

_made: WeakKeyDictionary[Any, dict[str, UserLists]] = WeakKeyDictionary()


@dataclass(frozen=True)
class UserLists:
    """Lists of item ids, one of each kind a user of the loader (U), in the loader's order.

    Attributes:
        masked: offsets [U + 1] and ids of the items that are not ranked, the padding item 0 among them.
        positives: offsets [U + 1] and ids of the items to be found; none is masked.
    """

    masked: CSR
    positives: CSR


def lists_of(loader: Any, mask: str) -> UserLists:
    """The lists of RecBole's FullSortEvalDataLoader, made once.

    Args:
        loader: not of a sequential model.
        mask: `ranking_mask`. An item of the training part that is to be found as well is ranked, as in RecBole.
    """
    made = _made.setdefault(loader, {})
    if mask not in made:
        n_items = loader._dataset.item_num
        positives = _keys(loader, loader.uid2positive_item, n_items)
        masked = _keys(loader, loader.uid2history_item, n_items) if mask == "seen" else _train_keys(loader, n_items)
        masked = masked[~torch.isin(masked, positives)]
        padding = torch.arange(len(loader.uid_list)) * n_items
        made[mask] = UserLists(
            _csr(torch.cat([masked, padding]), len(padding), n_items), _csr(positives, len(padding), n_items)
        )
    return made[mask]


def _keys(loader: Any, items_of_user: Any, n_items: int) -> Tensor:
    """Each pair as one number, row of the user in the loader * I + item."""
    lists = [items_of_user[user] for user in loader.uid_list.tolist()]
    lengths = torch.tensor([len(items) for items in lists])
    return torch.repeat_interleave(torch.arange(len(lists)), lengths) * n_items + torch.cat(lists)


def _train_keys(loader: Any, n_items: int) -> Tensor:
    """The pairs of the training part, as far as the loader has their users."""
    sampler = loader._sampler
    inter = sampler.datasets[sampler.phases.index("train")].inter_feat
    row_of_user = torch.full((loader._dataset.user_num,), -1)
    row_of_user[loader.uid_list] = torch.arange(len(loader.uid_list))
    rows = row_of_user[inter[loader.uid_field]]
    keys: Tensor = (rows * n_items + inter[loader.iid_field])[rows >= 0]
    return keys


def _csr(keys: Tensor, n_rows: int, n_items: int) -> CSR:
    keys = torch.unique(keys)  # sorted by row, then by item
    return make_csr(keys // n_items, keys % n_items, n_rows)
