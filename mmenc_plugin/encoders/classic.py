"""classic: pictures by colour and layout, texts by hashed words; no weights, nothing to download.

The honest floor of every comparison, and the default, since it works anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mmenc_plugin.encoders._pictures import PictureRule, to_rgb
from mmenc_plugin.encoders.base import Encoder, EncoderSpec, Tokens, register
from mmenc_plugin.errors import SettingsError
from mmenc_plugin.types import Citation

SIDE = 64  # pixels, after resizing
GRID = 4  # cells on a side of the layout
HUES, ANGLES = 16, 8  # bins
TEXT_WIDTH = 1024
IMAGE_WIDTH = 3 * GRID * GRID + HUES + 8 + ANGLES * GRID * GRID


@register
class Classic(Encoder):
    """Colour histogram + mean colours and edge directions on a grid; signed hashing of words."""

    family = "classic"
    modalities = frozenset({"image", "text"})
    example = "classic"
    citation = Citation(
        "Feature Hashing for Large Scale Multitask Learning",
        "Weinberger et al.",
        2009,
        "https://arxiv.org/abs/0902.2206",
    )

    def __init__(self) -> None:
        super().__init__()
        self.picture = PictureRule(SIDE, SIDE, resize="squash", resample="bilinear", alpha="white")
        self.spec = EncoderSpec(
            family="classic",
            architecture="colour-layout-hash-1",
            weights="none",
            weights_sha256="",
            width={"image": IMAGE_WIDTH, "text": TEXT_WIDTH},
            preprocessing={
                "image": self.picture.as_dict(),
                "text": {"tokens": "lower-case words and pairs", "counts": "log(1 + n)", "norm": "l2"},
            },
            licence="Apache-2.0",
        )

    @classmethod
    def check(cls, rest: str) -> None:
        """There is one classic encoder; nothing follows the colon."""
        if rest:
            raise SettingsError(f"encoder 'classic:{rest}': classic has no variants. Write 'classic'.")

    @classmethod
    def from_rest(cls, rest: str) -> Classic:
        """See the base class."""
        return cls()

    def prepare_image(self, image: Image.Image) -> Tensor:
        """A picture -> uint8 [3, 64, 64], transparent parts on white."""
        small = to_rgb(image, "white").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(small)).permute(2, 0, 1)

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Texts -> `bucket` [B, L] int64 and `value` [B, L] float32, padded with value 0."""
        from sklearn.feature_extraction.text import HashingVectorizer

        counts = HashingVectorizer(n_features=TEXT_WIDTH, ngram_range=(1, 2), norm=None).transform(texts)
        length = max(1, int(np.diff(counts.indptr).max(initial=0)))
        tokens = {
            "bucket": torch.zeros(len(texts), length, dtype=torch.int64),
            "value": torch.zeros(len(texts), length),
        }
        for row in range(len(texts)):
            start, end = counts.indptr[row], counts.indptr[row + 1]
            tokens["bucket"][row, : end - start] = torch.from_numpy(counts.indices[start:end].astype(np.int64))
            tokens["value"][row, : end - start] = torch.from_numpy(counts.data[start:end])
        return tokens

    def token_counts(self, texts: Sequence[str]) -> Tensor:
        """Words and pairs of words, none of which is cut."""
        from sklearn.feature_extraction.text import HashingVectorizer

        analyze = HashingVectorizer(ngram_range=(1, 2)).build_analyzer()
        return torch.tensor([len(analyze(text)) for text in texts], dtype=torch.int64)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, 64, 64] -> [B, 200]: each of the four parts has unit length, then the whole."""
        parts = [_layout(pixels), _hues(pixels), _brightness(pixels), _edges(pixels)]
        return F.normalize(torch.cat([F.normalize(part, dim=1) for part in parts], dim=1), dim=1)

    def encode_text(self, tokens: Tokens) -> Tensor:
        """Tokens [B, L] -> [B, 1024] of unit length; a text without words gives zeros."""
        value = tokens["value"]
        damped = value.sign() * torch.log1p(value.abs())
        out = torch.zeros(len(value), TEXT_WIDTH, device=value.device)
        return F.normalize(out.scatter_add_(1, tokens["bucket"], damped), dim=1)


def _layout(pixels: Tensor) -> Tensor:
    """Mean colour of each cell, centred: [B, 3 * 16]."""
    return (F.adaptive_avg_pool2d(pixels, GRID) - 0.5).flatten(1)


def _hues(pixels: Tensor) -> Tensor:
    """Histogram of hues, weighted by chroma: [B, 16]."""
    red, green, blue = pixels.unbind(1)
    angle = torch.atan2(math.sqrt(3) * (green - blue), 2 * red - green - blue)
    chroma = pixels.amax(1) - pixels.amin(1)
    return _soft_histogram((angle / (2 * math.pi)) % 1.0 * HUES, chroma, HUES)


def _brightness(pixels: Tensor) -> Tensor:
    """Histogram of brightness: [B, 8]."""
    grey = pixels.mean(1)
    bins = (grey * 8).long().clamp(max=7).flatten(1)
    return torch.zeros(len(pixels), 8, device=pixels.device).scatter_add_(1, bins, torch.ones_like(grey).flatten(1))


def _edges(pixels: Tensor) -> Tensor:
    """Directions of edges in each cell, weighted by their strength: [B, 8 * 16]."""
    grey = pixels.mean(1, keepdim=True)
    dx = F.pad(grey[..., :, 2:] - grey[..., :, :-2], (1, 1, 0, 0))
    dy = F.pad(grey[..., 2:, :] - grey[..., :-2, :], (0, 0, 1, 1))
    strength = (dx.square() + dy.square()).sqrt()
    direction = (torch.atan2(dy, dx) / math.pi) % 1.0 * ANGLES
    planes = [strength * (direction.long().clamp(max=ANGLES - 1) == b) for b in range(ANGLES)]
    return F.adaptive_avg_pool2d(torch.cat(planes, dim=1), GRID).flatten(1)


def _soft_histogram(position: Tensor, weight: Tensor, bins: int) -> Tensor:
    """A circular histogram in which a value counts for its two nearest bins: [B, bins]."""
    low = position.floor().long() % bins
    share = position - position.floor()
    out = torch.zeros(len(position), bins, device=position.device)
    out.scatter_add_(1, low.flatten(1), (weight * (1 - share)).flatten(1))
    return out.scatter_add_(1, ((low + 1) % bins).flatten(1), (weight * share).flatten(1))
