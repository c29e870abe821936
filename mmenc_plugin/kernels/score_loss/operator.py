"""score_loss as torch operators: opaque to torch.compile, with their gradients.

`mmenc::score_loss` gives the loss of each query, and computes the scores again for its gradient.
`mmenc::score_loss_at_once` gives the sum over the queries and its gradients together: what comes from above is then
one number, their factor.
"""

from __future__ import annotations

import importlib
from typing import Any, cast

import torch
from torch import Tensor

from mmenc_plugin.kernels.checks import CSR
from mmenc_plugin.kernels.dispatch import Scorer, choose
from mmenc_plugin.kernels.precision import summed_in
from mmenc_plugin.kernels.score_loss.problem import Needs, Problem, has_positive, make_problem

_INPUTS = (
    "Tensor queries, Tensor items, Tensor scale, Tensor? bias, Tensor? item_ids, Tensor target_offsets, "
    "Tensor target_columns, Tensor? exclude_offsets, Tensor? exclude_ids, bool symmetric, str scorer"
)


def _problem(  # noqa: PLR0913 - the operators' own list
    queries: Tensor, items: Tensor, scale: Tensor, bias: Tensor | None, item_ids: Tensor | None,
    target_offsets: Tensor, target_columns: Tensor, exclude_offsets: Tensor | None, exclude_ids: Tensor | None,
    symmetric: bool, scorer: str,
) -> tuple[Problem, Any]:  # fmt: skip
    """The problem, and the implementation that solves it."""
    exclude = None if exclude_offsets is None else cast(CSR, (exclude_offsets, exclude_ids))
    targets = target_offsets, target_columns
    problem = make_problem(queries, items, scale, bias, item_ids, targets, exclude, symmetric)
    name = choose("score_loss", cast(Scorer, scorer), queries, items)
    return problem, importlib.import_module(f"mmenc_plugin.kernels.score_loss.{name}")


def _exactly(device: torch.device) -> torch.autocast:
    """The operators choose their precision themselves, whatever autocast says."""
    return torch.autocast(device.type, enabled=False)


