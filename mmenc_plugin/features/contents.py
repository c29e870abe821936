"""What the items hold, as digests, by which equal contents are encoded once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mmenc_plugin.data import media
from mmenc_plugin.data.digests import DigestCache
from mmenc_plugin.errors import MediaError
from mmenc_plugin.types import ItemTable, Modality

Rows = NDArray[np.int64]
DIGEST = 32  # bytes of a sha256


@dataclass(frozen=True)
class Contents:
    """The contents of N items in one modality.

    Attributes:
        digests: [N, 32] uint8, the sha256 of each item's content; zeros for an item that has none.
        pictures: [N, 32] uint8, of the picture alone; the same array where a picture is the whole content.
        rejected: item row -> why it has none.
    """

    digests: NDArray[np.uint8]
    pictures: NDArray[np.uint8]
    rejected: dict[int, str]

    def digest(self, ids: list[str]) -> str:
        """One sha256 over the items' ids and contents, in their order."""
        whole = hashlib.sha256()
        for item, content in zip(ids, self.digests, strict=True):
            data = item.encode()
            whole.update(len(data).to_bytes(8, "little") + data + content.tobytes())
        return whole.hexdigest()

    def distinct(self) -> tuple[Rows, Rows]:
        """The different contents, in the order in which they first occur.

        Returns:
            The first item row of each [U], and the number 0..U-1 of each item's content [N], -1 for none.
        """
        number = np.full(len(self.digests), -1, dtype=np.int64)
        (has,) = np.nonzero(self.digests.any(1))
        if not len(has):
            return has, number
        _, first, inverse = np.unique(as_keys(self.digests[has]), return_index=True, return_inverse=True)
        order = first.argsort()
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        number[has] = rank[inverse.ravel()]
        return has[first[order]], number


def as_keys(digests: NDArray[np.uint8]) -> NDArray[np.void]:
    """[N, 32] uint8 -> [N], a whole digest an element."""
    return np.ascontiguousarray(digests).view(f"V{DIGEST}").ravel()


def read_contents(items: ItemTable, modality: Modality, store: Path, show_progress: bool = False) -> Contents:
    """Take the digests of all items' contents: of the picture's bytes, the text, or both together.

    Args:
        items: N items.
        modality: image, text or fused.
        store: where the digests of pictures are remembered.
        show_progress: a bar.
    """
    parts = [_texts(items)] if modality != "image" else []
    if modality != "text":
        parts.append(_pictures(items, DigestCache(store / "picture_digests.sqlite")))
    digests, rejected = np.zeros((len(items), DIGEST), dtype=np.uint8), {}
    pictures = np.zeros_like(digests) if modality == "fused" else digests
    with tqdm(total=len(items), unit="item", desc=f"read {modality}", disable=not show_progress, leave=False) as bar:
        for row, found in enumerate(zip(*parts, strict=True)):
            reasons = [reason for _, reason in found if reason]
            if reasons:
                rejected[row] = "; ".join(reasons)
            else:
                content = b"".join(digest for digest, _ in found)
                pictures[row] = np.frombuffer(content[-DIGEST:], dtype=np.uint8)
                if len(found) > 1:
                    digests[row] = np.frombuffer(hashlib.sha256(content).digest(), dtype=np.uint8)
            bar.update()
    return Contents(digests, pictures, rejected)


def _texts(items: ItemTable) -> Iterator[tuple[bytes, str]]:
    """The digest of each text, and why there is none."""
    for text in items.texts:
        yield (hashlib.sha256(text.encode()).digest(), "") if text.strip() else (b"", "no text")


def _pictures(items: ItemTable, cache: DigestCache) -> Iterator[tuple[bytes, str]]:
    """The digest of each picture file, and why there is none."""
    try:
        for name in items.images:
            try:
                yield bytes.fromhex(cache.digest(media.resolve(items.image_dir, name))), ""
            except MediaError as error:
                yield b"", str(error)
            except OSError as error:
                yield b"", f"cannot be read: {error.strerror or error}"
    finally:
        cache.save()
