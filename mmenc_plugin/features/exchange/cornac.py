"""cornac: an array and a list of ids, as `cornac.data.FeatureModality(features=, ids=)` takes them."""

from __future__ import annotations

from pathlib import Path

from mmenc_plugin.features.exchange.base import register
from mmenc_plugin.features.exchange.plain import Plain


@register
class Cornac(Plain):
    """As plain, but complete: at an item without a row Cornac stops, or gives it another item's."""

    name = "cornac"
    about = "an array .npy and ids .ids.txt, and the lines that make a FeatureModality of them"
    complete = True

    def note(self, array: Path, ids: Path) -> str:
        """Python for Cornac."""
        return f"""\
import numpy as np; from cornac.data import FeatureModality
item_feature = FeatureModality(
    features=np.load({str(array)!r}), ids=open({str(ids)!r}, encoding="utf-8").read().split("\\n"))
# Hand it to the evaluation method as item_feature=. Every item of the data must be among the ids: at one that is not,
# Cornac stops, or gives it another item's row. The ids are strings, as Cornac's Reader has them."""
