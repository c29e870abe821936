"""What an encoder takes of items, prepared by threads before it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from mmenc_plugin.encoders import Encoder
from mmenc_plugin.errors import MediaError
from mmenc_plugin.features.contents import Contents
from mmenc_plugin.features.pictures import PictureOptions, PictureSource
from mmenc_plugin.types import ItemTable, Modality


class Ahead:
    """Prepared pictures, texts or both of items.

    Args:
        items: the items.
        encoder: that takes them.
        modality: what of them.
        contents: of the items.
        pictures: how they are prepared.
        pool: gives the threads; asked only for pictures.
    """

    def __init__(
        self,
        items: ItemTable,
        encoder: Encoder,
        modality: Modality,
        contents: Contents,
        pictures: PictureOptions,
        pool: Callable[[], ThreadPoolExecutor],
    ) -> None:
        self.items, self.modality, self._pool = items, modality, pool
        self._source = None
        if modality != "text":
            self._source = PictureSource(items, encoder, contents.pictures, pictures.cache)
        self._waiting: dict[int, Future[Any]] = {}

    def begin(self, rows: Iterable[int]) -> None:
        """Start to prepare item rows."""
        if self._source is None:
            return
        for row in rows:
            if row not in self._waiting:
                self._waiting[row] = self._pool().submit(self._source.picture, row)

    def take(self, rows: Sequence[int]) -> list[Any]:
        """What the encoder takes of the item rows [n].

        Raises:
            MediaError: a picture that was fine before the training and is not any more.
        """
        self.begin(rows)
        return [self._input(row) for row in rows]

    def close(self) -> None:
        """Let go of what was prepared, and of the cache."""
        self._waiting.clear()
        if self._source is not None:
            self._source.close()

    def _input(self, row: int) -> Any:
        if self._source is None:
            return self.items.texts[row]
        try:
            picture = self._waiting.pop(row).result()
        except MediaError as error:
            raise MediaError(
                f"the picture of item '{self.items.ids[row]}', which could be read before, cannot any more: {error}. "
                "Leave the pictures in place while a model trains."
            ) from error
        return picture if self.modality == "image" else (picture, self.items.texts[row])
