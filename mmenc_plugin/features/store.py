"""The feature store: a folder a block, written whole or not at all, opened by memory map.

<store>/<key>/values.safetensors   values [N, D], present [N], contents [N, 32] (sha256 of what was encoded)
              ids.json             ids [N]
              rejected.json        {id: why it has no features}
              manifest.json        the recipe, size and sha256 of the other files, the blocks that rows were taken from
"""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmenc_plugin.data.digests import file_digest
from mmenc_plugin.data.files import write_atomically, writing
from mmenc_plugin.errors import StoreError
from mmenc_plugin.features.recipe import Recipe

VALUES, IDS, REJECTED, MANIFEST = "values.safetensors", "ids.json", "rejected.json", "manifest.json"


@dataclass(frozen=True)
class FeatureBlock:
    """The features of all items in one modality, with the items' ids.

    Attributes:
        ids: [N] item ids.
        values: [N, D] float32; zeros where `present` is false.
        present: [N] bool.
        rejected: id -> why the item has no features.
        recipe: what made the block.
        folder: where it lies.
    """

    ids: list[str]
    values: Tensor
    present: Tensor
    rejected: dict[str, str]
    recipe: dict[str, Any]
    folder: Path


class BlockWriter:
    """Writes a block row by row, in any order, never holding it whole; it is there when `finish` returns.

    Args:
        store: the store's folder.
        recipe: what makes the block; its `n_items` is N.
        width: D.

    Raises:
        StoreError: there is no room, or no right to write.
    """

    def __init__(self, store: Path, recipe: Recipe, width: int) -> None:
        self._folder, self._recipe, self._width = store / recipe.key, recipe, width
        self._part = self._folder.with_name(self._folder.name + ".new")
        n = recipe.n_items
        shapes = {"values": ("F32", [n, width], 4), "contents": ("U8", [n, 32], 1), "present": ("BOOL", [n], 1)}
        header, self._start = _safetensors_header(shapes)
        with writing(store):
            shutil.rmtree(self._part, ignore_errors=True)
            self._part.mkdir(parents=True)
            self._file = (self._part / VALUES).open("wb")
            self._file.write(header)
            self._file.truncate(self._start["end"])  # rows that nobody puts are zeros

    def put(self, rows: NDArray[np.int64], values: Tensor) -> None:
        """Write features [n, D] as those of the item rows [n], ascending."""
        data = values.contiguous().numpy()
        for run in np.split(np.arange(len(rows)), (np.diff(rows) != 1).nonzero()[0] + 1):
            if len(run):
                self._write(self._start["values"] + int(rows[run[0]]) * self._width * 4, data[run[0] : run[-1] + 1])

    def finish(
        self,
        ids: list[str],
        present: NDArray[np.bool_],
        contents: NDArray[np.uint8],
        rejected: dict[str, str],
        reused: dict[str, int] | None = None,
    ) -> None:
        """Write the rest and put the block into its place.

        Args:
            ids: [N].
            present: [N] bool.
            contents: [N, 32] uint8, the sha256 of what each row was made from.
            rejected: id -> reason.
            reused: key of another block -> how many items have their rows from it.
        """
        self._write(self._start["contents"], contents)
        self._write(self._start["present"], present)
        with writing(self._part), self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        write_atomically(self._part / IDS, _json(ids))
        write_atomically(self._part / REJECTED, _json(rejected))
        files = {
            name: {"bytes": (self._part / name).stat().st_size, "sha256": file_digest(self._part / name)}
            for name in (VALUES, IDS, REJECTED)
        }
        manifest = {"recipe": self._recipe.as_dict(), "files": files, "reused": reused or {}}
        write_atomically(self._part / MANIFEST, _json(manifest, indent=1))
        with writing(self._part):
            self._part.replace(self._folder)

    def discard(self) -> None:
        """Leave no block, and nothing of what was written."""
        self._file.close()
        shutil.rmtree(self._part, ignore_errors=True)

    def _write(self, position: int, data: NDArray[Any]) -> None:
        with writing(self._part):
            self._file.seek(position)
            self._file.write(np.ascontiguousarray(data).data)


