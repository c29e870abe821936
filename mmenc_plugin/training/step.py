"""A step of fine-tuning: the losses of a batch and, chunk by chunk, their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mmenc_plugin.encoders import Encoder
from mmenc_plugin.encoders.base import Tokens
from mmenc_plugin.features.contents import Rows
from mmenc_plugin.kernels.checks import CSR
from mmenc_plugin.training.bought import Bought, bought_loss
from mmenc_plugin.training.contrast import itc_loss, matches
from mmenc_plugin.training.gradient_cache import GradientCache, Views
from mmenc_plugin.training.masking import KEPT, Masked
from mmenc_plugin.training.negatives import hard_negatives
from mmenc_plugin.training.networks import DualNetwork, JointNetwork, cross_entropy
from mmenc_plugin.training.pairs import Pairs
from mmenc_plugin.training.team import Team

Take = Callable[[Rows], list[Tensor]]  # prepared pictures of pairs


@dataclass(frozen=True)
class Batch:
    """Pairs that are contrasted with each other, of all processes.

    Attributes:
        pairs: [B] their numbers.
        pictures: prepared, of this process's share of them.
        seed: of what is random in the step.
    """

    pairs: Rows
    pictures: Sequence[Tensor]
    seed: tuple[int, ...]


@dataclass(frozen=True)
class _Negatives:
    """For each pair [B] of a batch a text that is not its picture's, and a picture that is not its text's; -1: none."""

    texts: Tensor
    images: Tensor

    def count(self) -> int:
        return int((self.texts >= 0).sum() + (self.images >= 0).sum())


class Step:
    """Computes the losses of batches.

    Args:
        network: the encoder.
        objectives: itc, itm, mlm and bought, those that are asked for.
        chunk: pairs encoded at once.
        pairs: all of them.
        bought: which were taken together, for `bought`.
        team: the processes that share a batch.
        take: gives pictures of pairs that another process holds.
    """

    def __init__(
        self, network: DualNetwork, objectives: Sequence[str], chunk: int, pairs: Pairs, bought: Bought | None,
        team: Team, take: Take,
    ) -> None:  # fmt: skip
        self.network, self.objectives, self.chunk = network, set(objectives), chunk
        self.pairs, self.bought, self.team, self.take = pairs, bought, team, take

    @property
    def encoder(self) -> Encoder:
        """What learns."""
        return self.network.encoder

    def __call__(self, batch: Batch, learns: bool) -> dict[str, float]:
        """The losses of a batch by objective; gradients of their sum are added to those of the parameters.

        Every process computes the contrast of the whole batch, and takes the gradients of its own share of it. Where
        the encoder's outputs are no numbers, the contrast is NaN and nothing is added.
        """
        mine = self.team.share(len(batch.pairs))
        chunks = [slice(at, min(at + self.chunk, mine.stop)) for at in range(mine.start, mine.stop, self.chunk)]
        parts: dict[str, Tensor] = {}
        negatives = None
        with torch.set_grad_enabled(learns):
            if self.objectives & {"itc", "itm", "bought"}:
                cache = GradientCache([partial(self._views, batch, chunk) for chunk in chunks], learns)
                views = [self.team.gather(view, len(batch.pairs)).requires_grad_(learns) for view in cache.views]
                if not all(bool(view.isfinite().all()) for view in views):
                    return {"contrast": math.nan}
                parts, negatives = self._contrast(batch, views)
                if learns and parts:
                    torch.stack(list(parts.values())).sum().backward()  # type: ignore[no-untyped-call]
                    cache.backward([view.grad[mine] for view in views if view.grad is not None])
            if negatives is not None:
                parts["itm"] = self._sum([partial(self._matching, batch, chunk, negatives) for chunk in chunks], learns)
            if "mlm" in self.objectives:
                parts["mlm"] = self._masked_words(batch, chunks, learns)
        return {name: float(value.detach()) for name, value in parts.items()}

    def encode(self, pictures: Sequence[Tensor], pairs: Rows) -> Views:
        """Views [B, D] of prepared pictures and of the pairs' texts."""
        with self.team.autocast():
            return self.network.views(self._pixels(pictures), self._tokens(pairs))

    def _views(self, batch: Batch, chunk: slice) -> Views:
        return self.encode(self._pictures(batch, chunk), batch.pairs[chunk])

    def _contrast(self, batch: Batch, views: Sequence[Tensor]) -> tuple[dict[str, Tensor], _Negatives | None]:
        """The contrastive losses of the whole batch, and hard negatives by the similarities of the first views."""
        images, texts = (
            torch.from_numpy(x[batch.pairs]).to(views[0].device) for x in (self.pairs.images, self.pairs.texts)
        )
        # One process alone takes the gradient of the temperatures, which belong to no share.
        scales = [
            scale.to(views[0]) if self.team.speaks else scale.detach().to(views[0]) for scale in self.network.scales()
        ]
        branches = list(zip(views[::2], views[1::2], scales, strict=True))
        true, parts = matches(images, texts), {}
        if "itc" in self.objectives:
            parts["itc"] = _mean([itc_loss(i, t, scale, images, texts) for i, t, scale in branches])
        if "bought" in self.objectives and self.bought is not None:
            partners = tuple(part.to(images.device) for part in self.bought.targets(batch.pairs))
            parts["bought"] = _mean([bought_loss(i, t, scale, partners, true) for i, t, scale in branches])  # type: ignore[arg-type]
        return parts, self._negatives(batch, branches[0], true) if "itm" in self.objectives else None

    def _negatives(self, batch: Batch, branch: tuple[Tensor, Tensor, Tensor], true: CSR) -> _Negatives:
        images, texts, scale = branch
        draws = torch.from_numpy(np.random.default_rng([*batch.seed, 1]).random((2, len(batch.pairs))))
        return _Negatives(
            hard_negatives(images, texts, scale, true, draws[0]).cpu(),
            hard_negatives(texts, images, scale, true, draws[1]).cpu(),
        )

    def _sum(self, losses: Sequence[Callable[[], Tensor]], learns: bool) -> Tensor:
        """The sum over chunks and processes; the graph of one chunk at a time."""
        total = torch.zeros((), dtype=torch.float64, device=self.team.device)
        for loss in losses:
            value = loss()
            if learns and value.requires_grad:
                value.backward()  # type: ignore[no-untyped-call]
            total = total + value.detach().double()
        return self.team.total(total)

    def _matching(self, batch: Batch, chunk: slice, negatives: _Negatives) -> Tensor:
        """A chunk's part of the matching loss: its pairs, and each half of them beside a hard negative."""
        assert isinstance(self.network, JointNetwork)
        places = torch.arange(chunk.start, chunk.stop)
        texts, images = negatives.texts[chunk], negatives.images[chunk]
        with_text, with_image = texts >= 0, images >= 0
        picture_of = torch.cat([places, places[with_text], images[with_image]])
        text_of = torch.cat([places, texts[with_text], places[with_image]])
        labels = (torch.arange(len(picture_of)) < len(places)).long()
        with self.team.autocast():
            logits = self.network.matching(
                self._pixels(self._anywhere(batch, picture_of.tolist())), self._tokens(batch.pairs[text_of.numpy()])
            )
        return cross_entropy(logits, labels.to(logits.device)) / (len(batch.pairs) + negatives.count())

    def _masked_words(self, batch: Batch, chunks: Sequence[slice], learns: bool) -> Tensor:
        """The masked-word loss, the mean over all words hidden in the batch."""
        hidden = [self._masked(batch, chunk) for chunk in chunks]
        n = sum(int((masked.targets != KEPT).sum()) for masked, _ in hidden)
        total = self.team.total(torch.tensor(float(n), device=self.team.device)).clamp(min=1)
        given = zip(chunks, hidden, strict=True)
        return self._sum([partial(self._words, batch, chunk, *texts, total) for chunk, texts in given], learns)

    def _masked(self, batch: Batch, chunk: slice) -> tuple[Masked, Tensor]:
        assert isinstance(self.network, JointNetwork)
        tokens = self.encoder.tokenize([self.pairs.text(pair) for pair in batch.pairs[chunk]])
        seeds = [(*batch.seed, 2, int(pair)) for pair in batch.pairs[chunk]]
        return self.network.masks(tokens["ids"], seeds), tokens["mask"]

    def _words(self, batch: Batch, chunk: slice, masked: Masked, mask: Tensor, total: Tensor) -> Tensor:
        assert isinstance(self.network, JointNetwork)
        device, asked = self.team.device, masked.targets != KEPT
        pixels = self._pixels(self._pictures(batch, chunk))
        with self.team.autocast():
            logits = self.network.words(pixels, masked.ids.to(device), mask.to(device), asked.to(device))
        return cross_entropy(logits, masked.targets[asked].to(device)) / total

    def _pictures(self, batch: Batch, chunk: slice) -> Sequence[Tensor]:
        start = self.team.share(len(batch.pairs)).start
        return batch.pictures[chunk.start - start : chunk.stop - start]

    def _anywhere(self, batch: Batch, places: Sequence[int]) -> list[Tensor]:
        """Pictures at places of the batch, those of other processes' shares prepared here."""
        mine = self.team.share(len(batch.pairs))
        others = sorted({place for place in places if not mine.start <= place < mine.stop})
        taken = dict(zip(others, self.take(batch.pairs[others]), strict=True)) if others else {}
        return [taken[place] if place in taken else batch.pictures[place - mine.start] for place in places]

    def _pixels(self, pictures: Sequence[Tensor]) -> Tensor:
        weight = next(self.encoder.parameters())
        return self.encoder.normalize(torch.stack(list(pictures)).to(weight.device)).to(weight.dtype)

    def _tokens(self, pairs: Rows) -> Tokens:
        tokens = self.encoder.tokenize([self.pairs.text(pair) for pair in pairs])
        return {name: tensor.to(self.team.device) for name, tensor in tokens.items()}


def _mean(losses: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(losses)).mean()
