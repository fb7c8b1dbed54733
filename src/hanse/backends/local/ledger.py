"""The ledger in SQLite: one row a record, keys in the order of their bytes.

Writes are durable in the order in which they were begun, those of the store's small blobs among them. One that is made
without waiting for those before it (`compare_and_set` of a run's record, right behind the rows that it names) is
refused if one of those fails, so that no record ever stands on what is not there.
"""

from collections.abc import Sequence

from hanse.backends.local import database as sql
from hanse.backends.memory import check_record
from hanse.core.errors import NotFoundError


class LocalLedger:
    """A `Ledger` over the store's database.

    Args:
        unhurried: for records that nobody waits for and that stand on nothing: they wait some milliseconds for others
            to be committed with.
    """

    def __init__(self, database: sql.Database, *, unhurried: bool = False) -> None:
        self._database = database
        self._patience_s = sql.SOON_S if unhurried else 0.0
        self._fenced = not unhurried

    async def create(self, key: str, value: bytes) -> bool:
        """Write a record that must be new."""
        check_record(key, value)
        return await self._database.write(sql.create(key, value), patience_s=self._patience_s, fenced=self._fenced)

    async def create_many(self, rows: Sequence[tuple[str, bytes]]) -> list[bool]:
        """`create` for each row, in one commit."""
        for key, value in rows:
            check_record(key, value)
        operations = [sql.create(key, value) for key, value in rows]
        return await self._database.write_many(operations, patience_s=self._patience_s, fenced=self._fenced)

    async def get(self, key: str) -> tuple[bytes, int]:
        """Value and version; what was acknowledged is seen."""
        row = self._database.get(key)
        if row is None:
            raise NotFoundError(f"ledger: no record {key!r}")
        return row

    async def query(self, prefix: str, after: str | None = None, limit: int = 1000) -> list[tuple[str, bytes, int]]:
        """Records by prefix, in order of the key's bytes."""
        return self._database.query(prefix, after, limit)

    async def compare_and_set(self, key: str, value: bytes, version: int) -> bool:
        """Write if the version is still `version`."""
        check_record(key, value)
        operation = sql.compare_and_set(key, value, version)
        return await self._database.write(operation, patience_s=self._patience_s, fenced=self._fenced)

    async def delete(self, prefix: str) -> None:
        """Forget every record below `prefix`."""
        await self._database.write(sql.delete_records(prefix), patience_s=self._patience_s)

    async def delete_keys(self, keys: Sequence[str]) -> None:
        """Forget these records."""
        await self._database.write(sql.delete_keys(keys), patience_s=self._patience_s)
