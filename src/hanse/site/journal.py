"""What must survive a crash of the agent: decisions, answers that the server may not have yet, and `site.state`.

SQLite in WAL mode, one writer. A task's answer and the state after it are one transaction, so that a task that is
executed again starts from the state before it, and one that is not is answered with the same bytes. A commit survives
the end of the process; `sync` makes all commits before it survive the loss of power as well (what synchronous=FULL
does after every commit, but from any thread, and only where losing it would be wrong).

A large state is a file of its job, named here with its hashes: it counts from that commit on, the one before it until
then.
"""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from hanse.core.blobs import Manifest
from hanse.core.errors import ConfigError, StorageError
from hanse.trust.private_files import sync_directory

_VERSION = 2
_ENDED = "CREATE TABLE IF NOT EXISTS ended(job TEXT PRIMARY KEY) WITHOUT ROWID"
_TABLES = (
    "CREATE TABLE jobs(job TEXT PRIMARY KEY, proposal BLOB NOT NULL, decision TEXT NOT NULL, reason TEXT NOT NULL,"
    " told INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE replies(task TEXT PRIMARY KEY, job TEXT NOT NULL, envelope BLOB, out TEXT) WITHOUT ROWID",
    "CREATE TABLE states(job TEXT NOT NULL, component TEXT NOT NULL, state BLOB NOT NULL, file TEXT,"
    " PRIMARY KEY(job, component)) WITHOUT ROWID",
    _ENDED,
)
_SINCE_1 = ("ALTER TABLE states ADD COLUMN file TEXT", _ENDED)
_SETTLE = "UPDATE replies SET envelope = NULL, out = NULL WHERE task = ?"


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job as the journal knows it. `told`: whether the server has taken the decision."""

    job: str
    proposal: bytes
    decision: str
    reason: str
    told: bool


@dataclass(frozen=True, slots=True)
class KeptReply:
    """An answer that the server may not have: the packed envelope, and the file that holds its update, if any."""

    task: str
    job: str
    envelope: bytes
    out: str | None


@dataclass(frozen=True, slots=True)
class KeptState:
    """A state that lies in a file of the job's folder, by its name, whose content the journal vouches for."""

    file: str
    manifest: Manifest


