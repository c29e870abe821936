"""Checkpoints that hold no code: values as JSON and tensors beside it, in a folder that is whole or not there."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmenc_plugin.data.files import writing
from mmenc_plugin.errors import CheckpointError

TENSORS, VALUES = "state.safetensors", "state.json"


def write(folder: Path, epoch: int, state: Mapping[str, Any]) -> None:
    """Write the checkpoint of an epoch into a folder of checkpoints, and remove those of other epochs.

    Args:
        folder: made if it does not exist.
        epoch: part of the name.
        state: dicts, lists and tuples of numbers, texts, None and tensors.

    Raises:
        StoreError: the folder cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_told(state, "", tensors))
    target, part = folder / f"epoch-{epoch}", folder / f"epoch-{epoch}.{os.getpid()}.part"
    with writing(folder):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            save_file(tensors, part / TENSORS)
            (part / VALUES).write_text(text, encoding="utf-8")
            for name in (TENSORS, VALUES):
                with (part / name).open("rb") as file:
                    os.fsync(file.fileno())
            shutil.rmtree(target, ignore_errors=True)  # of a run that was killed while it wrote the next one
            part.replace(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        for _, old in _found(folder):
            if old != target:
                shutil.rmtree(old, ignore_errors=True)


def read(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint of a folder, its tensors on the CPU; None where there is none.

    Raises:
        CheckpointError: it cannot be read.
    """
    found = _found(folder)
    if not found:
        return None
    path = max(found)[1]
    try:
        tensors = load_file(path / TENSORS)
        state: dict[str, Any] = _rebuilt(json.loads((path / VALUES).read_text(encoding="utf-8")), tensors)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"the checkpoint {path} cannot be read: {error}. Delete it to start anew.") from error
    return state


def _found(folder: Path) -> list[tuple[int, Path]]:
    names = ((re.fullmatch(r"epoch-(\d+)", path.name), path) for path in folder.glob("epoch-*"))
    return [(int(match[1]), path) for match, path in names if match]


def _told(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON has it; what JSON has not is a dict of one key that begins with a colon."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {":tensor": name}
    if isinstance(value, (np.integer, np.floating, np.bool_)):
        return value.item()
    if isinstance(value, Mapping):
        items = [(key, _told(inner, f"{name}.{key}".lstrip("."), tensors)) for key, inner in value.items()]
        if all(isinstance(key, str) and not key.startswith(":") for key, _ in items):
            return dict(items)
        return {":map": [list(item) for item in items]}
    if isinstance(value, (list, tuple)):
        told = [_told(inner, f"{name}.{place}", tensors) for place, inner in enumerate(value)]
        return told if isinstance(value, list) else {":tuple": told}
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"a checkpoint holds numbers, texts and tensors, and {name} is a {type(value).__name__}.")


def _rebuilt(told: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(told, list):
        return [_rebuilt(inner, tensors) for inner in told]
    if not isinstance(told, dict):
        return told
    if ":tensor" in told:
        return tensors[told[":tensor"]]
    if ":tuple" in told:
        return tuple(_rebuilt(inner, tensors) for inner in told[":tuple"])
    if ":map" in told:
        return {key: _rebuilt(inner, tensors) for key, inner in told[":map"]}
    return {key: _rebuilt(inner, tensors) for key, inner in told.items()}


def random_state() -> dict[str, Any]:
    """Where the random numbers of this process stand."""
    kind, keys, *rest = np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": (kind, [int(key) for key in keys], *rest),
        "python": random.getstate(),
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Let this process's random numbers go on from where `random_state` was taken."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    random.setstate(state["python"])
