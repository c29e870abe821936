"""Random inputs, the same at every call."""

from __future__ import annotations

import torch
from torch import Tensor

CSR = tuple[Tensor, Tensor]


def generator(device: str, seed: int = 0) -> torch.Generator:
    """One for `torch.randn` and the like."""
    return torch.Generator(device).manual_seed(seed)


def vectors(rows: int, width: int, dtype: torch.dtype, random: torch.Generator) -> Tensor:
    """[rows, width] whose products have a variance of about 1."""
    return (torch.randn(rows, width, generator=random, device=random.device) * width**-0.25).to(dtype)


def exclusion(rows: int, each: int, n: int, random: torch.Generator, spared: Tensor | None = None) -> CSR:
    """`each` columns of n for every row, sorted, none of them the row's `spared` [rows]."""
    each = min(each, n - 1)
    shift = torch.randint(1, n, (rows, each), generator=random, device=random.device)
    ids = shift - 1 if spared is None else (spared[:, None] + shift) % n
    offsets = torch.arange(0, rows * each + 1, max(each, 1), device=random.device)
    if not each:
        offsets = torch.zeros(rows + 1, dtype=torch.int64, device=random.device)
    return offsets, ids.sort(dim=1).values.reshape(-1)


def rows_of(csr: CSR) -> Tensor:
    """The row of each id [nnz]."""
    offsets, ids = csr
    rows = torch.arange(len(offsets) - 1, device=offsets.device)
    return torch.repeat_interleave(rows, offsets.diff(), output_size=len(ids))
