"""The figures that an inspection is made of: counts with examples, groups, and how numbers spread."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

EXAMPLES = 6  # of each finding
BINS = 24  # of a histogram


@dataclass(frozen=True)
class Example:
    """One item that shows a finding.

    Attributes:
        item: its id.
        detail: what is seen there, "" where the id says it all.
    """

    item: str
    detail: str = ""


@dataclass(frozen=True)
class Finding:
    """How many of a kind there are.

    Attributes:
        count: how many.
        share: of those that were looked at, 0..1.
        examples: the first few.
    """

    count: int
    share: float
    examples: tuple[Example, ...] = ()

    @classmethod
    def of(cls, hits: Sequence[Example], total: int) -> Finding:
        """All hits among `total`."""
        return cls(len(hits), share(len(hits), total), tuple(hits[:EXAMPLES]))


@dataclass(frozen=True)
class Group:
    """Several items that have one thing in common.

    Attributes:
        name: the thing: a reason, a text, the sha256 of a picture.
        count: items that have it.
        share: of those that were looked at, 0..1.
        examples: the first few.
    """

    name: str
    count: int
    share: float
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class Spread:
    """How numbers spread.

    Attributes:
        minimum: the least.
        median: half of them are at most this.
        p95: 95 % of them are at most this.
        maximum: the greatest.
        histogram: how many fall into each of 24 bins of equal width between minimum and maximum.
    """

    minimum: float
    median: float
    p95: float
    maximum: float
    histogram: tuple[int, ...]

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> Spread | None:
        """The spread of N numbers, None where there are none."""
        if not len(values):
            return None
        array = np.asarray(values, dtype=np.float64)
        low, median, p95, high = np.percentile(array, [0, 50, 95, 100]).tolist()
        counts, _ = np.histogram(array, bins=BINS, range=(low, high))
        return cls(low, median, p95, high, tuple(counts.tolist()))


def share(part: float, whole: float) -> float:
    """`part` of `whole` in 0..1; 0 where there is nothing."""
    return part / whole if whole else 0.0


def groups(members: Iterable[tuple[str, Example]], total: int) -> list[Group]:
    """Members gathered by name, the largest group first, equal ones in the order of their first member."""
    gathered: dict[str, list[Example]] = {}
    for name, example in members:
        gathered.setdefault(name, []).append(example)
    found = [Group(n, len(m), share(len(m), total), tuple(m[:EXAMPLES])) for n, m in gathered.items()]
    return sorted(found, key=lambda group: -group.count)
