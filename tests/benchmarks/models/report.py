"""The page: what ran and on what, and the table."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from tests.benchmarks.kernels.measure import cpu_name
from tests.benchmarks.models import data
from tests.benchmarks.models.clocks import Reading

SIDES = ("ours", "theirs")


@dataclass
class Result:
    """What a model took: readings of each round, and bytes, by side."""

    train: dict[str, list[Reading]] = field(default_factory=lambda: {side: [] for side in SIDES})
    evaluation: dict[str, list[Reading]] = field(default_factory=lambda: {side: [] for side in SIDES})
    memory: dict[str, int] = field(default_factory=dict)


def heading(steps: int, rounds: int, threads: int) -> str:
    """Versions, hardware, and what was measured."""
    measured = f"{steps} batches, scaled to an epoch" if steps else "whole epochs"
    return (
        f"torch {torch.__version__}, Python {platform.python_version()}, {cpu_name()}, threads a side: {threads}. "
        f"{data.N_USERS:,} users, {data.N_ITEMS:,} items, {data.N_PAIRS:,} interactions, features {data.WIDTHS}; "
        f"batches of 2048, width 64, Adam. Training: {measured}. CPU-seconds (wall-clock seconds), the smallest of "
        f"{rounds} rounds in which the sides take turns. Ratios are MMRec's by ours, of CPU-seconds and of bytes: "
        "more than 1 is in favour of ours.\n"
    )


HEADER = (
    "| model | train, s/epoch: ours | MMRec | ratio | evaluation, s: ours | MMRec | ratio | peak, MB: ours | MMRec | "
    "ratio |\n|---|---|---|---|---|---|---|---|---|---|"
)


def row(model: str, result: Result, sides: Sequence[str] = SIDES) -> str:
    """A line of the table; ratios where both sides are there."""
    memory = [f"{result.memory[side] / 1e6:.0f}" if side in sides else "" for side in SIDES]
    memory.append(f"{result.memory['theirs'] / result.memory['ours']:.1f}" if len(sides) == 2 else "")
    return "| " + " | ".join([model, *_cells(result.train), *_cells(result.evaluation), *memory]) + " |"


def _cells(readings: dict[str, list[Reading]]) -> list[str]:
    best = {side: [min(clock) for clock in zip(*taken, strict=True)] for side, taken in readings.items()}
    cells = [f"{clocks[0]:.3g} ({clocks[1]:.3g})" if clocks else "" for clocks in best.values()]
    return [*cells, f"{best['theirs'][0] / best['ours'][0]:.1f}" if all(best.values()) else ""]
