"""Objects by key with conditional puts: the little of an object store that the seams stand on, in our own errors."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hanse.core.errors import MissingExtraError, NotFoundError, StorageError
from hanse.core.ids import check_scope


@dataclass(frozen=True, slots=True)
class Found:
    """An object that was listed: its key below the prefix, what tells one version from another, its size in bytes."""

    key: str
    tag: str
    size: int


class Objects:
    """The objects below a prefix.

    Raises:
        ConfigError: a prefix that is not names joined by '/'. MissingExtraError: obstore is not installed.
    """

    def __init__(self, store: Any, prefix: str) -> None:
        self._obstore = imported()
        self._store = store
        self.prefix = check_scope(prefix)

    async def get(self, key: str) -> tuple[bytes, str]:
        """Content and tag.

        Raises:
            NotFoundError: no such object. StorageError: the store refuses.
        """
        with self._errors("reading", key):
            found = await self._obstore.get_async(self._store, self._path(key))
            return bytes(await found.bytes_async()), found.meta["e_tag"] or ""

    def get_now(self, key: str) -> bytes:
        """Content, for threads."""
        with self._errors("reading", key):
            return bytes(self._obstore.get(self._store, self._path(key)).bytes())

    async def put(self, key: str, content: bytes) -> None:
        """Write, over whatever lies there."""
        with self._errors("writing", key):
            await self._obstore.put_async(self._store, self._path(key), content, use_multipart=False)

    def put_now(self, key: str, content: bytes) -> None:
        """Write, for threads."""
        with self._errors("writing", key):
            self._obstore.put(self._store, self._path(key), content, use_multipart=False)

    async def put_new(self, key: str, content: bytes) -> bool:
        """Write unless there is such an object already; whether it was written."""
        with self._errors("writing", key):
            try:
                await self._obstore.put_async(self._store, self._path(key), content, mode="create")
            except self._obstore.exceptions.AlreadyExistsError:
                return False
        return True

    async def put_if(self, key: str, content: bytes, tag: str) -> bool:
        """Write if the object still bears `tag`; whether it was written."""
        with self._errors("writing", key):
            try:
                await self._obstore.put_async(self._store, self._path(key), content, mode={"e_tag": tag})
            except (self._obstore.exceptions.PreconditionError, FileNotFoundError):
                return False
        return True

    async def list(self, folder: str, after: str = "") -> AsyncIterator[Found]:
        """Objects below `folder` whose key comes after `after`, in order of the key's bytes."""
        offset = self._path(after) if after else None
        skipped = len(self.prefix) + 1
        with self._errors("listing", folder):
            pages = self._obstore.list(self._store, self._path(folder), offset=offset, chunk_size=1000)
            async for page in pages:
                for found in page:
                    yield Found(found["path"][skipped:], found["e_tag"] or "", found["size"])

    async def delete(self, *keys: str) -> None:
        """Remove objects. Harmless where there is none."""
        for start in range(0, len(keys), 1000):
            with self._errors("deleting", keys[start]):
                try:
                    await self._obstore.delete_async(
                        self._store, [self._path(key) for key in keys[start : start + 1000]]
                    )
                except FileNotFoundError:
                    for key in keys[start : start + 1000]:
                        await self._delete_one(key)

    async def _delete_one(self, key: str) -> None:
        try:
            await self._obstore.delete_async(self._store, self._path(key))
        except FileNotFoundError:
            return

    def delete_now(self, key: str) -> None:
        """Remove an object, for threads."""
        with self._errors("deleting", key):
            try:
                self._obstore.delete(self._store, self._path(key))
            except FileNotFoundError:
                return

    def _path(self, key: str) -> str:
        return f"{self.prefix}/{key}" if key else self.prefix

    @contextmanager
    def _errors(self, doing: str, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise NotFoundError(f"object store: no object {key[:120]!r}") from None
        except self._obstore.exceptions.BaseError as error:
            # The first line says what; what follows is the request, with its host and signature.
            said = str(error).partition("\n")[0][:160]
            raise StorageError(f"object store: {doing} {key[:120]!r}: {type(error).__name__}: {said}") from None


def imported() -> Any:
    try:
        import obstore
        import obstore.exceptions
    except ImportError:
        raise MissingExtraError("obstore", "objectstore") from None
    return obstore
