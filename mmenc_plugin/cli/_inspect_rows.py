"""The report of an inspection in words: what the terminal and the page both show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mmenc_plugin.data.inspection import (
    Coverage,
    Example,
    Finding,
    Group,
    Inspection,
    InteractionReport,
    PictureReport,
    Spread,
    TextReport,
    TokenReport,
)
from mmenc_plugin.data.inspection.words import percent

COVERAGE = {
    "image": "a usable picture",
    "text": "a text",
    "both": "both",
    "neither": "neither",
}


@dataclass(frozen=True)
class Row:
    """One line: what, how much, and items (or users) that show it."""

    label: str
    value: str
    examples: tuple[Example, ...] = ()
    of_items: bool = True


@dataclass(frozen=True)
class Section:
    """Rows under a title."""

    title: str
    rows: tuple[Row, ...]


def sections(report: Inspection) -> list[Section]:
    """The whole report but its advice."""
    parts = [
        Section("Interactions", tuple(_interactions(report.items, report.interactions))),
        Section("Items that have", tuple(_covered(COVERAGE[k], c) for k, c in report.coverage.items())),
    ]
    if report.pictures:
        parts.append(Section(pictures_title(report), tuple(_pictures(report.pictures))))
    if report.texts:
        parts.append(Section("Texts", tuple(_texts(report.texts))))
    if report.tokens:
        parts.append(Section("Tokens", tuple(_tokens(report.tokens))))
    return parts


def pictures_title(report: Inspection) -> str:
    """The title of the pictures' section, which says if they are a sample."""
    if report.sample is None:
        return "Pictures"
    return f"Pictures (of {report.sample:,} items chosen at random, seed {report.seed})"


def _interactions(items: int, found: InteractionReport) -> Iterator[Row]:
    yield Row("items", f"{items:,}")
    yield Row("users", f"{found.users:,}")
    yield Row("interactions", f"{found.interactions:,}" + (f", {found.repeated:,} repeated" if found.repeated else ""))
    if not found.interactions:
        return
    yield Row("density", f"{found.density:.4%}".replace("%", " %"))
    yield Row("of a user", spread(found.per_user))
    yield Row("of an item", spread(found.per_item))
    yield Row("top 1 % of items", f"{percent(found.top_1_percent)} of interactions")
    yield Row("top 10 % of items", f"{percent(found.top_10_percent)} of interactions")
    yield replace(_found("users with under 5", found.few), of_items=False)
    yield _found("items never taken", found.cold)
    yield _found("with unknown items", found.unknown)


def _covered(label: str, coverage: Coverage) -> Row:
    weighted = coverage.interaction_share
    of_all = "" if weighted is None else f", {percent(weighted)} of interactions"
    return Row(label, f"{coverage.count:,} ({percent(coverage.share)}){of_all}")


def _pictures(found: PictureReport) -> Iterator[Row]:
    yield from (_found(group.name, group) for group in found.unusable)
    yield _found("same as another's", found.duplicates)
    for group in found.placeholders:
        yield _found("placeholder", group)
    yield _found("nearly one colour", found.blank)
    yield Row("width", spread(found.width, "px"))
    yield Row("height", spread(found.height, "px"))
    yield Row("width / height", spread(found.aspect))
    yield Row("formats", _counts(found.formats))
    yield Row("modes", _counts(found.modes))


def _texts(found: TextReport) -> Iterator[Row]:
    yield Row("characters", spread(found.characters))
    yield Row("words", spread(found.words))
    yield _found("empty", found.empty)
    yield _found("under 3 words", found.short)
    yield _found("same as another's", found.duplicates)
    yield _found("HTML left in", found.html)
    yield _found("unprintable", found.unprintable)


def _tokens(found: TokenReport) -> Iterator[Row]:
    yield Row("encoder", found.encoder)
    if found.tokens is None and found.cut is None:
        yield Row("limit", "unknown" if found.limit is None else f"{found.limit:,}")
        yield Row("tokens of a text", "unknown: this encoder does not tell")
        return
    yield Row("limit", "none" if found.limit is None else f"{found.limit:,}")
    yield Row("tokens of a text", spread(found.tokens))
    if found.cut and found.limit is not None:
        yield _found("texts that are cut", found.cut)
        yield Row("tokens cut off", percent(found.lost or 0.0))


def _found(label: str, found: Finding | Group) -> Row:
    value = f"{found.count:,} ({percent(found.share)})" if found.count else "none"
    return Row(label, value, found.examples)


def spread(found: Spread | None, unit: str = "") -> str:
    """Least, middle, 95 % and greatest, or that there is nothing."""
    if found is None:
        return "none"
    if found.minimum == found.maximum:
        return f"{number(found.minimum)} {unit}".rstrip() + " (all)"
    parts = (found.minimum, found.median, found.p95, found.maximum)
    names = ("min", "median", "95 %", "max")
    return ", ".join(f"{name} {number(part)}" for name, part in zip(names, parts, strict=True)) + f" {unit}".rstrip()


def number(value: float) -> str:
    """A number as people write it."""
    return f"{value:,.0f}" if value == int(value) or value >= 100 else f"{value:,.2f}".rstrip("0").rstrip(".")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"
