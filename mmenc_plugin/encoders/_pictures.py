"""How pictures become the pixels of a network: the rule, its arithmetic, and a fast way to follow it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class PictureRule:
    """What is done to a picture; part of an encoder's spec.

    Attributes:
        height: H of the pixels.
        width: W of the pixels.
        mean: of red, green and blue in 0..1, subtracted.
        std: of red, green and blue in 0..1, divided by.
        resize: shortest: the short side to `resize_to`, then the middle is cut out; squash: both sides to the
            network's, whatever the shape; other: as `detail` says, with no fast form.
        resize_to: pixels of the short side (shortest).
        resample: the filter, with antialiasing.
        alpha: transparent parts: dropped (the colours below them show) or laid on white.
        crop: how the cut's offset is rounded (shortest): Python's round, or down.
        detail: whatever else the library does that the pixels depend on.
    """

    height: int
    width: int
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    resize: Literal["shortest", "squash", "other"] = "shortest"
    resize_to: int = 0
    resample: Literal["bicubic", "bilinear"] = "bicubic"
    alpha: Literal["drop", "white"] = "drop"
    crop: Literal["round", "floor"] = "round"
    detail: str = ""

    @property
    def has_fast_form(self) -> bool:
        """Whether `prepare_fast` can follow the rule."""
        return self.resize != "other"

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it, for a recipe."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


def normalize(pixels: Tensor, rule: PictureRule) -> Tensor:
    """uint8 [B, 3, H, W] -> (pixels / 255 - mean) / std, float32; torchvision's operations in its order."""
    mean, std = (torch.tensor(v, device=pixels.device).view(3, 1, 1) for v in (rule.mean, rule.std))
    return pixels.float().div_(255).sub_(mean).div_(std)


def to_rgb(image: Image.Image, alpha: Literal["drop", "white"]) -> Image.Image:
    """A picture of any mode in RGB, transparent parts dropped or laid on white."""
    if alpha == "white" and (image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def prepare_fast(path: Path, rule: PictureRule) -> Tensor:
    """The picture in a file -> uint8 [3, H, W]."""
    raise NotImplementedError
