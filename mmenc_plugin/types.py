"""The values that are handed on along the walk, and the alphabet of shapes.

B batch, U users, I items, N rows, D width, K list length or negatives, M modalities, L tokens,
H and W picture height and width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Modality = Literal["image", "text", "fused"]
MODALITIES: tuple[Modality, ...] = ("image", "text", "fused")  # fused: a joint encoder's one vector of both


@dataclass(frozen=True)
class Citation:
    """Where a method comes from."""

    title: str
    authors: str
    year: int
    url: str


@dataclass(frozen=True)
class ItemTable:
    """The items of a data set, in the order of their file.

    Attributes:
        ids: [N] item ids, as strings.
        texts: [N] the text columns joined, "" where an item has none.
        images: [N] the picture's path below `image_dir`, "" where an item has none.
        image_dir: the folder that holds the pictures.
    """

    ids: list[str]
    texts: list[str]
    images: list[str]
    image_dir: Path

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Interactions:
    """Who took what in the training part.

    Attributes:
        users: [N] user rows, int64.
        items: [N] item rows, int64.
        n_users: U, the padding row included where the host has one.
        n_items: I, likewise.
        padding_row: whether row 0 is no user and no item (RecBole).
    """

    users: Tensor
    items: Tensor
    n_users: int
    n_items: int
    padding_row: bool = False


@dataclass(frozen=True)
class Embeddings:
    """What a model ranks with: score(u, i) = users[u] . items[i] + item_bias[i].

    Attributes:
        users: [U, D].
        items: [I, D].
        item_bias: [I], or None for no bias.
    """

    users: Tensor
    items: Tensor
    item_bias: Tensor | None = None


@dataclass(frozen=True)
class TargetRanks:
    """Where the target items of queries stand among all other admissible items.

    With ties by the smaller row, a target's rank (from 0) is above + tied_before; the mean over all orders of its ties
    is above + tied / 2.

    Attributes:
        above: [T] how many have a larger score, int64.
        tied: [T] how many have an equal score.
        tied_before: [T] how many have an equal score and a smaller row.
    """

    above: Tensor
    tied: Tensor
    tied_before: Tensor


@dataclass(frozen=True)
class TopK:
    """The best items of each query, best first.

    Attributes:
        ids: [B, K] item rows, -1 where a query has fewer than K items left.
        scores: [B, K], -inf where `ids` is -1.
        ranks: of the target items, where they were asked for.
    """

    ids: Tensor
    scores: Tensor
    ranks: TargetRanks | None = None


@dataclass(frozen=True)
class Neighbours:
    """The most similar items of each item, most similar first.

    Attributes:
        ids: [I, K] item rows, -1 where an item has fewer than K neighbours.
        weights: [I, K] similarities, 0 where `ids` is -1.
    """

    ids: Tensor
    weights: Tensor


@dataclass(frozen=True)
class TripletBatch:
    """A pairwise training batch: each user, an item they took and one they did not.

    Attributes:
        users: [B] user rows.
        positives: [B] item rows.
        negatives: [B] item rows.
    """

    users: Tensor
    positives: Tensor
    negatives: Tensor
