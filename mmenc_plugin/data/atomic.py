"""RecBole's atomic files: a header of `name:type` fields, one separator, one row a line.

A line is a row whatever it holds: there are no quotes in the format, and a title may begin with one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from mmenc_plugin.errors import DataError, unknown_name

TYPES = ("token", "token_seq", "float", "float_seq")


def read_header(path: Path, separator: str = "\t") -> dict[str, str]:
    """The columns of an atomic file and their types, in order.

    Raises:
        DataError: a field of the first line is not `name:type`, or a name stands twice.
    """
    columns: dict[str, str] = {}
    for field in next(_lines(path), "").split(separator):
        name, _, kind = field.rpartition(":")
        if not name or ":" in name or kind not in TYPES:
            raise DataError(
                f"{path}: the first line has the field {field!r}, but an atomic file names every column as name:type, "
                f"with type one of {', '.join(TYPES)}, separated by {separator!r}."
            )
        if name in columns:
            raise DataError(f"{path}: the first line names the column '{name}' twice.")
        columns[name] = kind
    return columns


def read_columns(path: Path, columns: Sequence[str], separator: str = "\t") -> pd.DataFrame:
    """Some columns of an atomic file, every cell as text, "" where a cell is empty.

    Raises:
        DataError: the file does not exist, is not UTF-8, or a row does not have the header's number of fields.
        UnknownNameError: a column that the file has not.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist.")
    header = list(read_header(path, separator))
    for column in columns:
        if column not in header:
            raise unknown_name(f"column of {path.name}", column, header)
    rows = []
    for number, line in enumerate(_lines(path), start=1):
        cells = line.split(separator)
        if line and len(cells) != len(header):
            raise DataError(f"{path}: line {number} has {len(cells)} fields where the header has {len(header)}.")
        if line and number > 1:
            rows.append(cells)
    return pd.DataFrame(rows, columns=header, dtype=str)[list(dict.fromkeys(columns))]


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            for line in file:
                yield line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} cannot be read as an atomic file: it is not UTF-8 ({error}).") from None
