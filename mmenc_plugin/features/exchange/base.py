"""What a format is, and the two ways through one: out of the store, and to a URI that reads it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from mmenc_plugin.data.files import write_atomically
from mmenc_plugin.errors import DataError, SettingsError, StoreError, some
from mmenc_plugin.features.align import align
from mmenc_plugin.features.exchange.order import read_order
from mmenc_plugin.features.store import FeatureBlock
from mmenc_plugin.registry import Registry
from mmenc_plugin.types import ItemTable, Modality

Missing = Literal["mean", "zeros", "error", "omit"]


@dataclass(frozen=True)
class Rows:
    """What goes out.

    Attributes:
        ids: [I] item ids, row by row.
        values: [I, D] float32.
        modality: what the features are of.
    """

    ids: list[str]
    values: NDArray[np.float32]
    modality: Modality


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        files: the files, or the folder of them.
        n_rows: I.
        width: D.
        filled: rows of items without features, which got the mean or zeros.
        left_out: items without features, which got no row.
        note: the lines that make the other toolkit use the files, and what to mind.
    """

    files: list[Path]
    n_rows: int
    width: int
    filled: int
    left_out: int
    note: str


class Format:
    """Base of all formats.

    Attributes:
        name: in commands.
        about: one sentence.
        needs_order: why an order must be given, "" where the block's own will do.
        complete: whether every item must have a row; otherwise items without features are left out.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    needs_order: ClassVar[str] = ""
    complete: ClassVar[bool] = True

    def write(self, rows: Rows, to: Path, replace: bool) -> tuple[list[Path], str]:
        """Write the files.

        Args:
            rows: what to write.
            to: file or folder.
            replace: whether files that are there may be overwritten.

        Returns:
            The files, and the note for `Written`.

        Raises:
            SettingsError: a file is there already.
            StoreError: it cannot be written.
        """
        raise NotImplementedError

    def uri(self, path: Path, items: ItemTable, ids: Path | None) -> str:
        """The `npy:` URI that reads a file of this format.

        Args:
            path: of the file or folder.
            items: whose features they should be.
            ids: a list of ids, if there is one.

        Raises:
            DataError: it cannot be told which row is whose.
            SettingsError: the format is only written.
        """
        raise SettingsError(f"the format {self.name} is only written. Import from the file that it was made from.")


registry: Registry[type[Format]] = Registry("exchange format", "mmenc_plugin.features.exchange", "mmenc.exchange")


def register(kind: type[Format]) -> type[Format]:
    """Class decorator: make a format known under its `name`."""
    return registry.add(kind.name)(kind)


def export(
    block: FeatureBlock,
    format_name: str,
    to: Path,
    *,
    order_from: Path | None = None,
    id_column: str = "item_id",
    missing: Missing | None = None,
    replace: bool = False,
) -> Written:
    """Write a block for another toolkit.

    Args:
        block: the features.
        format_name: of the registry.
        to: file or folder.
        order_from: whose items are written, in their order: a data set's .inter or .item, MMRec's folder or .inter,
            or a list of ids. By default the block's own.
        id_column: of the items, in an atomic file.
        missing: what an item without features gets; omit leaves it out. By default mean where the format needs every
            item, omit elsewhere.
        replace: whether files that are there may be overwritten.

    Raises:
        DataError: an item that the block does not have, or (missing="error") one without features.
        SettingsError: no such format; no order where one is needed; a file is there already.
        StoreError: the files cannot be written.
    """
    kind = registry.get(format_name)()
    if not order_from and kind.needs_order:
        raise SettingsError(f"the format {kind.name} needs --order-from: {kind.needs_order}")
    missing = missing or ("mean" if kind.complete else "omit")
    if missing == "omit" and kind.complete:
        raise SettingsError(f"the format {kind.name} needs a row for every item: missing is mean, zeros or error.")
    tokens = read_order(order_from, id_column) if order_from else block.ids
    has = _present(block, tokens, order_from)
    kept = [token for token in tokens if has[token]] if missing == "omit" else tokens
    values = align(block, kept, missing="error" if missing == "omit" else missing).values.numpy()
    files, note = kind.write(Rows(list(kept), values, block.recipe["modality"]), to, replace)
    absent = len(tokens) - sum(map(has.__getitem__, tokens))
    left_out = len(tokens) - len(kept)
    return Written(files, len(kept), values.shape[1], absent - left_out, left_out, note)


def uri_of(format_name: str, path: Path, items: ItemTable, ids: Path | None = None) -> str:
    """The `npy:` URI that reads another toolkit's file for a data set's items.

    Args:
        format_name: of the registry.
        path: file or folder.
        items: the data set's.
        ids: a list of ids, if there is one.

    Raises:
        DataError: no such file, or it cannot be told which row is whose.
        SettingsError: no such format, or one that is only written.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist.")
    return registry.get(format_name)().uri(path, items, ids)


def _present(block: FeatureBlock, tokens: Sequence[str], order_from: Path | None) -> dict[str, bool]:
    """Whether each item of the block has features, after checking that those of the order do."""
    has = dict(zip(block.ids, block.present.tolist(), strict=True))
    unknown = [token for token in tokens if token not in has]
    if unknown:
        raise DataError(
            f"{len(unknown)} of {len(tokens)} items of {order_from} are not in the block ({some(unknown)}; the block's "
            f"are called {some(block.ids)}). Extract the features of all of them first."
        )
    if not any(has[token] for token in tokens):
        raise DataError(f"not one of the {len(tokens)} items has features in the block.")
    return has


def check_free(paths: Sequence[Path], replace: bool) -> None:
    """See that nothing is overwritten unasked.

    Raises:
        SettingsError: a file is there already.
    """
    taken = [str(path) for path in paths if path.exists()]
    if taken and not replace:
        raise SettingsError(f"{some(taken)} exist already. Name another place, or add --replace to overwrite.")


def save(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all.

    Raises:
        StoreError: it cannot be written.
    """
    try:
        write_atomically(path, data)
    except StoreError as error:
        raise StoreError(
            f"cannot write {path}: {error.__cause__}. Make room or give write access there, or name another place."
        ) from None


def array_bytes(values: NDArray[np.float32]) -> bytes:
    """An array as a .npy file has it."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()
