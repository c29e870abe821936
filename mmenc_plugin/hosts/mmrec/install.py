"""Our models in a checkout of MMRec: two small files a model, and a list of them by which they go again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mmenc_plugin import models
from mmenc_plugin.errors import DataError, SettingsError, some
from mmenc_plugin.resources import resource_dir

SUFFIX = "_MMENC"  # of our models' names in MMRec, which has some of the same name
LIST = ".mmenc.json"  # in the checkout: path -> sha256 of what was written
_NEEDED = ("src/main.py", "src/models", "src/configs/model", "src/common/abstract_recommender.py")


def install(checkout: Path, names: Sequence[str] = ()) -> list[str]:
    """Write the files of our models into a checkout of MMRec; those of an earlier installation are renewed.

    Args:
        checkout: the folder with MMRec's `src`.
        names: of our models; all where empty.

    Returns:
        The models' names in MMRec.

    Raises:
        DataError: it is no checkout of MMRec, or a file that is not ours is in the way.
        UnknownNameError: no such model.
    """
    _check(checkout)
    names = [models.registry.get(name).__name__ for name in names] or models.registry.names()
    files = {path: text for name in names for path, text in _files(name).items()}
    written = _read_list(checkout)
    _refuse_changed(checkout, written)
    foreign = [path for path in files if path not in written and (checkout / path).exists()]
    if foreign:
        raise DataError(f"{checkout}: {some(foreign)} is there already and not ours. Move it away first.")
    _remove(checkout, written)
    for path, text in files.items():
        (checkout / path).write_text(text, encoding="utf-8")
    sums = {path: _sha256(text.encode()) for path, text in files.items()}
    (checkout / LIST).write_text(json.dumps(sums, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return [name + SUFFIX for name in names]


def uninstall(checkout: Path, force: bool = False) -> list[str]:
    """Take away what `install` has written, and what Python has compiled of it.

    Args:
        checkout: the folder with MMRec's `src`.
        force: files that were changed since are taken away too.

    Returns:
        The paths that are gone.

    Raises:
        DataError: nothing is installed there, or a file was changed since.
    """
    written = _read_list(checkout)
    if not written:
        raise DataError(f"{checkout} holds no {LIST}, so nothing of ours is installed there. Was it moved?")
    if not force:
        _refuse_changed(checkout, written)
    _remove(checkout, written)
    (checkout / LIST).unlink()
    return sorted(written)


def _check(checkout: Path) -> None:
    lacking = [path for path in _NEEDED if not (checkout / path).exists()]
    if lacking:
        raise DataError(
            f"{checkout} is no checkout of MMRec: it lacks {some(lacking)}. Name the folder that holds src/."
        )
    if "class GeneralRecommender" not in (checkout / _NEEDED[3]).read_text(encoding="utf-8"):
        raise DataError(f"{checkout / _NEEDED[3]} has no class GeneralRecommender: this version of MMRec is not known.")


def _files(name: str) -> dict[str, str]:
    """Path in the checkout -> content, of one model."""
    theirs = name + SUFFIX
    code = (
        f"# {name} of mmenc-plugin. `mmenc mmrec uninstall` takes this file away.\n"
        f"from mmenc_plugin.hosts.mmrec.models import {theirs}  # noqa: F401\n"
    )
    head = f"# {name} of mmenc-plugin: its settings, and feature_scaling. A key in hyper_parameters takes a list.\n"
    return {
        f"src/models/{theirs.lower()}.py": code,
        f"src/configs/model/{theirs}.yaml": head + yaml.safe_dump(_settings(name), sort_keys=False),
    }


def _settings(name: str) -> dict[str, Any]:
    fields = models.registry.get(name).settings.model_fields
    defaults = {key: field.get_default(call_default_factory=True) for key, field in fields.items()}
    ours = resource_dir("yaml_configs") / "model" / f"{name}.yaml"
    best = yaml.safe_load(ours.read_text(encoding="utf-8")) if ours.is_file() else None
    return {**defaults, **(best or {}), "feature_scaling": "standard", "hyper_parameters": []}


def _read_list(checkout: Path) -> dict[str, str]:
    path = checkout / LIST
    if not path.is_file():
        return {}
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        inside = all((checkout / name).resolve().is_relative_to(checkout.resolve()) for name in written)
    except (ValueError, TypeError):
        inside = False
    if not inside or not isinstance(written, dict):
        raise DataError(f"{path} is damaged. Delete it, and the files of our models ({SUFFIX.lower()}) by hand.")
    return written


def _refuse_changed(checkout: Path, written: Mapping[str, str]) -> None:
    changed = [
        path
        for path, digest in written.items()
        if (checkout / path).is_file() and _sha256((checkout / path).read_bytes()) != digest
    ]
    if changed:
        raise SettingsError(
            f"{checkout}: {len(changed)} of our files were changed since ({some(changed)}). Keep what you need of "
            "them, and run: mmenc mmrec uninstall --force"
        )


def _remove(checkout: Path, written: Mapping[str, str]) -> None:
    for path in map(Path, written):
        (checkout / path).unlink(missing_ok=True)
        for compiled in (checkout / path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
