"""Every SQL statement of the local backend, and the one thread that writes: group commit over SQLite in WAL mode.

Operations are committed in the order in which they were begun. Those that are queued while a commit runs go into the
next transaction together; each caller's future resolves after the commit that holds its operation. One that is in no
hurry waits a little for others to go with: a commit costs more than what is in it.

An operation that fails fails alone: its transaction is rolled back and the others are done again one by one. Only one
that is `fenced`, because it stands on what was begun before it, is refused too, until whoever began the failed one has
learned of it. So the record of a run can be written right behind what it names, in the same transaction.

Reads use a second connection on the caller's thread and see every commit that was acknowledged. A PostgreSQL backend
is a second file with these functions.
"""

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from hanse.core.errors import HanseError, StorageError, in_folder

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
SOON_S = 0.02
"""How long a write that is in no hurry waits for one that is."""
_IDLE_S = 0.05
_MAX_LATE = 256
_COMMITS_TO_CHECKPOINT = 64
_PAGE_BYTES = 8192
"""An inline update takes six of these, or ten of SQLite's own 4096; every page is two calls of the system."""
_LOG_PAGES = 1024
"""The log begins anew after 8 MiB: a commit that makes the file longer takes longer than one that writes over it."""
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


def delete_keys(keys: Sequence[str]) -> Operation[None]:
    """Delete ledger records by key."""
    rows = [(key.encode(),) for key in keys]
    return lambda db: _done(db.executemany("DELETE FROM ledger WHERE key = ?", rows))


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


