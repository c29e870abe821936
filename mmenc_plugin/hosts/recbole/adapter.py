"""RecBole's face of our models: a class that RecBole can name, build, train, evaluate and pickle."""

from __future__ import annotations

import functools
from typing import Any

import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from mmenc_plugin import models
from mmenc_plugin.hosts.recbole import config as our_config
from mmenc_plugin.hosts.recbole.ranking_config import ranking_settings
from mmenc_plugin.kernels.dispatch import set_scorer
from mmenc_plugin.settings import LiveSettings
from mmenc_plugin.training.end_to_end import live_losses
from mmenc_plugin.types import Interactions, TripletBatch


class RecboleModel(GeneralRecommender):
    """Base of the faces: hands RecBole's calls to one of our models."""

    input_type = InputType.PAIRWISE
    mmenc_name: str

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        set_scorer(ranking_settings(config).scorer)
        settings = our_config.model_settings(config, self.mmenc_name)
        self.model = models.build(self.mmenc_name, settings, dataset.item_features(), self._interactions(dataset))
        self.itc_weight = our_config.settings_of(config, LiveSettings).itc_weight
        self.parts: tuple[str, ...] = ()  # of the last loss, by name
        if not self.model.learns:
            self.nothing = nn.Parameter(torch.zeros(()))  # RecBole's optimizers want a parameter
        # Feature tables and graphs are made in every process: DistributedDataParallel need not send them at each step.
        saved = self.state_dict().keys()
        self._ddp_params_and_buffers_to_ignore = [name for name, _ in self.named_buffers() if name not in saved]

    def _interactions(self, dataset: Any) -> Interactions:
        inter = dataset.inter_feat
        return Interactions(inter[self.USER_ID], inter[self.ITEM_ID], self.n_users, self.n_items, padding_row=True)

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, ...]:
        """The parts of the loss, which RecBole's trainer sums and logs one by one."""
        batch = self.batch(interaction)
        frozen = self.model.features.frozen
        parts = self.model.loss(batch) if frozen else live_losses(self.model, batch, self.itc_weight)
        self.parts = tuple(parts)
        return tuple(parts.values())

    def batch(self, interaction: Any) -> TripletBatch:
        """The users and items of one of RecBole's batches."""
        return TripletBatch(interaction[self.USER_ID], interaction[self.ITEM_ID], interaction[self.NEG_ITEM_ID])

    def predict(self, interaction: Any) -> Tensor:
        """Scores [B] of the pairs."""
        return self.model.pair_scores(interaction[self.USER_ID], interaction[self.ITEM_ID])

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Scores [B, I] of all items; a fresh tensor, since RecBole writes into it."""
        return self.model.scores(interaction[self.USER_ID])


@functools.cache
def recbole_class(name: str) -> type[RecboleModel]:
    """The class that RecBole gets for the model `name`; always the same one.

    Raises:
        UnknownNameError: no such model.
    """
    model = models.registry.get(name)
    return type(name, (RecboleModel,), {"mmenc_name": name, "__doc__": model.__doc__, "__module__": __name__})


def __getattr__(name: str) -> Any:
    """Pickles refer to the classes as attributes of this module, whether or not the finder is in place."""
    if not name.startswith("_") and name in models.registry:
        return recbole_class(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
