"""The index of one-time material: what was used once is never used again, whoever crashes and whenever.

Keys, masks, nonces, triples and noise of a session belong to its name. `take` writes that name to the disk, and returns
when it would survive the loss of power, before the first byte of the session leaves. Whoever finds it taken after a
crash may not compute anything under it again: it sends what was recorded, or leaves it burned and asks for a new name.
A row is 100 bytes and stays for good; recorded bytes go with the job.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from hanse.core.errors import ConflictError, StorageError

_TABLE = "CREATE TABLE IF NOT EXISTS used(name TEXT PRIMARY KEY, content BLOB) WITHOUT ROWID"


class MaterialIndex:
    """One site's index. For one thread.

    Args:
        path: the database; made if need be, readable by the owner only.

    Raises:
        StorageError: the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with _disk(path):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA secure_delete = ON")  # erased means overwritten
            self._db.execute(_TABLE)

    def take(self, name: str) -> None:
        """Use a name for the first and last time. Durable when this returns.

        Raises:
            ConflictError: it was used before; it is burned. StorageError: the disk refuses; nothing may leave.
        """
        try:
            with _disk(self._path):
                self._db.execute("INSERT INTO used VALUES(?, NULL)", (name,))
        except sqlite3.IntegrityError:
            raise ConflictError(
                f"{name[:200]} has been used before and is not used again; a new one is needed"
            ) from None

    def taken(self, prefix: str) -> list[str]:
        """The names that begin so and were taken."""
        with _disk(self._path):
            rows = self._db.execute(
                "SELECT name FROM used WHERE substr(name, 1, ?) = ?", (len(prefix), prefix)
            ).fetchall()
        return [name for (name,) in rows]

    def record(self, name: str, content: bytes) -> bytes:
        """Keep what leaves under a name, before it leaves. Durable when this returns.

        Returns:
            What is to be sent: `content`, or what was recorded under this name before.

        Raises:
            ConflictError: the name was taken without its content. StorageError: the disk refuses; nothing may leave.
        """
        with _disk(self._path):
            self._db.execute("INSERT OR IGNORE INTO used VALUES(?, ?)", (name, content))
            (kept,) = self._db.execute("SELECT content FROM used WHERE name = ?", (name,)).fetchone()
        if kept is None:
            raise ConflictError(f"{name[:200]} has been used before and is not used again; a new one is needed")
        return bytes(kept)

    def erase(self, prefix: str) -> None:
        """Forget the bytes recorded under names that begin so; the names stay used."""
        with _disk(self._path):
            self._db.execute(
                "UPDATE used SET content = NULL WHERE content IS NOT NULL AND substr(name, 1, ?) = ?",
                (len(prefix), prefix),
            )

    def close(self) -> None:
        """Let go of the file. Harmless when repeated."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except (sqlite3.Error, OSError) as error:
        raise StorageError(f"cannot use the index of one-time material {path}: {error}") from error
