"""An encoder's share of an optimizer: groups of parameters by depth, and the course of the learning rate."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from mmenc_plugin.encoders import Encoder
from mmenc_plugin.settings import TuningSettings
from mmenc_plugin.training.tuning import trained_parameters


def encoder_groups(encoder: Encoder, settings: TuningSettings) -> list[dict[str, Any]]:
    """An encoder's trained parameters as groups for a torch optimizer, the deepest last.

    A parameter of depth d in a tower of n blocks learns at encoder_learning_rate * layer_decay ** (n + 1 - d)
    (layer-wise decay, as in Clark et al. 2020, ELECTRA, and Bao et al. 2022, BEiT). Matrices have weight decay;
    vectors and numbers (norms, biases, temperatures) have none.

    Args:
        encoder: after `apply_tuning`.
        settings: the rates.

    Returns:
        Groups with params, lr, weight_decay and a name.

    Raises:
        SettingsError: `apply_tuning` was not called.
    """
    places = encoder.places()
    groups: dict[tuple[int, bool], list[Tensor]] = {}
    for name, parameter in trained_parameters(encoder).items():
        below = places[name].blocks + 1 - places[name].depth
        groups.setdefault((below, _is_vector(parameter)), []).append(parameter)
    return [
        {
            "params": groups[below, vectors],
            "lr": settings.encoder_learning_rate * settings.layer_decay**below,
            "weight_decay": 0.0 if vectors else settings.encoder_weight_decay,
            "name": f"encoder, {below} below the head, {'vectors' if vectors else 'matrices'}",
        }
        for below, vectors in sorted(groups, reverse=True)
    ]


def rate(step: int, steps: int, settings: TuningSettings) -> float:
    """The factor of every learning rate in a step: warm-up in equal steps from zero, then the schedule to the end.

    Args:
        step: from 0 on; the step that is about to be taken.
        steps: of the whole training.
        settings: warm-up and schedule.

    Returns:
        In 0..1; 0 only behind the last step.

    Raises:
        ValueError: a step below 0, or no steps.
    """
    if step < 0 or steps < 1:
        raise ValueError(f"step {step} of {steps}: steps count from 0, and there is at least one.")
    rising = round(settings.warmup * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    if settings.schedule == "constant":
        return 1.0
    done = (step - rising) / (steps - rising) if step < steps else 1.0
    return 1 - done if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))


def _is_vector(parameter: Tensor) -> bool:
    """A vector, or one that is stored as [1, 1, D]."""
    return parameter.ndim < 2 or (parameter.ndim > 2 and parameter.numel() == parameter.shape[-1])
