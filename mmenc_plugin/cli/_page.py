"""Pages that need nothing else: no script, no file, no network. Items are shown with their pictures and texts."""

from __future__ import annotations

import base64
import html
import io
from string import Template

from PIL import Image

from mmenc_plugin import __version__
from mmenc_plugin.cli._page_style import STYLE
from mmenc_plugin.data.inspection.texts import printable
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
<title>$name: $subject</title>
<style>
$style</style>
</head>
<body>
<header><h1>$name</h1><p>$subject</p></header>
<main>
$body
</main>
<footer>mmenc-plugin $version</footer>
</body>
</html>
""")


class ShownItems:
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
            opened = open_image(resolve(self._items.image_dir, self._items.images[self._rows[item]]))
        except MediaError:
            return ""
        small = to_rgb(opened, "white")
        small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        data = io.BytesIO()
        small.save(data, "JPEG", quality=QUALITY)
        return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def whole_page(name: str, subject: str, body: str) -> str:
    """A whole page.

    Args:
        name: what it is about, its heading.
        subject: what it says of that.
        body: HTML.
    """
    return _PAGE.substitute(name=safe(name), subject=safe(subject), style=STYLE, body=body, version=safe(__version__))


def safe(text: str) -> str:
    """Any text as HTML that shows it, control characters as a sign that there was one."""
    return html.escape(printable(text), quote=True)


def block(title: str, body: str) -> str:
    """A section with a title; nothing where there is nothing to show."""
    return f"<section><h2>{safe(title)}</h2>\n{body}</section>" if body else ""


def card(known: ShownItems, item: str, note: str = "") -> str:
    """An item: its picture, the beginning of its text, its id, and a note."""
    caption, note = known.caption(item), f"<small>{safe(note)}</small>" if note else ""
    return (
        f"<figure>{image(known, item)}<figcaption><p>{safe(caption)}</p>"
        f"<code>{safe(item)}</code>{note}</figcaption></figure>"
    )


def image(known: ShownItems, item: str) -> str:
    """The item's picture, or a sign that it has none."""
    source = known.picture(item)
    return f'<img src="{source}" alt="">' if source else '<div class="none">no picture</div>'


def cards(cards: list[str]) -> str:
    """Cards side by side."""
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""