class Journal:
    """The journal of one site. For one thread, but for `sync`.

    Args:
        path: the database; made if need be, readable by the owner only.

    Raises:
        StorageError: the disk refuses. ConfigError: a newer Hanse wrote it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._settled: list[str] = []
        self._wal = -1
        with _disk(path):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                with self._transaction():
                    for table in _TABLES:
                        self._db.execute(table)
                    self._db.execute(f"PRAGMA user_version = {_VERSION}")
            elif version == 1:
                with self._transaction():
                    for change in _SINCE_1:
                        self._db.execute(change)
                    self._db.execute(f"PRAGMA user_version = {_VERSION}")
        if version > _VERSION:
            self._db.close()
            raise ConfigError(f"{path}: expected a journal of version {_VERSION}, found {version}; update Hanse")

    # ---- jobs ----

    def decide(self, job: str, proposal: bytes, decision: str, reason: str = "") -> None:
        """Keep a decision, also one that replaces an earlier one; the server is to be told."""
        with _disk(self._path), self._transaction():
            self._db.execute(
                "INSERT INTO jobs VALUES(?, ?, ?, ?, 0) ON CONFLICT(job) DO UPDATE"
                " SET decision = excluded.decision, reason = excluded.reason, told = 0",
                (job, proposal, decision, reason),
            )

    def told(self, job: str) -> None:
        """The server has taken the decision."""
        with _disk(self._path), self._transaction():
            self._db.execute("UPDATE jobs SET told = 1 WHERE job = ?", (job,))

    def jobs(self) -> list[JobRow]:
        """Every job, by id, which is by time of submission."""
        with _disk(self._path):
            rows = self._db.execute("SELECT job, proposal, decision, reason, told FROM jobs ORDER BY job").fetchall()
        return [_job_row(row) for row in rows]

    def job(self, job: str) -> JobRow | None:
        """One job."""
        with _disk(self._path):
            row = self._db.execute(
                "SELECT job, proposal, decision, reason, told FROM jobs WHERE job = ?", (job,)
            ).fetchone()
        return None if row is None else _job_row(row)

    def forget(self, job: str) -> None:
        """Forget a job with everything of it, but that it has ended: its name is 20 bytes, and stays."""
        with _disk(self._path), self._transaction():
            self._db.execute("INSERT OR IGNORE INTO ended VALUES(?)", (job,))
            for table in ("jobs", "replies", "states"):
                self._db.execute(f"DELETE FROM {table} WHERE job = ?", (job,))

    def has_ended(self, job: str) -> bool:
        """Whether a job was forgotten: nobody may begin it here once more."""
        with _disk(self._path):
            return self._db.execute("SELECT 1 FROM ended WHERE job = ?", (job,)).fetchone() is not None

    # ---- replies and state ----

    def keep(
        self,
        task: str,
        job: str,
        component: str,
        envelope: bytes,
        *,
        out: str | None = None,
        state: bytes | KeptState | None = None,
    ) -> None:
        """Keep a task's answer together with the state after it.

        Args:
            out: name of the file with the update, where it is not in the envelope.
            state: None where the task has not changed it. A file must have been synced before.
        """
        with _disk(self._path), self._transaction():
            self._db.execute("INSERT OR REPLACE INTO replies VALUES(?, ?, ?, ?)", (task, job, envelope, out))
            if state is not None:
                content, file = (state, None) if isinstance(state, bytes) else (_packed(state.manifest), state.file)
                self._db.execute("INSERT OR REPLACE INTO states VALUES(?, ?, ?, ?)", (job, component, content, file))
            self._write_settled()

    def settle(self, task: str) -> None:
        """The server has the answer. Written with the next answer: lost, it is sent once more, which is harmless."""
        self._settled.append(task)

    def flush(self) -> None:
        """Write what `settle` has put off."""
        if self._settled:
            with _disk(self._path), self._transaction():
                self._write_settled()

    def replies(self) -> tuple[list[KeptReply], set[str]]:
        """Answers that are not settled, and the ids of those that are."""
        with _disk(self._path):
            rows = self._db.execute("SELECT task, job, envelope, out FROM replies").fetchall()
        kept = [KeptReply(*row) for row in rows if row[2] is not None]
        return kept, {row[0] for row in rows if row[2] is None}

    def state(self, job: str, component: str) -> bytes | KeptState | None:
        """The site's state after the last task that was kept."""
        with _disk(self._path):
            row = self._db.execute(
                "SELECT state, file FROM states WHERE job = ? AND component = ?", (job, component)
            ).fetchone()
        if row is None:
            return None
        content, file = bytes(row[0]), row[1]
        return content if file is None else KeptState(file, _unpacked(content))

    # ---- the medium ----

    def sync(self) -> None:
        """Return once everything committed so far survives the loss of power. From any thread.

        Raises:
            StorageError: the disk refuses.
        """
        with _disk(self._path):
            if self._wal < 0:
                self._wal = os.open(f"{self._path}-wal", os.O_RDWR | os.O_CLOEXEC)
                sync_directory(self._path.parent)
            os.fsync(self._wal)

    def close(self) -> None:
        """Write what was put off and let go of the file. Harmless when repeated."""
        with suppress(StorageError):
            self.flush()
        self._db.close()
        if self._wal >= 0:
            os.close(self._wal)
            self._wal = -1
        self._settled = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _write_settled(self) -> None:
        if self._settled:
            self._db.executemany(_SETTLE, [(task,) for task in self._settled])
            self._settled.clear()


def _job_row(row: Sequence[Any]) -> JobRow:
    job, proposal, decision, reason, told = row
    return JobRow(job, bytes(proposal), decision, reason, bool(told))


def _packed(manifest: Manifest) -> bytes:
    return manifest.size.to_bytes(8, "little") + manifest.hashes


def _unpacked(content: bytes) -> Manifest:
    return Manifest(int.from_bytes(content[:8], "little"), content[8:])


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StorageError(f"cannot use the journal {path}: {error}") from error
