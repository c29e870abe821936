"""A trained encoder on the disk: its family's own format, and the lineage of its weights."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from mmenc_plugin import __version__
from mmenc_plugin.encoders import Encoder
from mmenc_plugin.errors import SettingsError, StoreError
from mmenc_plugin.training.tuning import merge, tuning_of

LINEAGE = "lineage.json"
_PACKAGES = ("torch", "peft", "open_clip_torch", "transformers", "sentence-transformers", "timm", "safetensors")


def save_encoder(encoder: Encoder, folder: Path, lineage: Mapping[str, Any]) -> str:
    """Write an encoder with what it came from; the folder is there whole or not at all.

    Adapters are folded into the weights of a copy, so that training can go on. A folder of the same name is
    replaced when the new one is complete.

    Args:
        encoder: trained or not.
        folder: for the family's files and lineage.json.
        lineage: the base's URI, the settings, the data's digest and what else made the weights. Added are the
            sha256 of the weights before and after, what was tuned, and the versions of the packages.

    Returns:
        The URI that builds it.

    Raises:
        SettingsError: the family has no parameters, or the lineage is no JSON.
        StoreError: the folder cannot be written, or holds other things than a saved encoder.
    """
    folder = folder.resolve()
    if folder.exists() and not (folder / LINEAGE).is_file() and not _is_empty(folder):
        raise StoreError(f"{folder} holds other things than a saved encoder, and is not replaced. Name another folder.")
    merged = encoder
    if tuning_of(encoder) is not None and any(".lora_" in name for name, _ in encoder.named_parameters()):
        merged = copy.deepcopy(encoder)
        merge(merged)
    page = _page(encoder, merged, lineage)
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        merged.save(part)
        (part / LINEAGE).write_text(page, encoding="utf-8")
        _sync(part)
        _put(part, folder)
    except (OSError, SafetensorError) as error:
        raise StoreError(
            f"the encoder cannot be written to {folder}: {getattr(error, 'strerror', None) or error}. Make room there, "
            "give write access, or name another folder."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return merged.saved_uri(folder)


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _page(encoder: Encoder, merged: Encoder, lineage: Mapping[str, Any]) -> str:
    tuning = tuning_of(encoder)
    told: dict[str, Any] = {
        **lineage,
        "weights_sha256": {"before": encoder.spec.weights_sha256, "after": merged.weights_digest()},
        "tune": tuning.scope if tuning else None,
        "parameters": {"trained": tuning.n_trained, "all": tuning.n_all} if tuning else None,
        "versions": {"mmenc-plugin": __version__} | {name: v for name in _PACKAGES if (v := _version(name))},
    }
    try:
        return json.dumps(told, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise SettingsError(f"the lineage of an encoder must be JSON: {error}. Give texts, numbers, lists.") from None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _put(part: Path, folder: Path) -> None:
    """Rename a complete folder into place, the one that was there out of the way first."""
    old = folder.with_name(f"{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.replace(old)
    try:
        part.replace(folder)
    except OSError:
        if old.exists():
            old.replace(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
