"""What a piece of work takes: bytes at their peak, and seconds."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


@dataclass
class Peak:
    """Bytes of tensors made, and not yet let go, at the moment at which they were most."""

    bytes: int = 0


@contextmanager
def peak(device: torch.device, there: Iterable[Tensor] = ()) -> Iterator[Peak]:
    """Measure what is made inside, in forward and backward, recomputations among it.

    Args:
        device: of the work. On CUDA its allocator is asked; elsewhere the tensors are counted, exactly, but for what
            an operation needs inside itself.
        there: tensors that exist before; views of them are not counted.
    """
    found = Peak()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield found
        torch.cuda.synchronize(device)
        found.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    with _Storages(there) as storages:
        yield found
    found.bytes = storages.most


class _Storages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches the storages behind the outputs of all operations, until they are let go."""

    def __init__(self, there: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self.alive: dict[int, Any] = {}
        self.kept = [tensor.untyped_storage() for tensor in there]
        for storage in self.kept:
            self.alive[storage._cdata] = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.alive:
            return

        def let_go(_: Any) -> None:
            self.alive.pop(key, None)
            self.now -= size

        self.alive[key] = weakref.ref(storage, let_go)
        self.now += size
        self.most = max(self.most, self.now)


@dataclass(frozen=True)
class Cost:
    """Of a step over some items, as a line through two measurements.

    Attributes:
        bytes_at_all: of a step, however few its items.
        bytes_an_item: of each item more.
        seconds_at_all: likewise.
        seconds_an_item: likewise.
    """

    bytes_at_all: float
    bytes_an_item: float
    seconds_at_all: float
    seconds_an_item: float

    def bytes(self, items: float) -> float:
        """Of a step over so many items."""
        return self.bytes_at_all + self.bytes_an_item * items

    def seconds(self, items: float) -> float:
        """Of a step over so many items."""
        return self.seconds_at_all + self.seconds_an_item * items


def cost(
    step: Callable[[int], object], device: torch.device, items: int, there: Iterable[Tensor] = (), repeats: int = 2
) -> Cost:
    """Take the step over `items` items and over twice as many.

    Args:
        step: called with a number of items. What it leaves behind at its first call (gradients) is not counted.
        device: of the work.
        items: at the first measurement.
        there: as for `peak`; their gradients are there as well.
        repeats: of which the fastest counts.
    """
    step(items)
    there = [tensor for one in there for tensor in (one, one.grad) if tensor is not None]
    size, time_ = [], []
    for n in (items, 2 * items):
        with peak(device, there) as found:
            step(n)
        size.append(found.bytes)
        time_.append(min(seconds(lambda n=n: step(n), device) for _ in range(repeats)))  # type: ignore[misc]
    return Cost(*_line(items, *size), *_line(items, *time_))


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """That the work takes, on the device too."""
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _line(x: int, low: float, high: float) -> tuple[float, float]:
    """Height at 0 and slope of the line through (x, low) and (2 x, high), neither below zero."""
    slope = max(0.0, (high - low) / x)
    return max(0.0, low - slope * x), slope
