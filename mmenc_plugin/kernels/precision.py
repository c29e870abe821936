"""The types that kernels multiply and sum in."""

from __future__ import annotations

import torch
from torch import Tensor


def summed_in(dtype: torch.dtype) -> torch.dtype:
    """The type of sums, scores and losses: float64 for float64, float32 for all else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def as_autocast(table: Tensor) -> Tensor:
    """The table in the type that a matrix product would have under the present autocast."""
    device = table.device.type
    if table.dtype == torch.float64 or device == "meta" or not torch.is_autocast_enabled(device):
        return table
    return table.to(torch.get_autocast_dtype(device))
