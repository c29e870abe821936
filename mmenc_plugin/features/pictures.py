"""How pictures are prepared ahead by threads, and a cache that spares the next encoder or epoch that work."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmenc_plugin.data import media
from mmenc_plugin.data.digests import json_digest
from mmenc_plugin.data.files import writing
from mmenc_plugin.encoders import Encoder
from mmenc_plugin.errors import StoreError
from mmenc_plugin.types import ItemTable

T = TypeVar("T")


@dataclass(frozen=True)
class PictureOptions:
    """How pictures are prepared; nothing here changes a feature.

    Attributes:
        workers: threads that decode and resize, 0 for one a core.
        cache: folder in which prepared pictures are kept for other encoders, None to keep none.
    """

    workers: int = 0
    cache: Path | None = None

    def threads(self) -> int:
        """`workers`, or the cores that this process may use, shared with its sister processes."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return self.workers or max(1, min(16, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


class PictureCache:
    """Pixels by the content of the picture's file and the way it is prepared; a file for each way.

    Encoders of one family that resize and crop alike share their pictures. Threads and processes may
    use one cache at once. At 224 x 224 a picture takes 150 kB.

    Args:
        folder: of the cache; made if it does not exist.
        encoder: whose pictures are kept.

    Raises:
        StoreError: the cache cannot be opened or written.
    """

    def __init__(self, folder: Path, encoder: Encoder) -> None:
        rule = {name: part for name, part in encoder.picture.as_dict().items() if name not in ("mean", "std")}
        way = {"family": encoder.family, "preparation": encoder.spec.preparation, "rule": rule}
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._path, self._lock = folder / f"pictures-{json_digest(way)[:16]}.sqlite", threading.Lock()
        self._database = self._asked(self._open)

    def picture(self, content: bytes, prepare: Callable[[], Tensor]) -> Tensor:
        """The pixels of a picture, uint8, from the cache or prepared and kept.

        Args:
            content: sha256 of the picture's file.
            prepare: makes the pixels.
        """
        with self._lock:
            found = self._asked(lambda: self._select(content))
        if found:
            shape = [int(side) for side in found[0].split()]
            return torch.from_numpy(np.frombuffer(found[1], dtype=np.uint8).copy()).view(shape)
        pixels = prepare()
        row = (content, " ".join(map(str, pixels.shape)), pixels.contiguous().numpy().tobytes())
        with self._lock:
            self._asked(lambda: self._database.execute("INSERT OR IGNORE INTO pictures VALUES (?, ?, ?)", row))
        return pixels

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=60, isolation_level=None, check_same_thread=False)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = OFF")  # after a power failure it may have to be made anew
        database.execute("CREATE TABLE IF NOT EXISTS pictures (content BLOB PRIMARY KEY, shape TEXT, pixels BLOB)")
        return database

    def _select(self, content: bytes) -> tuple[str, bytes] | None:
        found = self._database.execute("SELECT shape, pixels FROM pictures WHERE content = ?", [content])
        return found.fetchone()  # type: ignore[no-any-return]

    def _asked(self, question: Callable[[], T]) -> T:
        try:
            return question()
        except sqlite3.Error as error:
            raise StoreError(
                f"the picture cache {self._path} cannot be used: {error}. Make room or give write access there, name "
                "another folder with image_cache, or delete that file; it holds nothing that cannot be made again."
            ) from error


class PictureSource:
    """The prepared pictures of items by their row, from a cache where one is kept.

    Args:
        items: N items.
        encoder: for which they are prepared.
        digests: [N, 32] uint8, the sha256 of each item's picture file.
        cache: folder of the cache, None for none.

    Raises:
        StoreError: the cache cannot be opened or written.
    """

    def __init__(self, items: ItemTable, encoder: Encoder, digests: NDArray[np.uint8], cache: Path | None) -> None:
        self._items, self._encoder, self._digests = items, encoder, digests
        self._cache = PictureCache(cache, encoder) if cache else None

    def picture(self, row: int) -> Tensor:
        """The picture of an item, uint8.

        Raises:
            MediaError: the file does not hold a picture that is taken.
        """
        path = media.resolve(self._items.image_dir, self._items.images[row])
        if self._cache is None:
            return self._encoder.prepare_file(path)
        return self._cache.picture(self._digests[row].tobytes(), lambda: self._encoder.prepare_file(path))

    def close(self) -> None:
        """Let go of the cache."""
        if self._cache:
            self._cache.close()


@contextmanager
def picture_threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads whose torch operations run on one core each; the main thread's keep theirs."""
    threads, started = torch.get_num_threads(), threading.Barrier(workers + 1)

    def begin() -> None:
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(workers, thread_name_prefix="mmenc")
    try:
        for _ in range(workers):
            pool.submit(begin)
        started.wait()
        torch.set_num_threads(threads)  # in some builds of torch a thread's number is everybody's until it is set again
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
