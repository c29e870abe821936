"""Weights from files and hubs: safetensors, or torch files opened by the weights-only loader; never code."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import re
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mmenc_plugin.data.digests import json_digest
from mmenc_plugin.errors import WeightsError, some


def load_state(path: Path) -> dict[str, Tensor]:
    """The tensors in a weights file, as they lie there; wrappers such as {"state_dict": ...} are kept.

    Args:
        path: a `.safetensors` file, or anything that `torch.save` wrote.

    Raises:
        WeightsError: no file, a damaged one, or one that holds pickled code (which is not run).
    """
    if not path.is_file():
        raise WeightsError(f"{path} does not exist. Name a .safetensors file or a torch file (.pt, .pth, .bin).")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds more than tensors, and is not opened, since pickled code could do anything: "
            f"{_first_line(error)} Save the state dict alone, best as .safetensors."
        ) from None
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{path} is damaged or cut off: {_first_line(error)} Bring the file again.") from None


def not_loaded(uri: str, error: Exception, *, local: bool, by_hand: str) -> WeightsError:
    """The error for weights that a family's own library did not load.

    Args:
        uri: of the encoder.
        error: what the library raised.
        local: the weights are a file or folder, so that no hub was asked.
        by_hand: how weights that the hub has are brought without it, and named.
    """
    if _is_pickled_code(error):
        what = "the file holds more than tensors, and was not opened, since pickled code could do anything"
        local = True
    else:
        what = " ".join(str(error).split())[:400].rstrip(". ") or type(error).__name__
    if local:
        advice = "Weights must be the network's whole state dict: .safetensors, or .pt or .bin without pickled code"
    else:
        advice = (
            "If this machine cannot reach the hub, run the same once on one that can and bring its Hugging Face cache "
            f"(HF_HOME) here, or {by_hand}"
        )
    return WeightsError(f"the weights of '{uri}' were not loaded: {what}. {advice}")


def _is_pickled_code(error: BaseException | None) -> bool:
    """Whether the weights-only loader's refusal stands at the bottom of an error."""
    while error is not None:
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def check_keys(
    uri: str, missing: Collection[str], unexpected: Collection[str], mismatched: Collection[str] = ()
) -> None:
    """That a checkpoint holds the network's tensors, no fewer (the rest would be random) and no others.

    Raises:
        WeightsError: it does not; the message lists the first of them.
    """
    parts = {"missing": missing, "not the network's": unexpected, "of another shape": mismatched}
    found = [f"{what}: {some(sorted(names), 5)}" for what, names in parts.items() if names]
    if found:
        raise WeightsError(
            f"the weights of '{uri}' do not fit its network. {'; '.join(found)}. Bring weights and configuration "
            "that were saved together."
        )


def state_faults(mine: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """In words, how a state that is `given` differs in names and shapes from `mine`; "" where it does not."""
    faults = {
        "lacks": [name for name in mine if name not in given],
        "has besides": [name for name in given if name not in mine],
        "has in another shape": [name for name in mine if name in given and given[name].shape != mine[name].shape],
    }
    return "; ".join(f"it {fault} {some(names)} ({len(names)})" for fault, names in faults.items() if names)


def check_vocabulary(uri: str, highest: int, rows: int) -> None:
    """That a tokenizer's ids, up to `highest`, are rows of the table of token embeddings.

    Raises:
        WeightsError: they are not.
    """
    if highest >= rows:
        raise WeightsError(
            f"the tokenizer of '{uri}' does not fit its weights: its ids go up to {highest}, and the table of token "
            f"embeddings has {rows} rows. Bring both from the same model."
        )


def licence_of(source: str) -> str:
    """What the model card in a folder says of the licence, or where a hub's card says it."""
    if not is_local(source):
        return f"see https://huggingface.co/{source.partition('@')[0]}"
    card = Path(source).expanduser() / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    named = re.match(r"---\n(?:(?!---).*\n)*?license: *(\S+)", text)
    return named[1] if named else "unknown"


def weights_digest(module: nn.Module) -> str:
    """The sha256 of a network's weights: the same for the same numbers, whatever file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """The sha256 of a tokenizer of transformers or tokenizers, without the padding that a call leaves in it."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    told = json.loads(backend.to_str()) if hasattr(backend, "to_str") else {"vocabulary": tokenizer.get_vocab()}
    return json_digest({name: value for name, value in told.items() if name not in ("padding", "truncation")})


def is_local(weights: str) -> bool:
    """Whether a weights name is written as a path, or is one."""
    return weights.startswith((".", "~", os.sep)) or Path(weights).exists()


@contextmanager
def building() -> Iterator[None]:
    """While a library builds a network: random weights the same every time, and nothing on the screen.

    Libraries warn and log there what `check`, the spec and our errors say better.
    """
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), repeatable(), without_bars():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        logging.disable(level)


@contextmanager
def repeatable() -> Iterator[None]:
    """Random weights the same every time, and the random state left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@contextmanager
def without_bars() -> Iterator[None]:
    """No progress bars of transformers, where it is loaded: reading weights takes a moment."""
    talk: Any = sys.modules.get("transformers.utils.logging")
    shown = talk is not None and talk.is_progress_bar_enabled()
    if shown:
        talk.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            talk.enable_progress_bar()


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return (text[0][:300].rstrip(". ") if text else type(error).__name__) + "."
