"""Sparse matrices whose places are fixed for a while and whose values are learned."""

from __future__ import annotations

import copy
import warnings
from typing import Any, cast

import torch
from torch import Tensor, nn

from mmenc_plugin.models.blocks.graph import full, sparse_product

CHUNK = 2**20  # numbers gathered at once


class Pattern(nn.Module):
    """The E places of a sparse matrix [N, M] whose values are given to each operation, and get a gradient.

    With A the matrix that has values [E] in those places, `multiply` is A x and `products` is the part of a b^T in
    them (the sampled dense-dense product). Either is the derivative of the other, so that neither [N, M] nor [E, D]
    is made. Values stand in the order of `rows` and `columns`: by rising row, then column. Those of a place that is
    given twice add up.

    Args:
        rows: [E] of 0..N-1, in any order.
        columns: [E] of 0..M-1.
        shape: (N, M).
    """

    rows: Tensor
    columns: Tensor
    offsets: Tensor
    back: Tensor
    back_rows: Tensor
    back_offsets: Tensor

    def __init__(self, rows: Tensor, columns: Tensor, shape: tuple[int, int]) -> None:
        super().__init__()
        self.shape = shape
        order = torch.argsort(rows * shape[1] + columns, stable=True)
        rows, columns = rows[order], columns[order]
        back = torch.argsort(columns, stable=True)
        kept = {
            "rows": rows, "columns": columns, "offsets": _offsets(rows, shape[0]),
            "back": back, "back_rows": rows[back], "back_offsets": _offsets(columns[back], shape[1]),
        }  # fmt: skip
        for name, tensor in kept.items():
            self.register_buffer(name, tensor, persistent=False)

    def multiply(self, values: Tensor, x: Tensor, transposed: bool = False) -> Tensor:
        """A x [N, D] of x [M, D]; or, transposed, A^T x [M, D] of x [N, D]."""
        return cast(Tensor, _Multiply.apply(full(values), full(x), self, transposed))  # type: ignore[no-untyped-call]

    def products(self, a: Tensor, b: Tensor) -> Tensor:
        """[E] a[row] . b[column] of each place, for a [N, D] and b [M, D]."""
        return cast(Tensor, _Products.apply(full(a), full(b), self))  # type: ignore[no-untyped-call]

    def row_sums(self, values: Tensor) -> Tensor:
        """[N] the sums of the rows of A."""
        return self.multiply(values, values.new_ones(self.shape[1], 1)).squeeze(1)

    def scaled(self, values: Tensor, of_rows: Tensor, of_columns: Tensor) -> Tensor:
        """[E] the values, times the factor of their row [N] and that of their column [M]."""
        return of_rows[self.rows] * values * of_columns[self.columns]

    def matrix(self, values: Tensor, transposed: bool = False) -> Tensor:
        """The sparse CSR tensor, without gradient."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls the layout new
            parts = (self.offsets, self.columns, values)
            if transposed:
                parts = (self.back_offsets, self.back_rows, values[self.back])
            shape = self.shape[::-1] if transposed else self.shape
            return torch.sparse_csr_tensor(*parts, shape, check_invariants=False)

    def __deepcopy__(self, memo: dict[int, object]) -> Pattern:
        twin = copy.copy(self)  # the places never change: their tensors are shared
        twin._buffers = dict(self._buffers)
        return twin


class _Multiply(torch.autograd.Function):
    """y = A x. Its derivatives: of the values y_row . x_column in their places, of x by A^T."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, x: Tensor, pattern: Pattern, transposed: bool) -> Tensor:
        ctx.save_for_backward(values, x)
        ctx.pattern, ctx.transposed = pattern, transposed
        return sparse_product(pattern.matrix(values, transposed), x)

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (values, x), pattern, transposed, upper = ctx.saved_tensors, ctx.pattern, ctx.transposed, above[0].contiguous()
        of_values = of_x = None
        if ctx.needs_input_grad[0]:
            of_values = pattern.products(*((x, upper) if transposed else (upper, x)))
        if ctx.needs_input_grad[1]:
            of_x = pattern.multiply(values, upper, not transposed)
        return of_values, of_x, None, None


class _Products(torch.autograd.Function):
    """v = a[row] . b[column]. Its derivatives are the products of the matrix of what comes down."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, pattern: Pattern) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.pattern = pattern
        if a.is_cuda:
            return _in_chunks(a, b, pattern)
        with torch.autocast(a.device.type, enabled=False):
            places = pattern.matrix(a.new_zeros(len(pattern.rows)))
            return cast(Tensor, torch.sparse.sampled_addmm(places, a, b.T, beta=0.0).values())

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (a, b), pattern, upper = ctx.saved_tensors, ctx.pattern, above[0].contiguous()
        of_a = pattern.multiply(upper, b) if ctx.needs_input_grad[0] else None
        of_b = pattern.multiply(upper, a, True) if ctx.needs_input_grad[1] else None
        return of_a, of_b, None


def _in_chunks(a: Tensor, b: Tensor, pattern: Pattern) -> Tensor:
    out = a.new_empty(len(pattern.rows))
    step = max(1, CHUNK // max(1, a.shape[1]))
    for start in range(0, len(out), step):
        places = slice(start, start + step)
        out[places] = (a[pattern.rows[places]] * b[pattern.columns[places]]).sum(1)
    return out


def _offsets(ascending: Tensor, n: int) -> Tensor:
    return torch.searchsorted(ascending, torch.arange(n + 1, device=ascending.device))
