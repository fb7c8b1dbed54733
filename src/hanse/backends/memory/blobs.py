"""Blobs in this process. Only `read` and writers are used from threads."""

import asyncio
import mmap
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from hanse.backends.memory.coverage import EMPTY, Chunks, Coverage, check_range, puller
from hanse.backends.memory.links import below
from hanse.core.blobs import CHUNK_BYTES, Buffer, Manifest, manifest_of, pieces_of, whole
from hanse.core.errors import NotFoundError, StorageError
from hanse.core.ids import check_scope


def _room(size: int) -> memoryview:
    """Writable bytes; large ones take memory only as they are written."""
    if size <= CHUNK_BYTES:
        return memoryview(bytearray(size))
    try:
        return memoryview(mmap.mmap(-1, size))
    except OSError:
        raise StorageError(f"blob: no memory for {size} bytes") from None


@dataclass(slots=True)
class _Blob:
    manifest: Manifest
    content: memoryview
    lacks: set[int]


class MemoryBlobs:
    """A `BlobStore` in this process. What `bytes` a sender gives as the only chunk is kept without a copy."""

    def __init__(self) -> None:
        self._scopes: dict[str, dict[str, _Blob]] = {}

    async def put(self, scope: str, manifest: Manifest, chunks: Chunks) -> None:
        """Take, verify and keep chunks."""
        check_scope(scope)
        if not manifest.size:
            return
        blob = self._scopes.get(scope, {}).get(manifest.id)
        if blob is not None and not blob.lacks:
            return
        draw = puller(chunks)
        while (pair := await draw()) is not None:
            index, chunk = pair
            blob = self._scopes.setdefault(scope, {}).get(manifest.id)
            if blob is not None and index not in blob.lacks and 0 <= index < manifest.num_chunks:
                continue
            manifest.verify(index, chunk)
            if manifest.num_chunks == 1:
                self._scopes[scope][manifest.id] = _Blob(manifest, memoryview(whole(chunk)), set())
                return
            if blob is None:
                blob = _Blob(manifest, _room(manifest.size), set(range(manifest.num_chunks)))
                self._scopes[scope][manifest.id] = blob
            start, _ = manifest.span(index)
            for piece in pieces_of(chunk):
                stop = start + len(piece)
                blob.content[start:stop] = memoryview(piece).cast("B")
                start = stop
            blob.lacks.discard(index)
            if not blob.lacks:
                return

    async def missing(self, scope: str, manifest: Manifest) -> list[int]:
        """The chunks that are not here."""
        check_scope(scope)
        blob = self._scopes.get(scope, {}).get(manifest.id)
        return list(range(manifest.num_chunks)) if blob is None else sorted(blob.lacks)

    async def manifest(self, scope: str, id: str) -> Manifest:
        """The manifest of a complete blob."""
        return EMPTY if id == EMPTY.id else self._complete(scope, id).manifest

    def read(self, scope: str, id: str, start: int, stop: int) -> memoryview:
        """A read-only view; it stays valid after the scope is deleted."""
        if id == EMPTY.id:
            check_range(0, start, stop)
            return memoryview(b"")
        blob = self._complete(scope, id)
        check_range(blob.manifest.size, start, stop)
        return blob.content[start:stop].toreadonly()

    def create(self, scope: str, size: int) -> "MemoryWriter":
        """Begin a blob of `size` bytes."""
        return MemoryWriter(size, lambda manifest, content: self._keep(scope, manifest, content), check_scope(scope))

    def path(self, scope: str, id: str) -> Path | None:
        """Nothing here is a file."""
        return None

    async def delete_scope(self, scope: str) -> None:
        """Forget `scope` and what lies below it."""
        for name in [name for name in self._scopes if below(name, scope)]:
            del self._scopes[name]

    async def _keep(self, scope: str, manifest: Manifest, content: memoryview) -> None:
        if manifest.size:
            self._scopes.setdefault(scope, {})[manifest.id] = _Blob(manifest, content, set())

    def _complete(self, scope: str, id: str) -> _Blob:
        blob = self._scopes.get(scope, {}).get(id)
        if blob is None or blob.lacks:
            raise NotFoundError(f"blob {id[:12]}: not in {scope}, or not complete")
        return blob


class MemoryWriter:
    """A `BlobWriter` in memory; `keep` makes the sealed content readable."""

    def __init__(self, size: int, keep: Callable[[Manifest, memoryview], Awaitable[None]], scope: str) -> None:
        self._coverage = Coverage(size)
        self._content: memoryview | None = _room(size)
        self._keep = keep
        self._scope = scope

    def write(self, start: int, content: Buffer) -> None:
        """Copy `content` to byte `start`."""
        if self._content is None:
            raise ValueError("blob: expected a writer that is neither sealed nor aborted")
        view = memoryview(content).cast("B")
        self._coverage.check(start, len(view))
        self._content[start : start + len(view)] = view
        self._coverage.add(start, len(view))

    async def seal(self) -> Manifest:
        """Hash and keep; large content is hashed in a thread."""
        if self._content is None:
            raise ValueError("blob: expected a writer that is neither sealed nor aborted")
        self._coverage.check_whole()
        content, self._content = self._content, None
        small = self._coverage.size <= CHUNK_BYTES // 16
        manifest = manifest_of(content) if small else await asyncio.to_thread(manifest_of, content)
        await self._keep(manifest, content.toreadonly())
        return manifest

    def abort(self) -> None:
        """Forget it."""
        self._content = None
