"""Encoders that a run has trained, beside RecBole's checkpoint of the best epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from mmenc_plugin.features.live import LiveFeatures
from mmenc_plugin.hosts.recbole import checkpoint
from mmenc_plugin.hosts.recbole.config import feature_settings, plugin_keys
from mmenc_plugin.training import save_encoder

_PREFIX = "model.features."


def export_encoders(trainer: Any) -> list[str]:
    """Write the best epoch's encoders, in their own formats, to folders named like the checkpoint.

    Of several processes the first writes them.

    Args:
        trainer: after `fit`, which has saved a checkpoint.

    Returns:
        The URIs that build them, for `encoder` and `mmenc extract --encoder`.
    """
    path = Path(trainer.saved_model_file)
    if not path.is_file() or (not trainer.config["single_spec"] and torch.distributed.get_rank() != 0):
        return []
    features = cast(LiveFeatures, trainer.model.model.features)
    best, uris = checkpoint.load(path, map_location="cpu"), []
    learning = dict.fromkeys(features.encoder(m) for m in features.learning)
    with _with_state(features, best["state_dict"]):
        for encoder in learning:
            modalities = [m for m in features.modalities if features.encoder(m) is encoder]
            name = "-".join(["encoder", *(modalities if len(learning) > 1 else [])])
            lineage = _lineage(trainer.config, modalities, best["epoch"])
            uris.append(save_encoder(encoder, path.with_name(f"{path.stem}-{name}"), lineage))
            trainer.logger.info(f"The encoder as it was trained, of epoch {best['epoch']}: {uris[-1]}")
    return uris


def _lineage(config: Any, modalities: list[Any], epoch: int) -> Mapping[str, Any]:
    keys = sorted({*plugin_keys(config["model"]), *config.parameters["Training"]} - {"encoder"})
    return {
        "base": feature_settings(config).uri(modalities[0]),
        "made_by": "training with a recommender (paradigm: end_to_end)",
        "model": config["model"],
        "dataset": config["dataset"],
        "modalities": modalities,
        "epoch": epoch,
        "seed": config["seed"],
        "settings": {key: _plain(config[key]) for key in keys},
    }


def _plain(value: Any) -> Any:
    """A setting as JSON has it."""
    return value if isinstance(value, (str, int, float, bool, list, dict, type(None))) else str(value)


@contextmanager
def _with_state(features: LiveFeatures, state: Mapping[str, Tensor]) -> Iterator[None]:
    """The encoders as a checkpoint has them, for a while."""
    mine = features.trained()
    kept = {name: parameter.detach().clone() for name, parameter in mine.items()}
    _put(mine, {name: state[_PREFIX + name] for name in mine})
    try:
        yield
    finally:
        _put(mine, kept)


@torch.no_grad()
def _put(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])
