"""The page: what ran, on what, a table a case, and whether the targets are met."""

from __future__ import annotations

import statistics

import torch

from . import measure
from .harness import PLAIN, Case, Result, Target


def heading(device: str, threads: int, rounds: int) -> str:
    """Versions, hardware and what the columns mean."""
    if device == "cuda":
        where = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
        time = "milliseconds between CUDA events, medians of do_bench with a cold L2"
    else:
        where, time = (
            f"{measure.cpu_name()}, {threads} threads",
            "CPU-seconds of the process, idle threads asleep (OMP_WAIT_POLICY=PASSIVE)",
        )
    return (
        f"torch {torch.__version__}, {where}, {rounds} rounds. Time: {time}. Memory: peak above the "
        "inputs, outputs included. Ratios are to the plain way, in the same round. Median (smallest .. largest)."
    )


def section(kernel: str, case: Case, result: Result, device: str) -> str:
    """Heading, table, who was left out, targets."""
    lines = [f"## {kernel}: {case.name}", "", *_table(result, device), ""]
    lines += [f"- left out: {side}: {reason}" for side, reason in result.left_out.items()]
    lines += [f"- target: {verdict(target, result)}" for target in case.targets]
    return "\n".join(lines).rstrip() + "\n"


def _table(result: Result, device: str) -> list[str]:
    unit, factor = ("s", 1) if device == "cpu" else ("ms", 1000)
    rows = [["side", f"time, {unit}", "ratio", "memory, MB", "ratio"]]
    for side, taken in result.seconds.items():
        times = _spread([seconds * factor for seconds in taken], 3) + ("" if len(taken) > 1 else " (once)")
        ratios, share = _time_ratios(result, side, PLAIN), memory_ratio(result, side, PLAIN)
        memory = f"{result.memory[side] / 1e6:.0f}"
        rows.append([side, times, _spread(ratios, 2), memory, "" if share is None else f"{share:.3f}"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return [lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]]


def _spread(numbers: list[float], digits: int) -> str:
    """Median (smallest .. largest), to so many digits; empty without numbers."""
    if not numbers:
        return ""
    shown = (statistics.median(numbers), min(numbers), max(numbers))
    middle, low, high = (f"{n:.0f}" if n >= 10**digits else f"{n:#.{digits}g}".rstrip(".") for n in shown)
    return middle if low == high else f"{middle} ({low} .. {high})"


def time_ratio(result: Result, side: str, against: str) -> float | None:
    """Median of the rounds' ratios; None where one of the two was not measured."""
    ratios = _time_ratios(result, side, against)
    return statistics.median(ratios) if ratios else None


def _time_ratios(result: Result, side: str, against: str) -> list[float]:
    """A ratio a round, in which both ran soon after each other; a side that ran once, to the other's median."""
    own, other = result.seconds.get(side, []), result.seconds.get(against, [])
    if not own or not other:
        return []
    if len(own) != len(other):
        return [statistics.median(own) / statistics.median(other)]
    return [mine / theirs for mine, theirs in zip(own, other, strict=True)]


def memory_ratio(result: Result, side: str, against: str) -> float | None:
    """Of the peaks; None where one of the two was not measured."""
    if side not in result.memory or not result.memory.get(against):
        return None
    return result.memory[side] / result.memory[against]


def verdict(target: Target, result: Result) -> str:
    """The bound, what was found, and met or not met."""
    if target.what == "ms":
        found = statistics.median(result.seconds[result.ours]) * 1000 if result.ours in result.seconds else None
        bound = f"at most {target.at_most:g} ms"
    else:
        ratio = time_ratio if target.what == "time" else memory_ratio
        found, bound = ratio(result, result.ours, target.against), f"at most {target.at_most:.3g}"
        bound = f"{target.what} of ours to {target.against}, {bound}"
    if found is None:
        return f"{bound}: not measured"
    return f"{bound}: {found:.3g}, {'met' if found <= target.at_most else 'NOT MET'}"
