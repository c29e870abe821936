"""bpr_loss as operators of torch: one for the loss, one for the gradients of the tables.

The loss operator also gives each row's derivatives by its scores and its user, unscaled; whatever the reduction and
the gradient from above, the backward operator need only weigh them and sum them into the tables.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor

from mmenc_plugin.kernels.bpr_loss import values
from mmenc_plugin.kernels.bpr_loss.parts import Problem, group, reduce, upstream_rows
from mmenc_plugin.kernels.dispatch import Scorer, choose

_LOSS = (
    "(Tensor users, Tensor items, Tensor user_ids, Tensor positive_ids, Tensor negative_ids, Tensor? bias, "
    "Tensor? log_q, Tensor? weights, str loss, str reduction, bool gradients, bool user_gradient, bool sparse_grad, "
    "str scorer) -> (Tensor loss, Tensor coefficients, Tensor user_rows)"
)
_BACKWARD = (
    "(Tensor gradient, Tensor users, Tensor items, Tensor user_ids, Tensor positive_ids, Tensor negative_ids, "
    "Tensor? bias, Tensor? weights, Tensor coefficients, Tensor user_rows, str reduction, bool[] needs, str scorer) "
    "-> (Tensor, Tensor, Tensor)"
)


@torch.library.custom_op("mmenc::bpr_loss", mutates_args=(), schema=_LOSS)
def bpr_loss_op(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, and where asked for the coefficients [B, 1 + K] and the rows [B, D] of `parts.Forward`, else [0]."""
    users, items, user_ids, positive_ids, negative_ids, bias, log_q, weights, loss, reduction = inputs[:10]
    gradients, user_gradient, _, scorer = inputs[10:]
    ids = user_ids.long(), positive_ids.long(), negative_ids.long()
    problem = Problem(users, items, *ids, bias, log_q, loss)
    values.check(problem, weights, reduction)
    with torch.autocast(users.device.type, enabled=False):
        solve = _implementation(scorer, users, items)
        found = solve.forward(problem, gradients, user_gradient)
        values.check_finite(found, problem)
        made = (reduce(found.losses, weights, reduction), found.coefficients, found.user_rows)
    return cast(tuple[Tensor, Tensor, Tensor], tuple(found.losses.new_empty(0) if m is None else m for m in made))


@bpr_loss_op.register_fake
def _(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    users, negative_ids, reduction, gradients, user_gradient = (inputs[at] for at in (0, 4, 9, 10, 11))
    wide = torch.promote_types(users.dtype, torch.float32)
    size, negatives = negative_ids.shape
    return (
        users.new_empty((size,) if reduction == "none" else (), dtype=wide),
        users.new_empty((size, 1 + negatives) if gradients else (0,), dtype=wide),
        users.new_empty((size, users.shape[1]) if user_gradient else (0,), dtype=wide),
    )


@torch.library.custom_op("mmenc::bpr_loss_backward", mutates_args=(), schema=_BACKWARD)
def bpr_loss_backward_op(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of users [U, D], items [I, D] and bias [I]; [0] for one that is not needed."""
    found = _gradients(inputs, sparse=False)
    return cast(tuple[Tensor, Tensor, Tensor], tuple(inputs[1].new_empty(0) if g is None else g for g in found))


@bpr_loss_backward_op.register_fake
def _(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    tables = zip((inputs[1], inputs[2], inputs[6]), inputs[-2], strict=True)
    return cast(
        tuple[Tensor, Tensor, Tensor],
        tuple(
            t.new_empty(t.shape if needed else (0,)) if t is not None else inputs[1].new_empty(0)
            for t, needed in tables
        ),
    )


def _gradients(inputs: tuple[Any, ...], *, sparse: bool) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of users, items and bias, dense or as coalesced sparse tensors; None for one not needed.

    Args:
        inputs: those of the backward operator.
        sparse: which.
    """
    (gradient, users, items, user_ids, positive_ids, negative_ids, bias, weights, coefficients, user_rows,
     reduction, (for_users, for_items, for_bias), scorer) = inputs  # fmt: skip
    sum_rows = _implementation(scorer, users, items).sum_rows
    d_users = d_items = d_bias = None
    with torch.autocast(users.device.type, enabled=False):
        upstream = upstream_rows(gradient.to(coefficients.dtype), weights, reduction, len(user_ids))[:, None]
        if for_items or for_bias:
            groups = group([positive_ids[:, None], negative_ids], len(items), distinct=sparse)
            if for_items:
                source = users.index_select(0, user_ids) * upstream
                d_items = _table(sum_rows(source, coefficients, groups, items.dtype), groups.ids, items)
                del source  # rather than held beside the other gradients
            if for_bias:
                d_bias = _table(sum_rows(upstream, coefficients, groups, bias.dtype)[:, 0], groups.ids, bias)
            del groups
        if for_users:
            groups = group([user_ids[:, None]], len(users), distinct=sparse)
            d_users = _table(sum_rows(user_rows, upstream, groups, users.dtype), groups.ids, users)
    return d_users, d_items, d_bias


def _table(rows: Tensor, ids: Tensor | None, table: Tensor) -> Tensor:
    """Rows [R, ...] as a gradient of the table: all of it, or those of `ids` as a coalesced sparse tensor."""
    if ids is None:
        return rows
    return torch.sparse_coo_tensor(ids[None], rows, table.shape, is_coalesced=True, check_invariants=False)


def _implementation(scorer: str, users: Tensor, items: Tensor) -> ModuleType:
    """The module with `forward` and `sum_rows`; Triton is imported only where it is chosen."""
    name = choose("bpr_loss", cast(Scorer, scorer), users, items)
    return importlib.import_module(f"mmenc_plugin.kernels.bpr_loss.{name}")


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    tables_and_ids, bias, weights = inputs[:5], inputs[5], inputs[7]
    ctx.reduction, ctx.sparse, ctx.scorer = inputs[9], inputs[12], inputs[13]
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tables_and_ids, bias, weights, *output[1:])


def _backward(ctx: Any, gradient: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    """Sparse gradients are put together here, since an operator cannot give them."""
    if gradient is None:
        return (None,) * 14
    needs = [ctx.needs_input_grad[at] for at in (0, 1, 5)]
    inputs = (gradient, *ctx.saved_tensors, ctx.reduction, needs, ctx.scorer)
    found = _gradients(inputs, sparse=True) if ctx.sparse else bpr_loss_backward_op(*inputs)
    d_users, d_items, d_bias = (g if needed else None for g, needed in zip(found, needs, strict=True))
    return d_users, d_items, None, None, None, d_bias, *(None,) * 8


bpr_loss_op.register_autograd(_backward, setup_context=_keep)
