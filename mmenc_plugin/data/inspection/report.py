"""The report of an inspection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmenc_plugin.data.inspection.figures import share
from mmenc_plugin.data.inspection.interactions import InteractionReport
from mmenc_plugin.data.inspection.pictures import PictureReport
from mmenc_plugin.data.inspection.texts import TextReport, TokenReport


@dataclass(frozen=True)
class Coverage:
    """How many items have something.

    Attributes:
        count: how many.
        share: of the items that were looked at, 0..1.
        interaction_share: of these items' interactions, 0..1; None where they have none.
    """

    count: int
    share: float
    interaction_share: float | None

    @classmethod
    def of(cls, has: np.ndarray, taken: np.ndarray) -> Coverage:
        """Of items [N] bool with their interactions [N]."""
        weighted = share(float(taken[has].sum()), float(taken.sum())) if taken.sum() else None
        return cls(int(has.sum()), share(float(has.sum()), len(has)), weighted)


@dataclass(frozen=True)
class Inspection:
    """The report. As JSON, the keys are the names of the attributes, here and in the parts.

    Attributes:
        version: of this form; a change that readers must know raises it.
        dataset: name of the data set.
        items: rows of its `.item` file.
        sample: items whose pictures were looked at, None for all.
        seed: of the choice of the sample.
        coverage: image, text, both, neither -> the items with a picture that can be used, with a text, with
            the two; those that the settings do not ask for are left out. Where there is a sample, image,
            both and neither are of the sample.
        interactions: users, density, cold and crowded items.
        pictures: None where the settings ask for no pictures.
        texts: None where the settings ask for no texts.
        tokens: what the encoder takes of the texts; None where the settings ask for no texts.
        advice: what to do next, one sentence or two a line.
    """

    version: int
    dataset: str
    items: int
    sample: int | None
    seed: int
    coverage: dict[str, Coverage]
    interactions: InteractionReport
    pictures: PictureReport | None
    texts: TextReport | None
    tokens: TokenReport | None
    advice: tuple[str, ...] = ()
