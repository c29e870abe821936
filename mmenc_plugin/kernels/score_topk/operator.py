"""The operator mmenc::score_topk: checks of values, and the choice of the implementation."""

from __future__ import annotations

import torch
from torch import Tensor

from mmenc_plugin.kernels.checks import CSR, check_csr, check_no_nan, check_range
from mmenc_plugin.kernels.dispatch import choose
from mmenc_plugin.kernels.score_topk import cpu, reference

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op("mmenc::score_topk", mutates_args=())
def score_topk_op(
    users: Tensor,
    items: Tensor,
    k: int,
    bias: Tensor | None,
    seen_of: Tensor | None,
    seen: Tensor | None,
    candidates: Tensor | None,
    targets_of: Tensor | None,
    targets: Tensor | None,
    scorer: str,
) -> Outputs:
    """See `mmenc_plugin.kernels.score_topk`; `exclude` is (seen_of, seen), `targets` (targets_of, targets).

    Returns:
        ids [B, K], scores [B, K], and above, tied, tied_before [T]; the last three are [0] without targets.
    """
    excluded, wanted = _csr(seen_of, seen), _csr(targets_of, targets)
    if bias is not None:
        bias = bias.to(score_type(users.dtype))
    if candidates is not None:
        candidates = candidates.long()
    _check_values(users, items, bias, excluded, candidates, wanted)
    implementation = choose("score_topk", scorer, users, items)  # type: ignore[arg-type]
    with torch.autocast(users.device.type, enabled=False):
        if implementation == "reference":
            top = reference.score_topk(users, items, k, bias, excluded, candidates, wanted)
        else:
            top = cpu.score_topk(users, items, k, bias, excluded, candidates, wanted)
    if top.ranks is None:
        return top.ids, top.scores, *(top.ids.new_zeros(0) for _ in range(3))
    return top.ids, top.scores, top.ranks.above, top.ranks.tied, top.ranks.tied_before


@score_topk_op.register_fake
def _(
    users: Tensor,
    items: Tensor,
    k: int,
    bias: Tensor | None,
    seen_of: Tensor | None,
    seen: Tensor | None,
    candidates: Tensor | None,
    targets_of: Tensor | None,
    targets: Tensor | None,
    scorer: str,
) -> Outputs:
    rows, columns = users.shape[0], items.shape[0] if candidates is None else candidates.shape[0]
    kept = torch.sym_min(k, columns)
    counted = 0 if targets is None else targets.shape[0]
    ids = users.new_empty((rows, kept), dtype=torch.int64)
    scores = users.new_empty((rows, kept), dtype=score_type(users.dtype))
    return ids, scores, *(users.new_empty(counted, dtype=torch.int64) for _ in range(3))


def score_type(dtype: torch.dtype) -> torch.dtype:
    """The type of the scores: float64 for float64, float32 for all else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _csr(offsets: Tensor | None, rows: Tensor | None) -> CSR | None:
    return None if offsets is None or rows is None else (offsets.long(), rows.long())


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
    for name, tensor in (("users", users), ("items", items), ("bias", bias)):
        # The largest value is NaN where any is: one pass over the table, and no [N, D] of flags.
        if tensor is not None and tensor.numel() and bool(tensor.amax().isnan()):
            check_no_nan(**{name: tensor})
