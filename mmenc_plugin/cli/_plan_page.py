"""A plan in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmenc_plugin.training.plan import Memory, Plan, Stage


def page(plan: Plan) -> str:
    """What `mmenc run --plan` prints."""
    return "\n".join(_lines(plan))


def _lines(plan: Plan) -> Iterator[str]:
    yield plan.title
    yield f"device: {plan.device}, {size(plan.free)} free"
    yield ""
    total = ("all", sum(p.trained for p in plan.parts), sum(p.all for p in plan.parts))
    rows = [*((p.name, p.trained, p.all) for p in plan.parts), total]
    yield from _table([("parameters", "trained", "all"), *((n, f"{a:,}", f"{b:,}") for n, a, b in rows)])
    yield ""
    yield from plan.items
    yield ""
    header = ("stage", "steps", "a step", "together", "memory")
    stages = [
        (s.name, f"{s.steps:,}", time(s.seconds), time(s.hours * 3600), size(s.memory.total)) for s in plan.stages
    ]
    yield from _table([header, *stages])
    yield f"in all {time(plan.hours * 3600)}, if no early stop ends it before; measured on a few steps"
    yield ""
    yield _memory(plan.largest)
    if plan.fits:
        yield f"which fits into the {size(plan.free)} that are free"
        return
    yield f"which does NOT FIT into the {size(plan.free)} that are free"
    if plan.options:
        yield ""
        yield from _table(list(_options(plan)))
        if not any(option.stage.memory.total <= plan.free for option in plan.options):
            yield "none of these fits: take a smaller encoder, or paradigm: frozen"


def _stage(stage: Stage) -> tuple[str, ...]:
    together, memory = time(stage.hours * 3600), size(stage.memory.total)
    return stage.name, f"{stage.steps:,}", time(stage.seconds), together, memory


def _memory(stage: Stage) -> str:
    parts = ", ".join(f"{name} {size(n)}" for name, n in vars(stage.memory).items() if n)
    return f"memory, most to {stage.name}: {parts}; {size(stage.memory.total)}"


def _options(plan: Plan) -> Iterator[tuple[str, ...]]:
    yield "with these settings", "memory", "", "a step", "together"
    for option in plan.options:
        memory: Memory = option.stage.memory
        settings = ", ".join(f"{key}: {value}" for key, value in option.settings.items())
        fits = "fits" if memory.total <= plan.free else "does not"
        stage = option.stage
        yield settings, size(memory.total), fits, time(stage.seconds), time(stage.hours * 3600)


def size(n: float) -> str:
    """Bytes, in the unit that suits."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while n >= 1000 and len(units) > 1:
        n, units = n / 1000, units[1:]
    return f"{n:.3g} {units[0]}" if n < 1000 else f"{n:,.0f} {units[0]}"


def time(seconds: float) -> str:
    """A span of time, in the unit that suits."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (360000, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds / 86400:,.0f} days"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(c.rjust(w) if k else c.ljust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]
