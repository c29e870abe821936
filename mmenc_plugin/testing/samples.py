"""What the contracts are run on: pictures and texts of every kind, and a data set with an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Tensor, nn

from mmenc_plugin.encoders import Encoder
from mmenc_plugin.features import AlignedFeatures, FrozenFeatures
from mmenc_plugin.models import MultimodalRecommender
from mmenc_plugin.types import Interactions, Modality, TripletBatch

# The modes of files that `open_image` lets through; Pillow before 13 cannot read a YCbCr that it wrote.
_YCBCR = ("YCbCr",) if int(PIL.__version__.partition(".")[0]) >= 13 else ()
PICTURE_MODES = ("RGB", "RGBA", "L", "LA", "P", "PA", "1", "I;16", "I", "F", "CMYK", *_YCBCR)
SUBSETS: tuple[tuple[Modality, ...], ...] = (("image",), ("text",), ("fused",), ("image", "text"))
TEXTS = ("a red shoe", "blue", "word " * 200 + "end", "Überzug für ein Sofa, 日本語", "It's 50% off!\nTwo lines.", " ")


def picture(seed: int, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Image.Image:
    """Noise over a colour, in any of `PICTURE_MODES`."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 60, (size[1], size[0], 3)) + rng.integers(0, 190, 3)
    picture = Image.fromarray(noise.astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray(noise[..., 0].astype(np.uint16) * 256)
    if mode in ("LA", "RGBA"):
        picture.putalpha(Image.fromarray(noise[..., 1].astype(np.uint8)))
    return picture.convert("L").convert(mode) if mode in ("I", "F") else picture.convert(mode)


def picture_file(folder: Path, seed: int, mode: str) -> Path:
    """A picture in a file that keeps its mode."""
    kind = {"CMYK": "jpg"} | dict.fromkeys(("PA", "I", "F", "YCbCr"), "tiff")
    path = folder / f"{seed}.{kind.get(mode, 'png')}"
    picture(seed, mode=mode).save(path)
    with Image.open(path) as kept:
        assert kept.mode == mode
    return path


def inputs_of(modality: Modality) -> list[Any]:
    """Items of a modality that have different sizes, or lengths."""
    if modality == "text":
        return list(TEXTS)
    if modality == "fused":
        return list(zip(inputs_of("image"), TEXTS, strict=False))
    return [picture(seed, size) for seed, size in enumerate([(40, 30), (9, 200), (64, 64), (333, 17), (8, 8)])]


@dataclass(frozen=True)
class Checkerboard:
    """A tiny data set with an answer: even users take even items, odd users odd ones.

    Row 0 of users and items is padding, as RecBole has it. The features of each modality say whether
    an item is even, beside noise; one item has no picture.

    Attributes:
        features: of the items.
        interactions: of the training part.
        seen: [U, I] bool, the training pairs.
        held_out: [U, I] bool, the pairs to be found.
    """

    features: FrozenFeatures
    interactions: Interactions
    seen: Tensor
    held_out: Tensor

    @property
    def excluded(self) -> tuple[Tensor, Tensor]:
        """Training pairs and the padding item, as `topk` takes them."""
        out = self.seen.clone()
        out[:, 0] = True
        return torch.cat([torch.zeros(1, dtype=torch.int64), out.sum(1).cumsum(0)]), out.nonzero()[:, 1]

    def with_other(self, modality: Modality) -> Checkerboard:
        """The same with the features of one modality shuffled among the items."""
        shuffled = torch.randperm(len(self.features.table(modality)), generator=torch.Generator().manual_seed(2))
        as_they_are = torch.arange(len(shuffled))
        tables = {}
        for m in self.features.modalities:
            order = shuffled if m == modality else as_they_are
            tables[m] = AlignedFeatures(self.features.table(m)[order], self.features.present(m)[order])
        return replace(self, features=FrozenFeatures(tables))

    def batch(self, generator: torch.Generator) -> TripletBatch:
        """Every training pair, each with an item that its user did not take."""
        weights = (~self.seen).double()
        weights[:, 0] = 0
        users = self.interactions.users
        negatives = torch.multinomial(weights[users], 1, generator=generator).squeeze(1)
        return TripletBatch(users, self.interactions.items, negatives)


def checkerboard(modalities: Sequence[Modality] = ("image", "text"), n: int = 24, taken: int = 6) -> Checkerboard:
    """Make a checkerboard.

    Args:
        modalities: which the items have.
        n: users, and items, beside the padding rows; even.
        taken: items that each user took, of the n / 2 to their taste.
    """
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(n + 1)
    taste = (rows[:, None] % 2 == rows[None, :] % 2) & (rows[:, None] > 0) & (rows[None, :] > 0)
    order = (torch.rand(n + 1, n + 1, generator=generator) + taste).argsort(dim=1, descending=True)
    seen = torch.zeros_like(taste).scatter_(1, order[:, :taken], torch.ones_like(taste)) & taste
    tables = {}
    for modality, width in zip(modalities, (6, 5), strict=False):
        values = 0.3 * torch.randn(n + 1, width, generator=generator)
        values[:, 0] += 1.0 - 2.0 * (rows % 2)
        present = rows > (1 if modality == "image" else 0)
        tables[modality] = AlignedFeatures(values * present[:, None], present)
    users, items = seen.nonzero().unbind(1)
    interactions = Interactions(users, items, n_users=n + 1, n_items=n + 1, padding_row=True)
    return Checkerboard(FrozenFeatures(tables), interactions, seen, taste & ~seen)


@dataclass(frozen=True)
class ColdPairs(Checkerboard):
    """A data set whose answer only one modality knows: of two items that nobody took, which is to a user's taste.

    Users take items of one kind of two. In each pair is one of either kind, and an item is in one pair alone. The
    modality's features say of which kind an item is, beside noise; those of the other modality are noise.

    Where the features of that modality are shuffled among all items, nothing tells the two items of a pair apart: to
    swap the two rows in features, in parameters at the start and in draws of negatives leaves the chance of
    everything as it was, and turns the answer of this pair and of no other. So each pair is answered by the toss of
    a fair coin of its own, and the number of right answers is binomial, whatever the model is.

    Attributes:
        askers: [P] the users who are asked, one a pair.
        liked: [P] the item of each pair that is to their taste.
        other: [P] the item that is not.
    """

    askers: Tensor
    liked: Tensor
    other: Tensor

    def right(self, model: MultimodalRecommender) -> int:
        """How many pairs the model puts in their order, and half of those whose scores are equal."""
        with torch.no_grad():
            liked, other = (model.pair_scores(self.askers, items) for items in (self.liked, self.other))
        return int((liked > other).sum() + (liked == other).sum() // 2)


def cold_pairs(informative: Modality, shuffled: bool, n_pairs: int = 32, n_warm: int = 80) -> ColdPairs:
    """Make pairs of items that nobody took, the taste of whose askers is known from other items.

    Args:
        informative: image or text, which tells the kinds of items apart.
        shuffled: whether its features are shuffled among all items.
        n_pairs: P, and the number of users; even.
        n_warm: items that users may have taken; a fifth of them each user has; even.
    """
    generator, n = torch.Generator().manual_seed(0), n_warm + 2 * n_pairs
    rows = 1 + torch.randperm(n, generator=generator)  # that no order of rows tells anything
    kind = torch.zeros(n + 1, dtype=torch.bool)
    kind[rows[::2]] = True
    warm = torch.zeros(n + 1, dtype=torch.bool)
    warm[rows[:n_warm]] = True
    askers = torch.arange(1, n_pairs + 1)
    pairs, likes = rows[n_warm:].view(n_pairs, 2), askers % 2 == 0
    taste = torch.zeros(n_pairs + 1, n + 1, dtype=torch.bool)
    taste[1:] = likes[:, None] == kind
    taste[:, 0] = False
    order = (torch.rand(taste.shape, generator=generator) + (taste & warm)).argsort(dim=1, descending=True)
    seen = torch.zeros_like(taste).scatter_(1, order[:, : n_warm // 5], torch.ones_like(taste)) & taste
    tables: dict[Modality, AlignedFeatures] = {}
    widths: dict[Modality, int] = {"image": 6, "text": 5}
    for modality, width in widths.items():
        values = 0.3 * torch.randn(n + 1, width, generator=generator)
        if modality == informative:
            values[:, 0] += 2.0 * kind - 1.0
            if shuffled:
                values[1:] = values[1 + torch.randperm(n, generator=generator)]
        present = torch.arange(n + 1) > 0
        tables[modality] = AlignedFeatures(values * present[:, None], present)
    users, items = seen.nonzero().unbind(1)
    interactions = Interactions(users, items, n_users=n_pairs + 1, n_items=n + 1, padding_row=True)
    liked, other = torch.where(likes, pairs[:, 0], pairs[:, 1]), torch.where(likes, pairs[:, 1], pairs[:, 0])
    return ColdPairs(FrozenFeatures(tables), interactions, seen, taste & ~seen, askers, liked, other)


def chance_of(right: int, n: int) -> float:
    """How likely n tosses of a fair coin are at least as far from n / 2 as `right` is."""
    as_far = [comb(n, k) for k in range(n + 1) if abs(2 * k - n) >= abs(2 * right - n)]
    return float(sum(as_far) / 2**n)


def embed(encoder: Encoder, modality: Modality, inputs: Sequence[Any]) -> Tensor:
    """What the encoder makes of items of a modality: [B, D]."""
    if modality == "fused":
        return encoder.embed_pairs(*zip(*inputs, strict=True))
    return encoder.embed_images(inputs) if modality == "image" else encoder.embed_texts(inputs)


class SummedLoss(nn.Module):
    """The summed loss as a `forward`, for `torch.func.functional_call`."""

    def __init__(self, model: MultimodalRecommender, batch: TripletBatch) -> None:
        super().__init__()
        self.model, self.batch = model, batch

    def forward(self) -> Tensor:
        """The sum of the parts."""
        torch.manual_seed(0)  # so that a loss with dropout is a function
        return torch.stack(list(self.model.loss(self.batch).values())).sum()


def train(model: MultimodalRecommender, data: Checkerboard, steps: int, learning_rate: float) -> None:
    """Train with Adam, all pairs at each step, and leave the model in evaluation mode."""
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.stack(list(model.loss(data.batch(generator)).values())).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.eval()


def found(model: MultimodalRecommender, data: Checkerboard) -> float:
    """The share of the users whose best unseen item is one of those held out."""
    users = torch.arange(1, data.interactions.n_users)
    offsets, seen = data.excluded
    with torch.no_grad():
        best = model.topk(users, 1, exclude=(offsets[1:] - offsets[1], seen[offsets[1] :])).ids[:, 0]
    return data.held_out[users, best].double().mean().item()


def beyond(constraints: Sequence[Any]) -> list[float]:
    """A value outside each bound of a field."""
    steps = {"ge": -1, "gt": 0, "le": 1, "lt": 0}
    return [getattr(c, bound) + step for c in constraints for bound, step in steps.items() if hasattr(c, bound)]


def shaken(model: MultimodalRecommender) -> MultimodalRecommender:
    """The model with noise on every parameter, so that nothing that starts at zero hides."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator).to(parameter))
    return model
