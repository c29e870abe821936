"""Pairwise losses over K negatives a row, without the gathered copy [B, K, D]: BPR and the sampled softmax."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from mmenc_plugin.errors import unknown_name
from mmenc_plugin.kernels.bpr_loss.operator import bpr_loss_op
from mmenc_plugin.kernels.checks import check_floats, check_ids, check_same_device, check_shape
from mmenc_plugin.kernels.dispatch import SCORERS, Scorer, get_scorer
from mmenc_plugin.kernels.precision import as_autocast

Loss = Literal["bpr", "softmax"]
Reduction = Literal["none", "mean", "sum"]

__all__ = ["bpr_loss"]


def bpr_loss(  # noqa: PLR0913
    users: Tensor,
    items: Tensor,
    user_ids: Tensor,
    positive_ids: Tensor,
    negative_ids: Tensor,
    *,
    bias: Tensor | None = None,
    log_q: Tensor | None = None,
    loss: Loss = "bpr",
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    sparse_grad: bool = False,
    scorer: Scorer | None = None,
) -> Tensor:
    """Rank an item that a user took above K that they did not.

    With s_bj = users[user_ids[b]] . items[j] + bias[j], the loss of row b, whose positive is p and whose negatives
    are n_1 .. n_K, is

    * `bpr`: mean over k of softplus(s_b,n_k - s_b,p), which is -ln sigmoid(s_b,p - s_b,n_k) (Rendle et al., "BPR:
      Bayesian Personalized Ranking from Implicit Feedback", UAI 2009, equation 4);
    * `softmax`: the logarithm of the sum of e^s over the positive and the negatives, less s_b,p, where log_q[j] is
      taken from every s_bj (Bengio and Senecal, "Adaptive Importance Sampling to Accelerate Training of a Neural
      Probabilistic Language Model", 2008; Yi et al., "Sampling-Bias-Corrected Neural Modeling", RecSys 2019).

    The result is the same on every run, to the bit. Half types are computed in float32; under autocast, float32
    tables are rounded to autocast's type, as a matrix product's are. There is no second derivative.

    Args:
        users: [U, D], a table or the batch's own rows.
        items: [I, D], likewise, of the users' type.
        user_ids: [B] rows of `users`, int64; any may repeat.
        positive_ids: [B] rows of `items`.
        negative_ids: [B, K] or [B] rows of `items`; one that is the positive counts as any other.
        bias: [I], or None for none; -inf keeps an item from counting as a negative.
        log_q: [I] logarithm of the chance that an item is drawn as a negative (softmax only), without gradient.
        loss: bpr or softmax.
        weights: [B] of the rows, finite and not negative, without gradient; None for 1 each.
        reduction: mean is sum(weights * losses) / sum(weights), and none gives weights * losses.
        sparse_grad: users, items and bias (leaves) get coalesced sparse COO gradients with the distinct rows of the
            batch, as torch.optim.SparseAdam takes them, rather than dense ones. For eager mode: torch.compile
            does not take sparse gradients.
        scorer: the implementation; None for what `set_scorer` has set.

    Returns:
        The loss, [] or (reduction none) [B], float32, or float64 for float64 tables.

    Raises:
        TypeError: a tensor is of a type that is not taken, or users and items of two.
        ValueError: shapes or devices do not go together, K is 0, B is 0 with reduction mean, an id is no row, a
            weight is negative or all are zero with reduction mean, or a loss is NaN or infinite. The message names
            the argument.
        UnknownNameError: no such loss, reduction or scorer.
    """
    _check_names(loss, reduction, scorer)
    negative_ids = negative_ids[:, None] if negative_ids.ndim == 1 else negative_ids
    _check_tables(users, items, bias, log_q)
    _check_batch(user_ids, positive_ids, negative_ids, weights, reduction)
    check_same_device(
        users=users, items=items, user_ids=user_ids, positive_ids=positive_ids, negative_ids=negative_ids, bias=bias,
        log_q=log_q, weights=weights,
    )  # fmt: skip
    if log_q is not None and loss != "softmax":
        raise ValueError("log_q corrects the sampled softmax, and BPR has no such term: leave it out.")
    if sparse_grad and torch.compiler.is_compiling():
        raise ValueError("sparse_grad=True is for eager mode: call this outside torch.compile, or take dense ones.")
    users, items = (as_autocast(table) for table in (users, items))
    wanted = torch.is_grad_enabled()
    user_gradient = wanted and users.requires_grad
    gradients = user_gradient or (wanted and (items.requires_grad or (bias is not None and bias.requires_grad)))
    found: tuple[Tensor, Tensor, Tensor] = bpr_loss_op(
        users, items, user_ids, positive_ids, negative_ids, bias, log_q, weights, loss, reduction, gradients,
        user_gradient, sparse_grad, scorer or get_scorer(),
    )  # fmt: skip
    return found[0]


def _check_names(loss: str, reduction: str, scorer: str | None) -> None:
    for kind, name, known in (("loss", loss, get_args(Loss)), ("reduction", reduction, get_args(Reduction))):
        if name not in known:
            raise unknown_name(kind, name, known)
    if scorer is not None and scorer not in SCORERS:
        raise unknown_name("scorer", scorer, SCORERS)


def _check_tables(users: Tensor, items: Tensor, bias: Tensor | None, log_q: Tensor | None) -> None:
    check_floats(users=users, items=items, bias=bias, log_q=log_q)
    check_shape("users", users, (None, None), "[U, D]")
    check_shape("items", items, (None, users.shape[1]), "[I, D]")
    if users.dtype != items.dtype and not torch.is_autocast_enabled(users.device.type):
        raise TypeError(f"items is {items.dtype} but users {users.dtype}: convert one to the other's type.")
    for name, offset in (("bias", bias), ("log_q", log_q)):
        if offset is not None:
            check_shape(name, offset, (len(items),), "[I]")


def _check_batch(
    user_ids: Tensor, positive_ids: Tensor, negative_ids: Tensor, weights: Tensor | None, reduction: str
) -> None:
    check_ids(user_ids=user_ids, positive_ids=positive_ids, negative_ids=negative_ids)
    check_floats(weights=weights)
    check_shape("user_ids", user_ids, (None,), "[B]")
    size = len(user_ids)
    check_shape("positive_ids", positive_ids, (size,), "[B]")
    check_shape("negative_ids", negative_ids, (size, None), "[B] or [B, K]")
    if weights is not None:
        check_shape("weights", weights, (size,), "[B]")
    if not negative_ids.shape[1]:
        raise ValueError(f"negative_ids is [{size}, 0], but each row needs at least one negative.")
    if not size and reduction == "mean":
        raise ValueError("the batch is empty, and the mean of no rows has no value: leave it out, or take the sum.")
