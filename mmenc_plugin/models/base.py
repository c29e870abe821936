"""What a model is: settings + features + interactions, and two methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from mmenc_plugin.errors import SettingsError
from mmenc_plugin.kernels import score_topk
from mmenc_plugin.models.blocks.losses import RankingLoss
from mmenc_plugin.registry import Registry
from mmenc_plugin.settings import ModelSettings, check_keys, validate
from mmenc_plugin.types import Citation, Embeddings, Interactions, Modality, TopK, TripletBatch

__all__ = ["ItemFeatures", "ModelSettings", "MultimodalRecommender", "build", "register", "registry"]


class ItemFeatures(Protocol):
    """The items' features as a model sees them.

    Attributes:
        modalities: which there are.
        frozen: whether they never change. Where they may, gradients flow into them, and what a model computes from
            them once belongs into its `features_changed`.
        version: another number whenever they have changed.
    """

    modalities: tuple[Modality, ...]
    frozen: bool
    version: int

    def width(self, modality: Modality) -> int:
        """D of the modality."""

    def table(self, modality: Modality) -> Tensor:
        """All items' features [I, D]."""

    def rows(self, modality: Modality, items: Tensor) -> Tensor:
        """Features [B, D] of the item rows [B]."""

    def present(self, modality: Modality) -> Tensor:
        """[I] bool: the items that have the modality."""


class MultimodalRecommender(nn.Module):
    """Base of all models.

    A model sets `settings` and `citation`, makes its parameters in `__init__`, and implements `embed` and `loss`. The
    main part of the loss comes from `ranking_loss`, unless the settings are `OwnLossSettings`. Prediction, ranking and
    the embeddings kept during an evaluation are here.

    Args:
        settings: of the model's own kind.
        features: of the items, in the host's row order.
        interactions: of the training part.

    Attributes:
        learns: whether there is anything to train; where not, `loss` has no parts, and hosts train no epoch.
        is_product: whether the scores are products of what `embed` gives, so that hosts may rank by those. A model
            that says no has no `embed`, and its own `scores`, `pair_scores` and `topk`.
    """

    settings: ClassVar[type[ModelSettings]] = ModelSettings
    citation: ClassVar[Citation]
    learns: ClassVar[bool] = True
    is_product: bool = True

    def __init__(self, settings: ModelSettings, features: ItemFeatures, interactions: Interactions) -> None:
        super().__init__()
        self.features = features
        self.n_users, self.n_items = interactions.n_users, interactions.n_items
        self.ranking_loss = RankingLoss(settings, interactions)
        self._kept: Embeddings | None = None
        self._followed = features.version

    def embed(self) -> Embeddings:
        """All users' and items' embeddings; the score of a pair is their product plus the item's bias."""
        raise NotImplementedError

    def loss(self, batch: TripletBatch) -> dict[str, Tensor]:
        """The parts of the training loss, by name; each a scalar, to be summed."""
        raise NotImplementedError

    def begin_epoch(self) -> None:
        """Called before each training epoch: for what is drawn or built anew once an epoch."""

    def items_read(self, batch: TripletBatch) -> Tensor:
        """The item rows [N] of a batch whose features the loss reads, repeated ones among them."""
        read = self.ranking_loss.items(batch)
        return batch.positives if read is None else read

    def features_changed(self) -> None:
        """Compute anew what is computed from all items' features once, as a graph of like items."""

    def follow_features(self) -> None:
        """Call `features_changed` if they have; before an epoch and an evaluation, as graphs follow no single step."""
        if self._followed != self.features.version:
            self._followed = self.features.version
            self.features_changed()

    def scores(self, users: Tensor) -> Tensor:
        """Scores [B, I] of all items for the user rows [B]."""
        all_ = self._embeddings()
        if all_.item_bias is None:
            return all_.users[users] @ all_.items.T
        return torch.addmm(all_.item_bias, all_.users[users], all_.items.T)

    def pair_scores(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores [B] of the pairs (users[b], items[b])."""
        all_ = self._embeddings()
        scores = (all_.users[users] * all_.items[items]).sum(1)
        return scores if all_.item_bias is None else scores + all_.item_bias[items]

    def topk(self, users: Tensor, k: int, exclude: tuple[Tensor, Tensor] | None = None) -> TopK:
        """The k best items [B, K] for the user rows [B]; `exclude` as in `kernels.score_topk`."""
        all_ = self._embeddings()
        return score_topk(all_.users[users], all_.items, k, all_.item_bias, exclude)

    def _embeddings(self) -> Embeddings:
        """The embeddings, kept from call to call while the model is being evaluated."""
        if self.training or torch.is_grad_enabled():
            return self.embed()
        if self._kept is None:
            self._kept = self.embed()
        return self._kept

    def train(self, mode: bool = True) -> MultimodalRecommender:
        """Switch mode, as always; the embeddings kept so far are let go.

        Features that are trained are encoded anew for an evaluation.
        """
        self._kept = None
        super().train(mode)
        if not mode:
            self.follow_features()
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:  # called for a part of a larger module too
        self._kept = None
        super()._load_from_state_dict(*args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MultimodalRecommender:
        self._kept = None
        return cast(MultimodalRecommender, super()._apply(fn, recurse))  # type: ignore[no-untyped-call]


registry: Registry[type[MultimodalRecommender]] = Registry("model", "mmenc_plugin.models", "mmenc.models")
M = TypeVar("M", bound=type[MultimodalRecommender])


def register(model: M) -> M:
    """Class decorator: make a model known under its class name."""
    registry.add(model.__name__)(model)
    return model


def build(
    name: str, settings: Mapping[str, Any] | ModelSettings, features: ItemFeatures, interactions: Interactions
) -> MultimodalRecommender:
    """The model called `name`.

    Args:
        name: as in `mmenc list`.
        settings: an instance of the model's settings, or a mapping with some of their keys.
        features: of the items, in row order.
        interactions: of the training part.

    Raises:
        UnknownNameError: no such model.
        SettingsError: a value has the wrong type or is out of bounds.
    """
    model = registry.get(name)
    if not isinstance(settings, ModelSettings):
        check_keys(settings, model.settings.model_fields, f"of {name}")
        settings = validate(model.settings, settings)
    if not isinstance(settings, model.settings):
        raise SettingsError(f"{name} takes {model.settings.__name__}, not {type(settings).__name__}.")
    if not features.frozen:
        check_live(name)
    return model(settings, features, interactions)


def check_live(name: str) -> None:
    """Whether an encoder can be trained through the model.

    Raises:
        SettingsError: the model learns nothing.
    """
    if not registry.get(name).learns:
        raise SettingsError(
            f"{name} learns nothing, so no gradient of it trains an encoder. Set paradigm to frozen, or take another "
            "model; features of an encoder that was trained elsewhere are frozen features."
        )
