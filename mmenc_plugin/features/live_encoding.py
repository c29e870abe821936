"""Encoding some of the items with gradient, or all of them without, a batch at a time."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from mmenc_plugin.encoders import Encoder
from mmenc_plugin.errors import EncoderOutputError, some
from mmenc_plugin.features.ahead import Ahead
from mmenc_plugin.features.pictures import PictureOptions

AHEAD = 2  # batches whose pictures are being prepared while one is encoded


@dataclass(frozen=True)
class LiveOptions:
    """How live features are made; see `FeatureSettings` and `TuningSettings`.

    Attributes:
        scaling: as in `align`.
        missing: as in `align`, or neighbours.
        padding_row: whether row 0 of the items is none.
        batch_size: contents encoded at once.
        pictures: how they are prepared.
        recompute: keep no activations of a batch of contents, but compute them again in the backward pass.
        autocast: compute in bfloat16 in training steps.
        show_progress: a bar for each refresh.
    """

    scaling: str = "standard"
    missing: Literal["mean", "neighbours", "zeros", "error"] = "mean"
    padding_row: bool = False
    batch_size: int = 32
    pictures: PictureOptions = field(default_factory=PictureOptions)
    recompute: bool = False
    autocast: bool = False
    show_progress: bool = False


class Encoding:
    """What an encoder makes of items in one modality.

    Args:
        encoder: of the items.
        source: of what it takes.
        options: how it encodes.
    """

    def __init__(self, encoder: Encoder, source: Ahead, options: LiveOptions) -> None:
        self.encoder, self.source, self.options = encoder, source, options

    def outputs(self, rows: list[int], told: str = "") -> Tensor:
        """The outputs [n, D] of item rows [n].

        Args:
            rows: of the items.
            told: what a bar says, where progress is shown; a non-empty one also checks the outputs.

        Raises:
            EncoderOutputError: an output that is not finite.
            MediaError: a picture that cannot be read any more.
        """
        size = self.options.batch_size
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        parts = []
        with tqdm(total=len(rows), unit="item", desc=told, leave=False, disable=not self._shows(told)) as bar:
            for place, batch in enumerate(batches):
                for later in batches[place : place + AHEAD + 1]:
                    self.source.begin(later)
                parts.append(self._forward(self.source.take(batch)))
                if told:
                    self._check(batch, parts[-1])
                bar.update(len(batch))
        return torch.cat(parts) if parts else self._forward([])

    def _shows(self, told: str) -> bool:
        return bool(told) and self.options.show_progress

    def _forward(self, inputs: list[Any]) -> Tensor:
        run = partial(self.encoder, self.source.modality, inputs)
        training, device = torch.is_grad_enabled(), self.encoder.device.type
        with torch.autocast(device, torch.bfloat16) if training and self.options.autocast else nullcontext():
            if training and self.options.recompute:  # encoders draw no random numbers: they stay in evaluation mode
                return cast(Tensor, checkpoint(run, use_reentrant=False, preserve_rng_state=False))
            return cast(Tensor, run())

    def _check(self, rows: list[int], values: Tensor) -> None:
        ids = self.source.items.ids
        bad = [ids[row] for row, fine in zip(rows, values.isfinite().all(1).tolist(), strict=True) if not fine]
        if bad:
            raise EncoderOutputError(
                f"the trained encoder gives values that are not finite (NaN or infinite) for the "
                f"{self.source.modality} of {len(bad)} items ({some(bad)}) in one batch. Train it with a smaller "
                "encoder_learning_rate, or a longer warmup."
            )
