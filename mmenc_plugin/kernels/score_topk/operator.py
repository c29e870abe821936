"""score_topk as a torch operator, opaque to torch.compile: checks of values, and the choice of the implementation."""

from __future__ import annotations

import importlib
from typing import Any, cast

import torch
from torch import Tensor

from mmenc_plugin.kernels.checks import CSR, check_csr, check_no_nan, check_range
from mmenc_plugin.kernels.dispatch import Scorer, choose
from mmenc_plugin.kernels.precision import summed_in
from mmenc_plugin.types import TopK


@torch.library.custom_op(
    "mmenc::score_topk", mutates_args=(),
    schema="(Tensor users, Tensor items, SymInt k, Tensor? bias, Tensor? exclude_offsets, Tensor? exclude_ids, "
    "Tensor? candidates, Tensor? target_offsets, Tensor? target_ids, str scorer) -> "
    "(Tensor ids, Tensor scores, Tensor above, Tensor tied, Tensor tied_before)",
)  # fmt: skip
def score_topk_op(users: Tensor, items: Tensor, k: int, bias: Tensor | None, *others: Any) -> tuple[Tensor, ...]:
    """See `mmenc_plugin.kernels.score_topk`.

    Returns:
        ids [B, K], scores [B, K], and above, tied, tied_before [T]; the last three are [0] without targets.
    """
    exclude, candidates, targets = _csr(*others[:2]), others[2], _csr(*others[3:5])
    if bias is not None:
        bias = bias.to(summed_in(users.dtype))
    if candidates is not None:
        candidates = candidates.long()
    name = choose("score_topk", cast(Scorer, others[5]), users, items)
    _check_values(users, items, bias, exclude, candidates, targets)
    solve = importlib.import_module(f"mmenc_plugin.kernels.score_topk.{name}")
    with torch.autocast(users.device.type, enabled=False):
        try:
            top: TopK = solve.score_topk(users, items, k, bias, exclude, candidates, targets)
        except ValueError:  # a score is NaN
            check_no_nan(items=items)  # looked for only now: for few users, that takes as long as their scores
            raise
    if top.ranks is None:
        return top.ids, top.scores, *(top.ids.new_zeros(0) for _ in range(3))
    return top.ids, top.scores, top.ranks.above, top.ranks.tied, top.ranks.tied_before


@score_topk_op.register_fake
def _(users: Tensor, items: Tensor, k: int, bias: Tensor | None, *others: Any) -> tuple[Tensor, ...]:
    candidates, targets = others[2], others[4]
    columns = items.shape[0] if candidates is None else candidates.shape[0]
    kept = torch.sym_min(k, columns)  # type: ignore[no-untyped-call]
    ids = users.new_empty((users.shape[0], kept), dtype=torch.int64)
    counts = (users.new_empty(0 if targets is None else targets.shape[0], dtype=torch.int64) for _ in range(3))
    return ids, torch.empty_like(ids, dtype=summed_in(users.dtype)), *counts


def _csr(offsets: Tensor | None, ids: Tensor | None) -> CSR | None:
    return None if offsets is None or ids is None else (offsets.long(), ids.long())


def _check_values(
    users: Tensor,
    items: Tensor,
    bias: Tensor | None,
    exclude: CSR | None,
    candidates: Tensor | None,
    targets: CSR | None,
) -> None:
    for name, csr in (("exclude", exclude), ("targets", targets)):
        if csr is not None:
            check_csr(name, csr, len(users), len(items))
    if candidates is not None:
        check_range("candidates", candidates, len(items))
        ordered = candidates.sort().values
        twice = ordered[1:][ordered.diff() == 0]
        if len(twice):
            raise ValueError(f"candidates holds row {int(twice[0])} twice, but must hold distinct rows.")
    check_no_nan(users=users, bias=bias)
