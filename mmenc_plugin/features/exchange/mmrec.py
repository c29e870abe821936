"""mmrec: an array in the order of MMRec's item numbers, without ids (enoche/MMRec, RecDataset and GeneralRecommender).

MMRec counts one more item than the largest itemID of its .inter, has no padding row, and takes row k of
image_feat.npy or text_feat.npy for item k without looking at the number of rows.
"""

from __future__ import annotations

from pathlib import Path

from mmenc_plugin.data.id_files import read_ids
from mmenc_plugin.errors import DataError, some
from mmenc_plugin.features.exchange.base import Format, Rows, array_bytes, check_free, register, save
from mmenc_plugin.features.exchange.order import MAPPING
from mmenc_plugin.types import ItemTable

KEYS = {"image": "vision_feature_file", "text": "text_feature_file", "fused": "vision_feature_file"}


@register
class MMRec(Format):
    """image_feat.npy or text_feat.npy, [I, D] float32, row k of MMRec's item k."""

    name = "mmrec"
    about = "image_feat.npy or text_feat.npy in the order of MMRec's item numbers"
    needs_order = (
        "MMRec's files have no ids, so that their rows must stand in the order of its item numbers. Name its data "
        f"folder or .inter (with {MAPPING} beside it), or a list of your ids in that order."
    )

    def write(self, rows: Rows, to: Path, replace: bool) -> tuple[list[Path], str]:
        """See the base class; `to` is MMRec's data folder, or a .npy file."""
        path = to if to.suffix == ".npy" else to / f"{rows.modality}_feat.npy"
        check_free([path], replace)
        save(path, array_bytes(rows.values))
        note = f"{KEYS[rows.modality]}: '{path.name}'"
        stale = sorted(found.name for found in path.parent.glob("*adj*.pt"))
        if stale:
            note += (
                f"\n# MMRec keeps item graphs by name, not by content. Those of the old features lie in {path.parent} "
                f"and would be used on: delete {', '.join(stale)}."
            )
        return [path], note

    def uri(self, path: Path, items: ItemTable, ids: Path | None) -> str:
        """See the base class; `path` is the .npy file, with MMRec's mapping beside it or the ids its numbers."""
        mapping = ids or path.parent / MAPPING
        named = set(read_ids(mapping).ids) if ids or mapping.is_file() else set()
        by_name = sum(item in named for item in items.ids)
        by_number = all(item.isdecimal() for item in items.ids)
        if by_name and by_number and by_name < len(items):
            raise DataError(
                f"{path}: {by_name} of {len(items)} item ids stand in {mapping}, and all of them are numbers, so they "
                f"may be MMRec's. Say which: npy:{path}?ids={mapping} or npy:{path}?order=number."
            )
        if by_name:
            return f"npy:{path}?ids={mapping}"
        if by_number:
            return f"npy:{path}?order=number"
        raise DataError(
            f"{path}: the items are called {some(items.ids)}, which are not MMRec's item numbers, and "
            f"{f'{mapping} has not one of them' if named else f'there is no {mapping} that translates them'}. Name a "
            "list of your ids in MMRec's order with --ids."
        )
