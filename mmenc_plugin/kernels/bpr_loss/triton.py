"""bpr_loss on a GPU: one pass over the negatives, and gradients summed row by row without atomics.

The loss kernel gives each program a few rows of the batch and streams their negatives past them, so a gathered row
lives in registers only. The gradients need two kernels: the pairs are sorted by table row, `_whole_blocks` sums each
block of pairs that lies within one row (so that a popular item is no long loop), and `_rows` sums what is left for
each row and writes it once. Every sum has one order, so the bits are the same on every run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmenc_plugin.kernels.bpr_loss.parts import Forward, Groups
from mmenc_plugin.kernels.dispatch import interpreted

TILE = 2048  # elements of the gathered rows of a turn of the loss kernel: 16 registers of each thread
BATCH = 16  # the most rows of the batch of a program of it
WIDTH = 64  # of a table that a program of the gradient kernels sums
PAIRS = 64  # of a block that is summed beforehand where one row has them all
ROWS = 16  # of a program that sums the rest
WARPS, STAGES = 4, 3


@triton.jit
def _log1p(x):  # noqa: ANN001, ANN202 - triton's own types
    """ln(1 + x), exact for small x too: the rounding of 1 + x is divided out (Kahan)."""
    u = 1.0 + x
    return tl.where(u == 1.0, x, tl.log(u) * (x / tl.where(u == 1.0, 1.0, u - 1.0)))


@triton.jit
def _offset(bias, log_q, ids, mask):  # noqa: ANN001, ANN202
    """What is added to the scores of item rows `ids`."""
    offset = tl.zeros(ids.shape, tl.float32)
    if bias is not None:
        offset += tl.load(bias + ids, mask=mask, other=0.0).to(tl.float32)
    if log_q is not None:
        offset -= tl.load(log_q + ids, mask=mask, other=0.0).to(tl.float32)
    return offset


@triton.jit(do_not_specialize=["size", "negatives"])
def _loss(  # noqa: PLR0913
    users, items, user_ids, positive_ids, negative_ids, bias, log_q,  # noqa: ANN001
    losses, coefficients, user_rows, size, negatives, width,  # noqa: ANN001
    SOFTMAX: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, STAGES: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """Losses, coefficients and user gradients of BLOCK_B rows of the batch; the latter two where they are not None.

    The running state of the softmax is that of ln(1 + sum_k e^margin_k): `top`, the largest margin but at least 0,
    and `rest`, the sum of e^(margin - top). That of BPR needs no top.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    d = tl.arange(0, BLOCK_D)
    alive = row < size
    there = alive[:, None] & (d < width)[None, :]
    user = tl.load(user_ids + row, mask=alive, other=0).to(tl.int64)
    u = tl.load(users + user[:, None] * width + d[None, :], mask=there, other=0.0).to(tl.float32)
    positive = tl.load(positive_ids + row, mask=alive, other=0).to(tl.int64)
    p = tl.load(items + positive[:, None] * width + d[None, :], mask=there, other=0.0).to(tl.float32)
    score = tl.sum(u * p, axis=1) + _offset(bias, log_q, positive, alive)
    loss = score * 0  # NaN where the positive's score is infinite
    top = tl.zeros([BLOCK_B], tl.float32)
    rest = tl.zeros([BLOCK_B], tl.float32)
    gradient = tl.zeros([BLOCK_B, BLOCK_D], tl.float32)
    for k in tl.range(0, negatives, num_stages=STAGES):
        negative = tl.load(negative_ids + row * negatives + k, mask=alive, other=0).to(tl.int64)
        n = tl.load(items + negative[:, None] * width + d[None, :], mask=there, other=0.0).to(tl.float32)
        margin = tl.sum(u * n, axis=1) + _offset(bias, log_q, negative, alive) - score
        if SOFTMAX:
            before = top
            top = tl.maximum(top, margin)
            shrink = tl.exp(before - top)
            weight = tl.exp(margin - top)
            rest = rest * shrink
            gradient = gradient * shrink[:, None]
            kept = margin
        else:
            small = tl.exp(-tl.abs(margin))
            weight = tl.where(margin >= 0, 1.0, small) / (1.0 + small) / negatives
            loss += (tl.maximum(margin, 0.0) + _log1p(small)) / negatives
            kept = weight
        rest += weight
        if user_rows is not None:
            gradient += weight[:, None] * n
        if coefficients is not None:
            tl.store(coefficients + row * (negatives + 1) + 1 + k, kept, mask=alive)
    if SOFTMAX:
        others = rest + (tl.exp(-top) - 1.0)  # the sum of all terms, the positive's too, less 1
        loss += top + _log1p(others)
        part = 1.0 / (1.0 + others)
        rest = rest * part
        gradient = gradient * part[:, None]
        if coefficients is not None:
            tl.debug_barrier()  # the margins may have been stored by other threads
            for k in range(0, negatives):
                place = coefficients + row * (negatives + 1) + 1 + k
                tl.store(place, tl.exp(tl.load(place, mask=alive, other=0.0) - top) * part, mask=alive)
    tl.store(losses + row, loss, mask=alive)
    if coefficients is not None:
        tl.store(coefficients + row * (negatives + 1), -rest, mask=alive)
    if user_rows is not None:
        tl.store(user_rows + row[:, None] * width + d[None, :], gradient - rest[:, None] * p, mask=there)


