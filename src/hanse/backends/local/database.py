"""Every SQL statement of the local backend, and the one thread that writes: group commit over SQLite in WAL mode.

Operations that are queued while a commit runs go into the next transaction together; each caller's future resolves
after the commit that holds its operation. An operation that fails fails alone: its transaction is rolled back and
the others are done again one by one. Reads use a second connection on the caller's thread and see every commit that
was acknowledged. A PostgreSQL backend is a second file with these functions.
"""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from hanse.core.errors import HanseError, StorageError

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE ledger (key BLOB PRIMARY KEY, value BLOB NOT NULL, version INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE blobs (scope TEXT NOT NULL, id TEXT NOT NULL, content BLOB NOT NULL, PRIMARY KEY (scope, id));
CREATE TABLE inbox (
    n INTEGER PRIMARY KEY, recipient TEXT NOT NULL, sender TEXT NOT NULL, id TEXT NOT NULL, kind TEXT NOT NULL,
    envelope BLOB NOT NULL, count INTEGER NOT NULL, UNIQUE (recipient, sender, id, kind)
);
"""
_IDLE_S = 0.05
_MAX_LATE = 256
_COMMITS_TO_CHECKPOINT = 64
_LOG_PAGES = 8192
_log = logging.getLogger(__name__)


def create(key: str, value: bytes) -> Operation[bool]:
    """Insert a ledger record that must be new."""
    row = (key.encode(), value)
    return lambda db: db.execute("INSERT INTO ledger VALUES (?, ?, 1) ON CONFLICT DO NOTHING", row).rowcount == 1


def compare_and_set(key: str, value: bytes, version: int) -> Operation[bool]:
    """Update a ledger record of a known version."""
    row = (value, key.encode(), version)
    return lambda db: (
        db.execute("UPDATE ledger SET value = ?, version = version + 1 WHERE key = ? AND version = ?", row).rowcount
        == 1
    )


def delete_records(prefix: str) -> Operation[None]:
    """Delete ledger records by prefix."""
    start = prefix.encode()
    return lambda db: _done(db.execute("DELETE FROM ledger WHERE key >= ? AND key < ?", (start, start + b"\xff")))


def put_blob(scope: str, id: str, content: bytes) -> Operation[None]:
    """Keep a small blob."""
    return lambda db: _done(
        db.execute("INSERT INTO blobs VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (scope, id, content))
    )


def delete_blobs(scope: str) -> Operation[None]:
    """Delete the small blobs of a scope and of those below it."""
    return lambda db: _done(db.execute(f"DELETE FROM blobs WHERE {_BELOW}", _below(scope)))


def delete_blob(scope: str, id: str) -> Operation[None]:
    """Delete one small blob."""
    return lambda db: _done(db.execute("DELETE FROM blobs WHERE scope = ? AND id = ?", (scope, id)))


def put_message(n: int, recipient: str, key: tuple[str, str, str], envelope: bytes, count: int) -> Operation[None]:
    """Keep a message, instead of the one with the same key."""
    row = (n, recipient, *key, envelope, count)
    return lambda db: _done(db.execute("INSERT OR REPLACE INTO inbox VALUES (?, ?, ?, ?, ?, ?, ?)", row))


def count_messages(counts: Sequence[tuple[int, int]]) -> Operation[None]:
    """Remember how often messages were handed out: (count, n) each."""
    return lambda db: _done(db.executemany("UPDATE inbox SET count = ? WHERE n = ?", counts))


def delete_messages(numbers: Sequence[int]) -> Operation[None]:
    """Delete messages by number."""
    rows = [(n,) for n in numbers]
    return lambda db: _done(db.executemany("DELETE FROM inbox WHERE n = ?", rows))


_BELOW = "(scope = ? OR (scope >= ? AND scope < ?))"


def _below(scope: str) -> tuple[str, str, str]:
    # '0' is the character after '/'.
    return scope, scope + "/", scope + "0"


def _done(_cursor: sqlite3.Cursor) -> None:
    return None


class _Job(Generic[T]):
    """An operation with the future that waits for its commit; without one nobody waits and it may be late."""

    __slots__ = ("error", "future", "operation", "result")

    def __init__(self, operation: Operation[T], future: "asyncio.Future[T] | None") -> None:
        self.operation = operation
        self.future = future
        self.result: T | None = None
        self.error: HanseError | None = None

    def resolve(self) -> None:
        future = self.future
        if future is None or future.done():
            return
        if self.error is not None:
            future.set_exception(self.error)
        else:
            future.set_result(self.result)  # type: ignore[arg-type]  # set by the writer before this


class Database:
    """One SQLite file: a writing thread and a reading connection.

    Args:
        path: the file; made if it is not there.
        durable: fsync every commit before it is acknowledged (`power`); otherwise it survives the process only.

    Raises:
        StorageError: the file cannot be opened or is of another version.
    """

    def __init__(self, path: Path, *, durable: bool) -> None:
        try:
            self._writer = _connect(path, durable=durable)
            _prepare(self._writer)
            self._reader = _connect(path, durable=durable)
            self._reader.execute("PRAGMA query_only = ON")
        except sqlite3.Error as error:
            raise refusal(error) from None
        self._read_lock = threading.Lock()
        self._queue: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._commits = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="hanse-ledger-writer", daemon=True)
        self._thread.start()

    async def write(self, operation: Operation[T]) -> T:
        """Perform and commit `operation`; returns what it returned.

        Raises:
            StorageError: the database refuses; nothing of the operation remains.
        """
        self._check_open()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put(_Job(operation, future))
        return await future

    async def write_many(self, operations: Iterable[Operation[T]]) -> list[T]:
        """Perform several operations in one transaction, all or none."""
        listed = list(operations)
        return await self.write(lambda db: [operation(db) for operation in listed])

    def write_late(self, operation: Operation[Any]) -> None:
        """Perform `operation` with the next commit, or soon. It is lost if the process is killed before."""
        self._check_open()
        self._queue.put(_Job(operation, None))

    def read(self, statement: str, parameters: Sequence[Any]) -> list[Any]:
        """Rows of a query, on the caller's thread; a few microseconds for a key."""
        self._check_open()
        try:
            with self._read_lock:
                return self._reader.execute(statement, parameters).fetchall()
        except sqlite3.Error as error:
            raise refusal(error) from None

    def get(self, key: str) -> tuple[bytes, int] | None:
        """A ledger record."""
        rows = self.read("SELECT value, version FROM ledger WHERE key = ?", (key.encode(),))
        return rows[0] if rows else None

    def query(self, prefix: str, after: str | None, limit: int) -> list[tuple[str, bytes, int]]:
        """Ledger records by prefix; UTF-8 holds no 0xff, so it ends every prefix's range."""
        start = prefix.encode()
        rows = self.read(
            "SELECT key, value, version FROM ledger WHERE key >= ? AND key < ? AND key > ? ORDER BY key LIMIT ?",
            (start, start + b"\xff", b"" if after is None else after.encode(), max(limit, 0)),
        )
        return [(key.decode(), value, version) for key, value, version in rows]

    def blob(self, scope: str, id: str) -> bytes | None:
        """A small blob."""
        rows = self.read("SELECT content FROM blobs WHERE scope = ? AND id = ?", (scope, id))
        return rows[0][0] if rows else None

    def has_blobs(self, scope: str) -> bool:
        """Whether there are small blobs in a scope or below it."""
        return bool(self.read(f"SELECT 1 FROM blobs WHERE {_BELOW} LIMIT 1", _below(scope)))

    def messages(self) -> list[tuple[int, str, bytes, int]]:
        """Every kept message: number, recipient, envelope, count."""
        return self.read("SELECT n, recipient, envelope, count FROM inbox ORDER BY n", ())

    def close(self) -> None:
        """Commit what is queued and end."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        self._thread.join()
        with self._read_lock:
            self._reader.close()
        self._writer.close()

    def _check_open(self) -> None:
        if self._closed:
            raise StorageError("database: it is closed")

    def _run(self) -> None:
        late: list[_Job[Any]] = []
        ending = False
        while not ending:
            queued, ending = self._drain(patient=not late and self._commits < _COMMITS_TO_CHECKPOINT)
            batch = late + queued
            if queued and not ending and len(batch) < _MAX_LATE and all(job.future is None for job in queued):
                late = batch
                continue
            late = []
            if batch:
                self._commit(batch)
                _resolve(batch)
            elif not ending:
                self._checkpoint()

    def _drain(self, *, patient: bool) -> tuple[list[_Job[Any]], bool]:
        """Everything that is queued, and whether this is the end; nothing if an impatient wait was in vain."""
        queued: list[_Job[Any]] = []
        try:
            job = self._queue.get() if patient else self._queue.get(timeout=_IDLE_S)
            while job is not None:
                queued.append(job)
                job = self._queue.get_nowait()
        except Empty:
            return queued, False
        return queued, True

    def _checkpoint(self) -> None:
        # Done while nobody waits, so that no commit has to move the whole log on its way.
        self._commits = 0
        try:
            self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:
            _log.warning("%s", refusal(error))

    def _commit(self, batch: list[_Job[Any]]) -> None:
        database = self._writer
        self._commits += 1
        try:
            database.execute("BEGIN IMMEDIATE")
            for job in batch:
                job.result = job.operation(database)
            database.execute("COMMIT")
        except Exception as error:  # a failing operation must end neither this thread nor its neighbours
            with suppress(sqlite3.Error):
                if database.in_transaction:
                    database.execute("ROLLBACK")
            if len(batch) > 1:
                for job in batch:
                    self._commit([job])
                return
            batch[0].error = refusal(error)
            if batch[0].future is None:
                _log.warning("a late write was refused: %s", batch[0].error)


def _resolve(batch: list[_Job[Any]]) -> None:
    """Tell each event loop once that its operations are committed."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Job[Any]]] = {}
    for job in batch:
        if job.future is not None:
            by_loop.setdefault(job.future.get_loop(), []).append(job)
    for loop, jobs in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve_all, jobs)
        except RuntimeError:
            # The loop was closed while its operation was committed: nobody is left to be told.
            continue


