"""Checks of bpr_loss that read values; they stand inside the operator, where torch.compile does not look."""

from __future__ import annotations

import torch
from torch import Tensor

from mmenc_plugin.kernels.bpr_loss.parts import Forward, Problem
from mmenc_plugin.kernels.checks import check_range


def check(p: Problem, weights: Tensor | None, reduction: str) -> None:
    """All ids are rows of their tables; weights are finite, not negative, and for a mean not all zero.

    All bounds come from the device at once, since each reading waits for it.

    Raises:
        ValueError: names the argument that is wrong.
    """
    if not len(p):
        return
    named = {
        "user_ids": (p.user_ids, len(p.users)),
        "positive_ids": (p.positive_ids, len(p.items)),
        "negative_ids": (p.negative_ids, len(p.items)),
    }
    bounds = torch.stack([bound for ids, _ in named.values() for bound in torch.aminmax(ids)]).tolist()
    for place, (name, (ids, rows)) in enumerate(named.items()):
        if bounds[2 * place] < 0 or bounds[2 * place + 1] >= rows:
            check_range(name, ids, rows)
    if weights is not None:
        _check_weights(weights, reduction)


def _check_weights(weights: Tensor, reduction: str) -> None:
    low, high = torch.stack(torch.aminmax(weights)).tolist()
    if not (low >= 0 and high < float("inf")):
        row = int((~((weights >= 0) & weights.isfinite())).nonzero()[0, 0])
        raise ValueError(f"weights holds {weights[row].item()} (row {row}), but must be finite and not negative.")
    if high == 0 and reduction == "mean":
        raise ValueError(
            "weights are all zero, so they have no mean: leave the batch out, or take reduction='sum' or 'none'."
        )


def check_finite(found: Forward, p: Problem) -> None:
    """Each row has a finite loss and derivatives; where one has not, the values that it was made of are looked at.

    Raises:
        ValueError: names the argument at fault and its row.
    """
    losses, rows = found.losses, found.user_rows
    probe = losses.sum() if rows is None else losses.sum() + rows.sum()  # one number to read; finite if all are
    if bool(probe.isfinite()):
        return
    bad_rows = ~(losses.isfinite() if rows is None else losses.isfinite() & rows.isfinite().all(1))
    if not bool(bad_rows.any()):
        return
    row = int(bad_rows.nonzero()[0, 0])
    candidates = p.candidates(slice(row, row + 1))[0]
    for name, table, ids in (
        ("users", p.users, p.user_ids[row, None]),
        ("items", p.items, candidates),
        ("bias", p.bias, candidates),
        ("log_q", p.log_q, candidates),
    ):
        if table is not None and bool((bad := _spoilt(name, table[ids])).any()):
            at = int(ids[bad][0])
            raise ValueError(
                f"{name} holds NaN or infinity (row {at}), so batch row {row} has no finite loss or gradient; only a "
                "negative's bias may be -inf. Clean the table, or find the step that spoilt it."
            )
    raise ValueError(
        f"the scores of batch row {row} are beyond {losses.dtype}, so it has no finite loss or gradient: users and "
        "items must be smaller."
    )


def _spoilt(name: str, taken: Tensor) -> Tensor:
    """Which rows [1] or [1 + K] of what was taken from a table leave the loss without a finite value.

    An offset of -inf is a negative that cannot be drawn, and has no part in the loss; a positive must be possible.
    """
    if taken.ndim == 2:
        return ~taken.isfinite().all(1)
    offset = -taken if name == "log_q" else taken
    is_positive = torch.arange(len(taken), device=taken.device) == 0
    return offset.isnan() | (offset == torch.inf) | (is_positive & offset.isinf())
