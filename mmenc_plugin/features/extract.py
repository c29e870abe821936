"""From items and an encoder to a block of features: once, resumably, and always the same bytes."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from mmenc_plugin.data import media
from mmenc_plugin.data.digests import DigestCache, text_digest
from mmenc_plugin.data.files import write_atomically, writing
from mmenc_plugin.encoders import Encoder
from mmenc_plugin.errors import DataError, MediaError
from mmenc_plugin.features.recipe import Recipe
from mmenc_plugin.features.store import FeatureBlock, open_block, write_block
from mmenc_plugin.types import ItemTable, Modality

SHARD = 256  # items; what an interrupted extraction can lose
_log = logging.getLogger("mmenc_plugin")

# Encodes the items of some rows: features of the rows that have any, and why the others have none.
_EncodeRows = Callable[[Sequence[int], tqdm], tuple[dict[int, Tensor], dict[int, str]]]


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
    store = Path(store)
    with writing(store):
        store.mkdir(parents=True, exist_ok=True)
    recipe = Recipe.of(encoder.spec, modality, len(items), _content(items, modality, store), SHARD, batch_size)
    folder = store / recipe.key
    if not folder.is_dir():
        with _locked(store / f"{recipe.key}.lock"):
            if not folder.is_dir():  # another process may have been faster
                _fill(store, recipe, items, _encode_rows(items, encoder, modality, batch_size), show_progress)
    block = open_block(folder)
    _report(block)
    return block


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = FileLock(path)
    with writing(path.parent):
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
    cache.save()
    return text_digest(*parts)


def _fill(store: Path, recipe: Recipe, items: ItemTable, encode: _EncodeRows, show_progress: bool) -> None:
    """Compute the shards that are missing, then write the block from them."""
    shards = store / f"{recipe.key}.shards"
    with writing(shards):
        shards.mkdir(exist_ok=True)
    starts = range(0, len(items), SHARD)
    with tqdm(total=len(items), unit="item", desc=f"encode {recipe.modality}", disable=not show_progress) as bar:
        for start in starts:
            rows = range(start, min(start + SHARD, len(items)))
            path = shards / f"{start:010d}.safetensors"
            if _read_shard(path) is None:
                _write_shard(path, rows, encode, recipe.encoder["width"], bar)
            else:
                bar.update(len(rows))
    done = [_read_shard(shards / f"{start:010d}.safetensors") for start in starts]
    merged = [part for part in done if part]
    if not any(part[0]["present"].any() for part in merged):
        reasons = Counter(reason for _, rejected in merged for reason in rejected.values()).most_common(1)
        shutil.rmtree(shards)
        raise DataError(
            f"not one of {len(items)} items has a usable {recipe.modality} ({reasons[0][0] if reasons else 'none'})."
        )
    tensors = {name: torch.cat([part[0][name] for part in merged]) for name in ("values", "present")}
    rejected = {items.ids[int(row)]: reason for part in merged for row, reason in part[1].items()}
    write_block(store, recipe, items.ids, tensors, rejected)
    shutil.rmtree(shards)


def _write_shard(path: Path, rows: range, encode: _EncodeRows, width: int, bar: tqdm) -> None:
    values, present = torch.zeros(len(rows), width), torch.zeros(len(rows), dtype=torch.bool)
    features, rejected = encode(rows, bar)
    for row, feature in features.items():
        values[row - rows.start], present[row - rows.start] = feature, True
    metadata = {str(row): reason for row, reason in sorted(rejected.items())}
    write_atomically(path, save({"values": values, "present": present}, metadata={"complete": "yes", **metadata}))


def _read_shard(path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """A shard's tensors and rejected rows, or None where there is no complete one."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            if metadata.pop("complete", "") != "yes":
                return None
            return {name: file.get_tensor(name) for name in ("values", "present")}, metadata
    except (OSError, SafetensorError):
        return None


def _encode_rows(items: ItemTable, encoder: Encoder, modality: Modality, batch_size: int) -> _EncodeRows:
    """How rows of this table are encoded, batch by batch, by this encoder."""

    def encode(rows: Sequence[int], bar: tqdm) -> tuple[dict[int, Tensor], dict[int, str]]:
        features: dict[int, Tensor] = {}
        rejected: dict[int, str] = {}
        if modality == "text":  # texts of about one length together, so that little of a batch is padding
            rows = sorted(rows, key=lambda row: (len(items.texts[row]), row))
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            good, values = _encode_batch(items, encoder, modality, batch, rejected)
            features.update(zip(good, values, strict=True))
            bar.update(len(batch))
        return features, rejected

    return encode


def _encode_batch(
    items: ItemTable, encoder: Encoder, modality: Modality, rows: Sequence[int], rejected: dict[int, str]
) -> tuple[list[int], Sequence[Tensor]]:
    """Rows of the batch that have the modality and their features; the others go to `rejected`."""
    good: list[int] = []
    pictures: list[Image.Image] = []
    for row in rows:
        try:
            if modality == "image":
                pictures.append(media.open_image(media.resolve(items.image_dir, items.images[row])))
            elif not items.texts[row]:
                raise MediaError("no text")
            good.append(row)
        except MediaError as error:
            rejected[row] = str(error)
    if not good:
        return [], []
    values = (
        encoder.embed_images(pictures) if modality == "image" else encoder.embed_texts([items.texts[r] for r in good])
    )
    finite = values.isfinite().all(1)
    for position in (~finite).nonzero().flatten().tolist():
        rejected[good[position]] = "the encoder gave a value that is not finite"
    return [row for row, fine in zip(good, finite.tolist(), strict=True) if fine], list(values[finite])


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
