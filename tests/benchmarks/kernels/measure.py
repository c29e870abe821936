"""Clocks and memory."""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

SLOW = 1.0  # seconds; a GPU side that takes longer is timed in one run a round


def once(run: Callable[[], object], device: str) -> float:
    """Seconds of one run: CPU-seconds of all threads of this process, or between two CUDA events."""
    if device == "cpu":
        start = time.process_time()
        run()
        return time.process_time() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000


def seconds(run: Callable[[], object], device: str) -> float:
    """As `once`; on a GPU, where runs are short, the median of many with a cold L2."""
    taken = once(run, device)
    if device == "cpu" or taken > SLOW:
        return taken
    from triton.testing import do_bench

    return float(do_bench(run, warmup=25, rep=200, return_mode="median")) / 1000


def peak_bytes(run: Callable[[], object], device: str) -> int:
    """Bytes that a run holds at most, above what is held before it; its outputs count."""
    gc.collect()
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        kept = run()
        torch.cuda.synchronize()
        del kept
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)  # what earlier runs have freed but not given back would not be counted
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = _status("VmRSS")
    kept = run()
    del kept
    return _status("VmHWM") - before


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key + ":")).split()[1]) * 1024


def in_own_process(arguments: Sequence[str]) -> int:
    """What `cli.child` prints in a fresh process.

    Raises:
        RuntimeError: the process failed; its last lines are told.
    """
    command = [sys.executable, str(Path(__file__).parent), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return int(json.loads(done.stdout.splitlines()[-1])["bytes"])


def cpu_name() -> str:
    """The processor, as the system calls it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")
