"""plain: an array and a list of ids."""

from __future__ import annotations

from pathlib import Path

from mmenc_plugin.data.id_files import ids_as_text
from mmenc_plugin.errors import DataError
from mmenc_plugin.features.exchange.base import Format, Rows, array_bytes, check_free, register, save
from mmenc_plugin.types import ItemTable


@register
class Plain(Format):
    """[I, D] float32 in a .npy file and the ids in a .ids.txt beside it, one a line."""

    name = "plain"
    about = "an array .npy and the ids .ids.txt, row by row"
    complete = False

    def write(self, rows: Rows, to: Path, replace: bool) -> tuple[list[Path], str]:
        """See the base class; `to` is a .npy file, or a folder."""
        array = to if to.suffix == ".npy" else to / f"{rows.modality}_feat.npy"
        ids = ids_beside(array)
        check_free([array, ids], replace)
        save(ids, ids_as_text(rows.ids))
        save(array, array_bytes(rows.values))
        return [array, ids], self.note(array, ids)

    def note(self, array: Path, ids: Path) -> str:
        """The lines that use the files."""
        return f'encoder: "npy:{array}?ids={ids}"'

    def uri(self, path: Path, items: ItemTable, ids: Path | None) -> str:
        """See the base class."""
        ids = ids or ids_beside(path)
        if not ids.is_file():
            raise DataError(f"{path}: there is no list of ids {ids} beside it. Name one with --ids.")
        return f"npy:{path}?ids={ids}"


def ids_beside(array: Path) -> Path:
    """The list of ids that belongs to an array."""
    return array.with_suffix(".ids.txt")
