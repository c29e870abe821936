"""The loss's derivatives by the scores, as the kernels take them, and what surrounds the kernels of either strategy.

slope(b, n) = row[b] * exp(s - row_lse[b]) + column[n] * exp(s - column_lse[n]) - the shares of the positives, where
row and column are the coefficients of the two softmaxes (column: symmetric only).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mmenc_plugin.kernels.score_loss.problem import Needs, Problem, rows_of, transposed

LOG2_E = math.log2(math.e)
UNIT = 15  # slopes are at most 1 in size and travel times 2 ** UNIT, so that float16 keeps those down to 1e-9 whole


@dataclass(frozen=True)
class View:
    """Slopes with X as rows: what `gradient_kernel` takes.

    Attributes:
        tensors: x_terms, y_terms, those of the second softmax, signs of X and of Y, and whether one is negative.
        weights: [T] what each positive takes off.
        own: what the sums over Y are to be multiplied with beside the common factor: [n_x], or a number [].
    """

    tensors: tuple[Tensor | None, ...]
    weights: Tensor
    own: Tensor


@dataclass(frozen=True)
class Slopes:
    """Coefficients over their largest size, which is `factor` * 2 ** UNIT.

    Attributes:
        factor: [] what gives a slope from what the kernels hold.
        rows: [B] coefficients of the queries' softmaxes, in -1..1.
        row_shares: [B] what a positive takes off its query's slopes, in the same unit.
        row_lse: [B] to the base 2.
        columns, column_shares, column_lse: [N] the same of the items' softmaxes; None unless symmetric.
        positives: row and column [T] of each.
    """

    factor: Tensor
    rows: Tensor
    row_shares: Tensor
    row_lse: Tensor
    columns: Tensor | None
    column_shares: Tensor | None
    column_lse: Tensor | None
    positives: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, p: Problem, coefficients: Tensor, row_lse: Tensor, column_lse: Tensor) -> Slopes:
        """From the loss's coefficients [B]."""
        halves = coefficients.to(p.dtype) * (0.5 if p.symmetric else 1.0)
        positives = rows_of(p.targets), p.targets[1]
        n_row = p.targets[0].diff()
        rows = halves.where(n_row > 0, 0)
        largest = rows.abs().amax()
        if not p.symmetric:
            largest = largest.where(largest > 0, 1)
            rows = rows / largest
            shares = rows / n_row.clamp(min=1)
            return cls(largest * 2.0**-UNIT, rows, shares, row_lse * LOG2_E, None, None, None, positives)
        n_column = transposed(p.targets, p.n_columns)[0].diff()
        columns = halves.where(n_column > 0, 0)
        largest = torch.maximum(largest, columns.abs().amax())
        largest = largest.where(largest > 0, 1)
        rows, columns = rows / largest, columns / largest
        return cls(
            largest * 2.0**-UNIT, rows, rows / n_row.clamp(min=1), row_lse * LOG2_E,
            columns, columns / n_column.clamp(min=1), column_lse * LOG2_E, positives,
        )  # fmt: skip

    def weights(self) -> Tensor:
        """[T] what each positive takes off the slope of its entry."""
        rows, columns = self.positives
        shares = self.row_shares[rows]
        if self.column_shares is not None:
            shares = shares + self.column_shares[columns]
        return shares * 2.0**UNIT

    def seen_from(self, queries: bool, x_bias: Tensor | None, y_bias: Tensor | None) -> View:
        """With the queries as X, or with the items; biases to the base 2."""
        rows = _exponents(self.rows, self.row_lse)
        if self.columns is None or self.column_lse is None:
            if queries:  # each row's coefficient waits until its sum is complete
                plain = _exponents((self.rows != 0).to(rows.dtype), self.row_lse)
                weights = (self.row_shares / self.rows.where(self.rows != 0, 1))[self.positives[0]] * 2.0**UNIT
                return View((plain, y_bias, None, None, None, None, None), weights, self.rows)
            signs = self.rows.sign()
            return View((x_bias, rows, None, None, None, signs, _any(signs)), self.weights(), self.factor.new_ones(()))
        columns = _exponents(self.columns, self.column_lse)
        x_signs, y_signs = self.rows.sign(), self.columns.sign()
        terms: tuple[Tensor | None, ...] = rows, y_bias, torch.zeros_like(rows), _plus(columns, y_bias)
        if not queries:
            x_signs, y_signs = y_signs, x_signs
            terms = _plus(columns, x_bias), None, torch.zeros_like(columns) if x_bias is None else x_bias, rows
        negative = _any(torch.cat([x_signs, y_signs]))
        return View((*terms, x_signs, y_signs, negative), self.weights(), self.factor.new_ones(()))


def less_mean(p: Problem, row_lse: Tensor, column_lse: Tensor, scores: Tensor) -> Tensor:
    """Loss [B] from the log-sum-exps and the scores [T] of the positives."""
    loss = _less_mean(row_lse, p.targets[0], scores)
    if p.symmetric:
        order = torch.argsort(p.targets[1], stable=True)
        offsets = transposed(p.targets, p.n_columns)[0]
        loss = (loss + _less_mean(column_lse, offsets, scores[order])) / 2
    return loss


def times_scale(p: Problem, sums: Tensor, needs: Needs) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of queries [B, D] and scale from sum_n slope(b, n) * item[n]; right at a scale of 0, too."""
    d_scale = (sums * p.queries).sum() if needs[2] else None
    return sums * p.scale if needs[0] else None, d_scale


def add_up(columns: Tensor, p: Problem) -> Tensor:
    """[V, D] the sums of the columns' rows [N, D] by item, in the same order on every run."""
    assert p.item_ids is not None
    in_order, order = torch.sort(p.item_ids, stable=True)
    offsets = torch.searchsorted(in_order, torch.arange(len(p.items) + 1, device=order.device))
    return torch.segment_reduce(columns[order], "sum", offsets=offsets, unsafe=True, initial=0)


def _less_mean(lse: Tensor, offsets: Tensor, scores: Tensor) -> Tensor:
    n = offsets.diff()
    total = torch.segment_reduce(scores, "sum", offsets=offsets, unsafe=True, initial=0)
    return (lse - total / n.clamp(min=1)).where(n > 0, 0)


def _exponents(coefficients: Tensor, lse: Tensor) -> Tensor:
    """log2 of coefficient * 2 ** UNIT / 2 ** lse, of the coefficients' sizes; -inf for 0."""
    return (coefficients.abs().log2() + UNIT - lse).where(coefficients != 0, -torch.inf)


def _plus(terms: Tensor, bias: Tensor | None) -> Tensor:
    return terms if bias is None else terms + bias


def _any(signs: Tensor) -> Tensor:
    return (signs < 0).any().to(torch.int32)
