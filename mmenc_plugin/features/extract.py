"""From items and an encoder to a block of features: once, resumably, and always the same bytes."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from mmenc_plugin.data import media
from mmenc_plugin.data.digests import DigestCache, text_digest
from mmenc_plugin.data.files import write_atomically, writing
from mmenc_plugin.encoders import Encoder, ReadyFeatures
from mmenc_plugin.errors import DataError, MediaError, StoreError
from mmenc_plugin.features.ready import ready_recipe, write_ready_block
from mmenc_plugin.features.recipe import Recipe
from mmenc_plugin.features.store import FeatureBlock, open_block, write_block
from mmenc_plugin.types import ItemTable, Modality

SHARD = 256  # items; what an interrupted extraction can lose
_Shard = tuple[dict[str, Tensor], dict[str, str]]  # values [n, D] and present [n]; row -> why it has none
_log = logging.getLogger("mmenc_plugin")


@dataclass(frozen=True)
class _Job:
    """Items to encode, and with what."""

    items: ItemTable
    encoder: Encoder
    modality: Modality
    batch_size: int

    def encode(self, rows: Sequence[int], bar: tqdm) -> tuple[dict[int, Tensor], dict[int, str]]:
        """Features [D] of the rows that have the modality, and why the others have none."""
        features: dict[int, Tensor] = {}
        rejected: dict[int, str] = {}
        if self.modality == "text":  # texts of about one length together, so that little of a batch is padding
            rows = sorted(rows, key=lambda row: (len(self.items.texts[row]), row))
        for start in range(0, len(rows), self.batch_size):
            batch = rows[start : start + self.batch_size]
            features.update(self._encode_batch(batch, rejected))
            bar.update(len(batch))
        return features, rejected

    def _encode_batch(self, rows: Sequence[int], rejected: dict[int, str]) -> dict[int, Tensor]:
        inputs: dict[int, Any] = {}
        for row in rows:
            try:
                inputs[row] = self._input(row)
            except MediaError as error:
                rejected[row] = str(error)
        if not inputs:
            return {}
        with torch.inference_mode():
            features = dict(zip(inputs, self.encoder.embed(self.modality, list(inputs.values())), strict=True))
        for row in [row for row, feature in features.items() if not feature.isfinite().all()]:
            rejected[row] = "the encoder gave a value that is not finite"
            del features[row]
        return features

    def _input(self, row: int) -> Tensor | str:
        if self.modality == "image":  # prepared one by one, so that no batch of large pictures is held
            return self.encoder.prepare_file(media.resolve(self.items.image_dir, self.items.images[row]))
        if not self.items.texts[row]:
            raise MediaError("no text")
        return self.items.texts[row]


def extract(
    items: ItemTable,
    encoder: Encoder,
    modality: Modality,
    store: Path | str,
    *,
    batch_size: int = 32,
    show_progress: bool = True,
) -> FeatureBlock:
    """The features of all items in one modality, from the store, or computed and stored.

    Work is saved every 256 items. A run that was interrupted, even killed, goes on from there and
    ends with the same bytes as one that was not. Several processes may ask for the same block: one
    computes, the others wait.

    Args:
        items: N items.
        encoder: must take the modality.
        modality: image or text.
        store: folder of the store; made if it does not exist.
        batch_size: items encoded at once.
        show_progress: a bar with rate and time left.

    Returns:
        The block. Items whose picture or text is missing or unfit are in `rejected`, with the reason.

    Raises:
        DataError: not one item has the modality.
        StoreError: the store cannot be written, or holds a damaged block.
    """
    if not len(items):
        raise DataError("there are no items to encode.")
    store = Path(store)
    with writing(store):
        store.mkdir(parents=True, exist_ok=True)
    if isinstance(encoder, ReadyFeatures):
        block = write_ready_block(items, encoder, modality, store)
        _report(block)
        return block
    recipe = recipe_of(items, encoder, modality, store, batch_size)
    folder = store / recipe.key
    if not folder.is_dir():
        with _locked(store / f"{recipe.key}.lock"):
            if not folder.is_dir():  # another process may have been faster
                _fill(store, recipe, _Job(items, encoder, modality, batch_size), show_progress)
    shutil.rmtree(_shards(store, recipe), ignore_errors=True)
    block = open_block(folder, recipe)
    _report(block)
    return block


def recipe_of(
    items: ItemTable, encoder: Encoder, modality: Modality, store: Path | str, batch_size: int = 32
) -> Recipe:
    """The recipe of the block that `extract` returns for the same arguments, without encoding anything."""
    if isinstance(encoder, ReadyFeatures):
        return ready_recipe(items, encoder, modality)
    content = _content(items, modality, Path(store))
    return Recipe.of(encoder.spec, modality, len(items), content, SHARD, batch_size)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = FileLock(path)
    with writing(path.parent):
        try:
            lock.acquire(timeout=1)
        except Timeout:
            _log.warning("another process is encoding into %s; waiting for it", path.with_suffix(""))
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _content(items: ItemTable, modality: Modality, store: Path) -> str:
    """sha256 over the ids and texts, or the ids and the bytes of the pictures."""
    if modality == "text":
        return text_digest(*(part for pair in zip(items.ids, items.texts, strict=True) for part in pair))
    cache, parts = DigestCache(store / "picture_digests.json"), []
    for item, name in zip(items.ids, items.images, strict=True):
        try:
            parts += [item, cache.digest(media.resolve(items.image_dir, name))]
        except (MediaError, OSError):
            parts += [item, ""]
    with suppress(StoreError):  # it saves time alone; a store that cannot be written says so where that matters
        cache.save()
    return text_digest(*parts)


def _shards(store: Path, recipe: Recipe) -> Path:
    return store / f"{recipe.key}.shards"


def _fill(store: Path, recipe: Recipe, job: _Job, show_progress: bool) -> None:
    """Compute the shards that are missing, then write the block from them."""
    shards, ids = _shards(store, recipe), job.items.ids
    with writing(shards):
        shards.mkdir(exist_ok=True)
    merged: list[_Shard] = []
    with tqdm(total=len(ids), unit="item", desc=f"encode {job.modality}", disable=not show_progress) as bar:
        for start in range(0, len(ids), SHARD):
            rows = range(start, min(start + SHARD, len(ids)))
            path = shards / f"{start:010d}.safetensors"
            shard = _read_shard(path)
            if shard:
                bar.update(len(rows))
            else:
                shard = _write_shard(path, rows, job, recipe.encoder["width"], bar)
            merged.append(shard)
    tensors = {name: torch.cat([part[name] for part, _ in merged]) for name in ("values", "present")}
    rejected = {ids[int(row)]: reason for _, reasons in merged for row, reason in reasons.items()}
    if tensors["present"].any():
        write_block(store, recipe, ids, tensors, rejected)
    shutil.rmtree(shards, ignore_errors=True)
    if not tensors["present"].any():
        usual = Counter(rejected.values()).most_common(1)[0][0]
        raise DataError(f"not one of {len(ids)} items has a usable {job.modality} ({usual}, ...).")


def _write_shard(path: Path, rows: range, job: _Job, width: int, bar: tqdm) -> _Shard:
    values, present = torch.zeros(len(rows), width), torch.zeros(len(rows), dtype=torch.bool)
    features, rejected = job.encode(rows, bar)
    for row, feature in features.items():
        values[row - rows.start], present[row - rows.start] = feature, True
    tensors, reasons = {"values": values, "present": present}, {str(row): why for row, why in sorted(rejected.items())}
    write_atomically(path, save(tensors, metadata={"complete": "yes", **reasons}))
    return tensors, reasons


def _read_shard(path: Path) -> _Shard | None:
    """A shard's tensors and rejected rows, or None where the file is not a whole shard."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in ("values", "present")}
    except (OSError, SafetensorError):
        return None
    return (tensors, metadata) if metadata.pop("complete", "") == "yes" else None


def _report(block: FeatureBlock) -> None:
    """Say how many items have no features, and why."""
    if not block.rejected:
        return
    reasons = Counter(block.rejected.values()).most_common(3)
    listed = "; ".join(f"{reason} ({count})" for reason, count in reasons)
    _log.warning(
        "%d of %d items have no %s features: %s%s. All of them: %s",
        len(block.rejected), len(block.ids), block.recipe["modality"], listed,
        "; ..." if len(set(block.rejected.values())) > len(reasons) else "", block.folder / "rejected.json",
    )  # fmt: skip
