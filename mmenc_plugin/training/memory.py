"""What to do where a step of training does not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mmenc_plugin.errors import NoMemoryError
from mmenc_plugin.features.pipeline import is_out_of_memory

_SCOPES = ("full", "lora:8", "top:2", "head")  # the less is trained, the less is kept


@contextmanager
def advising(step: str, device: object, ways: Sequence[str]) -> Iterator[None]:
    """Turn a lack of memory inside into an error that names the settings to change.

    Args:
        step: what is done inside, in words.
        device: on which.
        ways: settings that would take less, e.g. "tune: head".

    Raises:
        NoMemoryError: memory did not suffice.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, NoMemoryError) or not is_out_of_memory(error):
            raise
        raise NoMemoryError(
            f"{step} does not fit into the memory of {device}. Set {', or '.join(ways)}. "
            "`mmenc run --plan` with the same arguments measures which of them suffice."
        ) from error


def joint_ways(config: Mapping[str, Any]) -> list[str]:
    """Settings that take less memory than those of a run whose recommender is being trained.

    Args:
        config: settings of RecBole, of the model and, with paradigm: end_to_end, of tuning.
    """
    smaller = _less("train_batch_size", config["train_batch_size"])
    if config["paradigm"] == "end_to_end":
        return [*_words(lighter(config)), smaller]
    return [smaller, _less("embedding_size", config["embedding_size"])]


def finetune_ways(settings: Mapping[str, Any]) -> list[str]:
    """Likewise of a fine-tuning.

    Args:
        settings: of tuning and fine-tuning.
    """
    return [_less("finetune_chunk", settings["finetune_chunk"]), *_words(lighter(settings))]


def lighter(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Settings of an encoder's training that take less memory than those given, one change each.

    Args:
        settings: of tuning.
    """
    ways: list[dict[str, Any]] = [{"gradient_checkpointing": True}, {"autocast": "bfloat16"}]
    kind = str(settings["tune"]).partition(":")[0]
    rank = next(n for n, scope in enumerate(_SCOPES) if scope.startswith(kind))
    ways += [{"tune": scope} for scope in _SCOPES[rank + 1 :]]
    return [way for way in ways if any(settings[key] != value for key, value in way.items())]


def _words(ways: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"{key}: {str(value).lower()}" for way in ways for key, value in way.items()]


def _less(key: str, value: int) -> str:
    return f"{key} to less than {value}"
