"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmenc_plugin.errors import StoreError


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn a failed write (no room, read-only, no permission) into one clear error.

    Raises:
        StoreError: what the system said, and where.
    """
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write to {folder}: {error.strerror or error}. What was finished before is kept: make room or give "
            "write access there, or name another folder with feature_dir, and run the same command again."
        ) from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under another name, bring it to the disk, and rename it into place.

    Raises:
        StoreError: the file cannot be written.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