class Write(Generic[T]):
    """An operation on its way, and the future that waits for its commit; None if nobody does.

    Args:
        patience_s: how long it may wait for others to be committed with.
        fenced: not to be done if one that was begun before it has failed, as long as nobody has learned of that.
    """

    __slots__ = ("error", "fenced", "future", "operation", "patience_s", "result")

    def __init__(
        self, operation: Operation[T], future: "asyncio.Future[T] | None", *, patience_s: float, fenced: bool
    ) -> None:
        self.operation = operation
        self.future = future
        self.patience_s = patience_s
        self.fenced = fenced
        self.result: T | None = None
        self.error: HanseError | None = None

    def resolve(self) -> bool:
        """Tell who waits; False where nobody does any more."""
        future = self.future
        if future is None or future.done():
            return False
        if self.error is not None:
            future.set_exception(self.error)
        else:
            future.set_result(self.result)  # type: ignore[arg-type]  # set by the writer before this
        return True


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
        except (sqlite3.Error, StorageError) as error:
            raise in_folder(refusal(error, path), path.parent) from None
        self._path = path
        self._read_lock = threading.Lock()
        self._queue: SimpleQueue[Write[Any] | None] = SimpleQueue()
        self._broken: set[Write[Any]] = set()
        self._commits = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="hanse-ledger-writer", daemon=True)
        self._thread.start()

    def begin(self, operation: Operation[T], *, patience_s: float = 0.0, fenced: bool = False) -> Write[T]:
        """Queue `operation`. If it fails, fenced ones are refused until `forgive` is called.

        Raises:
            StorageError: the database is closed.
        """
        self._check_open()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        write = Write(operation, future, patience_s=patience_s, fenced=fenced)
        self._queue.put(write)
        return write

    async def write(self, operation: Operation[T], *, patience_s: float = 0.0, fenced: bool = False) -> T:
        """Perform and commit `operation`; returns what it returned.

        Raises:
            StorageError: the database refuses; nothing of the operation remains.
        """
        write = self.begin(operation, patience_s=patience_s, fenced=fenced)
        assert write.future is not None
        try:
            return await write.future
        except StorageError:  # the caller learns of it before anything else happens on this loop
            self.forgive(write)
            raise

    def forgive(self, failed: Write[Any]) -> None:
        """Whoever needs to know of this failure does: what is begun from now on may be done."""
        self._queue.put(Write(lambda _: self._broken.discard(failed), None, patience_s=0.0, fenced=False))

    async def write_many(
        self, operations: Iterable[Operation[T]], *, patience_s: float = 0.0, fenced: bool = False
    ) -> list[T]:
        """Perform several operations in one transaction, all or none."""
        listed = list(operations)
        return await self.write(
            lambda db: [operation(db) for operation in listed], patience_s=patience_s, fenced=fenced
        )

    def write_late(self, operation: Operation[Any]) -> None:
        """Perform `operation` with the next commit, or soon. It is lost if the process is killed before."""
        self._check_open()
        self._queue.put(Write(operation, None, patience_s=_IDLE_S, fenced=False))

    def read(self, statement: str, parameters: Sequence[Any]) -> list[Any]:
        """Rows of a query, on the caller's thread; a few microseconds for a key."""
        self._check_open()
        try:
            with self._read_lock:
                return self._reader.execute(statement, parameters).fetchall()
        except sqlite3.Error as error:
            raise refusal(error, self._path) from None

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
        batch: list[Write[Any]] = []
        due = 0.0
        ending = False
        while not ending:
            idle_s = _IDLE_S if self._commits >= _COMMITS_TO_CHECKPOINT else None
            wait_s = max(0.0, due - time.monotonic()) if batch else idle_s
            queued, ending = self._drain(wait_s)
            now = time.monotonic()
            for write in queued:
                due = min(due, now + write.patience_s) if batch else now + write.patience_s
                batch.append(write)
            if batch and (ending or due <= now or len(batch) >= _MAX_LATE):
                self._commit(batch)
                self._resolve(batch)
                batch = []
            elif not (batch or ending):
                self._checkpoint()

    def _drain(self, wait_s: float | None) -> tuple[list[Write[Any]], bool]:
        """Everything that is queued, after waiting for the first, and whether this is the end."""
        queued: list[Write[Any]] = []
        try:
            write = self._queue.get(timeout=wait_s)
            while write is not None:
                queued.append(write)
                write = self._queue.get_nowait()
        except Empty:
            return queued, False
        return queued, True

    def _checkpoint(self) -> None:
        # Done while nobody waits, so that no commit has to move the whole log on its way.
        self._commits = 0
        try:
            self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:
            _log.warning("%s", refusal(error, self._path))

    def _commit(self, batch: list[Write[Any]]) -> None:
        database = self._writer
        self._commits += 1
        try:
            database.execute("BEGIN IMMEDIATE")
            for write in batch:
                if write.fenced and self._broken and write.error is None:
                    write.error = StorageError("database: it refused what this write stands on; try again")
                    self._broken.add(write)
                if write.error is None:
                    write.result = write.operation(database)
            database.execute("COMMIT")
        except Exception as error:  # a failing operation must end neither this thread nor its neighbours
            with suppress(sqlite3.Error):
                if database.in_transaction:
                    database.execute("ROLLBACK")
            if len(batch) > 1:
                for write in batch:
                    self._commit([write])
                return
            failed = batch[0]
            failed.error = refusal(error, self._path)
            if failed.future is None:
                _log.warning("a late write was refused: %s", failed.error)
            else:
                self._broken.add(failed)

    def _resolve(self, batch: list[Write[Any]]) -> None:
        """Tell each event loop once that its operations are committed."""
        by_loop: dict[asyncio.AbstractEventLoop, list[Write[Any]]] = {}
        for write in batch:
            if write.future is not None:
                by_loop.setdefault(write.future.get_loop(), []).append(write)
        for loop, writes in by_loop.items():
            try:
                loop.call_soon_threadsafe(self._resolve_all, writes)
            except RuntimeError:
                # The loop was closed while its operation was committed: nobody is left to be told.
                self._broken.difference_update(writes)

    def _resolve_all(self, writes: list[Write[Any]]) -> None:
        for write in writes:
            if not write.resolve() and write.error is not None:
                self.forgive(write)  # nobody waits for it any more


def _connect(path: Path, *, durable: bool) -> sqlite3.Connection:
    # Every use is serialised by us: one thread writes, and readers hold a lock.
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    database.execute(f"PRAGMA page_size = {_PAGE_BYTES}")  # of a new file
    # Some systems' SQLite overwrites what is deleted, which writes every update twice; here, where it costs no write.
    database.execute("PRAGMA secure_delete = FAST")
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


def refusal(error: BaseException, path: Path) -> StorageError:
    """A driver's error as one of ours, without any value; the folder of `path`, the database, is beside it."""
    if isinstance(error, StorageError):
        return error
    if isinstance(error, sqlite3.Error):
        name = getattr(error, "sqlite_errorname", None) or type(error).__name__
        hint = "; free space and try again" if name == "SQLITE_FULL" else ""
        return in_folder(StorageError(f"database: it refuses ({name}): {error}{hint}"), path.parent)
    return in_folder(StorageError(f"database: an operation failed: {type(error).__name__}"), path.parent)
