"""Lists of item ids beside an array of features: which item each row is of.

.txt    one id a line, no header
.csv    the first column below a header line, separated by commas or tabs (.tsv likewise);
        a column `itemID` beside it says the row's number, as in MMRec's i_id_mapping.csv
.json   a list of strings or integers
.npy    [N] strings or integers
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmenc_plugin.data.arrays import open_array
from mmenc_plugin.errors import DataError, some

KINDS = (".txt", ".csv", ".tsv", ".json", ".npy")
NUMBER = "itemID"  # the column of MMRec's mapping that holds its own item numbers


@dataclass(frozen=True)
class IdFile:
    """The ids of a file.

    Attributes:
        ids: [N], that of row 0 first.
        header: the header line's cell above the ids, "" in a file without one.
    """

    ids: list[str]
    header: str = ""


def read_ids(path: Path) -> IdFile:
    """Read a list of ids.

    Raises:
        DataError: no such file, one of another kind, an empty id or one that stands twice.
    """
    if path.suffix.lower() not in KINDS:
        raise DataError(f"{path} is no list of ids that can be read: its name ends in none of {', '.join(KINDS)}.")
    if not path.is_file():
        raise DataError(f"{path} does not exist; it should list the item ids, row by row.")
    try:
        found = _READERS[path.suffix.lower()](path)
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise DataError(f"{path} cannot be read as a list of ids: {error}.") from None
    _check(found.ids, path)
    return found


def ids_as_text(ids: Sequence[str]) -> bytes:
    """The bytes of a .txt list, which `read_ids` reads.

    Raises:
        DataError: an id with a line break in it.
    """
    broken = [item for item in ids if "\n" in item or "\r" in item]
    if broken:
        raise DataError(f"{len(broken)} item ids hold line breaks ({some(map(repr, broken))}); a list of ids cannot.")
    return "\n".join(ids).encode()


def _read_lines(path: Path) -> IdFile:
    lines = path.read_text(encoding="utf-8-sig").replace("\r\n", "\n").split("\n")
    return IdFile(lines[:-1] if lines[-1] == "" else lines)


def _read_table(path: Path) -> IdFile:
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        file.seek(0)
        rows = [row for row in csv.reader(file, delimiter="\t" if "\t" in first else ",") if row]
    if not rows:
        return IdFile([])
    header, cells = rows[0], rows[1:]
    uneven = next((number for number, row in enumerate(cells, start=2) if len(row) != len(header)), None)
    if uneven:
        raise DataError(f"{path}: line {uneven} has not the {len(header)} cells of the header.")
    if NUMBER in header and len(header) > 1:
        return _by_number(path, header, cells)
    return IdFile([row[0] for row in cells], header[0])


def _by_number(path: Path, header: list[str], cells: list[list[str]]) -> IdFile:
    """Ids in the order of their numbers, which must be 0 to N - 1."""
    number = header.index(NUMBER)
    column = 1 if number == 0 else 0
    ids = {row[number]: row[column] for row in cells}
    missing = [str(k) for k in range(len(cells)) if str(k) not in ids]
    if missing:
        raise DataError(
            f"{path}: the column {NUMBER} of {len(cells)} rows should hold each number from 0 to {len(cells) - 1} "
            f"once; it lacks {some(missing)}."
        )
    return IdFile([ids[str(k)] for k in range(len(cells))], header[column])


def _read_json(path: Path) -> IdFile:
    found: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(found, list) or not all(type(item) in (str, int) for item in found):
        raise DataError(f"{path} should be a JSON list of strings or integers.")
    return IdFile([str(item) for item in found])


def _read_array(path: Path) -> IdFile:
    array = open_array(path)
    if array.ndim != 1 or array.dtype.kind not in "UiuS":
        raise DataError(f"{path} holds {array.dtype} {list(array.shape)}; a list of ids is [N] strings or integers.")
    return IdFile([item.decode() if isinstance(item, bytes) else str(item) for item in array.tolist()])


_READERS = {
    ".txt": _read_lines,
    ".csv": _read_table,
    ".tsv": _read_table,
    ".json": _read_json,
    ".npy": _read_array,
}


def _check(ids: list[str], path: Path) -> None:
    if "" in ids:
        raise DataError(f"{path}: the id of row {ids.index('')} is empty.")
    twice = [item for item, count in Counter(ids).items() if count > 1]
    if twice:
        raise DataError(f"{path}: {len(twice)} ids stand there more than once ({some(twice)}).")
