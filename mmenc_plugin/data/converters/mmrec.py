"""MMRec's data: a table whose column x_label says train, validation or test, and features by item number.

enoche/MMRec, utils/dataset.py: itemID and userID count from 0, x_label is 0, 1 or 2; users without a training
interaction are left out of validation and test (its setting filter_out_cod_start_users).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mmenc_plugin.data.files import write_atomically
from mmenc_plugin.errors import DataError

PARTS = ("train", "valid", "test")
FEATURES = {"image": "image_feat.npy", "text": "text_feat.npy"}


@dataclass(frozen=True)
class Converted:
    """What a conversion has made.

    Attributes:
        name: of the data set.
        counts: interactions of each part.
        dropped: interactions of validation and test whose users have none in training.
        items: I, by the largest item number.
        settings: lines of a YAML file under which RecBole keeps the split, and reads the features that lie there.
    """

    name: str
    counts: dict[str, int]
    dropped: int
    items: int
    settings: str


def convert(folder: Path, to: Path) -> Converted:
    """Write an MMRec data set as RecBole's atomic files, its split kept.

    Args:
        folder: MMRec's, such as data/baby, with `<name>.inter` in it.
        to: where the folder `<name>` of the data set is made, RecBole's data_path.

    Raises:
        DataError: there is no such table, or its columns and numbers are not MMRec's.
    """
    folder = folder.resolve()
    table, name = _read(folder), folder.name
    parts = {part: table[table["x_label"] == label] for label, part in enumerate(PARTS)}
    known = set(parts["train"]["userID"])
    kept = {part: rows[rows["userID"].isin(known)] for part, rows in parts.items()}
    for part, rows in kept.items():
        write_atomically(to / name / f"{name}.{part}.inter", _atomic(rows))
    n_items = int(table["itemID"].max()) + 1
    ids = "".join(f"{item}\n" for item in range(n_items))
    write_atomically(to / name / f"{name}.item", f"item_id:token\n{ids}".encode())
    counts = {part: len(rows) for part, rows in kept.items()}
    return Converted(name, counts, len(table) - sum(counts.values()), n_items, _settings(folder))


def _read(folder: Path) -> pd.DataFrame:
    path = folder / f"{folder.name}.inter"
    if not path.is_file():
        raise DataError(f"{path} does not exist. Name a data folder of MMRec, such as MMRec/data/baby.")
    try:
        table = pd.read_csv(path, sep="\t")
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as MMRec's table, separated by tabs ({error}).") from None
    lacking = [column for column in ("userID", "itemID", "x_label") if column not in table]
    if lacking:
        raise DataError(
            f"{path} has the columns {', '.join(map(str, table))}; MMRec's table has {', '.join(lacking)} too."
        )
    for column in ("userID", "itemID", "x_label"):
        if not pd.api.types.is_integer_dtype(table[column]) or (table[column] < 0).any():
            raise DataError(f"{path}: {column} must hold numbers from 0; MMRec's own scripts write such a table.")
    if not set(table["x_label"]) <= {0, 1, 2} or not (table["x_label"] == 0).any():
        raise DataError(f"{path}: x_label holds {sorted(set(table['x_label']))}, but must say 0, 1 and 2 for {PARTS}.")
    return table


def _atomic(rows: pd.DataFrame) -> bytes:
    columns = {"userID": "user_id:token", "itemID": "item_id:token", "rating": "rating:float"}
    columns["timestamp"] = "timestamp:float"
    named = rows[[column for column in columns if column in rows]].rename(columns=columns)
    return named.to_csv(sep="\t", index=False, lineterminator="\n").encode()


def _settings(folder: Path) -> str:
    there = {m: folder / file for m, file in FEATURES.items() if (folder / file).is_file()}
    lines = [f"benchmark_filename: [{', '.join(PARTS)}]", "ranking_mask: train  # as MMRec ranks"]
    if there:
        lines += [f"modalities: [{', '.join(there)}]", "encoder:"]
        lines += [f"  {modality}: npy:{path}?order=number" for modality, path in there.items()]
    return "\n".join(lines) + "\n"
