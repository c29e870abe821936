"""Pictures of a catalogue: which can be used, which say nothing, which are the same, and their sizes."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from mmenc_plugin.data.inspection.figures import EXAMPLES, Example, Finding, Group, Spread, groups, share
from mmenc_plugin.data.media import decoded, opened, resolve, to_rgb
from mmenc_plugin.errors import MediaError
from mmenc_plugin.types import ItemTable

SIDE = 64  # pixels of the copy in which colours are compared
LEVELS = 8  # of 255, within which two colours are nearly one
BLANK_SHARE = 0.995  # of the pixels, nearly of one colour
PLACEHOLDER_ITEMS, PLACEHOLDER_SHARE = 5, 0.005  # one picture for more items than these is a placeholder
GROUPS = 10  # groups of duplicates that are reported
SHOWN = 24  # usable pictures that are named
_CHUNK = 512  # pictures handed to the threads at once, so that an interruption is quick


@dataclass(frozen=True)
class Picture:
    """A picture that can be used.

    Attributes:
        digest: sha256 of the file.
        format: of the file.
        mode: of the file's pixels, as Pillow names it.
        width: in pixels, after turning as EXIF says.
        height: in pixels.
        blank: nearly one single colour.
    """

    digest: str
    format: str
    mode: str
    width: int
    height: int
    blank: bool


@dataclass(frozen=True)
class PictureReport:
    """What was found.

    Attributes:
        examined: items whose pictures were looked at; every share is of these.
        usable: how many have a picture that an encoder gets.
        unusable: the others by reason, the most frequent first.
        duplicates: items whose picture file has the same bytes as another item's.
        duplicate_groups: the largest groups of them; the name is the sha256.
        placeholder_from: items that one picture must have to be taken for a placeholder.
        placeholders: groups of at least that many.
        blank: pictures that are nearly one single colour.
        width: of the usable pictures, in pixels.
        height: in pixels.
        aspect: width / height.
        formats: of the files -> how many.
        modes: of the pixels -> how many.
        shown: usable pictures from all over the file.
    """

    examined: int
    usable: int
    unusable: tuple[Group, ...]
    duplicates: Finding
    duplicate_groups: tuple[Group, ...]
    placeholder_from: int
    placeholders: tuple[Group, ...]
    blank: Finding
    width: Spread | None
    height: Spread | None
    aspect: Spread | None
    formats: dict[str, int]
    modes: dict[str, int]
    shown: tuple[Example, ...]


def look(path: Path) -> Picture:
    """Decode one picture.

    Raises:
        MediaError: it cannot be used.
    """
    data, header = opened(path)
    kind, mode = str(header.format), header.mode
    image = decoded(header)
    return Picture(hashlib.sha256(data).hexdigest(), kind, mode, image.width, image.height, is_blank(image))


def is_blank(image: Image.Image) -> bool:
    """Whether a picture, its transparent parts on white, is nearly one single colour."""
    small = to_rgb(image, "white").resize((SIDE, SIDE), Image.Resampling.BOX)
    pixels = np.asarray(small).reshape(-1, 3).astype(np.int16)
    near = np.abs(pixels - np.median(pixels, axis=0)).max(axis=1) <= LEVELS
    return float(near.mean()) >= BLANK_SHARE


def examine(items: ItemTable, rows: Sequence[int], show_progress: bool = False) -> dict[int, Picture | str]:
    """The picture of each row, or why it cannot be used."""

    def one(row: int) -> Picture | str:
        try:
            return look(resolve(items.image_dir, items.images[row]))
        except MediaError as error:
            return str(error)

    found: dict[int, Picture | str] = {}
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        tqdm(total=len(rows), unit="picture", desc="look at pictures", disable=not show_progress) as bar,
    ):
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            for row, result in zip(chunk, pool.map(one, chunk), strict=True):
                found[row] = result
                bar.update()
    return found


def report_pictures(items: ItemTable, found: Mapping[int, Picture | str]) -> PictureReport:
    """Add up what `examine` found."""
    total = len(found)
    usable = {row: picture for row, picture in found.items() if isinstance(picture, Picture)}
    refused = ((why, _refused(items, row, why)) for row, why in found.items() if isinstance(why, str))
    same = [group for group in groups(_by_content(items, usable), total) if group.count > 1]
    from_ = max(PLACEHOLDER_ITEMS, int(np.ceil(PLACEHOLDER_SHARE * total)))
    widths = np.array([picture.width for picture in usable.values()])
    heights = np.array([picture.height for picture in usable.values()])
    in_groups = sum(group.count for group in same)
    return PictureReport(
        examined=total,
        usable=len(usable),
        unusable=tuple(groups(refused, total)),
        duplicates=Finding(in_groups, share(in_groups, total), tuple(_twin(group) for group in same[:EXAMPLES])),
        duplicate_groups=tuple(same[:GROUPS]),
        placeholder_from=from_,
        placeholders=tuple(group for group in same if group.count >= from_),
        blank=Finding.of([_example(items, row) for row, picture in usable.items() if picture.blank], total),
        width=Spread.of(widths),
        height=Spread.of(heights),
        aspect=Spread.of(widths / heights),
        formats=dict(Counter(picture.format for picture in usable.values()).most_common()),
        modes=dict(Counter(picture.mode for picture in usable.values()).most_common()),
        shown=tuple(_example(items, row) for row in _spaced(sorted(usable), SHOWN)),
    )


def _by_content(items: ItemTable, usable: Mapping[int, Picture]) -> Iterator[tuple[str, Example]]:
    return ((picture.digest, _example(items, row)) for row, picture in usable.items())


def _example(items: ItemTable, row: int) -> Example:
    return Example(items.ids[row], items.images[row])


def _refused(items: ItemTable, row: int, why: str) -> Example:
    name = items.images[row]
    return Example(items.ids[row], f"{name}: {why}" if name and name not in why else why if name else "")


def _spaced(rows: Sequence[int], n: int) -> list[int]:
    """At most n of the rows, at equal distances."""
    return [rows[k * len(rows) // n] for k in range(n)] if len(rows) > n else list(rows)


def _twin(group: Group) -> Example:
    others = ", ".join(example.item for example in group.examples[1:3])
    return Example(group.examples[0].item, f"the same as {others}" + (", ..." if group.count > 3 else ""))
