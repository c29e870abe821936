"""What lies in a store: listed, checked, and deleted with care."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mmenc_plugin.errors import SettingsError, StoreError, some, unknown_name
from mmenc_plugin.features.recipe import Recipe
from mmenc_plugin.features.store import MANIFEST, REJECTED, open_block
from mmenc_plugin.types import MODALITIES

LEFTOVERS = (".shards", ".new", ".lock")  # of runs that were stopped, and locks that nobody holds any more


@dataclass(frozen=True)
class Summary:
    """A block at a glance, its values unread.

    Attributes:
        key: name of its folder.
        modality: image, text or fused.
        encoder: family and architecture, with the weights' name or the start of their sha256.
        items: N.
        width: D.
        masked: items without features.
        bytes: of its files.
        written: when, in local time.
        damage: what is wrong at first sight, "" for nothing.
    """

    key: str
    modality: str
    encoder: str
    items: int
    width: int
    masked: int
    bytes: int
    written: str
    damage: str = ""


def block_folders(store: Path) -> list[Path]:
    """The folders of a store that are, or should be, blocks.

    Raises:
        StoreError: no such store.
    """
    if not store.is_dir():
        raise StoreError(f"there is no feature store {store}. Name one with --store; runs keep theirs in feature_dir.")
    names = tuple(f"{modality}-" for modality in MODALITIES)
    return sorted(
        path
        for path in store.iterdir()
        if path.is_dir() and path.name.startswith(names) and not path.name.endswith(LEFTOVERS)
    )


def find_block(store: Path, key: str) -> Path:
    """The folder of the block with a key, or with the only key that holds these letters.

    Raises:
        UnknownNameError: no block is called so.
        SettingsError: several are.
    """
    folders = block_folders(store)
    found = [path for path in folders if path.name == key] or [path for path in folders if key in path.name]
    if not found:
        raise unknown_name(f"block in {store}", key, [path.name for path in folders])
    if len(found) > 1:
        raise SettingsError(f"'{key}' is part of {len(found)} keys: {some(path.name for path in found)}. Write more.")
    return found[0]


def summaries(store: Path) -> list[Summary]:
    """All blocks of a store, damaged ones too.

    Raises:
        StoreError: no such store.
    """
    return [_summary(folder) for folder in block_folders(store)]


def _summary(folder: Path) -> Summary:
    size = size_of(folder)
    written = datetime.fromtimestamp(folder.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
    try:
        recipe = _json(folder / MANIFEST)["recipe"]
        encoder, masked = recipe["encoder"], len(_json(folder / REJECTED))
        of = (encoder.get("weights") or encoder["weights_sha256"][:8]).replace("none", "")
        name = f"{encoder['family']}:{encoder['architecture']}" + (f"/{of}" if of else "")
        return Summary(
            folder.name, recipe["modality"], name, recipe["n_items"], encoder["width"], masked, size, written
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return Summary(folder.name, folder.name.split("-")[0], "?", 0, 0, 0, size, written, _first_line(error))


def size_of(path: Path) -> int:
    """The bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def verify(folders: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """Read every file of the blocks again; yields each key with what is wrong, "" for nothing."""
    for folder in folders:
        try:
            recipe = open_block(folder).recipe
            key = Recipe(**recipe).key
        except StoreError as error:
            yield folder.name, str(error)
        except TypeError:
            yield folder.name, f"its recipe is none of this version (store format {recipe.get('format')})."
        else:
            wrong = f"its recipe belongs to the key {key}; the folder was renamed or the manifest changed."
            yield folder.name, "" if key == folder.name else wrong


def older_than(store: Path, days: float) -> list[Path]:
    """The blocks that were written more than some days ago."""
    limit = datetime.now().timestamp() - days * 86400
    return [folder for folder in block_folders(store) if folder.stat().st_mtime < limit]


def leftovers(store: Path) -> list[Path]:
    """What stopped runs have left and nobody works on: pieces of work, blocks half written, and locks.

    A stopped run would have gone on from its pieces.
    """
    if not store.is_dir():
        return []
    found = sorted(path for path in store.iterdir() if path.name.endswith(LEFTOVERS))
    return [path for path in found if not any(_held(lock) for lock in _locks(path))]


def _locks(path: Path) -> list[Path]:
    """The lock files that a process at work on something in the store would hold."""
    inside = sorted(path.rglob("*.lock")) if path.is_dir() else []
    beside = [lock for lock in path.parent.glob("*.lock") if path.name.startswith(lock.stem)]
    return [*beside, *inside]


def _held(lock: Path) -> bool:
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def delete(path: Path) -> int:
    """Delete a block or a leftover; returns the bytes that it took.

    A block loses its name first, so that one whose deletion is interrupted is a leftover, never a damaged block.

    Raises:
        StoreError: a process is at work on it, or the system does not let it go.
    """
    try:
        with _all_held(_locks(path), path):
            size = size_of(path)
            if path.is_dir():
                _remove_folder(path)
            for lock in (path, path.with_name(f"{path.name}.lock")):
                lock.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot delete {path}: {error.strerror or error}.") from None
    return size


def _remove_folder(path: Path) -> None:
    gone = path
    if not path.name.endswith(LEFTOVERS):
        gone = path.with_name(f"{path.name}.new")
        shutil.rmtree(gone, ignore_errors=True)
        path.replace(gone)
    shutil.rmtree(gone)


@contextmanager
def _all_held(locks: Sequence[Path], path: Path) -> Iterator[None]:
    with ExitStack() as stack:
        for lock in locks:
            try:
                stack.enter_context(FileLock(lock, timeout=0))
            except Timeout:
                raise StoreError(f"{path} is in use: another process is writing it. Wait for it, or stop it.") from None
        yield
