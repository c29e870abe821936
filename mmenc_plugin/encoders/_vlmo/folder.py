"""A VLMo in a folder: config.json, model.safetensors, vocab.txt."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError
from safetensors.torch import save_file

from mmenc_plugin.encoders._vlmo.config import VlmoConfig
from mmenc_plugin.encoders._vlmo.network import Vlmo
from mmenc_plugin.encoders._vlmo.vocabulary import FILE, WordPieces
from mmenc_plugin.errors import WeightsError

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def save(network: Vlmo, words: WordPieces, folder: Path) -> None:
    """Write a network and its vocabulary to a folder, made if need be; files of the same names are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(network.config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (folder / FILE).write_text(words.text, encoding="utf-8")
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, folder / WEIGHTS)


def check(folder: Path) -> None:
    """Whether a folder is one that `save` wrote.

    Raises:
        WeightsError: it does not exist, or a file is missing.
    """
    absent = [name for name in (CONFIG, WEIGHTS, FILE) if not (folder / name).is_file()]
    if absent:
        raise WeightsError(
            f"{folder} is no folder of a VLMo: it has no {', no '.join(absent)}. Name a folder that the encoder's "
            "save() wrote, or a published checkpoint after its architecture: vlmo:base_patch16_224//path/to/the.pt"
        )


def read_config(folder: Path) -> VlmoConfig:
    """The sizes of the network in a folder.

    Raises:
        WeightsError: the file is no JSON, or a size is missing, unknown or out of bounds.
    """
    path = folder / CONFIG
    try:
        return VlmoConfig.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'sizes'}: {e['msg']}" for e in error.errors())
        raise WeightsError(f"{path} does not describe a VLMo: {faults}. Save the encoder anew.") from None
    except ValueError as error:
        raise WeightsError(f"{path} is damaged: {error}. Save the encoder anew.") from None
