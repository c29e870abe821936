"""cornac: an array and a list of ids, as `cornac.data.FeatureModality(features=, ids=)` takes them."""

from __future__ import annotations

from pathlib import Path

from mmenc_plugin.features.exchange.base import register
from mmenc_plugin.features.exchange.plain import Plain


@register
class Cornac(Plain):
    """As plain, but complete: Cornac leaves an item that is not among the ids whatever row stands at its number."""

    name = "cornac"
    about = "an array .npy and ids .ids.txt, and the lines that make a FeatureModality of them"
    complete = True

    def note(self, array: Path, ids: Path) -> str:
        """Python for Cornac."""
        return f"""\
import numpy as np; from cornac.data import FeatureModality
item_feature = FeatureModality(features=np.load("{array}"), ids=open("{ids}", encoding="utf-8").read().split("\\n"))
# Hand it to the evaluation method as item_feature=, with every item of the data among the ids: Cornac gives an item
# that is not there another item's row. The ids are strings, as Cornac's Reader has them."""
