"""The work of an extraction in pieces: each is claimed by one process, and is there whole or not at all.

A claim is a lock that the system takes back when its process ends, however it ends, so that another
process, or the next run, does the piece.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mmenc_plugin.data.files import write_atomically, writing


@dataclass(frozen=True)
class Shard:
    """A claimed piece of the work.

    Attributes:
        start: position in the plan's work.
        end: likewise.
        path: where its result goes.
        lock: the claim.
    """

    start: int
    end: int
    path: Path
    lock: FileLock

    def write(self, features: dict[int, Tensor], rejected: dict[int, str], width: int) -> None:
        """Save the result and give the claim back.

        Args:
            features: position in the work -> [D].
            rejected: position in the work -> why it has none.
            width: D.

        Raises:
            StoreError: it cannot be written.
        """
        values = torch.zeros(self.end - self.start, width)
        present = torch.zeros(self.end - self.start, dtype=torch.bool)
        for position, feature in features.items():
            values[position - self.start], present[position - self.start] = feature, True
        reasons = {str(position): why for position, why in sorted(rejected.items())}
        write_atomically(self.path, save({"values": values, "present": present}, {"complete": "yes", **reasons}))
        self.lock.release()


class Shards:
    """The pieces of one plan's work, in a folder of their own.

    Args:
        folder: where their results are kept until the block is made.
        n_work: W.
        size: contents a piece.

    Raises:
        StoreError: the folder cannot be made.
    """

    def __init__(self, folder: Path, n_work: int, size: int) -> None:
        self.folder, self._n_work, self._size = folder, n_work, size
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._missing = list(range(0, n_work, self._size))

    def missing(self) -> list[int]:
        """Starts of the pieces that no process has finished."""
        self._missing = [start for start in self._missing if read_shard(self._path(start)) is None]
        return self._missing

    def n_done(self) -> int:
        """Contents of the pieces that were finished when `missing` was last asked."""
        return self._n_work - sum(self._end(start) - start for start in self._missing)

    def claim(self, first: int) -> Iterator[Shard]:
        """Claim the missing pieces one by one, passing over those that another process is at.

        Args:
            first: where to begin, so that several processes begin in different places.
        """
        missing = self.missing()
        turn = next((k for k, start in enumerate(missing) if start >= first), 0)
        for start in missing[turn:] + missing[:turn]:
            lock = FileLock(self.folder / f"{start:010d}.lock")
            with writing(self.folder):
                try:
                    lock.acquire(blocking=False)
                except Timeout:
                    continue
                except FileNotFoundError:  # another process has made the block of them meanwhile
                    return
            if read_shard(self._path(start)) is None:
                yield Shard(start, self._end(start), self._path(start), lock)
            else:
                lock.release()

    def results(self) -> Iterator[tuple[int, int, dict[str, Tensor], dict[int, str]]]:
        """Start, end, `values` [n, D] and `present` [n], and the rejected positions of each finished piece."""
        for start in range(0, self._n_work, self._size):
            shard = read_shard(self._path(start))
            if shard is None:
                raise FileNotFoundError(self._path(start))
            yield start, self._end(start), shard[0], {int(row): why for row, why in shard[1].items()}

    def _path(self, start: int) -> Path:
        return self.folder / f"{start:010d}.safetensors"

    def _end(self, start: int) -> int:
        return min(start + self._size, self._n_work)


def shards_folder(store: Path, block: str, plan: str) -> Path:
    """Where the pieces of a block are kept while it is made; another plan has other pieces."""
    return store / f"{block}-{plan}.shards"


def remove_shards(store: Path, block: str) -> None:
    """Delete all pieces of a block that is there."""
    for folder in store.glob(f"{block}-*.shards"):
        shutil.rmtree(folder, ignore_errors=True)


def read_shard(path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """A piece's tensors and rejected positions, or None where the file is not a whole one."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in ("values", "present")}
    except (OSError, SafetensorError):
        return None
    return (tensors, metadata) if metadata.pop("complete", "") == "yes" else None