def _resolve_all(jobs: list[_Job[Any]]) -> None:
    for job in jobs:
        job.resolve()


def _connect(path: Path, *, durable: bool) -> sqlite3.Connection:
    # Every use is serialised by us: one thread writes, and readers hold a lock.
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    # On macOS an ordinary fsync leaves the content in the drive's cache; elsewhere these change nothing.
    database.execute(f"PRAGMA fullfsync = {'ON' if durable else 'OFF'}")
    database.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
    database.execute("PRAGMA trusted_schema = OFF")
    return database


def _prepare(database: sqlite3.Connection) -> None:
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version == 0:
        database.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    elif version != SCHEMA_VERSION:
        raise StorageError(
            f"database: expected schema version {SCHEMA_VERSION}, found {version}; use the Hanse that wrote it"
        )


def refusal(error: BaseException) -> StorageError:
    """A driver's error as one of ours, without any value."""
    if isinstance(error, StorageError):
        return error
    if isinstance(error, sqlite3.Error):
        name = getattr(error, "sqlite_errorname", None) or type(error).__name__
        hint = "; free space and try again" if name == "SQLITE_FULL" else ""
        return StorageError(f"database: it refuses ({name}): {error}{hint}")
    return StorageError(f"database: an operation failed: {type(error).__name__}")
