"""Entries (x, y) of the score matrix that differ from the rest, as the kernels walk them; and the way to split Y."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

WAVES = 4  # programs a multiprocessor, at least, where Y can be split into that many parts


@dataclass(frozen=True)
class Split:
    """Rows of Y in parts, each for a program of its own where X has too few tiles to fill the GPU.

    Attributes:
        n: how many parts.
        span: rows of a part, a multiple of the tile's.
    """

    n: int
    span: int

    @classmethod
    def of(cls, n_x: int, n_y: int, block_x: int, block_y: int, device: torch.device) -> Split:
        """As many parts as fill the GPU in whole waves of programs; one on a CPU."""
        if device.type != "cuda":
            return cls.into(1, n_y, block_y)
        processors = torch.cuda.get_device_properties(device).multi_processor_count
        return cls.into(WAVES * processors // -(-n_x // block_x), n_y, block_y)

    @classmethod
    def into(cls, n: int, n_y: int, block_y: int) -> Split:
        """At most n parts, none of them empty."""
        tiles = -(-n_y // block_y)
        per_part = -(-tiles // max(1, min(n, tiles)))
        return cls(-(-tiles // per_part), per_part * block_y)


@dataclass(frozen=True)
class Events:
    """Sorted by x, then y.

    Attributes:
        bounds: [n_x, n + 1] where the events of row x in each of the n parts of Y begin, and the last end.
        y: [E] int32.
        weight: [E] what a positive takes off its slope; NaN for an excluded entry.
    """

    bounds: Tensor
    y: Tensor
    weight: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor, weight: Tensor, n_x: int, n_y: int, split: Split) -> Events:
        """From entries in any order."""
        keys, order = torch.sort(x * n_y + y, stable=True)
        starts = (torch.arange(split.n + 1, device=x.device) * split.span).clamp(max=n_y)
        rows = torch.arange(n_x, device=x.device) * n_y
        bounds = torch.searchsorted(keys, rows[:, None] + starts)
        return cls(bounds, y[order].to(torch.int32), weight[order])
