"""npy: features that somebody already has, as NumPy arrays; no weights, nothing is encoded.

npy:PATH.npy?ids=FILE       an array [N, D] and a list of the item ids, row by row
npy:PATH.npy?order=items    row k belongs to the k-th row of the .item file
npy:PATH.npy?order=number   row k belongs to the item whose id is the number k, from 0 (MMRec)
npy:FOLDER                  a file an item, <item id>.npy (Ducho, texts)
npy:FOLDER?names=pictures   a file an item, named like its picture, cut at the first dot (Ducho, pictures)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from mmenc_plugin.encoders._npy_array import ArrayFile
from mmenc_plugin.encoders._npy_folder import ArrayFolder
from mmenc_plugin.encoders._ready import ReadyFeatures
from mmenc_plugin.encoders.base import EncoderSpec, register
from mmenc_plugin.errors import DataError, SettingsError
from mmenc_plugin.types import MODALITIES, Citation, ItemTable

COLON = "On a command line write a colon for the '=' (ids:FILE), since RecBole drops an argument with two."


@dataclass(frozen=True)
class Source:
    """What a URI says.

    Attributes:
        path: of the array, or of the folder of arrays.
        option: ids, order or names; "" for a folder without one.
        value: of the option.
    """

    path: Path
    option: str
    value: str

    @classmethod
    def parse(cls, rest: str) -> Source:
        """Read the part of the URI after the colon, and see whether the files exist.

        Raises:
            SettingsError: an array without an option, or an option or value that does not exist.
            DataError: no such file or folder.
        """
        name, _, query = rest.partition("?")
        option, _, value = re.sub("^([a-z]+):", r"\1=", query).partition("=")
        source = cls(Path(name).expanduser(), option, value)
        if not name or not source.path.exists():
            raise DataError(f"encoder 'npy:{rest}': {name or 'a path'} does not exist. Name a .npy file or a folder.")
        if source.path.is_dir():
            source._check_folder(rest)
        else:
            source._check_array(rest)
        return source

    def _check_folder(self, rest: str) -> None:
        if (self.option, self.value) not in (("", ""), ("names", "ids"), ("names", "pictures")):
            raise SettingsError(
                f"encoder 'npy:{rest}': a folder takes ?names=ids (<item id>.npy), ?names=pictures (as Ducho names "
                f"what it makes of pictures) or nothing, not '?{self.option}={self.value}'. {COLON}"
            )

    def _check_array(self, rest: str) -> None:
        if self.path.suffix.lower() != ".npy":
            raise SettingsError(f"encoder 'npy:{rest}': {self.path} is no .npy file. Write it with numpy.save.")
        ordered = self.option == "order" and self.value in ("items", "number")
        if not ordered and not (self.option == "ids" and self.value):
            raise SettingsError(
                f"encoder 'npy:{rest}' does not say which row is which item's, and a guess that is wrong gives items "
                "each other's features without any error. Add one of ?ids=FILE (a list of the ids, row by row), "
                "?order=items (row k is the k-th row of the .item file) or ?order=number (the item id is the row's "
                f"number, from 0, as in MMRec). {COLON}"
            )
        if self.option == "ids" and not self.ids_path.is_file():
            raise DataError(f"encoder 'npy:{rest}': {self.ids_path} does not exist.")

    @property
    def ids_path(self) -> Path:
        """The list of ids."""
        return Path(self.value).expanduser()

    @property
    def rule(self) -> str:
        """How rows are found, for the recipe."""
        return "ids" if self.option == "ids" else self.value or "names"


class Table(Protocol):
    """Rows of features from wherever they lie."""

    width: int
    sha256: str

    def find(self, items: ItemTable) -> list[int]:
        """The row of each item, -1 for none."""

    def read(self, rows: list[int]) -> Tensor:
        """Features [B, D] float32 of rows [B]."""


@register
class Npy(ReadyFeatures):
    """Arrays of features, with a rule that says which row is which item's."""

    family = "npy"
    modalities = frozenset(MODALITIES)
    example = "npy:image_feat.npy?ids=ids.txt"
    citation = Citation(
        "NEP 1: A Simple File Format for NumPy Arrays",
        "Kern",
        2007,
        "https://numpy.org/neps/nep-0001-npy-format.html",
    )

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._table: Table
        if source.path.is_dir():
            self._table = ArrayFolder(source.path, source.value)
        else:
            self._table = ArrayFile(source.path, source.rule, source.ids_path if source.option == "ids" else None)
        path = source.path.resolve()
        self.spec = EncoderSpec(
            family="npy",
            architecture=f"{path.parent.name}/{path.stem}",
            weights=str(source.path),
            weights_sha256=self._table.sha256,
            width=dict.fromkeys(MODALITIES, self._table.width),
            preprocessing={modality: {"rows": source.rule} for modality in MODALITIES},
        )

    @classmethod
    def check(cls, rest: str) -> None:
        """See the base class; looks at names alone, opens no file."""
        Source.parse(rest)

    @classmethod
    def from_rest(cls, rest: str) -> Npy:
        """See the base class."""
        return cls(Source.parse(rest))

    def rows(self, items: ItemTable) -> Tensor:
        """The row of each item [N] int64, -1 for an item that has none.

        Raises:
            DataError: the array and the items do not go together, or a row that is needed is not finite.
        """
        return torch.tensor(self._table.find(items), dtype=torch.int64)

    def values(self, rows: Tensor) -> Tensor:
        """Features [B, D] float32 of rows [B], none of them -1."""
        return self._table.read(rows.tolist())
