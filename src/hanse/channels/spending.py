"""What other sites have used up here: queries that a role has answered them, counted for good.

Where a protocol's answers add up to more than each of them reveals, their number is what is limited. A number is on the
disk before its answer leaves, so that no crash and no new job gives it back. It is kept at the site, for each of the
other sites and each thing that is asked, such as a directory; the owner's own limit is for all that a site asks here.
"""

import os
import sqlite3
from pathlib import Path
from typing import Protocol

from hanse.core.errors import PolicyError, StorageError

_TABLE = "CREATE TABLE IF NOT EXISTS spent(peer TEXT, thing TEXT, number INTEGER, PRIMARY KEY(peer, thing))"


class Spending(Protocol):
    """Counts what is used up."""

    def spend(self, peer: str, thing: str, number: int, limit: int) -> int:
        """Count `number` more of `thing` for the site `peer`. Durable when it returns.

        Returns:
            How many are left of `limit`.

        Raises:
            PolicyError: that would be more than `limit` of this thing, or more of all things than the site's owner
                allows; nothing is counted then. StorageError: the disk refuses; nothing may leave.
        """


class FileSpending:
    """In a database that only this site's owner and its workers can reach.

    Args:
        path: the file, made when something is first counted; `:memory:` for none, which is forgotten.
        most: what the owner allows each peer in all; None for no limit.
    """

    def __init__(self, path: Path | str, most: int | None = None) -> None:
        self._path = path
        self._most = most
        self._db: sqlite3.Connection | None = None

    def spend(self, peer: str, thing: str, number: int, limit: int) -> int:
        """See `Spending.spend`."""
        try:
            db = self._open()
            db.execute("BEGIN IMMEDIATE")
            try:
                used: dict[str, int] = dict(db.execute("SELECT thing, number FROM spent WHERE peer = ?", (peer,)))
                _allow(peer, used.get(thing, 0), number, limit, "of what it was given")
                if self._most is not None:
                    _allow(peer, sum(used.values()), number, self._most, "of `queries` in policy.yaml")
                counted: int = used.get(thing, 0) + number
                db.execute("INSERT OR REPLACE INTO spent VALUES(?, ?, ?)", (peer, thing, counted))
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
        except (sqlite3.Error, OSError) as error:
            raise StorageError(f"cannot count queries: {error}") from error
        return limit - counted

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            if self._path != ":memory:":
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=10.0)
            # With FULL a power cut could bring the journal back, and with it the old number.
            self._db.execute("PRAGMA synchronous = EXTRA")
            self._db.execute(_TABLE)
        return self._db


def _allow(peer: str, used: int, number: int, limit: int, whose: str) -> None:
    if used + number > limit:
        raise PolicyError(
            f"queries: {peer} has used {used} of {limit} {whose} and asks for {number} more; the site's owner decides"
        )
