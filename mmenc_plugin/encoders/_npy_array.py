"""One array of features [N, D], and the rule that says which row is which item's."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmenc_plugin.data.arrays import as_float32, open_array
from mmenc_plugin.data.id_files import IdFile, read_ids
from mmenc_plugin.errors import DataError, some
from mmenc_plugin.types import ItemTable

CHUNK = 4096  # rows read at once


class ArrayFile:
    """One array [N, D] in a file.

    Args:
        path: of the array.
        rule: ids, items or number.
        ids_path: the list of ids, of the rule ids.

    Raises:
        DataError: no features, or another number of ids than of rows.
    """

    def __init__(self, path: Path, rule: str, ids_path: Path | None) -> None:
        self._path, self._rule, self._ids_path = path, rule, ids_path
        self._array = open_array(path)
        if self._array.ndim != 2 or self._array.dtype.kind != "f" or not self._array.size:
            raise DataError(
                f"{path} holds {self._array.dtype} {list(self._array.shape)}; features are floating-point "
                "numbers [N, D], a row an item."
            )
        self._ids = read_ids(ids_path) if ids_path else IdFile([])
        if ids_path and len(self._ids.ids) != len(self._array):
            raise DataError(
                f"{path} has {len(self._array)} rows but {ids_path} lists {len(self._ids.ids)} ids. "
                "They must be of the same items in the same order (a .csv or .tsv begins with a header line, a .txt "
                "does not)."
            )
        self.width = int(self._array.shape[1])
        self.sha256 = self._read_through()

    def _read_through(self) -> str:
        """The sha256 of the features and ids; on the way, which rows are not finite."""
        digest = hashlib.sha256("\n".join([str(self._array.dtype), str(self._array.shape), *self._ids.ids]).encode())
        finite = np.ones(len(self._array), dtype=bool)
        for start in range(0, len(self._array), CHUNK):
            chunk = np.ascontiguousarray(self._array[start : start + CHUNK])
            digest.update(chunk.data)
            finite[start : start + CHUNK] = np.isfinite(as_float32(chunk)).all(1)
        self._finite = finite
        return digest.hexdigest()

    def find(self, items: ItemTable) -> list[int]:
        """The row of each item, -1 for none."""
        rules = {"ids": self._by_id, "items": self._in_order, "number": self._by_number}
        rows = rules[self._rule](items)
        bad = [item for item, row in zip(items.ids, rows, strict=True) if row >= 0 and not self._finite[row]]
        if bad:
            raise DataError(
                f"{self._path}: the rows of {len(bad)} items ({some(bad)}) hold values that are not finite as "
                "float32 (NaN, or too large). Take them out of the array and its ids; items without a row are masked."
            )
        return rows

    def read(self, rows: list[int]) -> Tensor:
        """Features [B, D] float32 of rows [B]."""
        return torch.from_numpy(as_float32(self._array[np.array(rows, dtype=np.int64)]))

    def _by_id(self, items: ItemTable) -> list[int]:
        path, row_of = self._ids_path, {item: row for row, item in enumerate(self._ids.ids)}
        if self._ids.header in items.ids:
            raise DataError(f"{path}: the first line should be a header, but '{self._ids.header}' is an item's id.")
        rows = [row_of.get(item, -1) for item in items.ids]
        if max(rows, default=-1) < 0:
            raise DataError(
                f"{path} lists not one of the {len(items)} items: they are called {some(items.ids)}, and it lists "
                f"{some(self._ids.ids)}."
            )
        return rows

    def _in_order(self, items: ItemTable) -> list[int]:
        n = len(self._array)
        if n != len(items):
            padding = " One row more looks like a padding row 0, as RecBole has it." if n == len(items) + 1 else ""
            raise DataError(
                f"{self._path} has {n} rows and the .item file {len(items)}, so they are not in one order."
                f"{padding} Say which row is whose with ?ids=FILE."
            )
        return list(range(n))

    def _by_number(self, items: ItemTable) -> list[int]:
        n = len(self._array)
        rows = [int(item) if re.fullmatch("0|[1-9][0-9]{0,17}", item) else -1 for item in items.ids]
        wrong = [item for item, row in zip(items.ids, rows, strict=True) if not 0 <= row < n]
        if wrong:
            raise DataError(
                f"{self._path} has rows 0 to {n - 1}, but {len(wrong)} of {len(items)} item ids are none of "
                f"these numbers ({some(wrong)}), so the ids are not the array's row numbers. Say which row is whose "
                "with ?ids=FILE."
            )
        return rows
