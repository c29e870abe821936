"""What of an encoder is trained: all of it, its head, its last blocks, or adapters beside its layers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmenc_plugin.encoders import Encoder, Place, state_faults
from mmenc_plugin.errors import CheckpointError, SettingsError
from mmenc_plugin.settings import tuning_scope
from mmenc_plugin.training._adapters import add_adapters, fold_adapters


@dataclass(frozen=True)
class Tuning:
    """What of an encoder is trained.

    Attributes:
        scope: full, head, top:N or lora:R.
        trained: names of the parameters that are trained.
        n_trained: their elements.
        n_all: elements of all the encoder's parameters, adapters not counted.
    """

    scope: str
    trained: tuple[str, ...]
    n_trained: int
    n_all: int


def apply_tuning(encoder: Encoder, tune: str, uses: Collection[str] | None = None) -> Tuning:
    """Let an encoder's parameters learn, those of the scope and no others.

    Afterwards `requires_grad` is True for what is trained and False for everything else. `lora:R` puts adapters
    into the encoder, whose outputs stay as they are until the first step.

    Args:
        encoder: in evaluation mode, where it stays.
        tune: full, head (last norm, projection, temperature), top:N (the last N blocks of each tower, and the head)
            or lora:R (adapters of rank R beside the linear layers of all blocks, scaled by one).
        uses: what the training makes of the encoder: modalities (image, text, fused) and objectives (itc, itm,
            mlm). What serves none of them is not trained. None for all.

    Raises:
        SettingsError: no such scope, one that the encoder cannot have, or one that matches no parameter.
        MissingExtraError: adapters without peft.
    """
    kind, number = tuning_scope(tune)
    if tuning_of(encoder) is not None:
        merge(encoder)
    if kind != "lora" and encoder.spec.precision != "float32":
        raise SettingsError(
            f"tune is '{tune}', and the weights are in {encoder.spec.precision}, which is too coarse for the steps of "
            "training. Set encoder_precision: float32 and autocast: bfloat16, or use lora:R: adapters are float32."
        )
    places = _wanted(encoder, uses)
    n_all = sum(parameter.numel() for parameter in encoder.parameters())
    if kind == "lora":
        trained = add_adapters(encoder, number, lambda: _wanted(encoder, uses))
    else:
        trained = [name for name, place in places.items() if _in_scope(kind, number, place)]
    _check_scope(encoder, tune, places, trained)
    chosen = set(trained)
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(name in chosen)
    n_trained = sum(p.numel() for name, p in encoder.named_parameters() if name in chosen)
    tuning = Tuning(tune, tuple(trained), n_trained, n_all)
    encoder.__dict__["_tuning"] = tuning
    return tuning


def tuning_of(encoder: Encoder) -> Tuning | None:
    """What `apply_tuning` made of an encoder; None for one that it was not given, or that was merged since."""
    return encoder.__dict__.get("_tuning")


def trained_parameters(encoder: Encoder) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name, whether or not they are held still for the moment.

    Raises:
        SettingsError: `apply_tuning` was not called.
    """
    tuning = tuning_of(encoder)
    if tuning is None:
        raise SettingsError(f"nothing of the encoder {encoder.spec.architecture} is trained: call apply_tuning first.")
    parameters = dict(encoder.named_parameters())
    return {name: parameters[name] for name in tuning.trained}


def trained_state(encoder: Encoder) -> dict[str, Tensor]:
    """What training changes of an encoder, alone: adapters alone for lora. Not copied.

    Raises:
        SettingsError: `apply_tuning` was not called.
    """
    return {name: parameter.detach() for name, parameter in trained_parameters(encoder).items()}


def load_trained_state(encoder: Encoder, state: Mapping[str, Tensor]) -> None:
    """Bring back what `trained_state` gave.

    Raises:
        CheckpointError: the state is of another encoder, or of another `tune`.
    """
    mine = trained_state(encoder)
    if told := state_faults(mine, state):
        tuning = tuning_of(encoder)
        raise CheckpointError(
            f"the checkpoint does not hold what tune: {tuning.scope if tuning else ''} trains of the encoder "
            f"{encoder.spec.architecture}: {told}. Set encoder and tune to what they were when it was written, or "
            "start anew."
        )
    with torch.no_grad():
        for name, value in mine.items():
            value.copy_(state[name])


def merge(encoder: Encoder) -> None:
    """Fold adapters into the weights and forget the tuning: afterwards the encoder is as its family built it."""
    fold_adapters(encoder)
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(name not in encoder.fixed)
    encoder.__dict__.pop("_tuning", None)


def _wanted(encoder: Encoder, uses: Collection[str] | None) -> dict[str, Place]:
    """The places of the parameters that training can change: no constants, nothing that no output depends on."""
    needed = None if uses is None else set(uses)
    return {
        name: place
        for name, place in encoder.places().items()
        if name not in encoder.fixed and (place.uses if needed is None else place.uses & needed)
    }


def _in_scope(kind: str, number: int, place: Place) -> bool:
    if kind == "full":
        return True
    return place.in_head or (kind == "top" and place.in_block and place.depth > place.blocks - number)


def _check_scope(encoder: Encoder, tune: str, places: Mapping[str, Place], trained: Collection[str]) -> None:
    kind, number = tuning_scope(tune)
    blocks = {place.tower: place.blocks for place in places.values() if place.tower}
    short = {tower: n for tower, n in blocks.items() if kind == "top" and n < number}
    if short:
        has = " and ".join(f"its {tower} tower has {n}" for tower, n in short.items())
        most = min(blocks.values())
        advice = f"top:{most} is the most, and full trains everything" if most else "Use full or head"
        raise SettingsError(
            f"tune is '{tune}', and the encoder {encoder.spec.architecture} has fewer blocks: {has}. {advice}."
        )
    if not trained:
        raise SettingsError(
            f"tune is '{tune}', which matches no parameter of the encoder {encoder.spec.architecture} "
            f"({len(places)} could be trained, {max(blocks.values(), default=0)} blocks). Use full or top:N."
        )
