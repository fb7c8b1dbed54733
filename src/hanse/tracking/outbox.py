"""The durable buffer: records wait in one SQLite file until a backend has them; each is kept once, and in order.

A record is known by its run and key. One that was kept before, delivered or not, is not kept again, until its run has
ended and `KEPT_MS` have passed. Only one process delivers at a time: the one that holds the lock beside the file.
"""

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hanse.core.errors import StorageError
from hanse.tracking.records import Record, Run

KEPT_MS = 30 * 24 * 3600 * 1000
MAX_BYTES = 256 * 1024 * 1024
"""What a backend that takes nothing may make of the file; further records are then lost, and said to be."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS records(
    seq INTEGER PRIMARY KEY AUTOINCREMENT, place TEXT NOT NULL, run TEXT NOT NULL, key TEXT NOT NULL,
    at_ms INTEGER NOT NULL, body TEXT, refused TEXT, UNIQUE(place, run, key));
CREATE INDEX IF NOT EXISTS waiting ON records(place, seq) WHERE body IS NOT NULL AND refused IS NULL;
"""


class Outbox:
    """Records on their way to one place.

    Args:
        path: the file, which several places and processes may share.
        place: what names the backend, such as its address.
        max_bytes: the largest that the file may become.

    Raises:
        StorageError: the file cannot be used.
    """

    def __init__(self, path: Path, place: str, *, max_bytes: int = MAX_BYTES) -> None:
        self._path, self._place = path, place
        self._turn = threading.Lock()
        self._lock = -1
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
            (page_bytes,) = self._db.execute("PRAGMA page_size").fetchone()
            self._db.execute(f"PRAGMA max_page_count = {max_bytes // page_bytes}")
        except (sqlite3.Error, OSError) as error:
            raise StorageError(f"cannot use the tracking buffer {path}: {error}") from None

    def add(self, records: Iterable[Record]) -> int:
        """Keep what is new; how many that was.

        Raises:
            StorageError: the disk refuses; nothing was kept.
        """
        rows = [(self._place, r.run.name, r.key, r.at_ms, r.to_json()) for r in records]
        with self._turn:
            try:
                before = self._db.total_changes
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    self._db.executemany(
                        "INSERT OR IGNORE INTO records(place, run, key, at_ms, body) VALUES(?, ?, ?, ?, ?)", rows
                    )
                    self._db.execute("COMMIT")
                except BaseException:
                    self._db.execute("ROLLBACK")
                    raise
                return self._db.total_changes - before
            except sqlite3.Error as error:
                raise StorageError(f"cannot write the tracking buffer {self._path}: {error}") from None

    def waiting(self, limit: int = 200) -> list[tuple[int, Record]]:
        """The oldest that are not delivered, in order, each with its number."""
        with self._turn:
            rows = self._db.execute(
                "SELECT seq, body FROM records WHERE place = ? AND body IS NOT NULL AND refused IS NULL"
                " ORDER BY seq LIMIT ?",
                (self._place, limit),
            ).fetchall()
        return [(seq, Record.from_json(body)) for seq, body in rows]

    def knows(self, run: Run) -> bool:
        """Whether anything of a run was kept.

        Raises:
            StorageError: the file cannot be read.
        """
        query = "SELECT 1 FROM records WHERE place = ? AND run = ? LIMIT 1"
        with self._turn, self._reading():
            return self._db.execute(query, (self._place, run.name)).fetchone() is not None

    def __len__(self) -> int:
        """How many wait.

        Raises:
            StorageError: the file cannot be read.
        """
        with self._turn, self._reading():
            (count,) = self._db.execute(
                "SELECT COUNT(*) FROM records WHERE place = ? AND body IS NOT NULL AND refused IS NULL", (self._place,)
            ).fetchone()
        return int(count)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StorageError(f"cannot read the tracking buffer {self._path}: {error}") from None

    def delivered(self, numbers: Iterable[int], now_ms: int) -> None:
        """The backend has them; their keys stay known for a while, as does what it refused."""
        with self._turn:
            self._db.executemany("UPDATE records SET body = NULL WHERE seq = ?", [(number,) for number in numbers])
            over = "DELETE FROM records WHERE (body IS NULL OR refused IS NOT NULL) AND at_ms < ?"
            self._db.execute(over, (now_ms - KEPT_MS,))

    def refuse(self, number: int, reason: str) -> None:
        """The backend will never take this one; it is set aside, so that the others go on."""
        with self._turn:
            self._db.execute("UPDATE records SET refused = ? WHERE seq = ?", (reason[:500], number))

    def take_turn(self) -> bool:
        """Become the one that delivers; False where another process is."""
        if self._lock < 0:
            self._lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let go of the file."""
        with self._turn:
            self._db.close()
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1
