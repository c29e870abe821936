"""One modality's features of all items while its encoder learns: the last outputs, and a step's fresh ones."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mmenc_plugin.features.align import AlignedFeatures, Scaling
from mmenc_plugin.features.neighbours import fill_from_neighbours

Pairs = tuple[Tensor, Tensor]


class LiveTable(nn.Module):
    """The features [I, D], where what an encoder gave in this step stands in its place, with gradient.

    Items with the same content (a picture, a text) have one output; `first` [C] is an item that has it. The constants
    of `feature_scaling`, and what items without the modality get, are those of the last `fill`, and have no gradient.

    Args:
        raw: the encoder's outputs, unscaled, in the host's row order.
        number: [I] of 0..C-1, the number of each item's content; -1 for an item that has none.
        scaling: as in `align`.
        missing: as in `align`; with neighbours, `pairs` says who they are.
        padding_row: whether row 0 is no item.
        pairs: users and items [N] of the training part.
    """

    values: Tensor
    number: Tensor
    slot: Tensor
    first: Tensor
    mean: Tensor
    length: Tensor

    def __init__(
        self,
        raw: AlignedFeatures,
        number: Tensor,
        scaling: str,
        missing: Literal["mean", "neighbours", "zeros", "error"],
        padding_row: bool,
        pairs: Pairs | None = None,
    ) -> None:
        super().__init__()
        self.missing, self.padding_row, self.pairs, self.scaling = missing, padding_row, pairs, scaling
        n_contents = int(number.max()) + 1
        kept = {
            "values": torch.zeros_like(raw.values), "number": number,
            "first": number.new_zeros(n_contents),
            "slot": number.new_full((n_contents + 1,), -1),  # where a content's output stands in `fresh`; last: nowhere
            "mean": raw.values.new_zeros(()), "length": raw.values.new_ones(()),
        }  # fmt: skip
        for name, tensor in kept.items():
            self.register_buffer(name, tensor, persistent=False)
        self.outputs: Tensor | None = None  # of this step, as the encoder gave them [n, D]
        self.fresh: Tensor | None = None  # the same, scaled
        self._whole: Tensor | None = None
        items = self.has.nonzero()[:, 0]
        self.first = number.new_full((n_contents,), len(number)).scatter_reduce_(0, number[items], items, "amin")
        self.fill(raw.values[self.first])

    @property
    def has(self) -> Tensor:
        """[I] bool: the items that have the modality."""
        return self.number >= 0

    @property
    def n_contents(self) -> int:
        """C, the number of different contents."""
        return len(self.slot) - 1

    def contents(self, items: Tensor) -> Tensor:
        """The different contents [n], rising, of the item rows [N]."""
        found: Tensor = torch.unique(self.number[items])
        return found[found >= 0]

    @torch.no_grad()
    def fill(self, outputs: Tensor) -> None:
        """Take the outputs [C, D] of all contents for the table, and its constants from them."""
        self.forget()
        has, of_items = self.has, outputs.to(self.values)[self.number[self.has]]
        scaling = Scaling.of(of_items, self.scaling)
        self.mean, self.length = scaling.mean, scaling.length
        of_items = scaling(of_items)
        self.values.fill_(0)
        if self.missing in ("mean", "neighbours") and self.scaling != "standard":  # whose mean is zero
            self.values[int(self.padding_row) :] = of_items.mean(0)
        self.values[has] = of_items
        if self.missing == "neighbours" and self.pairs is not None:
            table = AlignedFeatures(self.values.cpu(), has.cpu())
            self.values.copy_(fill_from_neighbours(table, *self.pairs).values)

    def put(self, contents: Tensor, outputs: Tensor) -> None:
        """Let the outputs [n, D] of contents [n] stand in their rows until `forget`, and without gradient after it."""
        self.forget()
        if not len(contents):
            return
        self.outputs = outputs.to(self.values)
        self.fresh = Scaling(self.scaling, self.mean, self.length)(self.outputs)
        self.slot[contents] = torch.arange(len(contents), device=contents.device)
        items, places = self._fresh_items()
        self.values[items] = self.fresh.detach()[places]

    def forget(self) -> None:
        """End the step."""
        self.outputs = self.fresh = self._whole = None
        self.slot.fill_(-1)

    def rows(self, items: Tensor) -> Tensor:
        """Features [B, D] of the item rows [B]."""
        stale = self.values[items]
        if self.fresh is None:
            return stale
        place = self.slot[self.number[items]]
        return torch.where(place[:, None] >= 0, self.fresh[place.clamp(min=0)], stale)

    def raw_rows(self, items: Tensor) -> Tensor:
        """What the encoder gave in this step [B, D], unscaled, of item rows [B] that were encoded in it."""
        assert self.outputs is not None
        return self.outputs[self.slot[self.number[items]]]

    def table(self) -> Tensor:
        """All items' features [I, D]."""
        if self.fresh is None:
            return self.values
        if self._whole is None:
            items, places = self._fresh_items()
            self._whole = self.values.index_copy(0, items, self.fresh[places])
        return self._whole

    def _fresh_items(self) -> Pairs:
        """The item rows whose content was put, and where its output stands."""
        places = self.slot[self.number]
        items = (places >= 0).nonzero()[:, 0]
        return items, places[items]
