"""What the GPU can do at most: bytes, products and exponentials a second."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.testing import do_bench

LANES, STEPS = 1024, 512


@triton.jit
def exponentials(out, steps: tl.constexpr, lanes: tl.constexpr):
    """`steps` times x = 2^-x in registers, for `lanes` numbers a program."""
    at = tl.program_id(0) * lanes + tl.arange(0, lanes)
    x = at.to(tl.float32) * 1e-9
    for _ in range(steps):
        x = tl.exp2(-x)
    tl.store(out + at, x)


def ceilings() -> str:
    """A line for the page."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy = 2 * source.numel() / _seconds(lambda: target.copy_(source))
    n = 8_192
    left, right = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    product = 2 * n**3 / _seconds(lambda: left @ right)
    programs = torch.cuda.get_device_properties(0).multi_processor_count * 64
    out = torch.empty(programs * LANES, device="cuda")
    exp2 = out.numel() * STEPS / _seconds(lambda: exponentials[(programs,)](out, STEPS, LANES, num_warps=4))
    return (
        f"Ceilings: copy {copy / 1e12:.2f} TB/s (read and written), bfloat16 product of {n:,}^2 matrices "
        f"{product / 1e12:.0f} TFLOP/s, exp2 {exp2 / 1e12:.2f} T/s.\n"
    )


def _seconds(run) -> float:
    return float(do_bench(run, warmup=50, rep=200, return_mode="median")) / 1000
