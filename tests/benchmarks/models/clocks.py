"""What a process takes: its clocks at each step, and its peak of memory."""

from __future__ import annotations

import ctypes
import gc
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Reading = tuple[float, float]


def read() -> Reading:
    """CPU-seconds of all threads of this process, and seconds by the wall."""
    return time.process_time(), time.perf_counter()


def since(start: Reading, stop: Reading | None = None) -> Reading:
    """The seconds between two readings; the second is now if it is not given."""
    stop = stop or read()
    return stop[0] - start[0], stop[1] - start[1]


class Steps:
    """A trainer's loader that ends after some batches, and notes the clocks whenever it is asked for the next.

    Args:
        loader: of the host; all but its batches is asked of it.
        n: batches; 0 for all.
    """

    def __init__(self, loader: Any, n: int) -> None:
        self.loader, self.n = loader, n or len(loader)
        self.ends: list[Reading] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[Any]:
        for batch in itertools.islice(self.loader, self.n):
            yield batch
            self.ends.append(read())

    def epoch(self, start: Reading) -> Reading:
        """Seconds of a whole epoch, given when it began."""
        first, rest = since(start, self.ends[0]), since(self.ends[0], self.ends[-1])
        scale = (len(self.loader) - 1) / max(len(self.ends) - 1, 1)
        return first[0] + scale * rest[0], first[1] + scale * rest[1]


def forget_peak() -> int:
    """Let the peak of memory start again from here; bytes held now."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is freed but not given back would not be counted later
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def status(key: str) -> int:
    """Bytes by the kernel's account: VmRSS is held now, VmHWM was held at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key + ":")).split()[1]) * 1024
