"""What every implementation of score_loss is given: checked tensors, and events as sorted lists."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmenc_plugin.kernels.checks import CSR, check_csr, check_no_nan, check_range
from mmenc_plugin.kernels.precision import summed_in

Needs = tuple[bool, bool, bool, bool]  # which gradients are wanted: queries, items, scale, bias
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


@dataclass(frozen=True)
class Problem:
    """B queries against N columns; score = scale * (query . item) + bias.

    Attributes:
        queries: [B, D] of any floating type.
        items: [V, D] of the same type; column n is items[item_ids[n]], or items[n] without item_ids.
        scale: [] in the type that is computed in: float64 for float64, else float32.
        bias: [N] in that type, or None.
        item_ids: [N] rows of `items`, or None.
        targets: CSR of columns, sorted in a row, repeated ones kept: the positives.
        exclude: CSR of columns, sorted and distinct in a row, no positives among them: they score -inf.
        symmetric: whether the softmax over the queries of each item counts as well (B = N).
    """

    queries: Tensor
    items: Tensor
    scale: Tensor
    bias: Tensor | None
    item_ids: Tensor | None
    targets: CSR
    exclude: CSR
    symmetric: bool

    @property
    def n_columns(self) -> int:
        """N."""
        return len(self.items if self.item_ids is None else self.item_ids)

    @property
    def dtype(self) -> torch.dtype:
        """The type that is computed in."""
        return self.scale.dtype


def make_problem(  # noqa: PLR0913 - the operators' own list
    queries: Tensor,
    items: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    item_ids: Tensor | None,
    targets: CSR,
    exclude: CSR | None,
    symmetric: bool,
) -> Problem:
    """Check the values and sort the events.

    Raises:
        ValueError: NaN, ids out of range, a CSR that is none, or a positive whose bias is -inf.
    """
    dtype = summed_in(queries.dtype)
    n = len(items if item_ids is None else item_ids)
    check_no_nan(queries=queries, items=items, scale=scale, bias=bias)
    check_csr("targets", targets, len(queries), n)
    if item_ids is not None:
        check_range("item_ids", item_ids, len(items))
    if exclude is not None:
        check_csr("exclude", exclude, len(queries), len(items))
    if bias is not None:
        _check_bias(bias, targets[1])
    positives = _sorted(rows_of(targets), targets[1], n)
    return Problem(
        queries, items, scale.to(dtype), None if bias is None else bias.to(dtype), item_ids,
        _as_csr(positives, n, len(queries)), _exclusions(exclude, item_ids, positives, n, len(queries)), symmetric,
    )  # fmt: skip


def rows_of(csr: CSR) -> Tensor:
    """[nnz] the row of each id."""
    offsets, ids = csr
    rows = torch.arange(len(offsets) - 1, device=ids.device)
    return rows.repeat_interleave(offsets.diff(), output_size=len(ids))


def has_positive(p: Problem) -> Tensor:
    """[B] bool: the queries that have a positive, without which there is no loss."""
    return p.targets[0].diff() > 0


def transposed(csr: CSR, n: int) -> CSR:
    """The CSR of [N] columns, each with its rows in rising order."""
    rows, columns = rows_of(csr), csr[1]
    order = torch.argsort(columns, stable=True)
    return _as_csr(columns[order] * (len(csr[0]) - 1) + rows[order], len(csr[0]) - 1, n)


def _check_bias(bias: Tensor, positives: Tensor) -> None:
    if bool((bias == torch.inf).any()):
        raise ValueError("bias (less log_q) holds inf, but must be finite, or -inf for an item that is never chosen.")
    dead = bias[positives] == -torch.inf
    if bool(dead.any()):
        raise ValueError(f"targets names column {int(positives[dead][0])}, whose bias is -inf: its loss is infinite.")


def _exclusions(exclude: CSR | None, item_ids: Tensor | None, positives: Tensor, n: int, n_rows: int) -> CSR:
    """Excluded columns by query; a row of items is in every column that holds it, and positives are let go."""
    if exclude is None:
        return _as_csr(positives[:0], n, n_rows)
    rows, columns = rows_of(exclude), exclude[1]
    if item_ids is not None:
        rows, columns = _columns_holding(columns, rows, item_ids)
    keys = torch.unique(rows * n + columns)
    return _as_csr(keys[~torch.isin(keys, positives)], n, n_rows)


def _columns_holding(items: Tensor, rows: Tensor, item_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Each pair (row, item) as the pairs (row, column) of all columns that hold the item."""
    in_order, columns = torch.sort(item_ids, stable=True)
    first = torch.searchsorted(in_order, items)
    counts = torch.searchsorted(in_order, items, right=True) - first
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)  # where the item's run begins among the results
    within = torch.arange(len(starts), device=items.device) - starts
    return rows.repeat_interleave(counts), columns[first.repeat_interleave(counts) + within]


def _sorted(rows: Tensor, columns: Tensor, n: int) -> Tensor:
    return torch.sort(rows * n + columns).values


def _as_csr(keys: Tensor, n: int, n_rows: int) -> CSR:
    """From sorted keys row * n + column."""
    starts = torch.arange(n_rows + 1, device=keys.device) * n
    return torch.searchsorted(keys, starts), keys % n
