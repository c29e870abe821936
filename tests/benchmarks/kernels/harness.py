"""What a benchmark is made of, and the comparison of its sides."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from . import measure

Inputs = dict[str, Any]
Outputs = dict[str, Tensor]
PLAIN = "the plain way"


@dataclass(frozen=True)
class Target:
    """A bound on what ours takes.

    Attributes:
        what: time or memory as a share of the side `against`; ms is an absolute time.
        at_most: the bound.
        against: a side's name.
    """

    what: Literal["time", "memory", "ms"]
    at_most: float
    against: str = PLAIN


@dataclass(frozen=True)
class Case:
    """One shape of a benchmark.

    Attributes:
        name: for the heading.
        sizes: B, N, D, ...
        form: which variant of the computation; each benchmark has its own.
        dtype: of what is multiplied.
        targets: what ours is to reach.
    """

    name: str
    sizes: Mapping[str, int]
    form: str = ""
    dtype: torch.dtype = torch.float32
    targets: tuple[Target, ...] = ()


@dataclass(frozen=True)
class Side:
    """One way to compute the case.

    Attributes:
        name: for the table.
        run: computes the outputs from the inputs, leaving these as they are.
        role: ours and plain must be right, or there is no table; a peer that is not is named.
        missing: why it cannot run here; empty where it can.
        once: too slow for rounds, so timed in its first run alone.
        compiled: compiles for the shapes it sees, so its memory is measured in a second run.
    """

    name: str
    run: Callable[[Inputs], Outputs]
    role: Literal["ours", "plain", "peer"] = "peer"
    missing: str = ""
    once: bool = False
    compiled: bool = False


@dataclass(frozen=True)
class Bench:
    """One benchmark.

    Attributes:
        name: of the kernel.
        cases: (device, quick) -> the shapes that are timed.
        small: device -> shapes whose answers are checked before anything is timed.
        inputs: (case, device) -> the same tensors at every call.
        sides: (case, device) -> what is compared; the first of role `ours` is what the targets are about.
        expected: (case, inputs, dtype) -> the outputs, computed in that type.
        check: (case, inputs, found, expected, role) -> what is wrong, in words; nothing where all is right.
        truth: what the small shapes are held against, in words.
    """

    name: str
    cases: Callable[[str, bool], list[Case]]
    small: Callable[[str], list[Case]]
    inputs: Callable[[Case, str], Inputs]
    sides: Callable[[Case, str], list[Side]]
    expected: Callable[[Case, Inputs, torch.dtype], Outputs]
    check: Callable[[Case, Inputs, Outputs, Outputs, str], list[str]]
    truth: str = "float64"


MemoryOf = Callable[[Side, Inputs], int]


@dataclass
class Result:
    """What a case took: seconds a round and bytes at the peak by side; and who was left out, and why."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    ours: str = ""
    left_out: dict[str, str] = field(default_factory=dict)


def compiled(loss: Callable[[Inputs], Tensor]) -> Callable[[Inputs], Tensor]:
    """The loss under torch.compile, which is imported when it first runs."""
    made = functools.cache(lambda: torch.compile(loss, dynamic=False))
    return lambda given: made()(given)


class Refusal(SystemExit):
    """No table: a side that has to be right is wrong."""


def check_small(bench: Bench, device: str) -> list[str]:
    """Hold ours and the plain way against the truth (float64) at small and ragged shapes.

    Returns:
        the sizes of the shapes.

    Raises:
        Refusal: something differs.
    """
    for case in bench.small(device):
        inputs = bench.inputs(case, device)
        expected = bench.expected(case, inputs, torch.float64)
        for side in bench.sides(case, device):
            if side.role != "peer" and not side.missing:
                _must_be_right(bench, case, side, bench.check(case, inputs, side.run(inputs), expected, side.role))
    return [" ".join(f"{key}={size}" for key, size in case.sizes.items()) for case in bench.small(device)]


def compare(bench: Bench, case: Case, device: str, rounds: int, memory_of: MemoryOf) -> Result:
    """Run all sides, check their answers, then measure.

    Args:
        bench: the benchmark.
        case: one of its shapes.
        device: cpu or cuda.
        rounds: how often each side is timed.
        memory_of: (side, inputs) -> the bytes that it takes at its peak.

    Raises:
        Refusal: ours or the plain way is wrong.
    """
    result, inputs = Result(), bench.inputs(case, device)
    expected, ready = bench.expected(case, inputs, torch.float32), []
    for side in bench.sides(case, device):
        reason = side.missing or _first_run(bench, case, side, inputs, expected, result)
        if reason:
            result.left_out[side.name] = reason
        else:
            ready.append(side)
    result.ours = next((side.name for side in ready if side.role == "ours"), "")
    for _ in range(rounds):
        for side in ready:
            if not side.once:
                taken = measure.seconds(functools.partial(side.run, inputs), device)
                result.seconds.setdefault(side.name, []).append(taken)
    result.seconds = {side.name: result.seconds[side.name] for side in ready}  # in the order of the sides
    result.memory = {side.name: memory_of(side, inputs) for side in ready}
    return result


def _first_run(bench: Bench, case: Case, side: Side, inputs: Inputs, expected: Outputs, result: Result) -> str:
    """Check a side's answer; why it is left out, or nothing."""
    found: Outputs = {}
    try:
        seconds = measure.once(lambda: found.update(side.run(inputs)), inputs["device"])
    except Exception as error:
        if side.role == "ours" or (side.role == "plain" and not isinstance(error, torch.OutOfMemoryError)):
            raise
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:120] if str(error) else ''}"
    wrong = bench.check(case, inputs, found, expected, side.role)
    if side.role != "peer":
        _must_be_right(bench, case, side, wrong)
    if side.once:
        result.seconds[side.name] = [seconds]
    return f"its answer differs: {'; '.join(wrong)}" if wrong else ""


def _must_be_right(bench: Bench, case: Case, side: Side, wrong: list[str]) -> None:
    if wrong:
        raise Refusal(f"no table: {bench.name}, {case.name}, {side.name}: {'; '.join(wrong)}.")
