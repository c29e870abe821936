"""What training an encoder with a recommender adds to a host's loop over epochs and batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmenc_plugin.errors import SettingsError
from mmenc_plugin.features import together
from mmenc_plugin.features.live import LiveFeatures
from mmenc_plugin.models import MultimodalRecommender
from mmenc_plugin.settings import LiveSettings, TuningSettings, refresh_rule
from mmenc_plugin.training.contrast import itc_loss, scale_of
from mmenc_plugin.training.optimizer import encoder_groups, rate
from mmenc_plugin.training.tuning import tuning_of
from mmenc_plugin.types import TripletBatch


def live_losses(model: MultimodalRecommender, batch: TripletBatch, itc_weight: float = 0.0) -> dict[str, Tensor]:
    """The parts of a training step's loss, after its items were encoded.

    Args:
        model: of live features.
        batch: of the step.
        itc_weight: of the image-text contrastive loss of the items that have both; of several processes, of all
            their items.
    """
    features = _live(model)
    features.begin_step(model.items_read(batch))
    parts = model.loss(batch)
    if features.held:
        return parts
    if itc_weight:
        parts["itc"] = itc_weight * _itc(features)
    if together.n_processes() > 1:
        first = next(iter(parts))
        parts[first] = parts[first] + features.tie()
    return parts


def check_itc(features: LiveFeatures) -> None:
    """Whether pictures and texts can be contrasted.

    Raises:
        SettingsError: they are not of one encoder, or one of them is not there.
    """
    if not {"image", "text"} <= set(features.modalities):
        raise SettingsError(
            f"itc_weight contrasts pictures with texts, but modalities is {list(features.modalities)}: add what lacks, "
            "or set itc_weight: 0."
        )
    image, text = features.encoder("image"), features.encoder("text")
    if image is not text or features.width("image") != features.width("text"):
        raise SettingsError(
            "itc_weight contrasts pictures with texts by the vectors of one encoder of both, but encoder is "
            f"{image.spec.family}:{image.spec.architecture} for pictures and "
            f"{text.spec.family}:{text.spec.architecture} for texts. Name one as openclip:ViT-B-32/openai for both, or "
            "set itc_weight: 0."
        )


def _itc(features: LiveFeatures) -> Tensor:
    """The contrastive loss of the step's items that have a picture and a text; zero where fewer than two have."""
    image, text = features.live_table("image"), features.live_table("text")
    items = features.step_items
    items = items[image.has[items] & text.has[items]]
    if len(items) < 2:
        return image.values.new_zeros(())
    pictures, texts = image.raw_rows(items), text.raw_rows(items)
    scale = scale_of(features.encoder("image")).to(pictures)
    return itc_loss(pictures, texts, scale, image.number[items], text.number[items])


def _live(model: MultimodalRecommender) -> LiveFeatures:
    features = model.features
    if not isinstance(features, LiveFeatures):
        raise SettingsError("the model's features are frozen: no step of theirs trains an encoder.")
    return features


class EndToEnd:
    """The course of a training with live features: which epochs and steps train the encoder, how fast, and refreshes.

    Args:
        model: of live features.
        tuning: rates of the encoder's parameters.
        live: warm start and refreshes.
    """

    def __init__(self, model: MultimodalRecommender, tuning: TuningSettings, live: LiveSettings) -> None:
        self.model, self.features, self.tuning, self.live = model, _live(model), tuning, live
        self.rule, self.every = refresh_rule(live.refresh)
        self.epoch, self.epochs, self.steps = 0, 1, 1
        if live.itc_weight:
            check_itc(self.features)

    def groups(self) -> list[dict[str, Any]]:
        """The encoders' parameters, for an optimizer of the Adam kind; see `encoder_groups`.

        Their weight decay is not part of the gradient (Loshchilov and Hutter, 2019), whatever the others' is.
        """
        groups = [
            group
            for encoder in self.features.encoders
            if tuning_of(encoder) is not None  # type: ignore[arg-type]
            for group in encoder_groups(encoder, self.tuning)  # type: ignore[arg-type]
        ]
        return [{**group, "encoder_rate": group["lr"], "decoupled_weight_decay": True} for group in groups]

    def others(self) -> list[Tensor]:
        """The recommender's parameters."""
        encoders = {id(parameter) for parameter in self.features.parameters()}
        return [parameter for parameter in self.model.parameters() if id(parameter) not in encoders]

    def begin_epoch(self, epoch: int, epochs: int, steps: int) -> None:
        """Before an epoch: of `epochs`, from 0, with so many steps each."""
        self.epoch, self.epochs, self.steps = epoch, epochs, steps
        self.features.held = epoch < self.live.warm_start_epochs
        if self.rule in ("epoch", "steps"):
            self.features.refresh()
        self.model.follow_features()

    def set_rates(self, optimizer: torch.optim.Optimizer, batch: int) -> None:
        """Before the epoch's step `batch`, from 0: the encoder's learning rates, zero in the warm start."""
        joint_epochs = max(1, self.epochs - self.live.warm_start_epochs)
        factor = 0.0 if self.features.held else rate(self._step(batch), joint_epochs * self.steps, self.tuning)
        for group in optimizer.param_groups:
            if "encoder_rate" in group:
                group["lr"] = factor * group["encoder_rate"]

    def end_step(self, batch: int) -> None:
        """After the epoch's step `batch`, and the optimizer's."""
        self.features.end_step()
        if self.rule == "steps" and not self.features.held and (self._step(batch) + 1) % self.every == 0:
            self.features.refresh()
            self.model.follow_features()

    def _step(self, batch: int) -> int:
        """How many steps have trained the encoder before this one."""
        return (self.epoch - self.live.warm_start_epochs) * self.steps + batch
