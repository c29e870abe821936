"""sha256 of files, and a memory of those already taken, so that a large catalogue is read once."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any


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

    Several processes may use one cache. It saves time alone: what goes wrong with its file is passed
    over, and the digests are taken anew.

    Args:
        path: the SQLite file that keeps them between runs; a missing or unreadable one starts empty.
    """

    def __init__(self, path: Path) -> None:
        self._learned: dict[str, tuple[Any, ...]] = {}
        self._path = path
        self._database: sqlite3.Connection | None = None
        if path.is_file():
            with suppress(sqlite3.Error):
                self._database = sqlite3.connect(path, timeout=60)
                self._database.execute("SELECT 1 FROM digests LIMIT 1")

    def digest(self, path: Path) -> str:
        """The sha256 of the file."""
        stat = path.stat()
        stamp = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        known = self._learned.get(str(path)) or self._kept(str(path))
        if known and known[:3] == stamp:
            return str(known[3])
        value = file_digest(path)
        self._learned[str(path)] = (*stamp, value)
        return value

    def save(self) -> None:
        """Write what was learned, if that can be done."""
        if not self._learned:
            return
        rows = [(path, *row) for path, row in self._learned.items()]
        with suppress(sqlite3.Error, OSError):
            try:
                self._write(rows)
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):  # locked, no room, read-only
                    raise
                self._path.unlink()  # no database
                self._write(rows)
            self._learned.clear()

    def _kept(self, path: str) -> tuple[Any, ...] | None:
        if self._database is None:
            return None
        try:
            found = self._database.execute("SELECT size, modified, changed, sha256 FROM digests WHERE path = ?", [path])
            return found.fetchone()  # type: ignore[no-any-return]
        except sqlite3.Error:
            self._database = None
            return None

    def _write(self, rows: list[tuple[Any, ...]]) -> None:
        with sqlite3.connect(self._path, timeout=60) as database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS digests (path TEXT PRIMARY KEY, size INT, modified INT, changed INT,"
                " sha256 TEXT) WITHOUT ROWID"
            )
            database.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?, ?)", rows)
        database.close()
