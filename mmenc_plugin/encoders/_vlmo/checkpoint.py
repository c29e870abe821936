"""VLMo's checkpoints: the published files as they are, and folders that this package writes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmenc_plugin.encoders._vlmo.config import PARTS, SIZES, Part, VlmoConfig
from mmenc_plugin.encoders._vlmo.network import Vlmo
from mmenc_plugin.encoders._vlmo.positions import resize_embedding, resize_table
from mmenc_plugin.encoders._weights import load_state
from mmenc_plugin.errors import WeightsError, some

WRAPPERS = ("state_dict", "module", "model")  # where training programs keep the network, looked up in this order
POSITIONS = "text_embeddings.position_embeddings.weight"
TABLE, PLACES = "relative_position_bias_table", "transformer.pos_embed"

# Counted out again whenever the network is built; some published files hold them, some do not.
COUNTED = {
    "relative_position_index",
    "text_relative_position_index",
    "text_imag_relative_position_index",
    "text_embeddings.position_ids",
}
# Classifiers of tasks that make no features. What lies below them is a whole VLMo and is taken; they are not.
CLASSIFIERS = ("vqa_classifier.", "nlvr2_classifier.")
# How the keys of each part are told.
PART_KEYS: dict[Part, str] = {
    "vl": r"transformer\.blocks\.\d+\.(norm2|mlp)_vl\.",
    "itc": r"itc_(text|image)_proj\.|logit_scale$",
    "itc_vl": r"itc_vl_(text|image)_proj\.|logit_vl_scale$",
    "itm": r"itm_score\.",
    "mlm": r"mlm_score\.",
}


def load_network(path: Path, config: VlmoConfig) -> Vlmo:
    """The network in a checkpoint, with the parts that the checkpoint has.

    Positions of another picture size are resized to the config's, and positions of longer texts (the text
    stage's 196 tokens) cut to it, as the original does at the start of a later stage. The classifiers of
    VQA and NLVR2 are left out, and NLVR2's token type of a second picture: an item has one picture.

    Args:
        path: a `.safetensors` file, or one that `torch.save` wrote: a state dict, or a training checkpoint
            that holds one as state_dict, module or model.
        config: the sizes that are expected.

    Raises:
        WeightsError: no such file, a damaged one, one with pickled code, another network, or keys that are
            missing, left over or of another shape.
    """
    state = _adapt(_unwrap(load_state(path), path), config, path)
    parts: list[Part] = [part for part in sorted(PARTS) if any(re.match(PART_KEYS[part], key) for key in state)]
    with torch.device("meta"):  # no memory and no time for weights that are replaced at once
        network = Vlmo(config, parts)
    _check_keys(state, network.state_dict(), config, path)
    network.load_state_dict(state, assign=True)
    return network


def _unwrap(state: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The tensors themselves, without a training program's wrapper and prefix."""
    wrapper = next((name for name in WRAPPERS if name in state), None) if isinstance(state, dict) else None
    inner = state[wrapper] if wrapper else state
    if not isinstance(inner, dict) or not all(isinstance(value, Tensor) for value in inner.values()):
        raise WeightsError(
            f"{path} is no state dict: tensors by name were expected, bare or as one of {', '.join(WRAPPERS)}. "
            "Save the network's state_dict() alone."
        )
    prefix = "module." if wrapper == "module" else ""
    return {str(key).removeprefix(prefix): value for key, value in inner.items()}


def _adapt(state: dict[str, Tensor], config: VlmoConfig, path: Path) -> dict[str, Tensor]:
    """As this package's network has it: float32, no counted tensors, no classifiers, positions of the right sizes."""
    _check_sizes(state, config, path)
    out = {key: value.float() for key, value in state.items() if key not in COUNTED and not key.startswith(CLASSIFIERS)}
    cuts = {POSITIONS: config.max_tokens}
    if any(key.startswith("nlvr2_classifier.") for key in state):
        cuts["token_type_embeddings.weight"] = 2
    for key, rows in cuts.items():
        if key in out:
            out[key] = out[key][:rows].clone()
    if TABLE in out:
        out[TABLE] = resize_table(out[TABLE], config.side)
    if PLACES in out:
        out[PLACES] = resize_embedding(out[PLACES], config.side)
    return out


def _check_sizes(state: Mapping[str, Tensor], config: VlmoConfig, path: Path) -> None:
    """Whether it is a VLMo of this width and depth; if it is another one, which."""
    cls = state.get("transformer.cls_token")
    if cls is None:
        raise WeightsError(
            f"{path} holds no VLMo: 'transformer.cls_token' is missing; there are {some(state, 5) or 'no tensors'}. "
            "Bring one of the published vlmo_*.pt files."
        )
    blocks = [int(match[1]) for key in state if (match := re.match(r"transformer\.blocks\.(\d+)\.", key))]
    found = cls.shape[-1], 1 + max(blocks, default=-1)
    if found != (config.width, config.depth):
        like = [name for name, size in SIZES.items() if (size["width"], size["depth"]) == found]
        advice = f" It is {like[0]}'s: write vlmo:{like[0]}_patch16_{config.image_size}/{path}" if like else ""
        raise WeightsError(
            f"{path} is not {config.architecture}: it has width {found[0]} and {found[1]} blocks, and width "
            f"{config.width} and {config.depth} blocks were expected.{advice}"
        )


def _check_keys(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], config: VlmoConfig, path: Path) -> None:
    shapes = [
        f"{key} {list(found[key].shape)} for {list(value.shape)}"
        for key, value in expected.items()
        if key in found and found[key].shape != value.shape
    ]
    faults = {
        "missing": [key for key in expected if key not in found],
        "left over": [key for key in found if key not in expected],
        "of another shape": shapes,
    }
    text = "; ".join(f"{len(names)} {fault}: {some(names, 10)}" for fault, names in faults.items() if names)
    if text:
        raise WeightsError(
            f"{path} does not fit {config.architecture}. Tensors {text}. "
            "Bring the whole published file, and name the architecture that it is for."
        )
