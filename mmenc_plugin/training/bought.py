"""Items that users of the training part took together, as positives of each other's pictures and texts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix, vstack
from torch import Tensor

from mmenc_plugin.errors import DataError
from mmenc_plugin.features.contents import Rows
from mmenc_plugin.kernels import score_loss
from mmenc_plugin.kernels.checks import CSR
from mmenc_plugin.training.pairs import Pairs, shuffled

MOST = 20  # partners that a pair keeps: those with which it shares most users
HEAVIEST = 32  # shared users that count, so that two best sellers do not drown all others
_BLOCK = 2048  # pairs whose partners are counted at once


class Bought:
    """Which pairs were taken by the same users, and by how many.

    Args:
        pairs: P pairs.
        users: [E] users of the interactions of the training part, and of no other.
        taken: [E] ids of the items that they took.

    Raises:
        DataError: no user took two different pairs.
    """

    def __init__(self, pairs: Pairs, users: Sequence[Any], taken: Sequence[str]) -> None:
        row_of = {item: row for row, item in enumerate(pairs.items.ids)}
        rows = np.array([row_of.get(item, -1) for item in taken], dtype=np.int64)
        pair = np.where(rows >= 0, pairs.of_item[rows], -1)
        user = np.unique(np.asarray(users), return_inverse=True)[1].ravel()[pair >= 0]
        shape = (int(user.max(initial=0)) + 1, len(pairs))
        took = csr_matrix((np.ones(len(user), dtype=np.int64), (user, pair[pair >= 0])), shape=shape)
        took.data[:] = 1  # who took a thing twice is one user
        self.counts = _shared_users(took)
        if not self.counts.nnz:
            raise DataError(
                f"finetune_objectives has bought, but no user of the {len(taken)} interactions of the training part "
                f"took two different ones of the {len(pairs)} items with picture and text. Leave bought out."
            )

    @property
    def digest(self) -> str:
        """The sha256 of which pairs share how many users."""
        parts = (self.counts.indptr, self.counts.indices, self.counts.data)
        return hashlib.sha256(b"".join(part.astype(np.int64).tobytes() for part in parts)).hexdigest()

    def order(self, part: Rows, seed: int, epoch: int) -> Rows:
        """The pairs of a part in the order of an epoch, each followed by a partner of its where one is left.

        Partners are drawn by the number of users that they share with the pair.
        """
        random = np.random.default_rng([seed % 2**63, epoch, 1])
        left = np.zeros(self.counts.shape[0], dtype=bool)
        left[part] = True
        order = []
        for pair in shuffled(part, seed, epoch):
            if left[pair]:
                left[pair] = False
                order.append(pair)
                partners, weights = self._of(pair)
                weights = weights * left[partners]
                if weights.any():
                    partner = random.choice(partners, p=weights / weights.sum())
                    left[partner] = False
                    order.append(partner)
        return np.array(order, dtype=np.int64)

    def targets(self, batch: Rows) -> CSR:
        """The partners of each pair within a batch, each as often as users were shared: CSR [B + 1] of places."""
        inside = self.counts[batch][:, batch].tocsr()
        inside.sort_indices()
        columns = np.repeat(inside.indices, inside.data)
        offsets = np.concatenate([[0], inside.data.cumsum()])[inside.indptr]
        return torch.from_numpy(offsets.astype(np.int64)), torch.from_numpy(columns.astype(np.int64))

    def _of(self, pair: int) -> tuple[Rows, Rows]:
        mine = slice(self.counts.indptr[pair], self.counts.indptr[pair + 1])
        return self.counts.indices[mine], self.counts.data[mine]


def bought_loss(images: Tensor, texts: Tensor, scale: Tensor, partners: CSR, true: CSR) -> Tensor:
    """The contrast of each picture with the texts of the items that were taken together with it, both ways.

    Args:
        images: [B, D] of any length.
        texts: [B, D].
        scale: [] the inverse temperature.
        partners: of each pair, repeated ones count as often.
        true: which texts belong to which picture; they are neither positives nor negatives here.

    Returns:
        The mean over the pairs that have partners, 0 where none has: a scalar.
    """
    return score_loss(
        F.normalize(images, dim=1), F.normalize(texts, dim=1), partners, scale=scale, exclude=true, symmetric=True
    )


def _shared_users(took: Any) -> Any:
    """[P, P] users that two pairs share, symmetric; the heaviest few of each row, in blocks of rows."""
    items = took.T.tocsr()
    blocks = [_heaviest(items[start : start + _BLOCK] @ took, start) for start in range(0, items.shape[0], _BLOCK)]
    counts = vstack(blocks).tocsr()
    counts = counts.maximum(counts.T).tocsr()
    counts.sort_indices()
    return counts


def _heaviest(shared: Any, start: int) -> Any:
    """The MOST heaviest entries of each row, those of smaller columns first, none of them on the diagonal."""
    shared = shared.tocoo()
    off = shared.col != shared.row + start
    row, column, count = shared.row[off], shared.col[off], shared.data[off]
    order = np.lexsort((column, -count, row))
    row, column, count = row[order], column[order], count[order]
    sizes = np.bincount(row, minlength=shared.shape[0])
    place = np.arange(len(row)) - (sizes.cumsum() - sizes)[row]
    keep = place < MOST
    return csr_matrix((np.minimum(count[keep], HEAVIEST), (row[keep], column[keep])), shape=shared.shape)
