"""MMRec's face of our models: `VBPR_MMENC` for VBPR, and so on. Importable inside a running MMRec alone.

MMRec finds a model as `models.<lowercased name>.<name>`; the files that `install` writes import it from here.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmenc_plugin import models
from mmenc_plugin.errors import DataError, SettingsError
from mmenc_plugin.features import AlignedFeatures, FrozenFeatures
from mmenc_plugin.features.align import scaled
from mmenc_plugin.hosts.mmrec.install import SUFFIX
from mmenc_plugin.settings import FeatureSettings, ModelSettings, validate
from mmenc_plugin.types import Interactions, Modality, TripletBatch

if not hasattr(np, "float"):  # MMRec's metrics ask for it, and numpy has dropped it since 1.24
    np.float = float  # type: ignore[attr-defined]

_FEATURES: dict[Modality, str] = {"image": "v_feat", "text": "t_feat"}


class _Face:
    """What our models are to MMRec; `_face_of` joins it with MMRec's own base class."""

    mmenc_name: str

    def __init__(self, config: Any, dataloader: Any) -> None:
        super().__init__(config, dataloader)  # type: ignore[call-arg]
        kind = models.registry.get(self.mmenc_name).settings
        settings = validate(kind, _given(config, kind))
        matrix = dataloader.inter_matrix(form="coo")
        users, items = (torch.from_numpy(np.asarray(ids, dtype=np.int64)) for ids in (matrix.row, matrix.col))
        interactions = Interactions(users, items, *matrix.shape)
        self.model = models.build(self.mmenc_name, settings, self._features(config, matrix.shape[1]), interactions)
        if not self.model.learns:
            self.nothing = nn.Parameter(torch.zeros(()))  # MMRec's trainer wants a loss, and its optimizer a parameter

    def pre_epoch_processing(self) -> None:
        """Before each epoch."""
        self.model.begin_epoch()

    def calculate_loss(self, interaction: Tensor) -> Tensor:
        """The summed loss of a batch [3, B]: users, positives and negatives."""
        if not self.model.learns:
            return self.nothing * 0
        return torch.stack(list(self.model.loss(TripletBatch(*interaction[:3])).values())).sum()

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Scores [B, I]; a fresh tensor, since MMRec writes into it."""
        return self.model.scores(interaction[0])

    def _features(self, config: Any, n_items: int) -> FrozenFeatures:
        """What MMRec has read from its .npy files, in its item order."""
        settings = validate(FeatureSettings, _given(config, FeatureSettings))
        if settings.paradigm != "frozen":
            raise SettingsError(
                f"paradigm is '{settings.paradigm}', but MMRec reads features from files and trains no encoder: leave "
                "it out, and export a trained encoder's features with: mmenc features export --format=mmrec"
            )
        found = {m: getattr(self, name) for m, name in _FEATURES.items() if getattr(self, name) is not None}
        wanted = [m for m in settings.modalities if m in found] if config["modalities"] is None else settings.modalities
        for modality in wanted:
            if modality not in found:
                raise SettingsError(
                    f"modalities asks for '{modality}', but MMRec has found features of {sorted(found)} alone. Write "
                    "the others with: mmenc features export --format=mmrec"
                )
            if len(found[modality]) != n_items:
                raise DataError(
                    f"the {modality} features have {len(found[modality])} rows, but MMRec's data set has {n_items} "
                    "items: write them anew with: mmenc features export --format=mmrec --order-from"
                )
        everywhere = torch.ones(n_items, dtype=torch.bool)
        tables = {m: scaled(found[m].detach().cpu(), everywhere, settings.feature_scaling) for m in wanted}
        for modality in found:
            setattr(self, _FEATURES[modality], None)  # read, and of no more use
        return FrozenFeatures({m: AlignedFeatures(values, everywhere) for m, values in tables.items()})


def _given(config: Any, kind: type[FeatureSettings] | type[ModelSettings]) -> dict[str, Any]:
    return {key: config[key] for key in kind.model_fields if config[key] is not None}


@functools.cache
def _face_of(name: str) -> type:
    from common.abstract_recommender import GeneralRecommender

    return type(name + SUFFIX, (_Face, GeneralRecommender), {"mmenc_name": name, "__module__": __name__})


def __getattr__(name: str) -> Any:
    """The class of a model, by MMRec's name of it."""
    known = {model + SUFFIX: model for model in models.registry.names()}
    if name not in known:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _face_of(known[name])
