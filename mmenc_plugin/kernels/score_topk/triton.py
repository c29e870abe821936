"""score_topk in Triton: the maxima of groups of items, then the scores of the k best groups again.

The k largest of the maxima belong to k items, so what is better than the worst of them stands in one of their groups;
and of equal maxima those of smaller groups are taken, so equal scores go to the smaller rows. Memory beside the inputs
and the answer is that of MAXIMA maxima and RESCORED_AT_ONCE scores, for some users at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmenc_plugin.kernels.checks import CSR
from mmenc_plugin.kernels.dispatch import interpreted
from mmenc_plugin.kernels.score_loss._triton_config import block_d, upcasts
from mmenc_plugin.kernels.score_loss._triton_events import Split
from mmenc_plugin.kernels.score_topk import cpu
from mmenc_plugin.kernels.score_topk._triton_config import RESCORED, Config, config, group, variants
from mmenc_plugin.kernels.score_topk._triton_kernels import count_kernel, own_kernel, peaks_kernel, rescore_kernel
from mmenc_plugin.kernels.score_topk.reference import rows_of
from mmenc_plugin.kernels.score_topk.select import refuse_nan, the_best
from mmenc_plugin.kernels.score_topk.tiles import Columns
from mmenc_plugin.types import TargetRanks, TopK

__all__ = ["score_topk", "variants"]

MAXIMA = 1 << 26
RESCORED_AT_ONCE = 1 << 24
TARGETS = 1 << 16  # whose ranks are counted at once


def score_topk(
    users: Tensor,
    items: Tensor,
    k: int,
    bias: Tensor | None = None,
    exclude: CSR | None = None,
    candidates: Tensor | None = None,
    targets: CSR | None = None,
) -> TopK:
    """See `mmenc_plugin.kernels.score_topk`; exact up to the rounding of a score."""
    columns = Columns.of(items, bias, candidates, targets)
    if 0 in (*users.shape, len(columns)):
        return cpu.score_topk(users, items, k, bias, exclude, candidates, targets)
    k = min(k, len(columns) - len(columns.closed))
    p = _Problem.of(users, columns, exclude)
    ids = torch.empty(len(users), k, dtype=torch.int64, device=users.device)
    scores = torch.empty(len(users), k, device=users.device)
    for block in p.blocks(k) if k else ():
        scores[block], found = _rank(p, block, k)
        ids[block] = columns.to_rows(found).masked_fill_(scores[block] == -torch.inf, -1)
    return TopK(ids, scores, None if targets is None else _ranks(p, columns, targets))


@dataclass(frozen=True)
class _Problem:
    """What the kernels read.

    Attributes:
        users: [B, D], contiguous.
        table: [C, D] the columns' items, contiguous.
        bias: [C] or None; -inf for columns that nobody may get.
        own_bias: [C] or None; without those -inf.
        excluded: [E] user * C + column, ascending and distinct.
        columns: [E] of them, int32.
        config: the tiles.
        group: items that share one maximum.
    """

    users: Tensor
    table: Tensor
    bias: Tensor | None
    own_bias: Tensor | None
    excluded: Tensor
    columns: Tensor
    config: Config
    group: int

    @classmethod
    def of(cls, users: Tensor, columns: Columns, exclude: CSR | None) -> _Problem:
        everything = slice(0, len(columns))
        bias = columns.biases(everything)
        own_bias = bias = None if bias is None else bias.contiguous()
        if len(columns.closed):
            bias = torch.zeros(len(columns), device=users.device) if bias is None else bias.clone()
            bias[columns.closed] = -torch.inf
        excluded = torch.zeros(0, dtype=torch.int64, device=users.device)
        if exclude is not None:
            at, there = columns.of_rows(exclude[1])
            excluded = torch.unique((rows_of(exclude[0]) * len(columns) + at)[there])
        chosen = config(users.dtype, users.shape[1])
        return cls(
            users.contiguous(), columns.table(everything).contiguous(), bias, own_bias, excluded,
            (excluded % len(columns)).to(torch.int32), chosen, group(len(columns), chosen.block_y),
        )  # fmt: skip

    @property
    def n_groups(self) -> int:
        """Groups of columns."""
        return -(-len(self.table) // self.group)

    def blocks(self, k: int) -> Iterator[slice]:
        """Of as many users as keep the memory in bounds."""
        most = min(MAXIMA // self.n_groups, RESCORED_AT_ONCE // (min(k, self.n_groups) * self.group))
        step = max(most // self.config.block_x, 1) * self.config.block_x
        return (slice(s, min(s + step, len(self.users))) for s in range(0, len(self.users), step))

    def split(self, rows: int, c: Config) -> Split:
        """Parts of the columns, for as many rows of users."""
        return Split.of(rows, len(self.table), c.block_x, c.block_y, self.users.device)

    def bounds(self, rows: Tensor, split: Split) -> Tensor:
        """[R, parts + 1] where the excluded columns of each user and part begin, and the last end."""
        n = len(self.table)
        starts = (torch.arange(split.n + 1, device=rows.device) * split.span).clamp(max=n)
        return torch.searchsorted(self.excluded, rows[:, None] * n + starts)

    def options(self, c: Config) -> dict[str, Any]:
        """What the kernels that go through all columns are told."""
        shape = {**c.tiles(self.users.shape[1]), "UPCAST": upcasts(self.users.dtype)}
        return {**shape, "HAS_BIAS": self.bias is not None, "HAS_EVENTS": len(self.excluded) > 0, **_launch(c)}


def _launch(c: Config) -> dict[str, int]:
    return {"num_warps": c.num_warps, "num_stages": c.num_stages}


def _rank(p: _Problem, block: slice, k: int) -> tuple[Tensor, Tensor]:
    """Scores and columns [R, k] of the users `block`."""
    peaks = _peaks(p, block)
    refuse_nan(peaks)
    kept = min(k, p.n_groups)
    user, groups = the_best(peaks, kept)[0].nonzero(as_tuple=True)
    user += block.start
    scores = peaks.new_empty(len(user), p.group)
    rescore_kernel[(len(user),)](
        p.users, p.table, scores if p.bias is None else p.bias, user, groups, scores, len(p.table),
        D=p.users.shape[1], BLOCK_D=min(block_d(p.users.shape[1]), RESCORED), GROUP=p.group,
        HAS_BIAS=p.bias is not None,
    )  # fmt: skip
    columns = groups[:, None] * p.group + torch.arange(p.group, device=peaks.device)
    if len(p.excluded):
        keys = user[:, None] * len(p.table) + columns
        at = torch.searchsorted(p.excluded, keys).clamp_(max=len(p.excluded) - 1)
        beyond = columns >= len(p.table)  # would be a column of the next user
        scores.masked_fill_((p.excluded[at] == keys) & ~beyond, -torch.inf)
    refuse_nan(scores)
    rows = block.stop - block.start
    scores, columns = scores.view(rows, -1), columns.view(rows, -1)
    best = the_best(scores, k)[0]
    scores, order = scores[best].view(rows, k).sort(dim=1, descending=True, stable=True)
    return scores, columns[best].view(rows, k).gather(1, order)


def _peaks(p: _Problem, block: slice) -> Tensor:
    """[R, groups] the largest admissible score of each group."""
    users = p.users[block]
    split = p.split(len(users), p.config)
    peaks = torch.empty(len(users), p.n_groups, device=users.device)
    bounds = p.bounds(torch.arange(block.start, block.stop, device=users.device), split)
    peaks_kernel[(-(-len(users) // p.config.block_x), split.n)](
        users, p.table, peaks if p.bias is None else p.bias, bounds, p.columns, peaks, len(users), len(p.table),
        p.n_groups, split.span, GROUP=p.group, INTERPRETED=interpreted(), **p.options(p.config),
    )  # fmt: skip
    return peaks


def _ranks(p: _Problem, columns: Columns, targets: CSR) -> TargetRanks:
    rows, (at, _) = rows_of(targets[0]), columns.of_rows(targets[1])
    parts = zip(torch.split(rows, TARGETS), torch.split(at, TARGETS), strict=True)
    counts = torch.cat([at.new_zeros(3, 0), *(_counts(p, *part) for part in parts if len(part[0]))], 1)
    return TargetRanks(*(count.clone() for count in counts))


def _counts(p: _Problem, rows: Tensor, at: Tensor) -> Tensor:
    """[3, T] of admissible items above the targets (rows, at), tied, and tied before."""
    width = p.users.shape[1]
    c = config(p.users.dtype, width, counting=True)
    own = torch.empty(len(rows), device=rows.device)
    own_kernel[(-(-len(rows) // c.block_x),)](
        p.users, p.table, own if p.own_bias is None else p.own_bias, rows, at, own, len(rows), BLOCK=c.block_x,
        HAS_BIAS=p.own_bias is not None, **{**c.products(width), "UPCAST": upcasts(p.users.dtype)}, **_launch(c),
    )  # fmt: skip
    if bool(own.isnan().any()):
        raise ValueError("the score of a target is not a number (infinite users, items or bias).")
    split = p.split(len(rows), c)
    counts = torch.empty(split.n, 3, len(rows), dtype=torch.int32, device=rows.device)
    count_kernel[(-(-len(rows) // c.block_x), split.n)](
        p.users, p.table, own if p.bias is None else p.bias, rows, at, own, p.bounds(rows, split), p.columns, counts,
        len(rows), len(p.table), split.span, **p.options(c),
    )  # fmt: skip
    return counts.sum(0)
