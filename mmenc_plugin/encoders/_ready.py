"""Features that somebody has already, in an encoder's place."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from mmenc_plugin.encoders.base import Encoder, registry
from mmenc_plugin.types import ItemTable


class ReadyFeatures(Encoder):
    """Base of families that bring features which somebody has already: rows are looked up, nothing is encoded."""

    ready: ClassVar[bool] = True

    def rows(self, items: ItemTable) -> Tensor:
        """The row of each item [N] int64, -1 for an item that has none."""
        raise NotImplementedError

    def values(self, rows: Tensor) -> Tensor:
        """Features [B, D] float32 of rows [B], none of them -1."""
        raise NotImplementedError


def brings_features(uri: str) -> bool:
    """Whether a URI names features that are there already, so that neither pictures nor texts are read.

    Raises:
        UnknownNameError: no such family.
    """
    return registry.get(uri.partition(":")[0]).ready
