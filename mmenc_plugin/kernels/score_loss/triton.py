"""score_loss in Triton: streaming kernels where a tile of the gradients fits the registers, else tiles in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from mmenc_plugin.kernels.score_loss import _triton_stream, _triton_tiles
from mmenc_plugin.kernels.score_loss._triton_config import config
from mmenc_plugin.kernels.score_loss._triton_variants import variants
from mmenc_plugin.kernels.score_loss.problem import Gradients, Needs, Problem

__all__ = ["at_once", "gradients", "losses", "streams", "variants"]


def streams(p: Problem) -> bool:
    """Whether the streaming kernels serve: narrow rows, of a half type or of float32 that need not be exact.

    Exact float32 (torch's matmul precision "highest") has no tensor cores, and the compiler's products spill.
    """
    if p.queries.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest":
        return False
    return config("symmetric" if p.symmetric else "backward", p.queries.dtype, p.queries.shape[1]) is not None


def losses(p: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [B], log-sum-exp of each query's scores [B], and of each column's (symmetric: [N], else empty)."""
    if _is_empty(p):
        nothing = p.scale.new_full((len(p.queries),), -torch.inf)
        columns = p.scale.new_full((p.n_columns if p.symmetric else 0,), -torch.inf)
        return torch.zeros_like(nothing), nothing, columns
    return _triton_stream.losses(p) if streams(p) else _triton_tiles.losses(p)


def gradients(p: Problem, coefficients: Tensor, row_lse: Tensor, column_lse: Tensor, needs: Needs) -> Gradients:
    """Gradients of sum_b coefficients[b] * loss[b], for those of queries, items, scale and bias that are needed."""
    if _is_empty(p):
        inputs = zip((p.queries, p.items, p.scale, p.bias), needs, strict=True)
        return tuple(torch.zeros_like(t) if need and t is not None else None for t, need in inputs)  # type: ignore[return-value]
    solve = _triton_stream.gradients if streams(p) else _triton_tiles.gradients
    return solve(p, coefficients, row_lse, column_lse, needs)


def at_once(p: Problem, coefficients: Tensor, needs: Needs) -> tuple[Tensor, Gradients]:
    """Loss [B] and the gradients of sum_b coefficients[b] * loss[b]."""
    found = None if _is_empty(p) or streams(p) else _triton_tiles.at_once(p, coefficients, needs)
    if found is not None:
        return found
    loss, row_lse, column_lse = losses(p)
    return loss, gradients(p, coefficients, row_lse, column_lse, needs)


def _is_empty(p: Problem) -> bool:
    return 0 in (len(p.queries), p.n_columns)
