"""The feature store: a folder a block, written whole or not at all, opened by memory map.

<store>/<key>/values.safetensors   values [N, D], present [N]
              ids.json             ids [N]
              rejected.json        {id: why it has no features}
              manifest.json        the recipe, and size and sha256 of the other files
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
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
    folder = store / recipe.key
    part = folder.with_name(folder.name + ".new")
    with writing(store):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    write_atomically(part / VALUES, save(tensors))
    write_atomically(part / IDS, _json(ids))
    write_atomically(part / REJECTED, _json(rejected))
    files = {
        name: {"bytes": (part / name).stat().st_size, "sha256": file_digest(part / name)}
        for name in (VALUES, IDS, REJECTED)
    }
    write_atomically(part / MANIFEST, _json({"recipe": recipe.as_dict(), "files": files}))
    with writing(store):
        part.replace(folder)


def open_block(folder: Path, recipe: Recipe | None = None) -> FeatureBlock:
    """Open a block, after checking that it is what its manifest says.

    Args:
        folder: of the block.
        recipe: what it should have been made from, if that is known.

    Raises:
        StoreError: a file is missing, cut off, of another content or no safetensors file.
    """
    manifest = _load_json(folder / MANIFEST)
    named = isinstance(manifest, dict) and set(manifest) == {"recipe", "files"}
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


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True).encode()


def _broken(folder: Path, what: str) -> StoreError:
    return StoreError(
        f"the features in {folder} are damaged: {what}. Delete that folder and run again to make them anew."
    )
