"""The k best items of each user: score(u, i) = users[u] . items[i] + bias[i]."""

from __future__ import annotations

from torch import Tensor

from mmenc_plugin.kernels.checks import CSR, check_floats, check_ids, check_same_device, check_shape
from mmenc_plugin.kernels.dispatch import Scorer, get_scorer
from mmenc_plugin.kernels.precision import as_autocast
from mmenc_plugin.kernels.score_topk.operator import score_topk_op
from mmenc_plugin.types import TargetRanks, TopK

__all__ = ["score_topk"]


def score_topk(  # noqa: PLR0913
    users: Tensor,
    items: Tensor,
    k: int,
    bias: Tensor | None = None,
    exclude: CSR | None = None,
    *,
    candidates: Tensor | None = None,
    targets: CSR | None = None,
    scorer: Scorer | None = None,
) -> TopK:
    """Rank N items for B users and keep the k best, without the [B, N] matrix; no gradient.

    An item is admissible for a user if it is not excluded, is a candidate and scores above -inf. Half types are
    multiplied and summed in float32.

    Args:
        users: [B, D].
        items: [N, D], of the same type and device.
        k: how many to keep, at least 1; at most the number of items or candidates is returned.
        bias: [N], or None. Where it is -inf, the item is never returned.
        exclude: the items that a user may not get, as CSR: offsets [B + 1] and item rows; repeats do no harm.
        candidates: [C] distinct rows of `items`, the only ones that may be returned; None for all.
        targets: items whose ranks are wanted, as CSR: offsets [B + 1] and item rows [T]. A target that is itself not
            admissible is ranked as if it were.
        scorer: the implementation; None for what `set_scorer` has set.

    Returns:
        ids [B, K], rows of `items`, and scores [B, K] (float32 for half types), best first, where K = min(k, N or C);
        equal scores by the smaller row; -1 and -inf where a user has fewer items left. ranks: with `targets`, for
        each of them the number of other admissible items with a larger score, with an equal one, and with an equal
        one and a smaller row.

    Raises:
        TypeError: an argument is of a type that is not taken.
        ValueError: shapes or devices do not go together, k is below 1, rows are out of range, offsets do not rise,
            or a score is not a number.
    """
    _check(users, items, k, bias, exclude, candidates, targets)
    users, items = as_autocast(users.detach()), as_autocast(items.detach())
    bias = None if bias is None else bias.detach()
    csrs = *(exclude or (None, None)), candidates, *(targets or (None, None))
    ids, scores, *ranks = score_topk_op(users, items, k, bias, *csrs, scorer or get_scorer())
    return TopK(ids, scores, None if targets is None else TargetRanks(*ranks))


def _check(
    users: Tensor,
    items: Tensor,
    k: int,
    bias: Tensor | None,
    exclude: CSR | None,
    candidates: Tensor | None,
    targets: CSR | None,
) -> None:
    """What can be checked without reading values."""
    check_floats(users=users, items=items, bias=bias)
    check_shape("users", users, (None, None), "[B, D]")
    check_shape("items", items, (None, users.shape[1]), "[N, D]")
    if users.dtype != items.dtype:
        raise TypeError(f"items is {items.dtype} but users {users.dtype}: convert one to the other's type.")
    if k < 1:
        raise ValueError(f"k is {k}, but at least 1 item must be asked for.")
    check_same_device(users=users, items=items, bias=bias, candidates=candidates)
    if bias is not None:
        check_shape("bias", bias, (items.shape[0],), "[N]")
    if candidates is not None:
        check_ids(candidates=candidates)
        check_shape("candidates", candidates, (None,), "item rows [C]")
    for name, csr in (("exclude", exclude), ("targets", targets)):
        if csr is not None:
            _check_csr_form(name, csr, users)


def _check_csr_form(name: str, csr: CSR, users: Tensor) -> None:
    if len(csr) != 2:
        raise ValueError(f"{name} has {len(csr)} parts, but must be two tensors: offsets [B + 1] and item rows.")
    offsets, rows = csr
    check_ids(**{f"{name}[0]": offsets, f"{name}[1]": rows})
    check_same_device(users=users, **{f"{name}[0]": offsets, f"{name}[1]": rows})
    check_shape(f"{name}[0]", offsets, (users.shape[0] + 1,), "offsets [B + 1]")
    check_shape(f"{name}[1]", rows, (None,), "item rows")
