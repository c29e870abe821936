"""score_loss by the streaming kernels: no score in memory, each computed once for the loss and twice for gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmenc_plugin.kernels.score_loss import _triton_config
from mmenc_plugin.kernels.score_loss._triton_backward import gradient_kernel
from mmenc_plugin.kernels.score_loss._triton_config import BLOCK_PAIRS, Kind, block_d, upcasts
from mmenc_plugin.kernels.score_loss._triton_events import Events, Split
from mmenc_plugin.kernels.score_loss._triton_forward import lse_kernel, pair_kernel
from mmenc_plugin.kernels.score_loss._triton_slopes import LOG2_E, Slopes, add_up, less_mean, times_scale
from mmenc_plugin.kernels.score_loss.problem import Gradients, Needs, Problem, rows_of

PRECISION = "tf32x3"  # of float32: three products of TF32, with an error near that of float32


def losses(p: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [B], log-sum-exp of each query's scores [B], and of each column's (symmetric: [N], else empty)."""
    row_lse = _lse(_Side.queries(p), _Side.items(p), p)
    column_lse = row_lse.new_empty(0)
    if p.symmetric:
        column_lse = _lse(_Side.items(p), _Side.queries(p), p)
        column_lse = column_lse if p.bias is None else column_lse + p.bias
    return less_mean(p, row_lse, column_lse, _positive_scores(p)), row_lse, column_lse


def gradients(p: Problem, coefficients: Tensor, row_lse: Tensor, column_lse: Tensor, needs: Needs) -> Gradients:
    """Gradients of sum_b coefficients[b] * loss[b], for those of queries, items, scale and bias that are needed."""
    slopes = Slopes.of(p, coefficients, row_lse, column_lse)
    queries, items = _Side.queries(p), _Side.items(p)
    d_queries = d_items = d_scale = d_bias = None
    if needs[0] or needs[2]:
        d_queries, _ = _sums(queries, items, p, slopes, slopes.factor, torch.float32, False)
        d_queries, d_scale = times_scale(p, d_queries, needs)
    if needs[1] or needs[3]:
        whole = p.item_ids is None and not upcasts(p.items.dtype)
        kept = p.items.dtype if whole else torch.float32
        d_items, d_bias = _sums(items, queries, p, slopes, slopes.factor * p.scale, kept, needs[3])
        d_bias = None if d_bias is None else d_bias * slopes.factor
        d_items = None if not needs[1] else d_items if p.item_ids is None else add_up(d_items, p)
    return d_queries, d_items, d_scale, d_bias


@dataclass(frozen=True)
class _Side:
    """One side of the scores: rows [n, D] as they lie in memory, perhaps read through `ids` [n].

    Attributes:
        rows: contiguous.
        ids: None where row n is rows[n].
        bias: [n] to the base 2, or None.
        is_queries: which side.
    """

    rows: Tensor
    ids: Tensor | None
    bias: Tensor | None
    is_queries: bool

    @classmethod
    def queries(cls, p: Problem) -> _Side:
        return cls(p.queries.contiguous(), None, None, True)

    @classmethod
    def items(cls, p: Problem) -> _Side:
        ids = None if p.item_ids is None else p.item_ids.long().contiguous()
        return cls(p.items.contiguous(), ids, None if p.bias is None else p.bias * LOG2_E, False)

    def __len__(self) -> int:
        return len(self.rows if self.ids is None else self.ids)


def _shapes(x: _Side, y: _Side, kind: Kind, width: int) -> tuple[dict[str, object], Split]:
    """What all streaming kernels are told of tiles and ids, and how Y is split."""
    chosen = _triton_config.config(kind, x.rows.dtype, width)
    assert chosen is not None  # the caller has asked `streams`
    shapes = {
        "D": width, "BLOCK_X": chosen.block_x, "BLOCK_Y": chosen.block_y, "BLOCK_D": block_d(width),
        "X_IDS": x.ids is not None, "Y_IDS": y.ids is not None, "PRECISION": PRECISION,
        "UPCAST": upcasts(x.rows.dtype), "num_warps": chosen.num_warps, "num_stages": chosen.num_stages,
    }  # fmt: skip
    return shapes, Split.of(len(x), len(y), chosen.block_x, chosen.block_y, x.rows.device)


