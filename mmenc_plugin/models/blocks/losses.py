"""Losses of recommenders."""

from __future__ import annotations

import torch
from torch import Tensor

from mmenc_plugin.kernels import bpr_loss
from mmenc_plugin.types import Embeddings, TripletBatch


def bpr(embeddings: Embeddings, batch: TripletBatch) -> Tensor:
    """Mean of -ln sigmoid(score of the positive - score of the negative) over a batch.

    Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009, equation 4. The kernel
    reads the batch's rows and makes no copy of the negatives'.

    Args:
        embeddings: of all users and items; or those of the batch alone, with a batch that counts within them.
        batch: rows of `embeddings`.
    """
    return bpr_loss(
        embeddings.users,
        embeddings.items,
        batch.users,
        batch.positives,
        batch.negatives,
        bias=embeddings.item_bias,
    )


def l2(*rows: Tensor) -> Tensor:
    """Half the sum of squares of embeddings [.., D] or biases [..], a row of the batch.

    Args:
        rows: those that belong to the batch; the first has a row for each row of it.
    """
    return sum((r.square().sum() for r in rows), start=rows[0].new_zeros(())) / (2 * len(rows[0]))


def norms(*tables: Tensor) -> Tensor:
    """The sum of the Frobenius norms of tables [N, D], not squared, by the N of the last.

    No paper's penalty, but that of much published code.
    """
    return sum((torch.linalg.norm(t) for t in tables), start=tables[0].new_zeros(())) / len(tables[-1])