@triton.jit
def _take(source, rows, coefficients, place, d, mask, width):  # noqa: ANN001, ANN202, PLR0913
    """Coefficient times source row of the pairs at `place`; a source of None is a column of ones."""
    weight = tl.load(coefficients + place, mask=mask, other=0.0)[:, None]
    if source is not None:
        row = tl.load(rows + place, mask=mask, other=0)[:, None]
        there = mask[:, None] & (d < width)[None, :]
        weight = weight * tl.load(source + row * width + d[None, :], mask=there, other=0.0).to(tl.float32)
    return weight


@triton.jit(do_not_specialize=["pairs"])
def _whole_blocks(  # noqa: PLR0913
    source, rows, coefficients, keys, partial, pairs, width,  # noqa: ANN001
    PAIRS: tl.constexpr, BLOCK_D: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """The sum of a block of PAIRS pairs, if all are of one table row; nothing is written if not."""
    block = tl.program_id(0).to(tl.int64)
    first = block * PAIRS
    last = first + PAIRS - 1
    whole = last < pairs
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    if whole and tl.load(keys + first) == tl.load(keys + tl.where(whole, last, first)):
        place = first + tl.arange(0, PAIRS)
        total = tl.sum(_take(source, rows, coefficients, place, d, place < pairs, width), axis=0)
        tl.store(partial + block * width + d, total, mask=d < width)


@triton.jit(do_not_specialize=["groups"])
def _rows(  # noqa: PLR0913
    source, rows, coefficients, offsets, partial, out, groups, width,  # noqa: ANN001
    ROWS: tl.constexpr, PAIRS: tl.constexpr, BLOCK_D: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """The sums of ROWS groups: pairs before and after the whole blocks of each, then the sums of those blocks."""
    group = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    alive = group < groups
    start = tl.load(offsets + group, mask=alive, other=0)
    end = tl.load(offsets + group + 1, mask=alive, other=0)
    first, last = (start + PAIRS - 1) // PAIRS, end // PAIRS
    blocks = tl.maximum(last - first, 0)
    before = tl.where(blocks > 0, first * PAIRS, end) - start
    single = before + tl.where(blocks > 0, end - last * PAIRS, 0)
    total = tl.zeros([ROWS, BLOCK_D], tl.float32)
    for j in range(0, tl.max(single, axis=0)):
        place = start + j + tl.where(j < before, 0, blocks * PAIRS)
        total += _take(source, rows, coefficients, place, d, j < single, width)
    for j in range(0, tl.max(blocks, axis=0)):
        there = (j < blocks)[:, None] & (d < width)[None, :]
        total += tl.load(partial + (first + j)[:, None] * width + d[None, :], mask=there, other=0.0)
    place = group[:, None] * width + d[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=alive[:, None] & (d < width)[None, :])


def forward(  # noqa: PLR0913
    users: Tensor,
    items: Tensor,
    user_ids: Tensor,
    positive_ids: Tensor,
    negative_ids: Tensor,
    bias: Tensor | None,
    log_q: Tensor | None,
    loss: str,
    gradients: bool,
    user_gradient: bool,
) -> Forward:
    """The losses, and what they are derived from: see `parts.Forward`."""
    (size, negatives), width = negative_ids.shape, users.shape[1]
    losses = _empty(users, size)
    coefficients = _empty(users, size, 1 + negatives) if gradients else None
    user_rows = _empty(users, size, width) if user_gradient else None
    tile = _tile(width)
    if size:
        tensors = (users, items, user_ids, positive_ids, negative_ids, bias, log_q)
        with torch.cuda.device_of(users):
            _loss[(triton.cdiv(size, tile["BLOCK_B"]),)](
                *(None if t is None else t.contiguous() for t in tensors),
                losses, coefficients, user_rows, size, negatives, width,
                SOFTMAX=loss == "softmax", **tile, num_warps=WARPS,
            )  # fmt: skip
    return Forward(losses, coefficients, user_rows)


def sum_rows(source: Tensor | None, repeats: int, coefficients: Tensor, groups: Groups, dtype: torch.dtype) -> Tensor:
    """As `cpu.sum_rows`."""
    pairs, total = len(coefficients), len(groups)
    width = 1 if source is None else source.shape[1]
    # The interpreter cuts a bfloat16 off where a GPU rounds it.
    out = _empty(coefficients, total, width, dtype=torch.float32 if interpreted() else dtype)
    partial = _empty(coefficients, pairs // PAIRS, width)
    values = coefficients[groups.order]
    rows = None if source is None else groups.order.div(repeats, rounding_mode="floor")
    source = None if source is None else source.contiguous()
    block = {"PAIRS": PAIRS, "BLOCK_D": _block_d(min(width, WIDTH))}
    columns = triton.cdiv(width, block["BLOCK_D"])
    shape: dict[str, Any] = {**block, "num_warps": WARPS, "num_stages": STAGES}
    with torch.cuda.device_of(coefficients):
        if len(partial):
            _whole_blocks[(len(partial), columns)](source, rows, values, groups.keys, partial, pairs, width, **shape)
        if total:
            _rows[(triton.cdiv(total, ROWS), columns)](
                source, rows, values, groups.offsets, partial, out, total, width, ROWS=ROWS, **shape
            )
    out = out.to(dtype)
    return out[:, 0] if source is None else out


def _empty(like: Tensor, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A result that a kernel writes: of no values before."""
    return torch.empty(shape, dtype=dtype, device=like.device)


def _block_d(width: int) -> int:
    return max(16, triton.next_power_of_2(width))


def _tile(width: int) -> dict[str, int]:
    """The block sizes of the loss kernel: as many rows as the registers hold."""
    block_d = _block_d(width)
    return {"BLOCK_B": min(BATCH, max(1, TILE // block_d)), "BLOCK_D": block_d, "STAGES": STAGES}


def variants() -> Iterator[tuple[str, Any, dict[str, str], dict[str, Any], int, int, int]]:
    """Each kernel as it is compiled for a range of widths and types, for a check without a GPU.

    Yields:
        Name, kernel, signature, constants, warps, stages, and the scores (for the gradient kernels, the pairs of a
        turn) of a program.
    """
    for dtype in ("fp32", "bf16", "fp16"):
        for width, negatives in ((64, 64), (128, 1), (512, 64), (1024, 16)):
            for softmax in (False, True):
                for offsets in (False, True):
                    yield _loss_variant(dtype, width, negatives, softmax, offsets)
        for width in (1, 64, 512):
            yield from _sum_variants(dtype, width)


_Variant = tuple[str, Any, dict[str, str], dict[str, Any], int, int, int]


def _loss_variant(dtype: str, width: int, negatives: int, softmax: bool, offsets: bool) -> _Variant:
    tile = _tile(width)
    given = {
        "users": f"*{dtype}", "items": f"*{dtype}", "user_ids": "*i64", "positive_ids": "*i64", "negative_ids": "*i64",
        "bias": "*fp32", "log_q": "*fp32", "losses": "*fp32", "coefficients": "*fp32", "user_rows": "*fp32",
        "size": "i32", "negatives": "i32", "width": "i32",
    }  # fmt: skip
    absent = {"log_q": None} if offsets and not softmax else {} if offsets else {"bias": None, "log_q": None}
    constants = {"SOFTMAX": softmax, **tile, **absent}
    name = f"loss {'softmax' if softmax else 'bpr'} {dtype} d{width} k{negatives}{' bias' if offsets else ''}"
    signature = {argument: kind for argument, kind in given.items() if argument not in absent}
    return name, _loss, signature, constants, WARPS, STAGES, tile["BLOCK_B"] * (1 + negatives)


def _sum_variants(dtype: str, width: int) -> Iterator[_Variant]:
    common = {"rows": "*i64", "coefficients": "*fp32", "partial": "*fp32", "width": "i32"}
    constants: dict[str, Any] = {"PAIRS": PAIRS, "BLOCK_D": _block_d(min(width, WIDTH))}
    if width == 1:
        common.pop("rows")
        constants |= {"source": None, "rows": None}
    else:
        common["source"] = f"*{dtype}"
    whole = common | {"keys": "*i32", "pairs": "i32"}
    rest = common | {"offsets": "*i64", "out": f"*{dtype}", "groups": "i32"}
    yield f"whole blocks {dtype} d{width}", _whole_blocks, whole, constants, WARPS, STAGES, PAIRS
    yield f"rows {dtype} d{width}", _rows, rest, constants | {"ROWS": ROWS}, WARPS, STAGES, ROWS
