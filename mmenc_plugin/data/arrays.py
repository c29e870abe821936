"""NumPy's .npy files: opened by memory map, and never when they hold pickled objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmenc_plugin.errors import DataError


def open_array(path: Path) -> NDArray[Any]:
    """The array in a .npy file, read from the disk where it is used.

    Raises:
        DataError: no such file, another format, a file cut off, or one with pickled objects.
    """
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    except ValueError as error:
        if "Python objects" in str(error):
            raise DataError(
                f"{path} holds pickled Python objects, which are not opened, since they could do anything. Save the "
                "numbers alone: numpy.save(path, numpy.stack(list(array)).astype('float32'))."
            ) from None
        raise DataError(f"{path} is no whole .npy file ({error}). Write it anew with numpy.save.") from None


def as_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """Numbers as float32, contiguous; what is too large for it becomes infinite."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype=np.float32)
