"""Adapters of low rank beside the linear layers of an encoder's blocks, through peft.

Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from PIL import Image
from torch import nn

from mmenc_plugin.encoders import Encoder, Place
from mmenc_plugin.errors import MissingExtraError, SettingsError, WeightsError
from mmenc_plugin.training._attention import SplitAttention

_SAMPLES: dict[str, Any] = {"image": Image.new("RGB", (32, 32)), "text": "a"}


def add_adapters(encoder: Encoder, rank: int, places: Callable[[], Mapping[str, Place]]) -> list[str]:
    """Put adapters beside the linear layers of the blocks, in place: y = W x + B A x, B zero at the start.

    Args:
        encoder: as its family built it.
        rank: R, rows of A and columns of B.
        places: gives the parameters that count, under the names that they have when it is called.

    Returns:
        The adapters' names.

    Raises:
        MissingExtraError: there is no peft.
        SettingsError: a tower has no linear layer in its blocks.
    """
    try:
        peft = importlib.import_module("peft")
    except ImportError as error:
        raise MissingExtraError("tune: lora", "train", error) from error
    if not places():
        return []
    for name in _layers(encoder, places(), nn.MultiheadAttention):
        attention = encoder.get_submodule(name)
        if SplitAttention.fits(attention):
            _replace(encoder, name, SplitAttention(attention))  # type: ignore[arg-type]
    targets = _called(encoder, _layers(encoder, places(), nn.Linear))
    _check_towers(encoder, rank, targets, places())
    peft.inject_adapter_in_model(
        peft.LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=targets), encoder
    )
    encoder.eval()
    adapters = {name: parameter for name, parameter in encoder.named_parameters() if ".lora_" in name}
    for parameter in adapters.values():
        if parameter.dtype == torch.bfloat16:  # of an encoder with coarse weights, beside which they learn all the same
            parameter.data = parameter.data.float()
    return list(adapters)


def fold_adapters(encoder: Encoder) -> None:
    """W += B A for every layer that has adapters, and the layers as they were before."""
    for name, module in list(encoder.named_modules()):
        if hasattr(module, "lora_A") and hasattr(module, "get_base_layer"):
            module.merge()
            _replace(encoder, name, module.get_base_layer())
    for name, module in list(encoder.named_modules()):
        if isinstance(module, SplitAttention):
            _replace(encoder, name, module.whole)
    encoder.__dict__.pop("peft_config", None)


def _layers(encoder: Encoder, places: Mapping[str, Place], kind: type[nn.Module]) -> list[str]:
    """The modules of a kind that have parameters of their own in a block."""
    owners = {name.rpartition(".")[0] for name, place in places.items() if place.in_block}
    return [name for name, module in encoder.named_modules() if name in owners and isinstance(module, kind)]


def _called(encoder: Encoder, layers: list[str]) -> list[str]:
    """Those that a forward pass calls; of the others it reads the weights, and would miss what stands beside them."""
    called: set[str] = set()
    hooks = [
        encoder.get_submodule(layer).register_forward_hook(lambda *_, layer=layer: called.add(layer))
        for layer in layers
    ]
    try:
        with torch.no_grad():
            for modality in sorted(encoder.modalities):
                with suppress(WeightsError):  # a checkpoint without the heads of the modality
                    _embed(encoder, modality)
    finally:
        for hook in hooks:
            hook.remove()
    return [layer for layer in layers if layer in called]


def _embed(encoder: Encoder, modality: str) -> None:
    if modality == "image":
        encoder.embed_images([_SAMPLES["image"]])
    elif modality == "text":
        encoder.embed_texts([_SAMPLES["text"]])
    else:
        encoder.embed_pairs([_SAMPLES["image"]], [_SAMPLES["text"]])


def _check_towers(encoder: Encoder, rank: int, targets: list[str], places: Mapping[str, Place]) -> None:
    having = {place.tower for name, place in places.items() if name.rpartition(".")[0] in targets}
    for tower in sorted({place.tower for place in places.values() if place.tower} - having):
        owners = {name.rpartition(".")[0] for name, place in places.items() if place.tower == tower}
        kinds = Counter(sorted(type(encoder.get_submodule(owner)).__name__ for owner in owners))
        told = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
        fold_adapters(encoder)
        raise SettingsError(
            f"tune is 'lora:{rank}', and the blocks of the {tower} tower of {encoder.spec.architecture} have no linear "
            f"layer (attention, MLP) to put adapters beside; the tower's layers are {told}. Use full, head or top:N."
        )


def _replace(encoder: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(encoder.get_submodule(parent), last, module)