def _safetensors_header(shapes: dict[str, tuple[str, list[int], int]]) -> tuple[bytes, dict[str, int]]:
    """The head of a safetensors file, and where in the file each tensor (and the file's end) lies."""
    described: dict[str, Any] = {}
    begins, position = {}, 0
    for name, (dtype, shape, size) in shapes.items():
        begins[name], end = position, position + size * math.prod(shape)
        described[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = 8 + len(text)
    return len(text).to_bytes(8, "little") + text, {name: head + at for name, at in {**begins, "end": position}.items()}


def write_block(
    store: Path, recipe: Recipe, ids: list[str], tensors: dict[str, Tensor], rejected: dict[str, str]
) -> None:
    """Write a block under its recipe's key; it appears there only when it is complete.

    Args:
        store: the store's folder.
        recipe: what made the block.
        ids: [N].
        tensors: `values` [N, D] and `present` [N].
        rejected: id -> reason.

    Raises:
        StoreError: the block cannot be written.
    """
    values = tensors["values"]
    writer = BlockWriter(store, recipe, values.shape[1])
    writer.put(np.arange(len(values)), values)
    present = tensors["present"].numpy()
    writer.finish(ids, present, np.zeros((len(values), 32), dtype=np.uint8), rejected)


def open_block(folder: Path, recipe: Recipe | None = None) -> FeatureBlock:
    """Open a block, after checking that it is what its manifest says.

    Args:
        folder: of the block.
        recipe: what it should have been made from, if that is known.

    Raises:
        StoreError: a file is missing, cut off, of another content or no safetensors file.
    """
    manifest = _load_json(folder / MANIFEST)
    named = isinstance(manifest, dict) and set(manifest) == {"recipe", "files", "reused"}
    if not named or not all(isinstance(part, dict) for part in manifest.values()):
        raise _broken(folder, f"{MANIFEST} is not a manifest of this store")
    if recipe and manifest["recipe"] != recipe.as_dict():
        raise _broken(folder, f"{MANIFEST} is of another recipe than the folder's name")
    for name in (VALUES, IDS, REJECTED):
        _check_file(folder, name, manifest["files"].get(name, {}))
    try:
        with safe_open(folder / VALUES, framework="pt") as file:
            values, present = file.get_tensor("values"), file.get_tensor("present")
    except SafetensorError as error:
        raise _broken(folder, f"{VALUES} is not a safetensors file ({error}); pickles are refused") from None
    ids: list[str] = _load_json(folder / IDS)
    if not len(ids) == len(values) == len(present) == manifest["recipe"].get("n_items"):
        raise _broken(
            folder, f"{len(ids)} ids, {len(values)} rows of values and {len(present)} marks do not go together"
        )
    return FeatureBlock(ids, values, present, _load_json(folder / REJECTED), manifest["recipe"], folder)


def _check_file(folder: Path, name: str, expected: dict[str, Any]) -> None:
    path = folder / name
    size = path.stat().st_size if path.is_file() else None
    if size is None:
        raise _broken(folder, f"{name} is missing")
    if size != expected.get("bytes"):
        raise _broken(folder, f"{name} has {size:,} bytes where the manifest says {expected.get('bytes')}")
    if file_digest(path) != expected.get("sha256"):
        raise _broken(folder, f"{name} is not the file that the manifest describes (its sha256 differs)")


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _broken(path.parent, f"{path.name} cannot be read ({error})") from None


def _json(value: Any, indent: int | None = None) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=indent, sort_keys=True).encode()


def _broken(folder: Path, what: str) -> StoreError:
    return StoreError(
        f"the features in {folder} are damaged: {what}. Delete that folder and run again to make them anew."
    )
