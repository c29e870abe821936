"""The k best items of each user: score(u, i) = users[u] . items[i] + bias[i]."""

from __future__ import annotations

from torch import Tensor

from mmenc_plugin.kernels.score_topk import cpu
from mmenc_plugin.types import TopK


def score_topk(
    users: Tensor,
    items: Tensor,
    k: int,
    bias: Tensor | None = None,
    exclude: tuple[Tensor, Tensor] | None = None,
) -> TopK:
    """Rank N items for B users and keep the k best.

    Args:
        users: [B, D].
        items: [N, D], of the same type and device.
        k: how many to keep, at least 1; at most N are returned.
        bias: [N], or None.
        exclude: the items that a user may not get, as CSR: offsets [B + 1] and item rows.

    Returns:
        ids [B, min(k, N)] and scores, best first; equal scores by the smaller item row; -1 and -inf
        where a user has fewer items left.

    Raises:
        ValueError: the shapes do not go together, k is below 1, or a score is not a number.
    """
    if users.ndim != 2 or items.ndim != 2 or users.shape[1] != items.shape[1]:
        raise ValueError(f"users {tuple(users.shape)} and items {tuple(items.shape)} must be [B, D] and [N, D].")
    if k < 1:
        raise ValueError(f"k is {k}, but at least 1 item must be asked for.")
    if bias is not None and bias.shape != (len(items),):
        raise ValueError(f"bias {tuple(bias.shape)} must be [N] = [{len(items)}].")
    if exclude is not None:
        _check_exclude(*exclude, len(users), len(items))
    for name, tensor in (("users", users), ("items", items), ("bias", bias)):
        if tensor is not None and tensor.isnan().any():
            raise ValueError(f"{name} holds NaN, so there is no order of scores.")
    return cpu.score_topk(users, items, k, bias, exclude)


def _check_exclude(offsets: Tensor, seen: Tensor, n_users: int, n_items: int) -> None:
    fits = offsets.shape == (n_users + 1,) and int(offsets[0]) == 0 and int(offsets[-1]) == len(seen)
    if not fits or bool((offsets.diff() < 0).any()):
        raise ValueError(
            f"exclude must be offsets [B + 1] = [{n_users + 1}], rising from 0 to {len(seen)}, and item rows."
        )
    if len(seen) and not 0 <= int(seen.min()) <= int(seen.max()) < n_items:
        raise ValueError(f"exclude names rows outside 0..{n_items - 1}.")
