"""The ledger in this process: a dict, whose keys are sorted when somebody asks for them in order."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence

from hanse.core.errors import ConfigError, NotFoundError, TooLargeError
from hanse.core.seams import MAX_RECORD_BYTES

MAX_KEY_BYTES = 1024


def check_record(key: str, value: bytes) -> None:
    """Refuse what no ledger takes.

    Raises:
        TooLargeError: more than 64 KiB. ConfigError: an impossible key.
    """
    if len(value) > MAX_RECORD_BYTES:
        raise TooLargeError(f"ledger: expected at most {MAX_RECORD_BYTES} bytes in a record, found {len(value)}")
    try:
        length = len(key.encode())
    except UnicodeEncodeError:
        length = 0
    if not 0 < length <= MAX_KEY_BYTES:
        raise ConfigError(f"ledger: expected a key of 1 to {MAX_KEY_BYTES} bytes of UTF-8, found {len(key)} characters")


class MemoryLedger:
    """A `Ledger` in a dict. Keys are sorted only when somebody asks for them in order."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[bytes, int]] = {}
        self._keys: list[str] = []
        self._fresh: list[str] = []

    async def create(self, key: str, value: bytes) -> bool:
        """Write a record that must be new."""
        check_record(key, value)
        if key in self._rows:
            return False
        self._rows[key] = (bytes(value), 1)
        self._fresh.append(key)
        return True

    async def create_many(self, rows: Sequence[tuple[str, bytes]]) -> list[bool]:
        """`create` for each row."""
        for key, value in rows:
            check_record(key, value)
        return [await self.create(key, value) for key, value in rows]

    async def get(self, key: str) -> tuple[bytes, int]:
        """Value and version."""
        try:
            return self._rows[key]
        except KeyError:
            raise NotFoundError(f"ledger: no record {key!r}") from None

    async def query(self, prefix: str, after: str | None = None, limit: int = 1000) -> list[tuple[str, bytes, int]]:
        """Records by prefix, in order of the key's bytes (the order of code points is the order of UTF-8)."""
        keys = self._sorted()
        start = bisect_left(keys, prefix)
        if after is not None:
            start = max(start, bisect_right(keys, after))
        found: list[tuple[str, bytes, int]] = []
        for index in range(start, min(start + max(limit, 0), len(keys))):
            if not keys[index].startswith(prefix):
                break
            found.append((keys[index], *self._rows[keys[index]]))
        return found

    async def compare_and_set(self, key: str, value: bytes, version: int) -> bool:
        """Write if the version is still `version`."""
        check_record(key, value)
        row = self._rows.get(key)
        if row is None or row[1] != version:
            return False
        self._rows[key] = (bytes(value), version + 1)
        return True

    async def delete(self, prefix: str) -> None:
        """Forget every record below `prefix`."""
        keys = self._sorted()
        start = stop = bisect_left(keys, prefix)
        while stop < len(keys) and keys[stop].startswith(prefix):
            del self._rows[keys[stop]]
            stop += 1
        del keys[start:stop]

    async def delete_keys(self, keys: Sequence[str]) -> None:
        """Forget these records."""
        gone = {key for key in keys if self._rows.pop(key, None) is not None}
        self._keys = [key for key in self._sorted() if key not in gone]

    def _sorted(self) -> list[str]:
        if len(self._fresh) < 16:
            for key in self._fresh:
                insort(self._keys, key)
        else:
            self._keys += self._fresh
            self._keys.sort()
        self._fresh.clear()
        return self._keys
