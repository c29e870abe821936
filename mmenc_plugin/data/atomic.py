"""RecBole's atomic files: a header of `name:type` fields, one separator, one row a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mmenc_plugin.errors import DataError, unknown_name

TYPES = ("token", "token_seq", "float", "float_seq")


def read_header(path: Path, separator: str = "\t") -> dict[str, str]:
    """The columns of an atomic file and their types, in order.

    Raises:
        DataError: a field of the first line is not `name:type`.
    """
    with path.open(encoding="utf-8") as file:
        first = file.readline().rstrip("\r\n").lstrip("\ufeff")
    columns = {}
    for field in first.split(separator):
        name, _, kind = field.rpartition(":")
        if not name or kind not in TYPES:
            raise DataError(
                f"{path}: the first line has the field {field!r}, but an atomic file names every column as name:type, "
                f"with type one of {', '.join(TYPES)}, separated by {separator!r}."
            )
        columns[name] = kind
    return columns


def read_columns(path: Path, columns: Sequence[str], separator: str = "\t") -> pd.DataFrame:
    """Some columns of an atomic file, every cell as text, "" where a cell is empty.

    Raises:
        DataError: the file does not exist, or a row does not have the header's number of fields.
        UnknownNameError: a column that the file has not.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist.")
    header = read_header(path, separator)
    for column in columns:
        if column not in header:
            raise unknown_name(f"column of {path.name}", column, list(header))
    try:
        frame = pd.read_csv(
            path, sep=separator, dtype=str, header=0, names=list(header), usecols=list(dict.fromkeys(columns)),
            keep_default_na=False, index_col=False, encoding="utf-8-sig", on_bad_lines="error",
        )  # fmt: skip
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as an atomic file: {error}.") from None
    return frame.fillna("")
