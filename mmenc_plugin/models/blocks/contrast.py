"""Contrastive losses between two views of the same rows."""

from __future__ import annotations

import torch
from torch import Tensor

from mmenc_plugin.kernels.score_loss import score_loss
from mmenc_plugin.models.blocks.unit import unit_rows


def info_nce(a: Tensor, b: Tensor, temperature: float, positives: Tensor | None = None) -> Tensor:
    """Mean over the rows n of -log(exp(cos(a_n, b_p(n)) / t) / sum_m exp(cos(a_n, b_m) / t)).

    Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018, equation 4, on the unit sphere as
    in Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020. The [B, N]
    matrix is never made, so the rows may be all users or items. It is not symmetric: call it twice, the other way
    round, for both directions.

    Args:
        a: [B, D] one view; a row of zeros is like every other to the same degree.
        b: [N, D] the other view. Rows past B, if any, are negatives alone.
        temperature: t, more than 0.
        positives: [B] the row p(n) of b that belongs to row n of a; None for p(n) = n.

    Returns:
        A scalar.
    """
    if positives is None:
        positives = torch.arange(len(a), device=a.device)
    return score_loss(unit_rows(a), unit_rows(b), positives, scale=1 / temperature)
