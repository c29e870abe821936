"""Lists of lists, as offsets and ids (CSR)."""

from __future__ import annotations

import torch
from torch import Tensor

from mmenc_plugin.kernels.checks import CSR


def make_csr(rows: Tensor, ids: Tensor, n_rows: int) -> CSR:
    """The lists of rows 0..n_rows - 1: offsets [n_rows + 1], and `ids` [E] as they are, whose `rows` [E] rise."""
    counts = torch.bincount(rows, minlength=n_rows)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]), ids


def rows_of(lists: CSR, rows: Tensor) -> CSR:
    """The lists of some rows [B]: offsets [B + 1] and ids."""
    offsets, ids = lists
    lengths = offsets.diff()[rows]
    taken = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    shift = torch.repeat_interleave(offsets[rows] - taken[:-1], lengths)
    return taken, ids[torch.arange(len(shift), device=ids.device) + shift]


def row_numbers(offsets: Tensor) -> Tensor:
    """Of each entry of the lists, the row that it belongs to."""
    return torch.repeat_interleave(torch.arange(len(offsets) - 1, device=offsets.device), offsets.diff())
