"""Encoders that learn: what is trained, by which rates, and how the result is kept."""

from mmenc_plugin.training.optimizer import encoder_groups, rate
from mmenc_plugin.training.saving import save_encoder
from mmenc_plugin.training.tuning import (
    Tuning,
    apply_tuning,
    load_trained_state,
    merge,
    trained_parameters,
    trained_state,
    tuning_of,
)

__all__ = [
    "Tuning",
    "apply_tuning",
    "encoder_groups",
    "load_trained_state",
    "merge",
    "rate",
    "save_encoder",
    "trained_parameters",
    "trained_state",
    "tuning_of",
]
