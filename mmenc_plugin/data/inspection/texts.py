"""Texts of a catalogue: their lengths, what is left of HTML, empty and repeated ones, and what an encoder cuts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html.entities import html5

import numpy as np

from mmenc_plugin.data.inspection.figures import EXAMPLES, Example, Finding, Group, Spread, groups, share
from mmenc_plugin.types import ItemTable

FEW_WORDS = 3  # fewer make a text very short
GROUPS = 10  # groups of duplicates that are reported
LOST = "\ufffd"  # what a decoder writes for bytes that it does not know
_CLIP = 200  # characters of a text that are reported
_SNIPPET = 30  # characters to either side of what was found
_TAGS = "a|b|br|div|em|font|h[1-6]|hr|i|img|li|ol|p|span|strong|table|td|th|tr|u|ul"
_HTML = re.compile(rf"&(?:(?P<name>\w{{2,31}})|#\d{{1,7}}|#x[0-9a-f]{{1,6}});|</?(?:{_TAGS})(?:\s[^<>]*)?/?>", re.I)
_UNPRINTABLE = {"Cc", "Cn", "Co", "Cs"}  # controls, unassigned, private use, surrogates


@dataclass(frozen=True)
class TextReport:
    """What was found; every share is of all items.

    Attributes:
        characters: of the texts that are not empty.
        words: likewise, between white space.
        empty: items without a text.
        short: items whose text has fewer than 3 words.
        duplicates: items whose text is the same as another item's.
        duplicate_groups: the largest groups of them; the name is the text, at most 200
            characters of it.
        html: texts in which a tag or an entity is left, as `<br>` or `&amp;`.
        unprintable: texts with control characters, or with U+FFFD, which a wrong decoding leaves.
    """

    characters: Spread | None
    words: Spread | None
    empty: Finding
    short: Finding
    duplicates: Finding
    duplicate_groups: tuple[Group, ...]
    html: Finding
    unprintable: Finding


@dataclass(frozen=True)
class TokenReport:
    """What an encoder takes of the texts; empty ones are left out.

    Attributes:
        encoder: its URI.
        limit: tokens that it takes, special ones included; None where it has, or names, no limit.
        tokens: of a text before it is cut; None where the encoder does not tell.
        cut: texts that are longer than the limit; None where that is not known.
        lost: share of all tokens that is cut off, 0..1; None where that is not known.
    """

    encoder: str
    limit: int | None
    tokens: Spread | None
    cut: Finding | None
    lost: float | None


def report_texts(items: ItemTable) -> TextReport:
    """Look at all texts."""
    total = len(items)
    pairs = [(item, text) for item, text in zip(items.ids, items.texts, strict=True) if text]
    words = [len(text.split()) for _, text in pairs]
    same = [group for group in groups(((text, Example(item)) for item, text in pairs), total) if group.count > 1]
    same = [replace(group, name=_clipped(group.name)) for group in same]
    in_groups = sum(group.count for group in same)
    short = [Example(item, _clipped(text)) for (item, text), n in zip(pairs, words, strict=True) if n < FEW_WORDS]
    return TextReport(
        characters=Spread.of([len(text) for _, text in pairs]),
        words=Spread.of(words),
        empty=Finding.of([Example(i) for i, text in zip(items.ids, items.texts, strict=True) if not text], total),
        short=Finding.of(short, total),
        duplicates=Finding(
            in_groups, share(in_groups, total), tuple(Example(g.examples[0].item, g.name) for g in same[:EXAMPLES])
        ),
        duplicate_groups=tuple(same[:GROUPS]),
        html=Finding.of(_hits(pairs, find_html), total),
        unprintable=Finding.of(_hits(pairs, find_unprintable), total),
    )


def report_tokens(encoder: str, limit: int | None, items: ItemTable, counts: Sequence[int] | None) -> TokenReport:
    """What an encoder takes of the texts.

    Args:
        encoder: its URI.
        limit: tokens that it takes, None for no limit.
        items: N items.
        counts: [N] tokens of each text before it is cut, or None where the encoder does not tell.
    """
    if counts is None:
        return TokenReport(encoder, limit, None, None, None)
    ids = [item for item, text in zip(items.ids, items.texts, strict=True) if text]
    tokens = np.array([n for n, text in zip(counts, items.texts, strict=True) if text], dtype=np.int64)
    over = np.maximum(tokens - limit, 0) if limit is not None else np.zeros_like(tokens)
    hits = [Example(ids[row], f"{tokens[row]} tokens") for row in over.nonzero()[0]]
    lost = share(int(over.sum()), int(tokens.sum()))
    return TokenReport(encoder, limit, Spread.of(tokens), Finding.of(hits, len(ids)), lost)


def find_html(text: str) -> tuple[int, int] | None:
    """Where the first tag or entity of HTML stands."""
    for match in _HTML.finditer(text):
        if match["name"] is None or f"{match['name']};" in html5:
            return match.span()
    return None


def find_unprintable(text: str) -> tuple[int, int] | None:
    """Where the first character stands that a text cannot mean."""
    if text.isprintable() and LOST not in text:
        return None
    for position, character in enumerate(text):
        if character == LOST or unicodedata.category(character) in _UNPRINTABLE:
            return position, position + 1
    return None


def printable(text: str) -> str:
    """The text with U+FFFD for each character that a text cannot mean, which a terminal might take for a command."""
    if text.isprintable():
        return text
    return "".join(LOST if unicodedata.category(character) in _UNPRINTABLE else character for character in text)


def _hits(pairs: Sequence[tuple[str, str]], find: Callable[[str], tuple[int, int] | None]) -> list[Example]:
    spans = ((item, text, find(text)) for item, text in pairs)
    return [Example(item, _around(text, *span)) for item, text, span in spans if span]


def _around(text: str, start: int, end: int) -> str:
    left, right = max(0, start - _SNIPPET), min(len(text), end + _SNIPPET)
    return ("..." if left else "") + text[left:right] + ("..." if right < len(text) else "")


def _clipped(text: str) -> str:
    return text if len(text) <= _CLIP else text[: _CLIP - 3] + "..."
