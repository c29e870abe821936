"""What can be compiled ahead of time: every configuration of every kernel, with the options that change its code."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch

from mmenc_plugin.kernels.score_loss._triton_backward import gradient_kernel
from mmenc_plugin.kernels.score_loss._triton_config import BLOCK_EVENTS, BLOCK_PAIRS, BLOCK_TILE, TABLE, Config, block_d
from mmenc_plugin.kernels.score_loss._triton_forward import lse_kernel, pair_kernel
from mmenc_plugin.kernels.score_loss._triton_stream import PRECISION
from mmenc_plugin.kernels.score_loss._triton_tile_kernels import (
    events_kernel,
    positives_kernel,
    slopes_kernel,
    tile_lse_kernel,
)

# name, kernel, types of its arguments, constants, warps, stages, scores that a program computes at a time (None: no
# loop over them)
Variant = tuple[str, Any, dict[str, str], dict[str, Any], int, int, int | None]

_TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
_POINTERS = {"IDS": "i64", "EVENT_BOUNDS": "i64", "EVENT_Y": "i32", "SIGNED": "i32", "ROWS": "i64", "COLUMNS": "i64"}


def variants() -> list[Variant]:
    """All configurations; with every option in bfloat16 (and float32), with the usual ones in float16 and masked D."""
    found = [*_tile_kernels()]
    for (kind, size, width), config in TABLE.items():
        found += _streaming(kind, torch.float32 if size == 4 else torch.bfloat16, width, config)
        if size == 2:
            found += _usual(_streaming(kind, torch.float16, width, config))
            found += _usual(_streaming(kind, torch.bfloat16, width - 8, config))
    return found


def _usual(found: Iterator[Variant]) -> Iterator[Variant]:
    return (v for v in found if v[0].split()[-3] in ("forward+bias+events", "items+bias"))


def _streaming(kind: str, dtype: torch.dtype, width: int, config: Config) -> Iterator[Variant]:
    half = _TYPES[dtype]
    for name, kernel, options in _forwards() if kind == "forward" else _backwards(kind == "symmetric"):
        constants = {
            **options, "D": width, "BLOCK_X": config.block_x, "BLOCK_Y": config.block_y, "BLOCK_D": block_d(width),
            "PRECISION": PRECISION, "UPCAST": False,
        }  # fmt: skip
        out = "fp32" if "queries" in name or "ids" in name else half
        types = _types(kernel, constants, {"X": half, "Y": half, "OUT": out})
        logits = config.block_x * config.block_y
        yield f"{name} {half} {width}", kernel, types, constants, config.num_warps, config.num_stages, logits


def _forwards() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    for bias, events, ids in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0), (1, 1, 1)):
        options = {"HAS_TERMS": bool(bias), "HAS_EVENTS": bool(events), "X_IDS": False, "Y_IDS": bool(ids)}
        yield f"forward{'+bias' * bias}{'+events' * events}{'+ids' * ids}", lse_kernel, options


def _backwards(symmetric: bool) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    for queries, (bias, ids) in itertools.product((False, True), ((False, False), (True, False), (True, True))):
        name = f"{'symmetric ' * symmetric}{'queries' if queries else 'items'}{'+bias' * bias}{'+ids' * ids}"
        yield name, gradient_kernel, {
            "X_IDS": ids and not queries, "Y_IDS": ids and queries, "HAS_X_TERMS": queries or bias or symmetric,
            "HAS_Y_TERMS": bias if queries else not symmetric, "SYMMETRIC": symmetric,
            "SIGNS": symmetric or not queries, "HAS_SUMS": bias and not queries,
        }  # fmt: skip


def _tile_kernels() -> Iterator[Variant]:
    rows, columns, warps = BLOCK_TILE
    tile = {"BLOCK_X": rows, "BLOCK_Y": columns}
    constants: dict[str, Any]
    for bias in (False, True):
        for name, kernel, constants in (
            ("excluded", events_kernel, {"BLOCK": BLOCK_EVENTS, "HAS_BIAS": bias, "EXCLUDE": True}),
            ("noted", events_kernel, {"BLOCK": BLOCK_EVENTS, "HAS_BIAS": bias, "EXCLUDE": False}),
            ("rows", tile_lse_kernel, {**tile, "HAS_TERMS": bias, "stride_y": 1}),
            ("slopes", slopes_kernel, {**tile, "HAS_BIAS": bias, "SYMMETRIC": False}),
            ("symmetric slopes", slopes_kernel, {**tile, "HAS_BIAS": bias, "SYMMETRIC": True}),
            ("positives", positives_kernel, {"BLOCK": BLOCK_EVENTS, "SYMMETRIC": bias}),
        ):
            yield f"tile {name}{'+bias' * bias}", kernel, _types(kernel, constants, {}), constants, warps, 3, None
    constants = {"BLOCK_X": columns, "BLOCK_Y": rows, "HAS_TERMS": False, "stride_x": 1}
    yield "tile columns", tile_lse_kernel, _types(tile_lse_kernel, constants, {}), constants, warps, 3, None
    constants = {"D": 64, "BLOCK": BLOCK_PAIRS, "BLOCK_D": 64, "Y_IDS": True, "HAS_BIAS": True}
    types = _types(pair_kernel, constants, {"X": "bf16", "Y": "bf16"})
    yield "pairs", pair_kernel, types, constants, 4, 3, None


def _types(kernel: Any, constants: dict[str, Any], pointers: dict[str, str]) -> dict[str, str]:
    """Of each argument: pointers have names in capitals, and lead to float32 unless told otherwise."""
    known = {**_POINTERS, **pointers}
    return {
        name: "constexpr" if name in constants else f"*{known.get(name, 'fp32')}" if name.isupper() else "i32"
        for name in kernel.arg_names
    }
