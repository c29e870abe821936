"""warprec: a table of item side information (sisinflab/warprec 1.4, docs "Reading Side Information").

The file has a header, the item id first, and numbers in all other columns. WarpRec then takes each different
number of a column for a category (Dataset._process_side_data), which real-valued features are not.
"""

from __future__ import annotations

from pathlib import Path

from mmenc_plugin.errors import DataError, some
from mmenc_plugin.features.exchange.base import Format, Rows, check_free, register, save


@register
class WarpRec(Format):
    """A .tsv with the columns item_id, <modality>_0, <modality>_1, ..."""

    name = "warprec"
    about = "a table .tsv of item side information; WarpRec reads its numbers as categories"

    def write(self, rows: Rows, to: Path, replace: bool) -> tuple[list[Path], str]:
        """See the base class; `to` is a .tsv file, or a folder."""
        path = to if to.suffix == ".tsv" else to / f"{rows.modality}_side.tsv"
        check_free([path], replace)
        unfit = [item for item in rows.ids if any(sign in item for sign in '\t\r\n"')]
        if unfit:
            raise DataError(f'{len(unfit)} item ids hold a tab, line break or " ({some(unfit)}); a .tsv cannot.')
        lines = ["\t".join(["item_id", *(f"{rows.modality}_{k}" for k in range(rows.values.shape[1]))])]
        for item, row in zip(rows.ids, rows.values, strict=True):
            lines.append("\t".join([item, *(format(number, ".9g") for number in row.tolist())]))
        save(path, ("\n".join(lines) + "\n").encode())
        return [path], _note(path)


def _note(path: Path) -> str:
    return f"""\
reader: {{side: {{local_path: {path}, sep: "\\t"}}}}   # in WarpRec's configuration
# Mind: WarpRec 1.4 takes every different number of a column for a category and numbers them by size, so its models see
# ranks, not these features. It also drops the interactions of items that the file lacks."""
