"""The k largest of each row, the first of equal ones, in their order; and the refusal of NaN among them."""

from __future__ import annotations

from torch import Tensor


def the_best(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Which k of each row [R, W >= k] are kept, flags [R, W] with k in each row; and the k-th best score [R, 1]."""
    worst = kth_best(scores, k)
    above, equal = scores > worst, scores == worst
    room = k - above.sum(1, keepdim=True)
    return above | (equal & (equal.cumsum(1) <= room)), worst


def kth_best(scores: Tensor, k: int) -> Tensor:
    """Of each row [R, 1]."""
    return scores.topk(k, dim=1, sorted=False).values.amin(1, keepdim=True)


def refuse_nan(scores: Tensor) -> None:
    """Raise where there is no order.

    Raises:
        ValueError: a score is NaN.
    """
    if bool(scores.isnan().any()):
        raise ValueError("a score is not a number (infinite users, items or bias), so there is no order of scores.")
