"""Interactions: how many, whose, and how they crowd on few items."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mmenc_plugin.data.inspection.figures import EXAMPLES, Example, Finding, Group, Spread, share
from mmenc_plugin.data.inspection.words import plural

FEW = 5  # interactions; users with fewer are hard to split and to learn
TOP = 12  # items that are named


@dataclass(frozen=True)
class InteractionReport:
    """What was found.

    Attributes:
        users: who have an interaction.
        interactions: rows of the file.
        repeated: rows whose user took the item in an earlier row already.
        density: distinct pairs with items of the table, over users times items.
        per_user: interactions of a user.
        per_item: interactions of an item of the table, cold ones included.
        few: users with fewer than 5 interactions (the examples are users).
        cold: items of the table without an interaction.
        unknown: interactions with items that the table lacks; a run stops at them.
        unknown_items: how many such items there are.
        top_1_percent: share of the table's interactions that goes to the 1 % of items with most, 0..1.
        top_10_percent: likewise.
        most_taken: the items with most interactions; the name is the id.
    """

    users: int
    interactions: int
    repeated: int
    density: float
    per_user: Spread | None
    per_item: Spread | None
    few: Finding
    cold: Finding
    unknown: Finding
    unknown_items: int
    top_1_percent: float
    top_10_percent: float
    most_taken: tuple[Group, ...]


def count_per_item(ids: Sequence[str], taken: Sequence[str]) -> np.ndarray:
    """Interactions of each item [N] int64.

    Args:
        ids: N items.
        taken: the item of each interaction.
    """
    counts = pd.Series(taken, dtype=str).value_counts()
    return counts.reindex(list(ids), fill_value=0).to_numpy(dtype=np.int64)


def report_interactions(ids: Sequence[str], users: Sequence[str], taken: Sequence[str]) -> InteractionReport:
    """Look at all interactions.

    Args:
        ids: N items.
        users: the user of each interaction.
        taken: the item of each interaction.
    """
    frame = pd.DataFrame({"user": users, "item": taken}, dtype=str)
    per_user = frame["user"].value_counts()
    per_item = count_per_item(ids, taken)
    strange = frame.loc[~frame["item"].isin(set(ids)), "item"].value_counts()
    pairs = frame.drop_duplicates()
    known_pairs = int(pairs["item"].isin(set(ids)).sum())
    few = [Example(str(user), plural(n, "interaction")) for user, n in per_user[per_user < FEW].items()]
    named = tuple(Example(str(item), plural(n, "interaction")) for item, n in strange.head(EXAMPLES).items())
    return InteractionReport(
        users=len(per_user),
        interactions=len(frame),
        repeated=len(frame) - len(pairs),
        density=share(known_pairs, len(per_user) * len(ids)),
        per_user=Spread.of(per_user.to_numpy()),
        per_item=Spread.of(per_item),
        few=Finding.of(few, len(per_user)),
        cold=Finding.of([Example(ids[row]) for row in (per_item == 0).nonzero()[0]], len(ids)),
        unknown=Finding(int(strange.sum()), share(int(strange.sum()), len(frame)), named),
        unknown_items=len(strange),
        top_1_percent=top_share(per_item, 0.01),
        top_10_percent=top_share(per_item, 0.1),
        most_taken=_most_taken(ids, per_item),
    )


def top_share(per_item: np.ndarray, part: float) -> float:
    """Share of all interactions that goes to the `part` of items (rounded up) with most, 0..1."""
    n = math.ceil(part * len(per_item))
    return share(int(np.sort(per_item)[::-1][:n].sum()), int(per_item.sum()))


def _most_taken(ids: Sequence[str], per_item: np.ndarray) -> tuple[Group, ...]:
    order = np.argsort(-per_item, kind="stable")[:TOP]
    total = int(per_item.sum())
    return tuple(
        Group(ids[row], int(per_item[row]), share(int(per_item[row]), total)) for row in order if per_item[row]
    )
