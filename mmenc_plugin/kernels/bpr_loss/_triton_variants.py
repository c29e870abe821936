"""Block sizes of the Triton kernels of bpr_loss, and all that can be compiled with them ahead of time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from mmenc_plugin.kernels.bpr_loss._triton_kernels import loss_kernel, rows_kernel, whole_blocks_kernel

TILE = 1024  # elements of the gathered rows of a turn of the loss kernel: 8 registers of each thread
BATCH = 16  # the most rows of the batch of a program of it
SLICE = 64  # of the width of a table, that a program of the gradient kernels sums
PAIRS = 64  # of a block that is summed beforehand where one table row has them all
ROWS = 16  # of a table that a program sums
WARPS, STAGES = 4, 3

# name, kernel, types of its arguments, constants, warps, stages, None: no tiles are multiplied
Variant = tuple[str, Any, dict[str, str], dict[str, Any], int, int, None]
_POINTERS = {
    "user_ids": "i64", "positive_ids": "i64", "negative_ids": "i64", "rows": "i32", "offsets": "i64", "is_whole": "i1",
}  # fmt: skip
_NUMBERS = ("size", "negatives", "groups")


def blocks_of_the_loss(width: int) -> dict[str, int]:
    """Constants of the loss kernel: as many rows of the batch as the registers hold."""
    block_d = _power_of_two(width)
    return {"WIDTH": width, "BLOCK_B": min(BATCH, max(1, TILE // block_d)), "BLOCK_D": block_d, "STAGES": STAGES}


def blocks_of_sums(width: int) -> dict[str, int]:
    """Constants of both gradient kernels."""
    return {"WIDTH": width, "PAIRS": PAIRS, "BLOCK_D": _power_of_two(min(width, SLICE))}


def _power_of_two(width: int) -> int:
    return max(16, 1 << (width - 1).bit_length())


def variants() -> Iterator[Variant]:
    """Each kernel, for tables of each type, narrow and wide, with and without what it may be without."""
    types = ("fp32", "bf16", "fp16")
    outs: dict[str, None] = {"coefficients": None, "user_rows": None}
    for dtype, width, softmax in itertools.product(types, (64, 1023), (False, True)):
        name = f"{'softmax' if softmax else 'bpr'} {dtype} {width}"
        constants: dict[str, Any] = {"SOFTMAX": softmax, **blocks_of_the_loss(width)}
        for offsets, absent in (("+bias", {"log_q": None}), ("+bias+log_q", {}), ("", {"bias": None, "log_q": None})):
            yield _variant(f"{name}{offsets}", loss_kernel, dtype, constants | absent)
        yield _variant(f"{name} value", loss_kernel, dtype, constants | outs)
    for dtype, width in itertools.product(types, (64, 512)):
        yield from _sums(f"{dtype} {width}", dtype, blocks_of_sums(width))
    yield from _sums("bias", "fp32", blocks_of_sums(1))


def _sums(name: str, dtype: str, constants: dict[str, Any]) -> Iterator[Variant]:
    yield _variant(f"whole blocks {name}", whole_blocks_kernel, dtype, constants)
    yield _variant(f"rows {name}", rows_kernel, dtype, {**constants, "ROWS": ROWS})


def _variant(name: str, kernel: Any, dtype: str, constants: dict[str, Any]) -> Variant:
    pointers = _POINTERS | dict.fromkeys(("users", "items", "out"), dtype)
    types = {
        argument: "constexpr"
        if argument in constants
        else "i32"
        if argument in _NUMBERS
        else f"*{pointers.get(argument, 'fp32')}"
        for argument in kernel.arg_names
    }
    return name, kernel, types, constants, WARPS, STAGES, None
