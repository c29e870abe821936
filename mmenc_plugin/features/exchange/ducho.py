"""ducho: a folder with one array [1, D] an item, as Ducho writes them (encoders/_npy_folder.py says how)."""

from __future__ import annotations

from pathlib import Path

from mmenc_plugin.encoders._npy_folder import stem
from mmenc_plugin.errors import DataError, SettingsError, some
from mmenc_plugin.features.exchange.base import Format, Rows, array_bytes, register, save
from mmenc_plugin.types import ItemTable


@register
class Ducho(Format):
    """<item id>.npy, [1, D] float32, in one folder."""

    name = "ducho"
    about = "a folder with <item id>.npy for each item, as Ducho writes and Elliot reads"
    complete = False

    def write(self, rows: Rows, to: Path, replace: bool) -> tuple[list[Path], str]:
        """See the base class; `to` is the folder."""
        unfit = [item for item in rows.ids if "/" in item or "\\" in item or "\0" in item or len(item.encode()) > 200]
        if unfit:
            raise DataError(f"{len(unfit)} item ids cannot be file names ({some(unfit)}). Export them as plain.")
        names = {f"{item}.npy" for item in rows.ids}
        there = {path.name for path in to.glob("*.npy")}
        if there - names or (there and not replace):
            raise SettingsError(
                f"{to} holds {len(there)} .npy files already, {len(there - names)} of them of items that are not "
                "written now. Name an empty folder, or add --replace where all are overwritten."
            )
        for item, row in zip(rows.ids, rows.values, strict=True):
            save(to / f"{item}.npy", array_bytes(row[None]))
        return [to], f'encoder: "npy:{to}?names=ids"'

    def uri(self, path: Path, items: ItemTable, ids: Path | None) -> str:
        """See the base class; `path` is the folder."""
        there = {found.name[: -len(".npy")] for found in path.glob("*.npy")}
        by_id = sum(item in there for item in items.ids)
        by_picture = sum(bool(name) and stem(name) in there for name in items.images)
        if by_id and by_picture:
            return f"npy:{path}"  # which says so if the two differ
        return f"npy:{path}?names=pictures" if by_picture else f"npy:{path}?names=ids"
