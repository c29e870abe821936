"""Numbers in words."""

from __future__ import annotations


def plural(n: int, noun: str) -> str:
    """A count with its noun."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def have(n: int) -> str:
    """The verb for n."""
    return "has" if n == 1 else "have"


def be(n: int) -> str:
    """The verb for n."""
    return "is" if n == 1 else "are"


def percent(share: float) -> str:
    """A share as a percentage; what is not nothing is not shown as nothing, nor what is not all as all."""
    if 0 < share < 0.001:
        return "under 0.1 %"
    return "over 99.9 %" if 0.999 < share < 1 else f"{share:.1%}".replace("%", " %")
