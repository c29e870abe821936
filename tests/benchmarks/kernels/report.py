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
        f"torch {torch.__version__}, {where}, {rounds} rounds. Time: {time}; median (smallest .. largest of the "
        "rounds). Memory: peak above the inputs, outputs included. Ratios are to the plain way."
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
        spread = f" ({min(taken) * factor:.3g} .. {max(taken) * factor:.3g})" if len(taken) > 1 else " (once)"
        rows.append(
            [
                side,
                f"{statistics.median(taken) * factor:.3g}{spread}",
                _number(time_ratio(result, side, PLAIN)),
                f"{result.memory[side] / 1e6:.0f}",
                _number(memory_ratio(result, side, PLAIN)),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return [lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]]


def _number(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.3f}"


def time_ratio(result: Result, side: str, against: str) -> float | None:
    """Of the medians; None where one of the two was not measured."""
    if side not in result.seconds or against not in result.seconds:
        return None
    return statistics.median(result.seconds[side]) / statistics.median(result.seconds[against])


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
