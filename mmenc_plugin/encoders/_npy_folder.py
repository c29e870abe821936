"""A folder with one array an item, as Ducho writes them.

Ducho (sisinflab/Ducho, DatasetFather.create_output_file and TextualDataset) names what it makes of a text
<item id>.npy, and what it makes of a picture after the picture's file, cut at the first dot. An array is
[1, D].
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path, PurePath

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmenc_plugin.data.arrays import as_float32, open_array
from mmenc_plugin.errors import DataError, some
from mmenc_plugin.types import ItemTable


class ArrayFolder:
    """One array an item, each in a file of its own.

    Args:
        folder: that has the files.
        names: ids, pictures, or "" for ids where that is not in doubt.

    Raises:
        DataError: no features.
    """

    def __init__(self, folder: Path, names: str) -> None:
        self._folder, self._names = folder, names
        self._files = sorted(path.name for path in folder.glob("*.npy"))
        if not self._files:
            raise DataError(
                f"{folder} holds no .npy files. Name the folder that has them itself; Ducho's are in "
                "OUTPUT/backend/model/layer."
            )
        self._row_of = {name[: -len(".npy")]: row for row, name in enumerate(self._files)}
        self.width, self.sha256, self._finite = self._read_through()

    def _read_through(self) -> tuple[int, str, list[bool]]:
        """D, the sha256 of names and features, and which of them are finite."""
        digest, finite, width = hashlib.sha256(), [], 0
        for row, name in enumerate(self._files):
            vector = self._vector(row)
            width = width or len(vector)
            if len(vector) != width:
                raise DataError(
                    f"{self._folder}: {name} has {len(vector)} numbers where {self._files[0]} has {width}; "
                    "the files are not of one model and layer."
                )
            digest.update(f"{name}\n".encode() + vector.tobytes())
            finite.append(bool(np.isfinite(vector).all()))
        return width, digest.hexdigest(), finite

    def _vector(self, row: int) -> NDArray[np.float32]:
        path = self._folder / self._files[row]
        array = open_array(path)
        if array.dtype.kind != "f" or not array.size or max(array.shape, default=0) != array.size:
            raise DataError(
                f"{path} holds {array.dtype} {list(array.shape)}; the features of one item are floating-point numbers "
                "[D] or [1, D]. Choose a layer of the model that gives one vector."
            )
        return as_float32(array).ravel()

    def find(self, items: ItemTable) -> list[int]:
        """The row of each item, -1 for none."""
        by_id = [self._row_of.get(item, -1) for item in items.ids]
        by_picture = [self._row_of.get(stem(name), -1) if name else -1 for name in items.images]
        if not self._names:
            self._check_unambiguous(items, by_id, by_picture)
        rows = by_picture if self._names == "pictures" else by_id
        if self._names == "pictures":
            self._check_stems(items)
        if max(rows, default=-1) < 0:
            raise DataError(
                f"not one of the {len(items)} items has its file in {self._folder}: the items are called "
                f"{some(items.ids)}, their pictures {some(filter(None, items.images)) or 'nothing'}, and the files "
                f"{some(self._files)}."
            )
        bad = [item for item, row in zip(items.ids, rows, strict=True) if row >= 0 and not self._finite[row]]
        if bad:
            raise DataError(
                f"{self._folder}: the files of {len(bad)} items ({some(bad)}) hold values that are not finite as "
                "float32 (NaN, or too large). Delete them; items without a file are masked."
            )
        return rows

    def read(self, rows: list[int]) -> Tensor:
        """Features [B, D] float32 of rows [B]."""
        return torch.from_numpy(np.stack([self._vector(row) for row in rows])) if rows else torch.zeros(0, self.width)

    def _check_unambiguous(self, items: ItemTable, by_id: list[int], by_picture: list[int]) -> None:
        pairs = zip(items.ids, by_id, by_picture, strict=True)
        other = [item for item, own, picture in pairs if picture >= 0 and picture != own]
        if other:
            raise DataError(
                f"the files in {self._folder} can be read in two ways: {sum(row >= 0 for row in by_id)} of "
                f"{len(items)} items have a file named by their id, {sum(row >= 0 for row in by_picture)} one named by "
                f"their picture, and for {len(other)} items ({some(other)}) these differ. Add ?names=ids (Ducho's "
                "texts) or ?names=pictures (Ducho's pictures)."
            )

    def _check_stems(self, items: ItemTable) -> None:
        names = defaultdict(set)
        for name in filter(None, items.images):
            names[stem(name)].add(name)
        clash = next((found for key, found in names.items() if len(found) > 1 and key in self._row_of), None)
        if clash:
            raise DataError(
                f"{self._folder}: {' and '.join(sorted(clash)[:3])} have one file, {stem(min(clash))}.npy, since Ducho "
                "cuts names at the first dot; it holds the features of one of them alone. Rename the pictures."
            )


def stem(picture: str) -> str:
    """The name that Ducho gives to the features of a picture file."""
    return PurePath(picture).name.split(".")[0]
