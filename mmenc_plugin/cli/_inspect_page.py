"""The report of an inspection as one page."""

from __future__ import annotations

from collections.abc import Iterable

from mmenc_plugin.cli._inspect_rows import COVERAGE, Row, Section, number, sections
from mmenc_plugin.cli._page import ShownItems, block, card, cards, image, safe, whole_page
from mmenc_plugin.data.inspection import Coverage, Example, Group, Inspection, Spread
from mmenc_plugin.data.inspection.figures import BINS
from mmenc_plugin.data.inspection.words import percent, plural
from mmenc_plugin.types import ItemTable


def page(report: Inspection, items: ItemTable) -> str:
    """The report as HTML.

    Args:
        report: of the inspection.
        items: what it is about; the pictures of the examples are read again.
    """
    known = ShownItems(items)
    blocks = [_tiles(report), _advice(report.advice), _coverage(report.coverage)]
    if report.pictures:
        shown = [card(known, example.item) for example in report.pictures.shown]
        blocks.append(block("Pictures from all over the data set", cards(shown)))
        blocks.append(_repeated(known, report.pictures.duplicate_groups))
    taken = [card(known, g.name, plural(g.count, "interaction")) for g in report.interactions.most_taken]
    blocks.append(block("Taken most", cards(taken)))
    blocks += [_section(known, section) for section in sections(report) if section.title != "Items that have"]
    blocks.append(block("How it spreads", _histograms(report)))
    subject = "What the data set holds, before it is encoded"
    return whole_page(report.dataset, subject, "\n".join(filter(None, blocks)))


def _tiles(report: Inspection) -> str:
    found = report.interactions
    tiles = [(f"{report.items:,}", "items"), (f"{found.users:,}", "users"), (f"{found.interactions:,}", "interactions")]
    if found.interactions:
        tiles.append((f"{found.density:.3%}".replace("%", " %"), "density"))
    tiles += [(percent(c.share), f"have {COVERAGE[k]}") for k, c in report.coverage.items() if k in ("image", "text")]
    return '<div class="tiles">' + "".join(f"<div><b>{safe(v)}</b>{safe(n)}</div>" for v, n in tiles) + "</div>"


def _advice(lines: Iterable[str]) -> str:
    return block("What to do", '<ol class="advice">' + "".join(f"<li>{safe(line)}</li>" for line in lines) + "</ol>")


def _coverage(parts: dict[str, Coverage]) -> str:
    rows = []
    for key, part in parts.items():
        bars = _bar("items", part.share, f"{percent(part.share)} ({part.count:,})")
        if part.interaction_share is not None:
            bars += _bar("weighted", part.interaction_share, f"{percent(part.interaction_share)} of interactions")
        rows.append(f'<div class="cover"><b>{safe(COVERAGE[key])}</b><div>{bars}</div></div>')
    return block("Items that have", "".join(rows))


def _bar(kind: str, share: float, label: str) -> str:
    return f'<div class="bar {kind}"><i><u style="width:{100 * share:.1f}%"></u></i><span>{safe(label)}</span></div>'


def _repeated(known: ShownItems, groups: Iterable[Group]) -> str:
    """One picture of each group, with the items that share it."""
    shared = []
    for group in groups:
        names = "".join(f"<li><code>{safe(e.item)}</code> {safe(known.caption(e.item))}</li>" for e in group.examples)
        picture = image(known, group.examples[0].item)
        shared.append(f'<div class="same">{picture}<div><b>{group.count:,} items</b><ul>{names}</ul></div></div>')
    return block("Pictures that several items have", "".join(shared))


def _section(known: ShownItems, section: Section) -> str:
    return block(section.title, f"<dl>{''.join(_row(known, row) for row in section.rows)}</dl>")


def _row(known: ShownItems, row: Row) -> str:
    chips = "".join(_chip(known, example, row.of_items) for example in row.examples)
    below = f'<div class="chips">{chips}</div>' if chips else ""
    return f"<div><dt>{safe(row.label)}</dt><dd>{safe(row.value)}{below}</dd></div>"


def _chip(known: ShownItems, example: Example, of_item: bool) -> str:
    source = known.picture(example.item) if of_item else ""
    picture = f'<img src="{source}" alt="">' if source else ""
    return f"<div>{picture}<span><code>{safe(example.item)}</code> {safe(example.detail)}</span></div>"


def _histograms(report: Inspection) -> str:
    found, tokens = report.interactions, report.tokens
    wanted: list[tuple[str, Spread | None, int | None]] = [
        ("interactions of a user", found.per_user, None),
        ("interactions of an item", found.per_item, None),
    ]
    if report.texts:
        wanted.append(("words of a text", report.texts.words, None))
    if tokens:
        wanted.append((f"tokens of a text for {tokens.encoder}", tokens.tokens, tokens.limit))
    if report.pictures:
        wanted += [("width of a picture, px", report.pictures.width, None)]
        wanted += [("height of a picture, px", report.pictures.height, None)]
    drawn = [_histogram(t, s, limit) for t, s, limit in wanted if s and s.minimum < s.maximum]
    return f'<div class="hists">{"".join(drawn)}</div>' if drawn else ""


def _histogram(title: str, spread: Spread, limit: int | None) -> str:
    step, most = (spread.maximum - spread.minimum) / BINS, max(spread.histogram)
    bars = []
    for k, count in enumerate(spread.histogram):
        low = spread.minimum + k * step
        kind = ' class="over"' if limit is not None and low >= limit else ""
        hover = f"{number(round(low, 2))} to {number(round(low + step, 2))}: {count:,}"
        bars.append(f'<i{kind} title="{safe(hover)}" style="height:{100 * count / most:.1f}%"></i>')
    note = f", limit {limit:,}" if limit is not None else ""
    return (
        f'<div><h3>{safe(title)}</h3><div class="hist">{"".join(bars)}</div><p><span>{number(spread.minimum)}</span>'
        f"<span>median {number(spread.median)}{note}</span><span>{number(spread.maximum)}</span></p></div>"
    )
