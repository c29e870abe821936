"""What to do where a step of training does not fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmenc_plugin.errors import NoMemoryError
from mmenc_plugin.features.pipeline import is_out_of_memory


@contextmanager
def advising(config: Mapping[str, Any]) -> Iterator[None]:
    """Turn a lack of memory inside into an error that names the settings to change.

    Args:
        config: the run's settings.

    Raises:
        NoMemoryError: memory did not suffice.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, NoMemoryError) or not is_out_of_memory(error):
            raise
        device, size = config["device"], config["train_batch_size"]
        raise NoMemoryError(
            f"a training step of {size} interactions does not fit into the memory of {device}. Set {advice(config)}. "
            "`mmenc run --plan` with the same arguments measures which of them suffice."
        ) from error


def advice(config: Mapping[str, Any]) -> str:
    """The settings that would take less memory than those of the run, joined by "or"."""
    ways = [f"{key}: {value}" for way in lighter(config) for key, value in way.items()]
    size = config["train_batch_size"]
    if size > 1:
        ways.append(f"train_batch_size to less than {size}")
    if config["paradigm"] != "end_to_end" and config["embedding_size"]:
        ways.append(f"embedding_size to less than {config['embedding_size']}")
    return ", or ".join(ways)


def lighter(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Settings of the encoder's training that take less memory than the run's, the least harmful first."""
    if config["paradigm"] == "frozen":
        return []
    ways: list[dict[str, Any]] = [{"gradient_checkpointing": True}, {"autocast": "bfloat16"}]
    scopes = ("full", "lora:8", "top:2", "head")
    scope = str(config["tune"]).partition(":")[0]
    rank = next((n for n, name in enumerate(scopes) if name.startswith(scope)), 0)
    ways += [{"tune": name} for name in scopes[rank + 1 :]]
    return [way for way in ways if any(config[key] != value for key, value in way.items())]