@torch.library.custom_op(
    "mmenc::score_loss", mutates_args=(), schema=f"({_INPUTS}) -> (Tensor loss, Tensor row_lse, Tensor column_lse)"
)
def each(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [B] and the log-sum-exps that its gradient needs."""
    with _exactly(inputs[0].device):
        problem, solve = _problem(*inputs)
        return solve.losses(problem)  # type: ignore[no-any-return]


@torch.library.custom_op(
    "mmenc::score_loss_backward", mutates_args=(),
    schema=f"({_INPUTS}, Tensor coefficients, Tensor row_lse, Tensor column_lse, bool[] needs) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
)  # fmt: skip
def each_backward(*inputs: Any) -> tuple[Tensor, ...]:
    """Gradients of sum_b coefficients[b] * loss[b]; empty where not needed."""
    *inputs_, coefficients, row_lse, column_lse, needs = inputs
    with _exactly(inputs[0].device):
        problem, solve = _problem(*inputs_)
        found = solve.gradients(problem, coefficients, row_lse, column_lse, tuple(needs))
    return _in_their_types(found, inputs_)


@torch.library.custom_op(
    "mmenc::score_loss_at_once", mutates_args=(),
    schema=f"({_INPUTS}, Tensor? weights, bool mean, bool[] needs) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)  # fmt: skip
def at_once(*inputs: Any) -> tuple[Tensor, ...]:
    """The sum or mean of the weighted losses, and its gradients; empty where not needed."""
    *inputs_, weights, mean, needs = inputs
    with _exactly(inputs[0].device):
        problem, solve = _problem(*inputs_)
        coefficients = _coefficients(problem, weights, mean)
        loss, found = _solve_at_once(solve, problem, coefficients, tuple(needs))
        total = (loss * coefficients).where(coefficients != 0, 0).sum()
    return total, *_in_their_types(found, inputs_)


@torch.library.custom_op(
    "mmenc::score_loss_scaled", mutates_args=(), schema="(Tensor gradient, Tensor factor, Tensor of) -> Tensor"
)
def scaled(gradient: Tensor, factor: Tensor, of: Tensor) -> Tensor:
    """Gradient * factor. An operator of the input `of`, with no derivative: a second one is an error and not zero."""
    return gradient * factor.to(gradient.dtype)


def _coefficients(p: Problem, weights: Tensor | None, mean: bool) -> Tensor:
    """What each query's loss counts: its weight, over the sum of all weights for a mean; 0 without a positive."""
    counts = has_positive(p).to(p.dtype)
    if weights is not None:
        counts = counts * weights.to(p.dtype)
    total = counts.sum()
    return counts / total.where(total != 0, 1) if mean else counts


def _solve_at_once(solve: Any, p: Problem, coefficients: Tensor, needs: Needs) -> tuple[Tensor, Any]:
    if any(needs) and hasattr(solve, "at_once"):
        return solve.at_once(p, coefficients, needs)  # type: ignore[no-any-return]
    loss, row_lse, column_lse = solve.losses(p)
    found = solve.gradients(p, coefficients, row_lse, column_lse, needs) if any(needs) else (None,) * 4
    return loss, found


def _in_their_types(found: Any, inputs: Any) -> tuple[Tensor, ...]:
    """The gradients of queries, items, scale and bias in the types of those; an empty tensor for None."""
    queries = inputs[0]
    return tuple(
        queries.new_empty(0) if gradient is None else gradient.to(like.dtype)
        for gradient, like in zip(found, inputs[:4], strict=True)
    )


@each.register_fake
def _(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    queries, items, item_ids, symmetric = inputs[0], inputs[1], inputs[4], inputs[9]
    dtype = summed_in(queries.dtype)
    n = (items if item_ids is None else item_ids).shape[0]
    rows = queries.new_empty(queries.shape[0], dtype=dtype)
    return torch.empty_like(rows), rows, queries.new_empty(n if symmetric else 0, dtype=dtype)


@each_backward.register_fake
def _(*inputs: Any) -> tuple[Tensor, ...]:
    return _fake_gradients(inputs, inputs[-1])


@scaled.register_fake
def _(gradient: Tensor, factor: Tensor, of: Tensor) -> Tensor:
    return torch.empty_like(gradient)


@at_once.register_fake
def _(*inputs: Any) -> tuple[Tensor, ...]:
    return inputs[0].new_empty((), dtype=summed_in(inputs[0].dtype)), *_fake_gradients(inputs, inputs[-1])


def _fake_gradients(inputs: Any, needs: Any) -> tuple[Tensor, ...]:
    return tuple(
        like.new_empty(like.shape) if need and like is not None else inputs[0].new_empty(0)
        for like, need in zip(inputs[:4], needs, strict=True)
    )


def _set_up_each(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.symmetric, ctx.scorer = inputs[9:]
    ctx.save_for_backward(*inputs[:9], *output[1:])
    ctx.set_materialize_grads(False)


def _each_backward(ctx: Any, loss: Tensor | None, *others: Tensor | None) -> tuple[Tensor | None, ...]:
    if loss is None:
        return (None,) * 11
    needs, saved = list(ctx.needs_input_grad[:4]), ctx.saved_tensors
    found = each_backward(*saved[:9], ctx.symmetric, ctx.scorer, loss, *saved[9:], needs)
    return (*(g if need else None for g, need in zip(found, needs, strict=True)), *(None,) * 7)


def _set_up_at_once(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.needs = inputs[-1]
    ctx.save_for_backward(*output[1:], *inputs[:4])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _at_once_backward(ctx: Any, total: Tensor | None, *others: Tensor | None) -> tuple[Any, ...]:
    if total is None:
        return (None,) * 14
    saved = ctx.saved_tensors
    found = (
        _times(g, total, of) if need else None for g, of, need in zip(saved[:4], saved[4:], ctx.needs, strict=True)
    )
    return (*found, *(None,) * 10)


def _times(gradient: Tensor, factor: Tensor, of: Tensor) -> Tensor:
    """Their product, without a copy where the factor is seen to be 1 (a plain loss.backward())."""
    seen = type(factor) is Tensor and factor.device.type == "cpu"  # it has a value, which costs no waiting to read
    if seen and not torch.is_grad_enabled() and float(factor) == 1:
        return gradient
    return scaled(gradient, factor, of)  # type: ignore[no-any-return]


each.register_autograd(_each_backward, setup_context=_set_up_each)
at_once.register_autograd(_at_once_backward, setup_context=_set_up_at_once)