def _lse(x: _Side, y: _Side, p: Problem) -> Tensor:
    """[n_x] log-sum-exp over Y, without the bias of X."""
    shapes, split = _shapes(x, y, "forward", p.queries.shape[1])
    events = _events(p, x, len(y), split, None)
    out = p.scale.new_empty(split.n, len(x))
    grid = (-(-len(x) // int(shapes["BLOCK_X"])), split.n)  # type: ignore[call-overload]
    nothing = out  # stands for what a variant does not read
    lse_kernel[grid](
        x.rows, y.rows, _ids(x, y, nothing), p.scale, nothing if y.bias is None else y.bias,
        nothing if events is None else events.bounds, nothing if events is None else events.y, out,
        len(x), len(y), split.span, HAS_TERMS=y.bias is not None, HAS_EVENTS=events is not None, **shapes,
    )  # fmt: skip
    return torch.logsumexp(out / LOG2_E, 0)  # of the splits'


def _sums(
    x: _Side, y: _Side, p: Problem, slopes: Slopes, factors: Tensor, kept: torch.dtype, row_sums: bool
) -> tuple[Tensor, Tensor | None]:
    """[n_x, D] sum_y slope(x, y) * y times the factors, and perhaps [n_x] sum_y slope(x, y) in the slopes' unit."""
    shapes, split = _shapes(x, y, "symmetric" if p.symmetric else "backward", p.queries.shape[1])
    side = slopes.seen_from(x.is_queries, x.bias, y.bias)
    events = _events(p, x, len(y), split, side.weights)
    assert events is not None
    out = x.rows.new_empty(split.n, len(x), x.rows.shape[1], dtype=kept if split.n == 1 else torch.float32)
    sums = p.scale.new_empty(split.n, len(x) if row_sums else 0)
    factors = (factors * side.own).contiguous()
    grid = (-(-len(x) // int(shapes["BLOCK_X"])), split.n)  # type: ignore[call-overload]
    terms = [sums if t is None else t.contiguous() for t in side.tensors]
    gradient_kernel[grid](
        x.rows, y.rows, _ids(x, y, sums), p.scale, *terms, events.bounds, events.y, events.weight, factors, out, sums,
        len(x), len(y), split.span, int(factors.ndim), HAS_X_TERMS=side.tensors[0] is not None,
        HAS_Y_TERMS=side.tensors[1] is not None, SYMMETRIC=p.symmetric, SIGNS=side.tensors[5] is not None,
        HAS_SUMS=row_sums, **shapes,
    )  # fmt: skip
    return out[0] if split.n == 1 else out.sum(0), sums.sum(0) if row_sums else None


def _ids(x: _Side, y: _Side, nothing: Tensor) -> Tensor:
    return x.ids if x.ids is not None else y.ids if y.ids is not None else nothing


def _events(p: Problem, x: _Side, n_y: int, split: Split, weights: Tensor | None) -> Events | None:
    """The excluded entries, with the positives where they have weights; None without any to be excluded."""
    rows, columns = rows_of(p.exclude), p.exclude[1]
    weight = p.scale.new_full((len(columns),), torch.nan)
    if weights is not None:
        rows, columns = torch.cat([rows_of(p.targets), rows]), torch.cat([p.targets[1], columns])
        weight = torch.cat([weights, weight])
    elif not len(columns):
        return None
    if not x.is_queries:
        rows, columns = columns, rows
    return Events.of(rows, columns, weight, len(x), n_y, split)


def _positive_scores(p: Problem) -> Tensor:
    """[T] the score of each positive."""
    rows, items, width = rows_of(p.targets), _Side.items(p), p.queries.shape[1]
    scores = p.scale.new_empty(len(rows))
    bias = scores if p.bias is None else p.bias.contiguous()
    if len(rows):
        pair_kernel[(-(-len(rows) // BLOCK_PAIRS),)](
            p.queries.contiguous(), items.rows, scores if items.ids is None else items.ids, p.scale, bias, rows,
            p.targets[1], scores, len(rows), D=width, BLOCK=BLOCK_PAIRS, BLOCK_D=min(block_d(width), 256),
            Y_IDS=items.ids is not None, HAS_BIAS=p.bias is not None,
        )  # fmt: skip
    return scores
