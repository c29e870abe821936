"""From pieces of work to features: pictures prepared ahead by threads, batches encoded, results written."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mmenc_plugin.encoders import Encoder
from mmenc_plugin.errors import EncoderOutputError, MediaError, some
from mmenc_plugin.features.contents import Contents, Rows
from mmenc_plugin.features.pictures import PictureOptions, PictureSource, picture_threads
from mmenc_plugin.features.shards import Shard
from mmenc_plugin.types import ItemTable, Modality

AHEAD = 2  # batches whose pictures are being prepared while one is encoded
_log = logging.getLogger("mmenc_plugin")


@dataclass(frozen=True)
class _Batch:
    shard: Shard
    positions: range
    inputs: list[Callable[[], Any]]  # each gives its input, or raises why there is none


@dataclass
class Pipeline:
    """Encodes pieces of work.

    Attributes:
        items: the items.
        encoder: what encodes them.
        modality: which of their contents.
        contents: of the items.
        work: [W] item row of each position in the work.
        batch_size: contents encoded at once.
        pictures: how they are prepared.
        progress: called with the number of contents done.
    """

    items: ItemTable
    encoder: Encoder
    modality: Modality
    contents: Contents
    work: Rows
    batch_size: int
    pictures: PictureOptions
    progress: Callable[[int], object]
    _most: int = field(init=False)
    _source: PictureSource | None = field(init=False)

    def __post_init__(self) -> None:
        self._most = self.batch_size
        self._source = None
        if self.modality != "text":
            self._source = PictureSource(self.items, self.encoder, self.contents.pictures, self.pictures.cache)

    def close(self) -> None:
        """Let go of the cache of prepared pictures."""
        if self._source:
            self._source.close()

    def run(self, shards: Iterable[Shard]) -> int:
        """Encode and write each piece; returns how many there were.

        Raises:
            EncoderOutputError: a feature that is not finite.
            StoreError: a piece cannot be written.
        """
        done = 0
        features: dict[int, Tensor] = {}
        rejected: dict[int, str] = {}
        claimed: deque[Shard] = deque()
        try:
            with picture_threads(self.pictures.threads()) as pool, torch.inference_mode():
                for batch in self._prepared(shards, claimed, pool):
                    features |= self._encode(batch, rejected)
                    self.progress(len(batch.positions))
                    if batch.positions.stop == batch.shard.end:
                        batch.shard.write(features, rejected, self.encoder.spec.width[self.modality])
                        claimed.popleft()
                        done, features, rejected = done + 1, {}, {}
        finally:
            for shard in claimed:
                shard.lock.release()
        return done

    def _prepared(self, shards: Iterable[Shard], claimed: deque[Shard], pool: ThreadPoolExecutor) -> Iterator[_Batch]:
        """Batches, in order, the next few of them under way."""
        waiting: deque[_Batch] = deque()

        def begin(position: int) -> Callable[[], Any]:
            row = int(self.work[position])
            return partial(self._input, row) if self.modality == "text" else pool.submit(self._input, row).result

        for shard in shards:
            claimed.append(shard)
            for start in range(shard.start, shard.end, self.batch_size):
                positions = range(start, min(start + self.batch_size, shard.end))
                waiting.append(_Batch(shard, positions, [begin(position) for position in positions]))
                if len(waiting) > AHEAD:
                    yield waiting.popleft()
        yield from waiting

    def _input(self, row: int) -> Any:
        """What the encoder takes of an item: its prepared picture, its text or both."""
        if self._source is None:
            return self.items.texts[row]
        picture = self._source.picture(row)
        return picture if self.modality == "image" else (picture, self.items.texts[row])

    def _encode(self, batch: _Batch, rejected: dict[int, str]) -> dict[int, Tensor]:
        inputs = {}
        for position, give in zip(batch.positions, batch.inputs, strict=True):
            try:
                inputs[position] = give()
            except MediaError as error:
                rejected[position] = str(error)
        values = self._embed(list(inputs.values()))
        bad = [position for position, fine in zip(inputs, values.isfinite().flatten(1).all(1), strict=True) if not fine]
        if bad:
            ids = [self.items.ids[int(self.work[position])] for position in bad]
            spec = self.encoder.spec
            raise EncoderOutputError(
                f"{spec.family}:{spec.architecture} gave values that are not finite (NaN or infinite) for the "
                f"{self.modality} of {len(ids)} items ({some(ids)}) in one batch. Its weights are damaged, or "
                f"{spec.precision} is too narrow for them: check the weights, or set encoder_precision to float32."
            )
        return dict(zip(inputs, values, strict=True))

    def _embed(self, inputs: Sequence[Any]) -> Tensor:
        """Features [B, D]; a batch that does not fit in memory is halved, and the later ones with it."""
        parts = []
        start = 0
        while start < len(inputs):
            try:
                parts.append(self.encoder.embed(self.modality, inputs[start : start + self._most]))
                start += self._most
            except (MemoryError, RuntimeError) as error:
                if self._most == 1 or not is_out_of_memory(error):
                    raise
                self._most = max(1, min(self._most, len(inputs) - start) // 2)
                _log.warning("out of memory: going on with batches of %d", self._most)
            if self._most < self.batch_size and torch.cuda.is_available():
                torch.cuda.empty_cache()
        return torch.cat(parts) if parts else torch.zeros(0, 1)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, on any device, or Python asked for memory that is not there."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return "not enough memory" in str(error) or "can't allocate memory" in str(error)  # of torch on the CPU
