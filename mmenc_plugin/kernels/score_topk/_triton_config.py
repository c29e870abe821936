"""Tile shapes, chosen by what the compiler makes of them for an H100: no spilled registers, few instructions a score.

Checked in rather than tuned at run time, so that a result depends on nothing but its inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from mmenc_plugin.kernels.score_loss._triton_config import block_d
from mmenc_plugin.kernels.score_topk._triton_kernels import count_kernel, own_kernel, peaks_kernel, rescore_kernel

PRECISION = "tf32x3"  # of float32: three products of TF32, with an error near that of float32
WIDE = 1 << 30  # D of rows that are multiplied in parts


@dataclass(frozen=True)
class Config:
    """Users that stay, items at a time, values of a row at a time, warps, and how many tiles are in flight."""

    block_x: int
    block_y: int
    block_d: int
    num_warps: int
    num_stages: int

    def products(self, width: int) -> dict[str, Any]:
        """What a kernel that multiplies tiles of rows of D = width elements is told."""
        return {"D": width, "BLOCK_D": self.block_d, "PRECISION": PRECISION, "UPCAST": False}

    def tiles(self, width: int) -> dict[str, Any]:
        """And one that goes through all columns."""
        return {**self.products(width), "BLOCK_X": self.block_x, "BLOCK_Y": self.block_y}


# bytes of an element, D up to which it holds
TABLE: dict[tuple[int, int], Config] = {
    (2, 64): Config(128, 128, 64, 4, 3),
    (2, 128): Config(128, 128, 128, 8, 3),
    (2, 256): Config(128, 128, 256, 8, 2),
    (2, WIDE): Config(128, 128, 64, 8, 3),
    (4, 64): Config(128, 64, 64, 8, 2),
    (4, WIDE): Config(128, 64, 32, 8, 2),
}
GROUPS = {1 << 19: 32, 1 << 22: 64, WIDE: 128}  # items up to which there are so many in a group
RESCORED = 128  # most values of a row at a time when scores are computed again


def config(dtype: torch.dtype, width: int, counting: bool = False) -> Config:
    """That for rows of D = width elements, to find the maxima or to count ranks, whose sums need registers."""
    fitting = min(d for size, d in TABLE if size == dtype.itemsize and width <= d)
    c = TABLE[dtype.itemsize, fitting]
    narrow = min(c.block_d, block_d(width))
    if counting:
        return Config(c.block_x, c.block_y // 2, narrow, 8, c.num_stages)
    return Config(c.block_x, c.block_y, narrow, c.num_warps, c.num_stages)


def group(items: int, block_y: int) -> int:
    """Items that share one maximum: more of them where the maxima are many, within a tile."""
    return min(next(size for most, size in GROUPS.items() if items <= most), block_y)


# name, kernel, types of its arguments, constants, warps, stages, scores that a program computes at a time (None: not
# the kernel that decides the speed)
Variant = tuple[str, Any, dict[str, str], dict[str, Any], int, int, int | None]
_TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
_POINTERS = {"EVENT_BOUNDS": "i64", "EVENT_Y": "i32", "ROWS": "i64", "COLUMNS": "i64", "GROUPS": "i64", "COUNTS": "i32"}


def variants() -> Iterator[Variant]:
    """What can be compiled ahead of time: every configuration, the first one with all options that change its code."""
    for size, most in TABLE:
        dtype, width = torch.bfloat16 if size == 2 else torch.float32, 1024 if most == WIDE else most
        yield from _peaks(dtype, width, (size, most) == (2, 64))
        yield from _counts(dtype, width, (size, most) == (2, 64))
    yield from _peaks(torch.float16, 64, False)
    yield from _peaks(torch.bfloat16, 56, False)
    for dtype, width in ((torch.bfloat16, 64), (torch.bfloat16, 1024), (torch.float32, 64)):
        again = {"D": width, "BLOCK_D": min(block_d(width), RESCORED), "GROUP": 64, "HAS_BIAS": True}
        yield _variant("rescore+bias", rescore_kernel, again, dtype, config(dtype, width))


def _peaks(dtype: torch.dtype, width: int, all_options: bool) -> Iterator[Variant]:
    c = config(dtype, width)
    for bias, events in _options(all_options):
        for size in GROUPS.values() if all_options and not bias and not events else [32]:
            options = {**c.tiles(width), "HAS_BIAS": bias, "HAS_EVENTS": events, "GROUP": size, "INTERPRETED": False}
            # Of the loop as it is between events, at the width where not the products decide.
            logits = c.block_x * c.block_y if width == 64 and dtype != torch.float32 and not bias else None
            name = f"peaks of {size}{'+bias' * bias}{'+events' * events}"
            yield _variant(name, peaks_kernel, options, dtype, c, logits)


def _counts(dtype: torch.dtype, width: int, all_options: bool) -> Iterator[Variant]:
    c = config(dtype, width, counting=True)
    for bias, events in _options(all_options):
        options = {**c.tiles(width), "HAS_BIAS": bias, "HAS_EVENTS": events}
        yield _variant(f"count{'+bias' * bias}{'+events' * events}", count_kernel, options, dtype, c)
    own = {**c.products(width), "BLOCK": c.block_x, "HAS_BIAS": True}
    yield _variant("own+bias", own_kernel, own, dtype, c)


def _options(all_: bool) -> list[tuple[bool, bool]]:
    """Bias and events."""
    return [(bias, events) for bias in (False, True) for events in (False, True) if all_ or (bias and events)]


def _variant(
    name: str, kernel: Any, constants: dict[str, Any], dtype: torch.dtype, c: Config, logits: int | None = None
) -> Variant:
    known = {**_POINTERS, "X": _TYPES[dtype], "Y": _TYPES[dtype]}
    types = {
        argument: "constexpr" if argument in constants else f"*{known.get(argument, 'fp32')}" if argument.isupper()
        else "i32" for argument in kernel.arg_names
    }  # fmt: skip
    name = f"{name} {_TYPES[dtype]} {constants['D']}"
    return name, kernel, types, constants, c.num_warps, c.num_stages, logits
