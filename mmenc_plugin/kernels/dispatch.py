"""Which implementation of a kernel computes: Triton on a GPU, else the blockwise torch path.

The implementations of every kernel are `triton` (a GPU of compute capability 8.0 or newer, or Triton's interpreter),
`cpu` (blockwise torch, which runs on any device) and `reference` (the mathematics, with the whole matrix).
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from typing import Literal, get_args

import torch
from torch import Tensor

from mmenc_plugin.errors import unknown_name

Scorer = Literal["auto", "triton", "cpu", "reference"]
SCORERS: tuple[Scorer, ...] = get_args(Scorer)
TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
OLDEST_GPU = (8, 0)  # compute capability: the first with bfloat16 tensor cores

_log = logging.getLogger("mmenc_plugin")
_default: Scorer = "auto"


def set_scorer(scorer: Scorer) -> None:
    """Set the implementation of every kernel call that names none, in this process.

    Args:
        scorer: auto takes Triton where it can run and the blockwise path elsewhere.

    Raises:
        UnknownNameError: not one of SCORERS.
    """
    global _default
    _default = _known(scorer)


def get_scorer() -> Scorer:
    """What `set_scorer` has set; auto at first."""
    return _default


def choose(kernel: str, asked: Scorer | None, *tensors: Tensor) -> Literal["triton", "cpu", "reference"]:
    """The implementation for these tensors.

    Args:
        kernel: its name, for the notice.
        asked: what the call names, or None for what `set_scorer` has set.
        tensors: those that are multiplied.

    Returns:
        What was asked for, or `cpu` with one notice a process where Triton was wanted and cannot run.

    Raises:
        UnknownNameError: `asked` is not one of SCORERS.
    """
    scorer = _default if asked is None else _known(asked)
    on_gpu = tensors[0].device.type == "cuda"
    if scorer in ("cpu", "reference"):
        return scorer
    if scorer == "auto" and not on_gpu:
        return "cpu"
    reason = next((r for t in tensors if (r := obstacle(t.device, t.dtype))), None)
    if reason is None:
        return "triton"
    _notice(kernel, reason)
    return "cpu"


def obstacle(device: torch.device, dtype: torch.dtype = torch.float32) -> str | None:
    """Why Triton cannot run on tensors of that device and type; None where it can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install triton)"
    if dtype not in TRITON_DTYPES:
        return f"{str(dtype).removeprefix('torch.')} is none of float32, bfloat16 and float16"
    if interpreted():
        return None
    if device.type != "cuda":
        return f"the tensors are on {device.type}, and Triton needs a GPU"
    found = torch.cuda.get_device_capability(device)
    if found < OLDEST_GPU:
        return f"the GPU has compute capability {found[0]}.{found[1]}, and 8.0 or newer is needed"
    return None


def interpreted() -> bool:
    """Whether Triton kernels run in Triton's interpreter, on the CPU (TRITON_INTERPRET=1, set before the start)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _known(scorer: str) -> Scorer:
    if scorer not in SCORERS:
        raise unknown_name("scorer", scorer, SCORERS)
    return scorer


@functools.cache
def _notice(kernel: str, reason: str) -> None:
    _log.warning("%s: %s; the blockwise torch path computes instead, with the same result.", kernel, reason)
