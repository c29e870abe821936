"""A catalogue, and the walk through it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmenc_plugin.data.inspection.advice import advise
from mmenc_plugin.data.inspection.interactions import count_per_item, report_interactions
from mmenc_plugin.data.inspection.pictures import Picture, examine, report_pictures
from mmenc_plugin.data.inspection.report import Coverage, Inspection
from mmenc_plugin.data.inspection.texts import TokenReport, report_texts
from mmenc_plugin.types import ItemTable


@dataclass(frozen=True)
class Catalogue:
    """What a data set holds.

    Attributes:
        name: of the data set.
        items: N items.
        users: the user of each interaction.
        taken: the item of each interaction.
        pictures: whether the items are to have pictures.
        texts: whether the items are to have texts.
    """

    name: str
    items: ItemTable
    users: Sequence[str]
    taken: Sequence[str]
    pictures: bool = True
    texts: bool = True


def inspect_catalogue(
    catalogue: Catalogue,
    *,
    tokens: TokenReport | None = None,
    sample: int | None = None,
    seed: int = 0,
    show_progress: bool = False,
) -> Inspection:
    """Look at everything that a data set holds.

    Args:
        catalogue: the data set.
        tokens: what the encoder takes of its texts, if that is known.
        sample: look at the pictures of so many items alone, chosen at random; None for all.
        seed: of the choice.
        show_progress: a bar for the pictures.
    """
    items = catalogue.items
    rows = sample_rows(len(items), sample, seed)
    found = examine(items, rows, show_progress) if catalogue.pictures else {}
    report = Inspection(
        version=1,
        dataset=catalogue.name,
        items=len(items),
        sample=len(rows) if catalogue.pictures and len(rows) < len(items) else None,
        seed=seed,
        coverage=_coverage(catalogue, rows, found),
        interactions=report_interactions(items.ids, catalogue.users, catalogue.taken),
        pictures=report_pictures(items, found) if catalogue.pictures else None,
        texts=report_texts(items) if catalogue.texts else None,
        tokens=tokens,
    )
    return replace(report, advice=advise(report))


def sample_rows(n: int, sample: int | None, seed: int) -> list[int]:
    """At most `sample` of n rows, in order; the same ones for the same seed."""
    if sample is None or sample >= n:
        return list(range(n))
    return sorted(random.Random(seed).sample(range(n), sample))


def _coverage(catalogue: Catalogue, rows: Sequence[int], found: dict[int, Picture | str]) -> dict[str, Coverage]:
    taken = count_per_item(catalogue.items.ids, catalogue.taken)
    text = np.array([bool(text) for text in catalogue.items.texts], dtype=bool)
    chosen = np.array(rows, dtype=np.int64)
    image = np.array([isinstance(found.get(row), Picture) for row in rows], dtype=bool)
    parts = {}
    if catalogue.pictures:
        parts["image"] = Coverage.of(image, taken[chosen])
    if catalogue.texts:
        parts["text"] = Coverage.of(text, taken)
    if catalogue.pictures and catalogue.texts:
        parts["both"] = Coverage.of(image & text[chosen], taken[chosen])
        parts["neither"] = Coverage.of(~image & ~text[chosen], taken[chosen])
    return parts
