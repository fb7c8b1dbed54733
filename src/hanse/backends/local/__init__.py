"""One directory as a store: SQLite for small things, files for large ones, one process that writes.

    store = LocalStore.open("federation/store")          # durability "power": fsync before acknowledging
    store.ledger, store.blobs, store.inbox, store.links

"process" survives the end of the process, kill -9 included, but not the loss of power.
"""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from hanse.backends.local.blobs import LocalBlobs
from hanse.backends.local.database import Database
from hanse.backends.local.files import disk_errors, make_directory, sync_directory
from hanse.backends.local.inbox import LocalInbox
from hanse.backends.local.ledger import LocalLedger
from hanse.backends.memory import VISIBILITY_S, Grants, monotonic_ms
from hanse.core.blobs import MAX_BLOB_BYTES
from hanse.core.errors import ConfigError, ConflictError

__all__ = ["LocalStore"]


class LocalStore:
    """The four seams of one directory. Made by `open`; a context manager.

    Attributes:
        unhurried: the same ledger for writes that nobody waits for; see `rounds.seams.Seams`.
    """

    def __init__(
        self, lock: int, database: Database, ledger: LocalLedger, blobs: LocalBlobs, inbox: LocalInbox, links: Grants
    ) -> None:
        self._lock = lock
        self._database = database
        self.ledger = ledger
        self.unhurried = LocalLedger(database, unhurried=True)
        self.blobs = blobs
        self.inbox = inbox
        self.links = links

    @classmethod
    def open(
        cls,
        directory: str | Path,
        durability: Literal["power", "process"] = "power",
        *,
        visibility_s: float = VISIBILITY_S,
        now_ms: Callable[[], int] = monotonic_ms,
        max_blob_bytes: int = MAX_BLOB_BYTES,
        max_spare_files: int = 8,
    ) -> "LocalStore":
        """Open or make the store in `directory`, for this process alone.

        Raises:
            ConflictError: another process, or another store of this process, has it open.
            StorageError: the disk or the database refuses.
        """
        if durability not in ("power", "process"):
            raise ConfigError(f"durability: expected 'power' or 'process', found {durability!r}")
        root = Path(directory)
        with disk_errors("opening the store", root):
            changed = make_directory(root.absolute())
            os.chmod(root, 0o700)
            lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock_alone(lock)
            with disk_errors("opening the store", root):
                database = Database(root / "records.db", durable=durability == "power")
                if durability == "power":
                    for each in (root, *changed):
                        sync_directory(each)
                try:
                    blobs = LocalBlobs(root, database, durable=durability == "power", max_spare_files=max_spare_files)
                    inbox = LocalInbox(database, visibility_s=visibility_s, now_ms=now_ms)
                except BaseException:
                    database.close()
                    raise
        except BaseException:
            os.close(lock)
            raise
        links = Grants(blobs, max_bytes=max_blob_bytes)
        return cls(lock, database, LocalLedger(database), blobs, inbox, links)

    def close(self) -> None:
        """Finish what is queued, then let go of the directory. Harmless when repeated."""
        if self._lock < 0:
            return
        self.blobs.close()
        self._database.close()
        os.close(self._lock)
        self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _lock_alone(lock: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ConflictError(
            "store: expected to be the only one that uses this directory, found another process (or another open "
            "store of this one); stop it, or choose another directory"
        ) from None
