"""The report of an inspection as one page that needs nothing else: no script, no file, no network."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable
from string import Template

from PIL import Image

from mmenc_plugin import __version__
from mmenc_plugin.cli._inspect_rows import COVERAGE, Row, Section, number, sections
from mmenc_plugin.cli._inspect_style import STYLE
from mmenc_plugin.data.inspection import Coverage, Example, Group, Inspection, Spread
from mmenc_plugin.data.inspection.figures import BINS
from mmenc_plugin.data.inspection.texts import printable
from mmenc_plugin.data.inspection.words import percent, plural
from mmenc_plugin.data.media import open_image, resolve, to_rgb
from mmenc_plugin.errors import MediaError
from mmenc_plugin.types import ItemTable

SIDE = 160  # pixels of a picture on the page
QUALITY = 80  # of its JPEG
CAPTION = 90  # characters

# The policy makes the browser itself refuse whatever an item's text might ask for.
_PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$name: what the data set holds</title>
<style>
$style</style>
</head>
<body>
<header><h1>$name</h1><p>What the data set holds, before it is encoded</p></header>
<main>
$body
</main>
<footer>mmenc-plugin $version</footer>
</body>
</html>
""")


class _Items:
    """The items by id: their captions, and their pictures as data URIs, each made once."""

    def __init__(self, items: ItemTable) -> None:
        self._items = items
        self._rows = {item: row for row, item in enumerate(items.ids)}
        self._made: dict[str, str] = {}

    def caption(self, item: str) -> str:
        """The beginning of the item's text, "" where it has none."""
        text = self._items.texts[self._rows[item]] if item in self._rows else ""
        return text if len(text) <= CAPTION else text[: CAPTION - 3].rstrip() + "..."

    def picture(self, item: str) -> str:
        """The item's picture as a data URI, "" where it has none."""
        if item not in self._made:
            self._made[item] = self._make(item)
        return self._made[item]

    def _make(self, item: str) -> str:
        if item not in self._rows:
            return ""
        try:
            image = open_image(resolve(self._items.image_dir, self._items.images[self._rows[item]]))
        except MediaError:
            return ""
        small = to_rgb(image, "white")
        small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        data = io.BytesIO()
        small.save(data, "JPEG", quality=QUALITY)
        return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def page(report: Inspection, items: ItemTable) -> str:
    """The report as HTML.

    Args:
        report: of the inspection.
        items: what it is about; the pictures of the examples are read again.
    """
    known = _Items(items)
    blocks = [_tiles(report), _advice(report.advice), _coverage(report.coverage)]
    if report.pictures:
        shown = [_card(known, example.item) for example in report.pictures.shown]
        blocks.append(_block("Pictures from all over the data set", _cards(shown)))
        blocks.append(_repeated(known, report.pictures.duplicate_groups))
    taken = [_card(known, g.name, plural(g.count, "interaction")) for g in report.interactions.most_taken]
    blocks.append(_block("Taken most", _cards(taken)))
    blocks += [_section(known, section) for section in sections(report) if section.title != "Items that have"]
    blocks.append(_block("How it spreads", _histograms(report)))
    return _PAGE.substitute(
        name=_safe(report.dataset), style=STYLE, body="\n".join(filter(None, blocks)), version=_safe(__version__)
    )


def _safe(text: str) -> str:
    """Any text as HTML that shows it, control characters as a sign that there was one."""
    return html.escape(printable(text), quote=True)


def _block(title: str, body: str) -> str:
    return f"<section><h2>{_safe(title)}</h2>\n{body}</section>" if body else ""


def _tiles(report: Inspection) -> str:
    found = report.interactions
    tiles = [(f"{report.items:,}", "items"), (f"{found.users:,}", "users"), (f"{found.interactions:,}", "interactions")]
    if found.interactions:
        tiles.append((f"{found.density:.3%}".replace("%", " %"), "density"))
    tiles += [(percent(c.share), f"have {COVERAGE[k]}") for k, c in report.coverage.items() if k in ("image", "text")]
    return '<div class="tiles">' + "".join(f"<div><b>{_safe(v)}</b>{_safe(n)}</div>" for v, n in tiles) + "</div>"


def _advice(lines: Iterable[str]) -> str:
    return _block("What to do", '<ol class="advice">' + "".join(f"<li>{_safe(line)}</li>" for line in lines) + "</ol>")


def _coverage(parts: dict[str, Coverage]) -> str:
    rows = []
    for key, part in parts.items():
        bars = _bar("items", part.share, f"{percent(part.share)} ({part.count:,})")
        if part.interaction_share is not None:
            bars += _bar("weighted", part.interaction_share, f"{percent(part.interaction_share)} of interactions")
        rows.append(f'<div class="cover"><b>{_safe(COVERAGE[key])}</b><div>{bars}</div></div>')
    return _block("Items that have", "".join(rows))


def _bar(kind: str, share: float, label: str) -> str:
    return f'<div class="bar {kind}"><i><u style="width:{100 * share:.1f}%"></u></i><span>{_safe(label)}</span></div>'


def _card(known: _Items, item: str, note: str = "") -> str:
    caption, note = known.caption(item), f"<small>{_safe(note)}</small>" if note else ""
    return (
        f"<figure>{_image(known, item)}<figcaption><p>{_safe(caption)}</p>"
        f"<code>{_safe(item)}</code>{note}</figcaption></figure>"
    )


def _image(known: _Items, item: str) -> str:
    source = known.picture(item)
    return f'<img src="{source}" alt="">' if source else '<div class="none">no picture</div>'


def _cards(cards: list[str]) -> str:
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


def _repeated(known: _Items, groups: Iterable[Group]) -> str:
    """One picture of each group, with the items that share it."""
    cards = []
    for group in groups:
        names = "".join(f"<li><code>{_safe(e.item)}</code> {_safe(known.caption(e.item))}</li>" for e in group.examples)
        picture = _image(known, group.examples[0].item)
        cards.append(f'<div class="same">{picture}<div><b>{group.count:,} items</b><ul>{names}</ul></div></div>')
    return _block("Pictures that several items have", "".join(cards))


def _section(known: _Items, section: Section) -> str:
    return _block(section.title, f"<dl>{''.join(_row(known, row) for row in section.rows)}</dl>")


def _row(known: _Items, row: Row) -> str:
    chips = "".join(_chip(known, example, row.of_items) for example in row.examples)
    below = f'<div class="chips">{chips}</div>' if chips else ""
    return f"<div><dt>{_safe(row.label)}</dt><dd>{_safe(row.value)}{below}</dd></div>"


def _chip(known: _Items, example: Example, of_item: bool) -> str:
    source = known.picture(example.item) if of_item else ""
    picture = f'<img src="{source}" alt="">' if source else ""
    return f"<div>{picture}<span><code>{_safe(example.item)}</code> {_safe(example.detail)}</span></div>"


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
        bars.append(f'<i{kind} title="{_safe(hover)}" style="height:{100 * count / most:.1f}%"></i>')
    note = f", limit {limit:,}" if limit is not None else ""
    return (
        f'<div><h3>{_safe(title)}</h3><div class="hist">{"".join(bars)}</div><p><span>{number(spread.minimum)}</span>'
        f"<span>median {number(spread.median)}{note}</span><span>{number(spread.maximum)}</span></p></div>"
    )
