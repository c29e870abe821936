"""The items of a data set in its own order, from the file that says so."""

from __future__ import annotations

import csv
from pathlib import Path

from mmenc_plugin.data.atomic import read_columns
from mmenc_plugin.data.id_files import NUMBER, read_ids
from mmenc_plugin.errors import DataError

MAPPING = "i_id_mapping.csv"  # of MMRec: original id and item number


def read_order(source: Path, id_column: str = "item_id") -> list[str]:
    """The item ids that a file lists, each once.

    Args:
        source: RecBole's .inter or .item; MMRec's .inter or its folder, with i_id_mapping.csv beside it where the
            ids are not MMRec's numbers; or a list of ids (.txt, .csv, .tsv, .json, .npy).
        id_column: of an atomic file.

    Raises:
        DataError: the file does not exist or is not what its name says.
        UnknownNameError: the file lacks the column.
    """
    if source.is_dir():
        source = _the_inter(source)
    if source.suffix not in (".inter", ".item"):
        return read_ids(source).ids
    if not source.is_file():
        raise DataError(f"{source} does not exist.")
    with source.open(encoding="utf-8-sig") as file:
        header = file.readline().rstrip("\r\n").split("\t")
    if NUMBER in header:
        return _mmrec_items(source, header.index(NUMBER))
    return list(dict.fromkeys(read_columns(source, [id_column])[id_column]))


def _the_inter(folder: Path) -> Path:
    found = sorted(folder.glob("*.inter"))
    if len(found) != 1:
        raise DataError(f"{folder} holds {len(found)} .inter files. Name the one that says which items there are.")
    return found[0]


def _mmrec_items(path: Path, column: int) -> list[str]:
    """The id of each of MMRec's items 0 to I - 1, where I is one more than the largest number in .inter."""
    largest = -1
    with path.open(encoding="utf-8-sig", newline="") as file:
        for number, row in enumerate(csv.reader(file, delimiter="\t"), start=1):
            if number == 1 or not row:
                continue
            if len(row) <= column or not row[column].isdecimal():
                raise DataError(f"{path}: line {number} has no item number in the column {NUMBER}.")
            largest = max(largest, int(row[column]))
    n, mapping = largest + 1, path.parent / MAPPING
    if not mapping.is_file():
        return [str(k) for k in range(n)]
    ids = read_ids(mapping).ids
    if len(ids) < n:
        raise DataError(f"{path} has item numbers up to {largest}, but {mapping} ends with {len(ids) - 1}.")
    return ids[:n]
