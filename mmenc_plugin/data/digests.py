"""sha256 of files, and a memory of those already taken, so that a large catalogue is read once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mmenc_plugin.data.files import write_atomically


def file_digest(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def text_digest(*parts: str) -> str:
    """The sha256 of several texts, kept apart by their lengths."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def json_digest(value: Any) -> str:
    """The sha256 of a JSON value, keys sorted."""
    return text_digest(json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")))


class DigestCache:
    """Digests of files, taken again only for a file whose size or time of change differs.

    Args:
        path: the JSON file that keeps them between runs; a missing or unreadable one starts empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        self._known: dict[str, Any] = known if isinstance(known, dict) else {}
        self._changed = False

    def digest(self, path: Path) -> str:
        """The sha256 of the file."""
        stat = path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        known = self._known.get(str(path))
        if isinstance(known, list) and len(known) == 4 and known[:3] == stamp:
            return str(known[3])
        value = file_digest(path)
        self._known[str(path)] = [*stamp, value]
        self._changed = True
        return value

    def save(self) -> None:
        """Write what was learned."""
        if self._changed:
            write_atomically(self.path, json.dumps(self._known).encode())
            self._changed = False
