"""The pairs of picture and text that items are: which there are, what is held out, and their order in an epoch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from mmenc_plugin.errors import DataError
from mmenc_plugin.features.contents import Contents, Rows, read_contents
from mmenc_plugin.types import ItemTable


@dataclass(frozen=True)
class Pairs:
    """P different pairs of a picture and a text, in the order of the items.

    Attributes:
        items: the N items that they are of.
        rows: [P] an item that is the pair.
        of_item: [N] the pair of each item, -1 for none.
        images: [P] number of the picture, equal where pictures are.
        texts: [P] number of the text, likewise.
        pictures: of the items, by which they are prepared and cached.
        digests: [P, 32] uint8, the sha256 of picture and text.
    """

    items: ItemTable
    rows: Rows
    of_item: Rows
    images: Rows
    texts: Rows
    pictures: Contents
    digests: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def digest(self) -> str:
        """One sha256 over the contents of all pairs, in their order."""
        return hashlib.sha256(self.digests.tobytes()).hexdigest()

    def text(self, pair: int) -> str:
        """The text of a pair."""
        return self.items.texts[int(self.rows[pair])]

    def without(self, pairs: Sequence[int]) -> Pairs:
        """All but some of the pairs."""
        keep = np.ones(len(self), dtype=bool)
        keep[list(pairs)] = False
        number = np.full(len(self) + 1, -1, dtype=np.int64)  # the last for the items that are no pair
        number[np.nonzero(keep)] = np.arange(keep.sum())
        return replace(
            self, rows=self.rows[keep], of_item=number[self.of_item], images=self.images[keep],
            texts=self.texts[keep], digests=self.digests[keep],
        )  # fmt: skip


def read_pairs(items: ItemTable, store: Path, show_progress: bool = False) -> Pairs:
    """The pairs of those items that have both a picture and a text; items of equal contents are one pair.

    Args:
        items: N items.
        store: where the digests of pictures are remembered.
        show_progress: bars.

    Raises:
        DataError: fewer than two different pairs.
    """
    images, texts = (read_contents(items, modality, store, show_progress) for modality in ("image", "text"))
    image_numbers, text_numbers = images.distinct()[1], texts.distinct()[1]
    (both,) = np.nonzero((image_numbers >= 0) & (text_numbers >= 0))
    keys = np.stack([image_numbers[both], text_numbers[both]], axis=1)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    order = first.argsort()
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    rows = both[first[order]]
    of_item = np.full(len(items), -1, dtype=np.int64)
    of_item[both] = rank[inverse.ravel()]
    _check(len(rows), len(items), images, texts)
    whole = [hashlib.sha256(images.digests[r].tobytes() + texts.digests[r].tobytes()).digest() for r in rows]
    return Pairs(
        items, rows, of_item, image_numbers[rows], text_numbers[rows], images,
        np.frombuffer(b"".join(whole), dtype=np.uint8).reshape(-1, 32),
    )  # fmt: skip


def split(pairs: Pairs, share: float, seed: int) -> tuple[Rows, Rows]:
    """The training and the validation part, without a picture or a text in common.

    Pairs that hang together by equal pictures or texts stay together. Which of these groups are held out depends on
    their contents and the seed, not on the order of the items.

    Args:
        pairs: P pairs.
        share: of them that is held out, nearly; 0 for none.
        seed: of the choice.

    Returns:
        Numbers of pairs, rising, of the training and of the validation part.

    Raises:
        DataError: a part would be without two pairs to be told apart.
    """
    everything = np.arange(len(pairs))
    if not share:
        return everything, everything[:0]
    groups = _groups(pairs)
    names = [hashlib.sha256(f"{seed} ".encode() + digest.tobytes()).digest() for digest in pairs.digests]
    least: dict[int, bytes] = {}
    for group, name in zip(groups.tolist(), names, strict=True):
        least[group] = min(name, least.get(group, name))
    sizes, most = np.bincount(groups), max(2, round(share * len(pairs)))
    chosen, held = np.zeros(len(sizes), dtype=bool), 0
    for group in sorted(least, key=least.__getitem__):
        if held + sizes[group] <= most:
            chosen[group], held = True, held + int(sizes[group])
    part = chosen[groups]
    if held < 2 or len(pairs) - held < 2:
        raise DataError(
            f"finetune_validation: {share} of {len(pairs)} pairs cannot be held out: of those that share no picture "
            f"and no text with another, {held} would be, and two at least are wanted on each side. The pairs fall into "
            f"{len(sizes)} groups without anything in common, the largest of {sizes.max()}. "
            "Set finetune_validation: 0 to train without validation."
        )
    return everything[~part], everything[part]


def batches(order: Rows, size: int) -> list[Rows]:
    """An order cut into as few batches of at most `size` as there can be, none smaller than another by more than 1."""
    return np.array_split(order, -(-len(order) // size))


def shuffled(part: Rows, seed: int, epoch: int) -> Rows:
    """The pairs of a part in the order of an epoch."""
    return np.random.default_rng([seed % 2**63, epoch]).permutation(part)


def _groups(pairs: Pairs) -> Rows:
    """[P] the number of the group of pairs that hang together by equal pictures or texts."""
    n_images, n_texts = int(pairs.images.max()) + 1, int(pairs.texts.max()) + 1
    nodes = n_images + n_texts
    links = coo_matrix((np.ones(len(pairs)), (pairs.images, n_images + pairs.texts)), shape=(nodes, nodes))
    labels = connected_components(links, directed=False)[1][pairs.images]
    return np.unique(labels, return_inverse=True)[1].ravel().astype(np.int64)


def _check(n_pairs: int, n_items: int, images: Contents, texts: Contents) -> None:
    if n_pairs >= 2:
        return
    reasons = [f"{len(c.rejected)} without a {name}" for name, c in (("picture", images), ("text", texts))]
    example = next(iter({**texts.rejected, **images.rejected}.values()), "")
    raise DataError(
        f"fine-tuning needs items that differ and have both a picture and a text: at least two, but {n_pairs} of "
        f"{n_items} items are ({', '.join(reasons)}{f'; for one: {example}' if example else ''}). Check item_image, "
        "image_dir and item_text; mmenc inspect shows what the items have."
    )
