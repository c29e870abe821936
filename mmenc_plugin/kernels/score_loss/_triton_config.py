"""Tile shapes, chosen by what the compiler makes of them for an H100: no spilled registers, few instructions a score.

Checked in rather than tuned at run time, so that a result depends on nothing but its inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from mmenc_plugin.kernels import dispatch

Kind = Literal["forward", "backward", "symmetric"]  # symmetric: the backward with both softmaxes


@dataclass(frozen=True)
class Config:
    """Rows of X that stay, rows of Y at a time, warps of a program, and how many tiles of Y are in flight."""

    block_x: int
    block_y: int
    num_warps: int
    num_stages: int


# kind, bytes of an element, D up to which it holds
TABLE: dict[tuple[Kind, int, int], Config] = {
    ("forward", 2, 64): Config(128, 128, 4, 3),
    ("forward", 2, 128): Config(256, 64, 8, 3),
    ("backward", 2, 64): Config(128, 64, 4, 3),
    ("backward", 2, 128): Config(128, 64, 8, 3),
    ("symmetric", 2, 64): Config(64, 64, 4, 3),
    ("symmetric", 2, 128): Config(64, 32, 4, 3),
    ("forward", 4, 64): Config(128, 64, 8, 2),
    ("backward", 4, 64): Config(128, 32, 8, 2),
}
BLOCK_PAIRS = 32  # positives of a program
BLOCK_EVENTS = 128  # of a program that puts them into a tile in memory
BLOCK_TILE = (16, 128, 4)  # rows, columns and warps of a program that goes through a tile in memory


def config(kind: Kind, dtype: torch.dtype, width: int) -> Config | None:
    """That for rows of D = width elements; None where the streaming kernels would not fit the registers."""
    fitting = [d for (k, size, d) in TABLE if k == kind and size == dtype.itemsize and width <= d]
    return TABLE[kind, dtype.itemsize, min(fitting)] if fitting else None


def block_d(width: int) -> int:
    """D rounded up to a power of two, of at least 16 for the tensor cores."""
    return max(16, 1 << (width - 1).bit_length())


def upcasts(dtype: torch.dtype) -> bool:
    """Whether kernels must compute in float32: Triton's interpreter multiplies the bits of bfloat16 as integers."""
    return dtype == torch.bfloat16 and dispatch.interpreted()
