"""The ledger as objects: one object a record, written only if it is new or unchanged.

An object's name is its key in hexadecimal digits, which keeps the order of the key's bytes and every prefix. A record
costs a request to read, so a long `query` is dear here; `backends.aws` keeps its ledger in a table.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence

from hanse.backends.memory import check_record
from hanse.backends.objectstore.objects import Objects
from hanse.core.errors import ConfigError, IntegrityError, NotFoundError

FOLDER = "ledger"
MAX_KEY_BYTES = 400
"""Half of what an object's name may hold beside the prefix."""
_VERSION_BYTES = 8
_AT_ONCE = 32


class ObjectLedger:
    """A `Ledger` of objects."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    async def create(self, key: str, value: bytes) -> bool:
        """Write a record that must be new."""
        check_record(key, value)
        return await self._objects.put_new(_name(key), _packed(value, 1))

    async def create_many(self, rows: Sequence[tuple[str, bytes]]) -> list[bool]:
        """`create` for each row, side by side; of rows with one key the first counts."""
        for key, value in rows:
            check_record(key, value)
        first: dict[str, int] = {}
        for index, (key, _) in enumerate(rows):
            first.setdefault(key, index)
        created = [False] * len(rows)
        indices = list(first.values())
        for start in range(0, len(indices), _AT_ONCE):
            part = indices[start : start + _AT_ONCE]
            for index, new in zip(part, await asyncio.gather(*(self.create(*rows[i]) for i in part)), strict=True):
                created[index] = new
        return created

    async def get(self, key: str) -> tuple[bytes, int]:
        """Value and version."""
        try:
            content, _ = await self._objects.get(_name(key))
        except NotFoundError:
            raise NotFoundError(f"ledger: no record {key!r}") from None
        return _unpacked(key, content)

    async def query(self, prefix: str, after: str | None = None, limit: int = 1000) -> list[tuple[str, bytes, int]]:
        """Records by prefix, in order of the key's bytes."""
        keys: list[str] = []
        if limit > 0:
            async for key in self._keys(prefix, after):
                keys.append(key)
                if len(keys) == limit:
                    break
        found: list[tuple[str, bytes, int]] = []
        for start in range(0, len(keys), _AT_ONCE):
            part = keys[start : start + _AT_ONCE]
            for key, row in zip(part, await asyncio.gather(*map(self._row, part)), strict=True):
                if row is not None:
                    found.append((key, *row))
        return found

    async def compare_and_set(self, key: str, value: bytes, version: int) -> bool:
        """Write if the version is still `version`."""
        check_record(key, value)
        try:
            content, tag = await self._objects.get(_name(key))
        except NotFoundError:
            return False
        if _unpacked(key, content)[1] != version:
            return False
        return await self._objects.put_if(_name(key), _packed(value, version + 1), tag)

    async def delete(self, prefix: str) -> None:
        """Forget every record below `prefix`."""
        await self._objects.delete(*[_name(key) async for key in self._keys(prefix, None)])

    async def delete_keys(self, keys: Sequence[str]) -> None:
        """Forget these records."""
        await self._objects.delete(*map(_name, keys))

    async def _keys(self, prefix: str, after: str | None) -> AsyncIterator[str]:
        wanted = prefix.encode().hex()
        start = _before(wanted)
        if after is not None and after.encode().hex() > start:
            start = after.encode().hex()
        async for found in self._objects.list(FOLDER, f"{FOLDER}/{start}" if start else ""):
            name = found.key[len(FOLDER) + 1 :]
            if not name.startswith(wanted):
                if name > wanted:
                    return
                continue
            yield bytes.fromhex(name).decode()

    async def _row(self, key: str) -> tuple[bytes, int] | None:
        try:
            return await self.get(key)
        except NotFoundError:
            return None  # deleted since it was listed


def _name(key: str) -> str:
    encoded = key.encode()
    if len(encoded) > MAX_KEY_BYTES:
        raise ConfigError(
            f"ledger: expected a key of 1 to {MAX_KEY_BYTES} bytes of UTF-8 in an object store, found {len(encoded)}"
        )
    return f"{FOLDER}/{encoded.hex()}"


def _before(name: str) -> str:
    """A string that sorts before `name` and after every other string of hexadecimal digits that does."""
    if not name:
        return ""
    last = name[-1]
    # '.' sorts before '0' and 'g' after 'f'; 'a' follows '9'.
    lower = "." if last == "0" else ("9" if last == "a" else chr(ord(last) - 1)) + "g"
    return name[:-1] + lower


def _packed(value: bytes, version: int) -> bytes:
    return version.to_bytes(_VERSION_BYTES, "big") + value


def _unpacked(key: str, content: bytes) -> tuple[bytes, int]:
    if len(content) < _VERSION_BYTES:
        raise IntegrityError(f"ledger: record {key!r}: expected at least {_VERSION_BYTES} bytes, found {len(content)}")
    return content[_VERSION_BYTES:], int.from_bytes(content[:_VERSION_BYTES], "big")
