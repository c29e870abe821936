"""Recommendations as one page: for each user what they took and what is recommended, with pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmenc_plugin.cli._page import ShownItems, block, card, cards, whole_page

if TYPE_CHECKING:
    from mmenc_plugin.hosts.recbole.recommend import Recommendations, SavedRun

TAKEN = 12  # items that a user took, at most; the last ones


def page(run: SavedRun, lists: Sequence[Recommendations], most: int) -> str:
    """The lists as HTML.

    Args:
        run: which made them.
        lists: of some users.
        most: users that are shown.
    """
    known, parts, users = ShownItems(run.items()), [], sum(len(part.users) for part in lists)
    every = (entry for part in lists for entry in zip(part.users, part.items, part.scores, strict=True))
    for (user, items, scores), _ in zip(every, range(most), strict=False):
        taken = run.taken(user)
        more = f" (the last {TAKEN} of {len(taken)})" if len(taken) > TAKEN else ""
        parts.append(block(f"User {user} took{more}", cards([card(known, item) for item in taken[:TAKEN]])))
        ranked = enumerate(zip(items, scores, strict=True), start=1)
        shown = [card(known, item, f"{rank}. score {score:.4g}") for rank, (item, score) in ranked]
        parts.append(block(f"Recommended to {user}", cards(shown)))
    subject = f"What users took, and what is recommended to them ({min(most, users)} of {users} users)"
    return whole_page(run.name, subject, "\n".join(parts))
