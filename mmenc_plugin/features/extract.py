"""From items and an encoder to a block of features: once, resumably, by as many processes as ask for it."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from mmenc_plugin.data.files import writing
from mmenc_plugin.encoders import Encoder, ReadyFeatures
from mmenc_plugin.errors import DataError
from mmenc_plugin.features.contents import Contents, read_contents
from mmenc_plugin.features.pictures import PictureOptions
from mmenc_plugin.features.pipeline import Pipeline
from mmenc_plugin.features.plan import Plan
from mmenc_plugin.features.ready import ready_recipe, write_ready_block
from mmenc_plugin.features.recipe import Recipe
from mmenc_plugin.features.shards import Shards, remove_shards, shards_folder
from mmenc_plugin.features.store import BlockWriter, FeatureBlock, open_block
from mmenc_plugin.types import ItemTable, Modality

SHARD = 256  # contents a piece; what a process that is killed can lose
_log = logging.getLogger("mmenc_plugin")


def extract(
    items: ItemTable,
    encoder: Encoder,
    modality: Modality,
    store: Path | str,
    *,
    batch_size: int = 32,
    pictures: PictureOptions | None = None,
    show_progress: bool = True,
) -> FeatureBlock:
    """The features of all items in one modality, from the store, or computed and stored.

    Items with the same content are encoded once, and what another block of the same encoder has is
    copied: a catalogue that grows costs its new items alone. Work is saved in pieces of 256 contents. A
    run that was interrupted, even killed, goes on from there and ends with the same bytes as one that
    was not. Processes that ask for the same block, as `torchrun` starts them, share the pieces; a
    process that dies leaves its piece to the others.

    Args:
        items: N items.
        encoder: must take the modality.
        modality: image, text or fused.
        store: folder of the store; made if it does not exist.
        batch_size: contents encoded at once; halved with a warning where memory does not suffice.
        pictures: threads that prepare them, and whether they are kept for other encoders.
        show_progress: bars with rate and time left.

    Returns:
        The block. Items whose picture or text is missing or unfit are in `rejected`, with the reason.

    Raises:
        DataError: not one item has the modality.
        EncoderOutputError: the encoder gave a value that is not finite.
        StoreError: the store cannot be written, or holds a damaged block.
    """
    if not len(items):
        raise DataError("there are no items to encode.")
    store, show = Path(store), show_progress and os.environ.get("RANK", "0") == "0"  # one of several processes
    with writing(store):
        store.mkdir(parents=True, exist_ok=True)
    if isinstance(encoder, ReadyFeatures):
        return _copy_ready(items, encoder, modality, store)
    contents = read_contents(items, modality, store, show)
    recipe = Recipe.of(encoder.spec, modality, len(items), contents.digest(items.ids), SHARD, batch_size)
    folder = store / recipe.key
    if not folder.is_dir():
        plan = Plan.of(items, contents, recipe, store)
        with tqdm(total=len(plan.work), unit="item", desc=f"encode {modality}", disable=not show) as bar:
            options = pictures or PictureOptions()
            pipeline = Pipeline(items, encoder, modality, contents, plan.work, batch_size, options, bar.update)
            with closing(pipeline):
                _make(store, recipe, plan, pipeline, bar)
    remove_shards(store, recipe.key)
    block = open_block(folder, recipe)
    _report(block)
    return block


def recipe_of(
    items: ItemTable, encoder: Encoder, modality: Modality, store: Path | str, batch_size: int = 32
) -> Recipe:
    """The recipe of the block that `extract` returns for the same arguments; nothing is encoded."""
    if isinstance(encoder, ReadyFeatures):
        return ready_recipe(items, encoder, modality)
    contents = read_contents(items, modality, Path(store))
    return Recipe.of(encoder.spec, modality, len(items), contents.digest(items.ids), SHARD, batch_size)


def left_to_encode(
    items: ItemTable, encoder: Encoder, modality: Modality, store: Path | str, batch_size: int = 32
) -> int:
    """How many different contents `extract` would encode for the same arguments; nothing is encoded."""
    if isinstance(encoder, ReadyFeatures):
        return 0
    contents = read_contents(items, modality, Path(store))
    recipe = Recipe.of(encoder.spec, modality, len(items), contents.digest(items.ids), SHARD, batch_size)
    return 0 if (Path(store) / recipe.key).is_dir() else len(Plan.of(items, contents, recipe, Path(store)).work)


def _copy_ready(items: ItemTable, features: ReadyFeatures, modality: Modality, store: Path) -> FeatureBlock:
    recipe = ready_recipe(items, features, modality)
    folder = store / recipe.key
    if not folder.is_dir():
        with _locked(store / f"{recipe.key}.lock"):
            if not folder.is_dir():
                write_ready_block(store, recipe, items, features)
    block = open_block(folder, recipe)
    _report(block)
    return block


def _make(store: Path, recipe: Recipe, plan: Plan, pipeline: Pipeline, bar: tqdm) -> None:
    """Do the work, or this process's part of it, and write the block."""
    folder = store / recipe.key
    shards = Shards(shards_folder(store, recipe.key, plan.key), len(plan.work), SHARD)
    _work_off(shards, pipeline, folder, bar)
    with _locked(store / f"{recipe.key}.lock"):
        if not folder.is_dir():  # another process may have been faster
            _merge(store, recipe, pipeline.items, pipeline.contents, plan, shards)


def _work_off(shards: Shards, pipeline: Pipeline, folder: Path, bar: tqdm) -> None:
    """Do pieces until there are none left, those of processes that have died as well."""
    n = len(pipeline.work)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    while not folder.is_dir() and shards.missing():
        bar.update(max(0, shards.n_done() - bar.n))
        if not pipeline.run(shards.claim(n * rank // world)):
            time.sleep(0.1)  # other processes are at the rest
    bar.update(n - bar.n)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = FileLock(path)
    with writing(path.parent):
        try:
            lock.acquire(timeout=1)
        except Timeout:
            _log.warning("another process is writing %s; waiting for it", path.with_suffix(""))
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _merge(store: Path, recipe: Recipe, items: ItemTable, contents: Contents, plan: Plan, shards: Shards) -> None:
    """Write the block from the pieces and from what other blocks have."""
    present = np.zeros(len(items), dtype=bool)
    rejected = dict(contents.rejected)
    writer = BlockWriter(store, recipe, recipe.encoder["width"])
    for copy in plan.copies:
        for rows, values in copy.chunks():
            writer.put(rows, values)
            present[rows] = True
    for start, end, tensors, reasons in shards.results():
        rows, positions = plan.targets(start, end)
        has = tensors["present"].numpy()[positions - start]
        writer.put(rows[has], tensors["values"][positions[has] - start])
        present[rows[has]] = True
        rejected |= {int(row): reasons[int(p)] for row, p in zip(rows[~has], positions[~has], strict=True)}
    if not present.any():
        usual = Counter(rejected.values()).most_common(1)[0][0]
        remove_shards(store, recipe.key)
        writer.discard()
        raise DataError(f"not one of {len(items)} items has a usable {recipe.modality} ({usual}, ...).")
    reused = {copy.folder.name: len(copy.targets) for copy in plan.copies}
    reasons_by_id = {items.ids[row]: rejected[row] for row in sorted(rejected)}
    writer.finish(items.ids, present, contents.digests, reasons_by_id, reused)


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
