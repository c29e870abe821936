"""bpr_loss on a GPU: one pass over the negatives, and gradients summed row by row without atomics.

The loss kernel gives each program a few rows of the batch and streams their negatives past them, so that a gathered
row lives in registers only. The gradients need two kernels: the pairs are sorted by table row; one kernel sums each
block of pairs that lies within one row (so that a popular item is no long loop), the other what is left of each row,
and writes the row once. Every sum has one order, so the bits are the same on every run.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from mmenc_plugin.kernels.bpr_loss._triton_kernels import loss_kernel, rows_kernel, whole_blocks_kernel
from mmenc_plugin.kernels.bpr_loss._triton_variants import (
    PAIRS,
    ROWS,
    WARPS,
    blocks_of_sums,
    blocks_of_the_loss,
    variants,
)
from mmenc_plugin.kernels.bpr_loss.parts import Forward, Groups, Problem
from mmenc_plugin.kernels.dispatch import interpreted

__all__ = ["forward", "sum_rows", "variants"]


def forward(p: Problem, gradients: bool, user_gradient: bool) -> Forward:
    """The losses, and what they are derived from: see `parts.Forward`."""
    (size, negatives), width = p.negative_ids.shape, p.users.shape[1]
    losses = _empty(p.users, size)
    coefficients = _empty(p.users, size, 1 + negatives) if gradients else None
    user_rows = _empty(p.users, size, width) if user_gradient else None
    blocks = blocks_of_the_loss(width)
    if size:
        tensors = (p.users, p.items, p.user_ids, p.positive_ids, p.negative_ids, p.bias, p.log_q)
        with _device(p.users):
            loss_kernel[(_ceil(size, blocks["BLOCK_B"]),)](
                *(None if t is None else t.contiguous() for t in tensors),
                losses, coefficients, user_rows, size, negatives,
                SOFTMAX=p.loss == "softmax", **blocks, num_warps=WARPS,
            )  # fmt: skip
    return Forward(losses, coefficients, user_rows)


def sum_rows(source: Tensor, coefficients: Tensor, groups: Groups, dtype: torch.dtype) -> Tensor:
    """As `cpu.sum_rows`."""
    total, (size, each), width = len(groups), coefficients.shape, source.shape[1]
    # The interpreter cuts a bfloat16 off where a GPU rounds it.
    out = _empty(source, total, width, dtype=torch.float32 if interpreted() else dtype)
    partial = _empty(source, size * each // PAIRS, width)
    values = coefficients.reshape(-1)[groups.order]
    rows, source = groups.order.div(each, rounding_mode="floor"), source.contiguous()
    blocks = blocks_of_sums(width)
    columns = _ceil(width, blocks["BLOCK_D"])
    with _device(source):
        if len(partial):
            whole_blocks_kernel[(len(partial), columns)](
                source, rows, values, _is_whole(groups, len(partial)), partial, **blocks, num_warps=WARPS
            )
        if total:
            rows_kernel[(_ceil(total, ROWS), columns)](
                source, rows, values, groups.offsets, partial, out, total, ROWS=ROWS, **blocks, num_warps=WARPS
            )
    return out.to(dtype)


def _is_whole(groups: Groups, blocks: int) -> Tensor:
    """Whether each block of PAIRS pairs lies within one group: it ends no later than the group that it starts in."""
    starts = torch.arange(blocks, device=groups.offsets.device) * PAIRS
    return groups.offsets[torch.searchsorted(groups.offsets, starts, right=True)] - starts >= PAIRS


def _ceil(size: int, block: int) -> int:
    return -(-size // block)


def _empty(like: Tensor, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A result that a kernel writes: of no values before."""
    return torch.empty(shape, dtype=dtype, device=like.device)


def _device(of: Tensor) -> AbstractContextManager[object]:
    """Where kernels are started: Triton takes the current device, not the tensors'."""
    return torch.cuda.device(of.device) if of.is_cuda else nullcontext()
