"""recbole: an atomic file of vectors, which RecBole preloads (`additional_feat_suffix`, `preload_weight`).

RecBole makes an item of every id in the file, and gives items that are not in it zeros.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmenc_plugin.data.atomic import read_columns, read_header
from mmenc_plugin.data.id_files import ids_as_text
from mmenc_plugin.errors import DataError, SettingsError, some
from mmenc_plugin.features.exchange.base import Format, Rows, array_bytes, check_free, register, save
from mmenc_plugin.features.exchange.plain import ids_beside
from mmenc_plugin.types import ItemTable

SUFFIX = "itememb"
TAKEN = ("inter", "user", "item", "kg", "link", "net", "ent")  # RecBole's own suffixes


@register
class RecBole(Format):
    """<data set>.itememb with the columns iid:token and item_emb:float_seq."""

    name = "recbole"
    about = "an atomic file .itememb for RecBole's preload_weight"
    needs_order = (
        "RecBole makes an item of every id in the file, so it may hold those of the interactions alone. Name the data "
        "set's .inter."
    )

    def write(self, rows: Rows, to: Path, replace: bool) -> tuple[list[Path], str]:
        """See the base class; `to` is <data set>/<data set>.itememb (or another new suffix), or the folder."""
        path = to / f"{to.resolve().name}.{SUFFIX}" if to.is_dir() else to
        suffix = path.suffix[1:]
        if not suffix.isidentifier() or suffix in TAKEN:
            raise SettingsError(
                f"{path}: '{suffix}' cannot be the suffix of an additional file of RecBole. Call it "
                f"{path.with_suffix(f'.{SUFFIX}').name}, or by another new name."
            )
        unfit = [item for item in rows.ids if any(sign in item for sign in '\t\r\n"')]
        if unfit:
            raise DataError(
                f'{len(unfit)} item ids hold a tab, line break or " ({some(unfit)}), which RecBole reads wrongly.'
            )
        check_free([path], replace)
        item, vector = _columns(suffix)
        lines = [f"{item}:token\t{vector}:float_seq", *map(_line, rows.ids, rows.values)]
        save(path, ("\n".join(lines) + "\n").encode())
        return [path], _note(suffix, item, vector)

    def uri(self, path: Path, items: ItemTable, ids: Path | None) -> str:
        """See the base class; writes the file anew as an array and ids beside it, which `npy:` reads."""
        array = path.with_name(f"{path.name}.npy")
        found, values = _read(path)
        save(ids_beside(array), ids_as_text(found))
        save(array, array_bytes(values))
        return f"npy:{array}?ids={ids_beside(array)}"


def _columns(suffix: str) -> tuple[str, str]:
    """Names of the two columns, which must differ between several such files."""
    return ("iid", "item_emb") if suffix == SUFFIX else (f"{suffix}_iid", f"{suffix}_emb")


def _line(item: str, row: np.ndarray) -> str:
    """One item; nine digits tell any two float32 numbers apart."""
    return f"{item}\t{' '.join(format(number, '.9g') for number in row.tolist())}"


def _note(suffix: str, item: str, vector: str) -> str:
    return f"""\
additional_feat_suffix: [{suffix}]
load_col: {{inter: [user_id, item_id], {suffix}: [{item}, {vector}]}}   # and what else you load
alias_of_item_id: [{item}]
preload_weight: {{{item}: {vector}}}
# In a model: dataset.get_preload_weight("{item}") is [I, D], row 0 zeros for padding. RecBole's own models do not ask
# for it. Filters of RecBole (k-core) do not apply to this file: write it for the .inter that is left after them."""


def _read(path: Path) -> tuple[list[str], np.ndarray]:
    """Ids [I] and values [I, D] of such a file; an item with an empty cell has none."""
    kinds = read_header(path)
    tokens, vectors = ([name for name, kind in kinds.items() if kind == want] for want in ("token", "float_seq"))
    if len(tokens) != 1 or len(vectors) != 1:
        raise DataError(f"{path} should have one column of type token and one of type float_seq; it has {kinds}.")
    frame = read_columns(path, [tokens[0], vectors[0]])
    frame = frame[frame[vectors[0]].str.strip() != ""]
    try:
        rows = [np.array(cell.split(), dtype=np.float32) for cell in frame[vectors[0]]]
    except ValueError as error:
        raise DataError(f"{path}: a cell of {vectors[0]} is no list of numbers ({error}).") from None
    if len({len(row) for row in rows}) != 1:
        raise DataError(
            f"{path}: the vectors have {sorted({len(row) for row in rows})} numbers; all must have one width."
        )
    return frame[tokens[0]].tolist(), np.stack(rows)
