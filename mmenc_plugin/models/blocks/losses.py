"""Losses of recommenders."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def bpr(positive: Tensor, negative: Tensor) -> Tensor:
    """Mean of -ln sigmoid(positive - negative), over scores [B] of items taken and not taken.

    Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009, equation 4.
    Written as a softplus, which keeps its gradient where the sigmoid would be zero.
    """
    return F.softplus(negative - positive).mean()


def l2(*rows: Tensor) -> Tensor:
    """Half the sum of squares of embeddings [B, D] or biases [B], a row of the batch."""
    return sum((r.square().sum() for r in rows), start=rows[0].new_zeros(())) / (2 * len(rows[0]))


def norms(*tables: Tensor) -> Tensor:
    """The sum of the Frobenius norms of tables [N, D], not squared, by the N of the last.

    No paper's penalty, but that of much published code.
    """
    return sum((torch.linalg.norm(t) for t in tables), start=tables[0].new_zeros(())) / len(tables[-1])
