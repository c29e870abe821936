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
from mmenc_plugin.kernels.bpr_loss.parts import group, reduce, upstream_rows
from mmenc_plugin.kernels.dispatch import Scorer, choose

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


@torch.library.custom_op("mmenc::bpr_loss", mutates_args=())
def bpr_loss_op(  # noqa: PLR0913
    users: Tensor,
    items: Tensor,
    user_ids: Tensor,
    positive_ids: Tensor,
    negative_ids: Tensor,
    bias: Tensor | None,
    log_q: Tensor | None,
    weights: Tensor | None,
    loss: str,
    reduction: str,
    gradients: bool,
    user_gradient: bool,
    sparse_grad: bool,
    scorer: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, and where asked for the coefficients [B, 1 + K] and the rows [B, D] of `parts.Forward`, else [0]."""
    ids = (user_ids.long(), positive_ids.long(), negative_ids.long())
    values.check(users, items, *ids, weights, reduction)
    with torch.autocast(users.device.type, enabled=False):
        found = _implementation(scorer, users, items).forward(
            users, items, *ids, bias, log_q, loss, gradients, user_gradient
        )
        values.check_finite(found, users, items, *ids, bias, log_q)
        nothing = found.losses.new_empty(0)
        return (
            reduce(found.losses, weights, reduction),
            nothing if found.coefficients is None else found.coefficients,
            nothing.clone() if found.user_rows is None else found.user_rows,
        )


@bpr_loss_op.register_fake
def _(  # noqa: PLR0913
    users: Tensor,
    items: Tensor,
    user_ids: Tensor,
    positive_ids: Tensor,
    negative_ids: Tensor,
    bias: Tensor | None,
    log_q: Tensor | None,
    weights: Tensor | None,
    loss: str,
    reduction: str,
    gradients: bool,
    user_gradient: bool,
    sparse_grad: bool,
    scorer: str,
) -> tuple[Tensor, Tensor, Tensor]:
    wide = torch.promote_types(users.dtype, torch.float32)
    size, negatives = negative_ids.shape
    return (
        users.new_empty((size,) if reduction == "none" else (), dtype=wide),
        users.new_empty((size, 1 + negatives) if gradients else (0,), dtype=wide),
        users.new_empty((size, users.shape[1]) if user_gradient else (0,), dtype=wide),
    )


@torch.library.custom_op("mmenc::bpr_loss_backward", mutates_args=())
def bpr_loss_backward_op(  # noqa: PLR0913
    gradient: Tensor,
    users: Tensor,
    items: Tensor,
    user_ids: Tensor,
    positive_ids: Tensor,
    negative_ids: Tensor,
    bias: Tensor | None,
    weights: Tensor | None,
    coefficients: Tensor,
    user_rows: Tensor,
    reduction: str,
    needs: list[bool],
    scorer: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of users [U, D], items [I, D] and bias [I]; [0] for one that is not needed."""
    nothing = users.new_empty(0)
    found = _gradients(
        gradient, users, items, user_ids, positive_ids, negative_ids, bias, weights, coefficients, user_rows,
        reduction, needs, scorer,
    )  # fmt: skip
    return cast(tuple[Tensor, Tensor, Tensor], tuple(nothing.clone() if g is None else g for g in found))


@bpr_loss_backward_op.register_fake
def _(  # noqa: PLR0913
    gradient: Tensor,
    users: Tensor,
    items: Tensor,
    user_ids: Tensor,
    positive_ids: Tensor,
    negative_ids: Tensor,
    bias: Tensor | None,
    weights: Tensor | None,
    coefficients: Tensor,
    user_rows: Tensor,
    reduction: str,
    needs: list[bool],
    scorer: str,
) -> tuple[Tensor, Tensor, Tensor]:
    nothing, tables = users.new_empty(0), (users, items, bias)
    return cast(
        tuple[Tensor, Tensor, Tensor],
        tuple(
            torch.empty_like(table, memory_format=torch.contiguous_format)
            if need and table is not None
            else nothing.clone()
            for table, need in zip(tables, needs, strict=True)
        ),
    )


def _gradients(  # noqa: PLR0913
    gradient: Tensor,
    users: Tensor,
    items: Tensor,
    user_ids: Tensor,
    positive_ids: Tensor,
    negative_ids: Tensor,
    bias: Tensor | None,
    weights: Tensor | None,
    coefficients: Tensor,
    user_rows: Tensor,
    reduction: str,
    needs: list[bool],
    scorer: str,
    sparse: bool = False,
) -> Gradients:
    """The gradients of users, items and bias, dense or as coalesced sparse tensors; None for one not needed."""
    for_users, for_items, for_bias = needs
    sum_rows = _implementation(scorer, users, items).sum_rows
    d_users = d_items = d_bias = None
    with torch.autocast(users.device.type, enabled=False):
        upstream = upstream_rows(gradient.to(coefficients.dtype), weights, reduction, len(user_ids))
        if for_users:
            groups = group(user_ids, len(users), distinct=sparse)
            rows = sum_rows(user_rows, 1, upstream, groups, users.dtype)
            d_users = _table(rows, groups.ids, users)
        if for_items or for_bias:
            pairs = (coefficients * upstream[:, None]).view(-1)
            candidates = torch.cat([positive_ids[:, None], negative_ids], 1)
            groups = group(candidates.view(-1), len(items), distinct=sparse)
            if for_items:
                source = users.index_select(0, user_ids)
                rows = sum_rows(source, candidates.shape[1], pairs, groups, items.dtype)
                d_items = _table(rows, groups.ids, items)
            if for_bias and bias is not None:
                d_bias = _table(sum_rows(None, 1, pairs, groups, bias.dtype), groups.ids, bias)
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
    users, items, *ids = inputs[:5]
    bias, _, weights, _, ctx.reduction, _, _, ctx.sparse, ctx.scorer = inputs[5:]
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(users, items, *ids, bias, weights, *output[1:])


def _backward(ctx: Any, gradient: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    rest: tuple[None, ...] = (None,) * 8
    needs = [ctx.needs_input_grad[argument] for argument in (0, 1, 5)]
    if gradient is None:
        return (None,) * 14
    if ctx.sparse:
        found: Gradients = _gradients(gradient, *ctx.saved_tensors, ctx.reduction, needs, ctx.scorer, True)
    else:
        dense = bpr_loss_backward_op(gradient, *ctx.saved_tensors, ctx.reduction, needs, ctx.scorer)
        found = cast(Gradients, tuple(g if need else None for g, need in zip(dense, needs, strict=True)))
    d_users, d_items, d_bias = found
    return d_users, d_items, None, None, None, d_bias, *rest


bpr_loss_op.register_autograd(_backward, setup_context=_keep)
