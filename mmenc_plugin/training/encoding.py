"""A step's encoding of some items, as a training has it, for measurements of what it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from mmenc_plugin.data import media
from mmenc_plugin.encoders import Encoder
from mmenc_plugin.errors import DataError, MediaError
from mmenc_plugin.training.measure import Cost, cost, seconds
from mmenc_plugin.types import ItemTable, Modality

SAMPLE = 16  # items that are looked at


class EncodingStep:
    """Encodes items, and takes gradients of what comes out.

    Args:
        encoders: of each modality; one for several modalities counts once.
        inputs: of each modality, what the encoder takes; repeated where a step wants more.
        device: of the encoders.
        autocast: none or bfloat16.
        parts: batches in which a step's items are encoded before their one backward pass, where the gradient of a
            matrix is summed from the batches'. More than 3 take no more memory than 3.
    """

    def __init__(
        self,
        encoders: Mapping[Modality, Encoder],
        inputs: Mapping[Modality, Sequence[Any]],
        device: torch.device,
        autocast: str = "none",
        parts: int = 1,
    ) -> None:
        self.encoders, self.inputs, self.device, self.autocast = encoders, inputs, device, autocast
        self.parts = min(parts, 3)

    def forward(self, items: int) -> list[Tensor]:
        """Features of each modality and part."""
        rounded = torch.autocast(self.device.type, torch.bfloat16) if self.autocast != "none" else nullcontext()
        bounds = [items * part // self.parts for part in range(self.parts + 1)]
        with rounded:
            return [
                encoder(m, self._some(m, stop - start))
                for m, encoder in self.encoders.items()
                for start, stop in pairwise(bounds)
            ]

    def train(self, items: int) -> None:
        """Forward and backward."""
        features = [out.float().square().mean() for out in self.forward(items)]
        torch.stack([value for value in features if value.requires_grad]).sum().backward()  # type: ignore[no-untyped-call]

    def encode(self, items: int) -> None:
        """Forward alone."""
        with torch.no_grad():
            self.forward(items)

    def cost(self, step: Callable[[int], object], items: int) -> Cost:
        """Of `train` or `encode` over `items` and twice as many."""
        return cost(step, self.device, items, self._tensors())

    def _some(self, modality: Modality, items: int) -> list[Any]:
        given = self.inputs[modality]
        return [given[k % len(given)] for k in range(items)]

    def _tensors(self) -> Iterator[Tensor]:
        for encoder in {id(e): e for e in self.encoders.values()}.values():
            yield from encoder.parameters()
            yield from encoder.buffers()


def sample_inputs(
    items: ItemTable, encoders: Mapping[Modality, Encoder], workers: int, seed: int = 0
) -> tuple[dict[Modality, list[Any]], float]:
    """Inputs of a few items drawn at random, and the seconds that one item's take to prepare.

    Args:
        items: of the data set.
        encoders: of each modality.
        workers: threads that prepare pictures.
        seed: of the draw.

    Raises:
        DataError: not one of the items looked at has a picture that is taken.
    """
    rows = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed)).tolist()
    inputs: dict[Modality, list[Any]] = {}
    spent = 0.0
    for modality, encoder in encoders.items():
        if modality == "text":
            inputs[modality] = [items.texts[row] for row in rows[:SAMPLE]]
            continue
        pictures, time = _pictures(items, encoder, rows, workers)
        spent += time
        inputs[modality] = pictures if modality == "image" else [(p, items.texts[rows[0]]) for p in pictures]
    return inputs, spent


def _pictures(items: ItemTable, encoder: Encoder, rows: Sequence[int], workers: int) -> tuple[list[Tensor], float]:
    """Up to SAMPLE prepared pictures, and the seconds of one."""
    found: list[Tensor] = []
    reason = ""

    def prepare(row: int) -> Tensor | str:
        try:
            return encoder.prepare_file(media.resolve(items.image_dir, items.images[row]))
        except MediaError as error:
            return str(error)

    def prepare_all() -> None:
        nonlocal reason
        with ThreadPoolExecutor(workers) as pool:
            for picture in pool.map(prepare, [row for row in rows if items.images[row]][: 2 * SAMPLE]):
                if isinstance(picture, str):
                    reason = picture
                else:
                    found.append(picture)

    spent = seconds(prepare_all, torch.device("cpu"))
    if not found:
        raise DataError(f"not one of the pictures looked at could be taken: {reason or 'no item names one'}")
    return found[:SAMPLE], spent / len(found)
