"""Cross-entropy of queries against items: score(b, n) = scale * queries[b] . items[n] + bias[n] - log_q[n]."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mmenc_plugin.kernels import dispatch
from mmenc_plugin.kernels.checks import CSR, check_floats, check_ids, check_same_device, check_shape
from mmenc_plugin.kernels.precision import as_autocast, summed_in
from mmenc_plugin.kernels.score_loss import operator

Reduction = Literal["mean", "sum", "none"]


def score_loss(  # noqa: PLR0913
    queries: Tensor,
    items: Tensor,
    targets: Tensor | CSR,
    *,
    scale: Tensor | float = 1.0,
    bias: Tensor | None = None,
    log_q: Tensor | None = None,
    exclude: CSR | None = None,
    item_ids: Tensor | None = None,
    weights: Tensor | None = None,
    symmetric: bool = False,
    reduction: Reduction = "mean",
    scorer: dispatch.Scorer | None = None,
) -> Tensor:
    """The softmax loss of B queries over N items, in memory O(B + N) beside the inputs and their gradients.

    loss[b] = log sum_n exp s(b, n) - mean over b's positives p of s(b, p), the sum over all columns that are not
    excluded. A query without positives has loss 0 and no gradient. With `symmetric` the loss of pair b is the mean of
    that and of the same with queries and items exchanged: the image-text contrastive loss of Radford et al.,
    "Learning Transferable Visual Models From Natural Language Supervision", 2021. Subtracting log_q corrects a softmax
    over sampled columns: Bengio and Senecal, "Adaptive Importance Sampling to Accelerate Training of a Neural
    Probabilistic Language Model", 2008; Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item
    Recommendations", RecSys 2019.

    Args:
        queries: [B, D], float32, float64, bfloat16 or float16 (the latter two are summed in float32).
        items: [N, D] of the same type; or a table [V, D] whose rows `item_ids` are the N columns.
        targets: [B] the positive column of each query, or CSR of columns (offsets [B + 1], columns) for any number of
            positives. One that is listed twice counts twice.
        scale: [] the inverse temperature, a number or a tensor that learns.
        bias: [N]; -inf for an item that is never chosen.
        log_q: [N] the logarithm of the probability with which the column was sampled; gets no gradient.
        exclude: CSR of rows of `items` that may not count against the query, such as what its user took: masked in
            every column that holds them, except where the column is the query's own positive.
        item_ids: [N] rows of `items`, repeated or not; the columns are read through it without a copy.
        weights: [B] of the queries' losses; gets no gradient.
        symmetric: the image-text form; B = N, pair b being query b and column b, and `targets` says which columns
            match which queries (arange(B), unless pairs share a picture or a text).
        reduction: mean is sum(weights * loss) / sum(weights) over the queries that have positives.
        scorer: which implementation; None for what `kernels.set_scorer` has set.

    Returns:
        A scalar, or [B] for reduction "none", in float32 (float64 for float64).

    Raises:
        TypeError: a type is none of those taken, or queries and items differ in it.
        ValueError: shapes that do not agree, ids out of range, a CSR that is none, NaN, tensors on several devices.
    """
    n = len(items if item_ids is None else item_ids)
    if not isinstance(scale, Tensor):
        scale = torch.tensor(scale, dtype=summed_in(queries.dtype), device=queries.device)
    csr = _as_csr(targets, len(queries))
    _check(queries, items, n, csr, scale=scale, bias=bias, log_q=log_q, exclude=exclude, item_ids=item_ids,
           weights=weights, symmetric=symmetric, reduction=reduction)  # fmt: skip
    if log_q is not None:
        log_q = log_q.detach().to(summed_in(queries.dtype))
        bias = -log_q if bias is None else bias - log_q
    queries, items = as_autocast(queries), as_autocast(items)
    inputs = (
        queries, items, scale, bias, item_ids, *csr, *(exclude or (None, None)), symmetric,
        scorer or dispatch.get_scorer(),
    )  # fmt: skip
    if reduction == "none":
        loss: Tensor = operator.each(*inputs)[0]
        return loss if weights is None else loss * weights.detach()
    needs = [torch.is_grad_enabled() and t is not None and t.requires_grad for t in (queries, items, scale, bias)]
    weights = None if weights is None else weights.detach()
    return operator.at_once(*inputs, weights, reduction == "mean", needs)[0]  # type: ignore[no-any-return]


def _as_csr(targets: Tensor | CSR, n_queries: int) -> CSR:
    if not isinstance(targets, Tensor):
        return targets
    check_shape("targets", targets, (n_queries,), "a column for each query [B]")
    return torch.arange(n_queries + 1, device=targets.device), targets


def _check(  # noqa: PLR0913
    queries: Tensor, items: Tensor, n: int, targets: CSR, *, scale: Tensor, bias: Tensor | None, log_q: Tensor | None,
    exclude: CSR | None, item_ids: Tensor | None, weights: Tensor | None, symmetric: bool, reduction: str,
) -> None:  # fmt: skip
    """Shapes, types and devices; values are looked at in the operator."""
    excluded = exclude or (None, None)
    check_floats(queries=queries, items=items, scale=scale, bias=bias, log_q=log_q, weights=weights)
    check_ids(targets=targets[1], target_offsets=targets[0], exclude=excluded[1], item_ids=item_ids)
    check_same_device(
        queries=queries, items=items, targets=targets[1], target_offsets=targets[0], scale=scale, bias=bias,
        log_q=log_q, exclude=excluded[1], exclude_offsets=excluded[0], item_ids=item_ids, weights=weights,
    )  # fmt: skip
    if queries.dtype != items.dtype:
        raise TypeError(f"queries are {queries.dtype} but items {items.dtype}: convert one to the other's type.")
    check_shape("queries", queries, (None, None), "[B, D]")
    check_shape("items", items, (None, queries.shape[1]), "[N, D]")
    check_shape("scale", scale, (), "a number or a tensor []")
    for name, tensor in (("bias", bias), ("log_q", log_q), ("item_ids", item_ids)):
        if tensor is not None:
            check_shape(name, tensor, (n,), "[N]")
    if weights is not None:
        check_shape("weights", weights, (len(queries),), "[B]")
    if symmetric and len(queries) != n:
        raise ValueError(f"symmetric pairs query b with column b, but finds {len(queries)} queries and {n} columns.")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction is {reduction!r}, but must be 'mean', 'sum' or 'none'.")
