"""The items of a data set: their ids, texts and pictures, in the order of the `.item` file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mmenc_plugin.data.atomic import read_columns
from mmenc_plugin.errors import DataError, some
from mmenc_plugin.types import ItemTable


def read_items(
    path: Path,
    *,
    id_column: str = "item_id",
    text_columns: Sequence[str] = (),
    image_column: str | None = None,
    image_dir: Path | None = None,
    separator: str = "\t",
) -> ItemTable:
    """Read an `.item` file.

    Args:
        path: the atomic file.
        id_column: column of the item ids.
        text_columns: columns whose cells are joined with spaces, in this order; none for no text.
        image_column: column of the pictures' paths below `image_dir`, or None for no pictures.
        image_dir: folder of the pictures; by default `images` beside the file.
        separator: between fields.

    Returns:
        The table, N rows.

    Raises:
        DataError: an id occurs twice or is empty, or the file cannot be read.
        UnknownNameError: the file lacks a column.
    """
    text_columns = [text_columns] if isinstance(text_columns, str) else text_columns
    images = [image_column] if image_column else []
    frame = read_columns(path, [id_column, *text_columns, *images], separator)
    ids = frame[id_column].tolist()
    _check_ids(ids, path)
    cells = zip(*(frame[column] for column in text_columns), strict=True)
    texts = [" ".join(filter(None, map(str.strip, row))) for row in cells] if text_columns else [""] * len(ids)
    return ItemTable(
        ids=ids,
        texts=texts,
        images=frame[image_column].tolist() if image_column else [""] * len(ids),
        image_dir=image_dir or path.parent / "images",
    )


def _check_ids(ids: list[str], path: Path) -> None:
    if "" in ids:
        raise DataError(f"{path}: item {ids.index('') + 1} of the file has an empty item id.")
    twice = [item for item, count in Counter(ids).items() if count > 1]
    if twice:
        raise DataError(f"{path}: {len(twice)} item ids occur more than once ({some(twice)}). Keep one row an item.")
