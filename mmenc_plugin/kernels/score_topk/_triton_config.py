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


def config(dtype: torch.dtype, width: int) -> Config:
    """That for rows of D = width elements."""
    fitting = min(d for size, d in TABLE if size == dtype.itemsize and width <= d)
    found = TABLE[dtype.itemsize, fitting]
    narrow = min(found.block_d, block_d(width))
    return Config(found.block_x, found.block_y, narrow, found.num_warps, found.num_stages)


def group(items: int, block_y: int) -> int:
    """Items that share one maximum: more of them where the maxima are many, within a tile."""
    return min(next(size for most, size in GROUPS.items() if items <= most), block_y)


# name, kernel, types of its arguments, constants, warps, stages, scores that a program computes at a time (None: not
# the kernel that decides the speed)
Variant = tuple[str, Any, dict[str, str], dict[str, Any], int, int, int | None]
_TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
_POINTERS = {"EVENT_BOUNDS": "i64", "EVENT_Y": "i32", "ROWS": "i64", "COLUMNS": "i64", "GROUPS": "i64", "COUNTS": "i32"}


def variants() -> Iterator[Variant]:
    """What can be compiled ahead of time: every configuration, with the options that change its code."""
    for size, most in TABLE:
        for dtype in _TYPES:
            if dtype.itemsize == size:
                yield from _variants(dtype, 1024 if most == WIDE else most, dtype != torch.float16)
    yield from _variants(torch.bfloat16, 56, False)


def _variants(dtype: torch.dtype, width: int, full: bool) -> Iterator[Variant]:
    c, kind = config(dtype, width), _TYPES[dtype]
    shared = {"D": width, "BLOCK_D": c.block_d, "PRECISION": PRECISION, "UPCAST": False}
    tile = {**shared, "BLOCK_X": c.block_x, "BLOCK_Y": c.block_y}
    bounded = c.block_x * c.block_y if width <= 64 and dtype != torch.float32 else None
    for bias, events in ((False, False), (False, True), (True, False), (True, True)) if full else ((True, True),):
        options = {"HAS_BIAS": bias, "HAS_EVENTS": events}
        name = f"{'+bias' * bias}{'+events' * events} {kind} {width}"
        logits = None if bias or events else bounded
        for size in sorted({group(most, c.block_y) for most in GROUPS}) if not bias and not events else [32]:
            peaks = {**tile, **options, "GROUP": size, "INTERPRETED": False}
            yield _variant(f"peaks of {size}{name}", peaks_kernel, peaks, kind, c, logits)
        yield _variant(f"count{name}", count_kernel, {**tile, **options}, kind, c, None)
    own = {**shared, "BLOCK": c.block_y, "HAS_BIAS": True}
    yield _variant(f"own+bias {kind} {width}", own_kernel, own, kind, c, None)
    again = {"D": width, "BLOCK_D": min(block_d(width), RESCORED), "GROUP": 64, "HAS_BIAS": True}
    yield _variant(f"rescore+bias {kind} {width}", rescore_kernel, again, kind, Config(0, 0, 0, 4, 3), None)


def _variant(name: str, kernel: Any, constants: dict[str, Any], kind: str, c: Config, logits: int | None) -> Variant:
    known = {**_POINTERS, "X": kind, "Y": kind}
    types = {
        argument: "constexpr" if argument in constants else f"*{known.get(argument, 'fp32')}" if argument.isupper()
        else "i32" for argument in kernel.arg_names
    }  # fmt: skip
    return name, kernel, types, constants, c.num_warps, c.num_stages, logits
