"""What a run will take, before it is started: parameters, memory against what the device has, and hours.

Costs are measured on a few small steps (see `measure`) and carried on along a line; this page adds them up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import torch
from torch import Tensor, nn

from mmenc_plugin.types import TripletBatch

Reads = Callable[[TripletBatch], Tensor]
_STATES = {"adam": 2, "adamw": 2, "sparse_adam": 2, "adagrad": 1, "rmsprop": 1, "sgd": 0}  # numbers a parameter
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Part:
    """Parameters of a part of the run.

    Attributes:
        name: of the part.
        trained: how many numbers are trained.
        all: how many there are.
    """

    name: str
    trained: int
    all: int

    @classmethod
    def of(cls, name: str, parameters: Iterable[Tensor]) -> Part:
        """The part with these parameters."""
        sizes = [(p.numel(), p.requires_grad) for p in parameters]
        return cls(name, sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes))


@dataclass(frozen=True)
class Memory:
    """Bytes that are held at the moment at which they are most.

    Attributes:
        weights: of the networks, their buffers and tables of features.
        gradients: of what is trained.
        optimizer: its state.
        activations: of a step, temporary tensors among them.
    """

    weights: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    activations: float = 0.0

    @property
    def total(self) -> float:
        """The sum."""
        return self.weights + self.gradients + self.optimizer + self.activations

    def __add__(self, other: Memory) -> Memory:
        return Memory(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @classmethod
    def of(cls, modules: Iterable[nn.Module], learner: str, activations: float = 0.0) -> Memory:
        """Of modules whose trained parameters the optimizer `learner` (RecBole's name) changes."""
        modules = list(modules)
        parameters = [p for module in modules for p in module.parameters()]
        held = [*parameters, *(b for module in modules for b in module.buffers())]
        trained = _bytes(p for p in parameters if p.requires_grad)
        return cls(_bytes(held), trained, _STATES[learner] * trained, activations)


def _bytes(tensors: Iterable[Tensor]) -> float:
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return float(sum(storages.values()))


@dataclass(frozen=True)
class Stage:
    """Steps of one kind.

    Attributes:
        name: what they do.
        steps: how many.
        seconds: of each.
        memory: while they are done.
    """

    name: str
    steps: float
    seconds: float
    memory: Memory

    @property
    def hours(self) -> float:
        """Of all steps."""
        return self.steps * self.seconds / 3600


@dataclass(frozen=True)
class Option:
    """Other settings for the stage that does not fit.

    Attributes:
        settings: key -> value, to be changed.
        stage: with them.
    """

    settings: dict[str, str]
    stage: Stage


@dataclass(frozen=True)
class Plan:
    """A run, added up.

    Attributes:
        title: model, data set and paradigm.
        device: in words.
        free: bytes that the device has left.
        parts: parameters.
        items: sentences on the items that are encoded.
        stages: in their order.
        options: settings that would make the largest stage smaller; only where it does not fit.
    """

    title: str
    device: str
    free: float
    parts: Sequence[Part]
    items: Sequence[str]
    stages: Sequence[Stage]
    options: Sequence[Option] = ()

    @property
    def largest(self) -> Stage:
        """The stage that wants most memory."""
        return max(self.stages, key=lambda stage: stage.memory.total)

    @property
    def fits(self) -> bool:
        """Whether every stage does."""
        return self.largest.memory.total <= self.free

    @property
    def hours(self) -> float:
        """Of all stages."""
        return sum(stage.hours for stage in self.stages)


def free_memory(device: torch.device) -> float:
    """Bytes that the device has left; on the CPU as far as the container's limit allows."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    free = float(psutil.virtual_memory().available)
    try:
        limit, used = ((_CGROUP / f"memory.{name}").read_text(encoding="ascii").strip() for name in ("max", "current"))
    except OSError:
        return free
    return free if limit == "max" else min(free, float(limit) - float(used))


def distinct_items(batches: Sequence[TripletBatch], reads: Reads, size: int) -> float:
    """The mean number of distinct items that the loss reads of the first `size` rows of batches.

    Args:
        batches: of the real data.
        reads: of the model, as `MultimodalRecommender.items_read`.
        size: rows.
    """
    parts = [TripletBatch(*(rows[:size] for rows in vars(batch).values())) for batch in batches]
    return sum(len(torch.unique(reads(part))) for part in parts) / len(parts)


def halves(size: int) -> list[int]:
    """Size / 2, size / 4, ... 1, rounded down."""
    return [size >> n for n in range(1, size.bit_length())]
