"""Losses of recommenders."""

from __future__ import annotations

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
