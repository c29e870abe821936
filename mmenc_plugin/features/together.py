"""What several processes encode for one another: each a share of the batch's items, and every one has all outputs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor


def n_processes() -> int:
    """How many train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def everyones(items: Tensor) -> Tensor:
    """The item rows [N] of all processes, which may have different numbers of them."""
    if n_processes() == 1:
        return items
    lengths = [items.new_zeros(1) for _ in range(n_processes())]
    dist.all_gather(lengths, items.new_tensor([len(items)]), group=_group())
    most = int(torch.cat(lengths).max())
    padded = torch.cat([items, items.new_zeros(most - len(items))])
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded, group=_group())
    return torch.cat([part[: int(n)] for part, n in zip(parts, lengths, strict=True)])


def share(rows: Tensor) -> Tensor:
    """This process's part of rows [n] that all processes know."""
    size, rank = _size(len(rows)), dist.get_rank() if n_processes() > 1 else 0
    return rows[rank * size : (rank + 1) * size]


def gather(shares: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
    """All rows, of several tables, from each process's share of them.

    The gradient of a row goes back to the process that gave it, summed over all processes. They must all take part
    in the backward pass, whether or not their loss reads a row.

    Args:
        shares: of each table, the rows that `share` names [.., D].
        lengths: n of each table.
    """
    if n_processes() == 1 or not sum(lengths):
        return list(shares)
    padded = []
    for rows, n in zip(shares, lengths, strict=True):
        lacking = _size(n) - len(rows)
        padded.append(torch.cat([rows, rows.new_zeros(lacking, rows.shape[1])]))
    mine = torch.cat([rows.flatten() for rows in padded])
    if torch.is_grad_enabled() and not mine.requires_grad:
        mine.requires_grad_()  # an empty share takes part in the backward pass as well
    everyone = cast(Tensor, _Gather.apply(mine))  # type: ignore[no-untyped-call]
    parts = torch.split(everyone, [rows.numel() for rows in padded], dim=1)
    return [part.reshape(-1, rows.shape[1])[:n] for part, rows, n in zip(parts, padded, lengths, strict=True)]


def _size(n: int) -> int:
    """Rows in a share of n."""
    return -(-n // n_processes())


@functools.cache
def _group_of(world: Any) -> Any:
    return dist.new_group()


def _group() -> Any:
    """A group beside the one in which gradients of parameters are averaged, whose order of operations is another."""
    return _group_of(dist.group.WORLD)


class _Gather(torch.autograd.Function):
    """Numbers [L] of each process -> [W, L] in every process."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:
        parts = [torch.empty_like(mine) for _ in range(n_processes())]
        dist.all_gather(parts, mine.contiguous(), group=_group())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> Tensor:
        total = above[0].contiguous().clone()
        dist.all_reduce(total, group=_group())
        return total[dist.get_rank()]
