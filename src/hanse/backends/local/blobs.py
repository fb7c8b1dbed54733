"""Blobs in a directory: up to 64 KiB as a row of the database, larger ones as one file each with the content only.

    blobs/<scope>/<id>             the content of a complete blob; a worker may map it
    blobs/<scope>/<id>.manifest    size (8 bytes, little-endian) and hashes; proves itself, as the id is its hash
    blobs/<scope>/<id>.part        content of which chunks are missing
    blobs/<scope>/<id>.marks       one byte a chunk: 1 once the chunk was verified and written
    making/<n>                     content whose hash is not known yet
    spare/<n>                      files to be overwritten

Only the rename from `.part` or `making` makes a blob readable; with durability `power` its bytes are on the medium
before. Marks found by a later process are believed only after hashing the chunks again. A reader hashes each chunk it
touches first in its process, unless this process verified it as it was written.
"""

import asyncio
import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from hanse.backends.local import database as sql
from hanse.backends.local.files import (
    Spares,
    disk_errors,
    make_directory,
    sync_content,
    sync_directory,
)
from hanse.backends.memory import EMPTY, Chunks, Coverage, MemoryWriter, below, check_range, puller
from hanse.core.blobs import CHUNK_BYTES, INLINE_BYTES, Buffer, Manifest, content_hash, manifest_of
from hanse.core.errors import CodecError, ConfigError, IntegrityError, NotFoundError
from hanse.core.ids import check_blob_id, check_scope
from hanse.core.seams import BlobWriter

T = TypeVar("T")
Key = tuple[str, str]

_SMALL_CACHE_BYTES = 16 * 1024 * 1024
_FLUSH_BYTES = 64 * 1024 * 1024
"""With durability `power`, writing to the medium starts whenever so much has come, not only at the end."""


class LocalBlobs:
    """A `BlobStore` under `directory`; see the module's text for the files.

    Deleting a scope recycles the files of large blobs. Views that `read` gave stay as they are, since a file with live
    views is not recycled. Another process that maps `path()` must be done before the scope is deleted, or hold a shared
    `flock` on the file while it maps it.
    """

    def __init__(self, directory: Path, database: sql.Database, *, durable: bool, max_spare_files: int = 8) -> None:
        self._blobs = directory / "blobs"
        self._making = directory / "making"
        self._database = database
        self._durable = durable
        self._spares = Spares(directory / "spare", max_files=max_spare_files)
        self._threads = ThreadPoolExecutor((os.cpu_count() or 1) + 2, thread_name_prefix="hanse-blobs")
        self._lock = threading.Lock()
        self._held: dict[Key, _Held] = {}
        self._arrivals: dict[Key, _Arrival] = {}
        self._small: OrderedDict[Key, bytes] = OrderedDict()
        self._small_bytes = 0
        self._unsynced: set[Path] = set()
        self._number = 0
        make_directory(self._blobs)
        make_directory(self._making)
        _sweep(self._blobs, self._making)

    async def put(self, scope: str, manifest: Manifest, chunks: Chunks) -> None:
        """Take, verify and write chunks one at a time; holds no more than the chunk given."""
        check_scope(scope)
        key = (scope, manifest.id)
        if not manifest.size or await self._is_complete(key, manifest):
            return
        draw = puller(chunks)
        if manifest.size <= INLINE_BYTES:
            while (pair := await draw()) is not None:
                manifest.verify(*pair)
                await self._keep_small(key, bytes(pair[1]))
                return
            return
        arrival = await self._in_thread(lambda: self._open_arrival(key, manifest))
        try:
            while (pair := await draw()) is not None:
                index, chunk = pair
                await self._in_thread(lambda i=index, c=chunk: arrival.take(i, c))  # type: ignore[misc]
                if arrival.is_whole:
                    break
            if arrival.is_whole:
                await self._in_thread(lambda: self._complete(key, arrival))
        finally:
            self._close_arrival(arrival)

    async def missing(self, scope: str, manifest: Manifest) -> list[int]:
        """The chunks that the store lacks; what an earlier process left is hashed first."""
        check_scope(scope)
        key = (scope, manifest.id)
        if not manifest.size or await self._is_complete(key, manifest):
            return []
        every = list(range(manifest.num_chunks))
        if manifest.size <= INLINE_BYTES or (key not in self._arrivals and not self._file(key, ".part").exists()):
            return every
        arrival = await self._in_thread(lambda: self._open_arrival(key, manifest))
        try:
            if arrival.is_whole:
                await self._in_thread(lambda: self._complete(key, arrival))
            return [index for index in every if not arrival.marks[index]]
        finally:
            self._close_arrival(arrival)

    async def manifest(self, scope: str, id: str) -> Manifest:
        """The manifest of a complete blob."""
        if id == EMPTY.id:
            return EMPTY
        key = _checked(scope, id)
        content = self._small_content(key)
        return manifest_of(content) if content is not None else self._find(key).manifest

    def read(self, scope: str, id: str, start: int, stop: int) -> memoryview:
        """A read-only view: of the mapped file, or of a small blob's bytes."""
        key = (scope, id)
        held = self._held.get(key)
        if held is None:
            if id == EMPTY.id:
                check_range(0, start, stop)
                return memoryview(b"")
            content = self._small_content(_checked(scope, id))
            if content is not None:
                check_range(len(content), start, stop)
                return memoryview(content)[start:stop]
            held = self._find(key)
        check_range(held.manifest.size, start, stop)
        try:
            return held.read(start, stop)
        except (IntegrityError, NotFoundError):
            self._demote(key, held)
            raise

    def create(self, scope: str, size: int) -> BlobWriter:
        """Begin a blob; one that fits into a row is made in memory."""
        check_scope(scope)
        if size <= INLINE_BYTES:
            return MemoryWriter(
                size, lambda manifest, content: self._keep_new_small(scope, manifest, bytes(content)), scope
            )
        coverage = Coverage(size)
        with self._lock:
            self._number += 1
            path = self._making / str(self._number)
        with disk_errors("making a blob"):
            file = self._spares.take(path, size)
        return _Writer(self, scope, path, file, coverage)

    def path(self, scope: str, id: str) -> Path | None:
        """The file of a complete large blob, None for a small one. Its content is verified first: call from a thread.

        Raises:
            IntegrityError: what lies there has changed.
        """
        try:
            held = self._held.get((scope, id)) or self._find(_checked(scope, id))
        except NotFoundError:
            return None
        try:
            held.verify_all()
        except (IntegrityError, NotFoundError):
            self._demote((scope, id), held)
            raise
        return held.path

    async def delete_scope(self, scope: str) -> None:
        """Forget what is in `scope` and below; files of large blobs become spares."""
        check_scope(scope)
        if self._database.has_blobs(scope):
            await self._database.write(sql.delete_blobs(scope))
        with self._lock:
            for key in [key for key in self._small if below(key[0], scope)]:
                self._small_bytes -= len(self._small.pop(key))
        if (self._blobs / scope).exists():
            await self._in_thread(lambda: self._delete_files(scope))

    def close(self) -> None:
        """End the threads; what is under way ends first."""
        self._threads.shutdown(wait=True)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _file(self, key: Key, ending: str = "") -> Path:
        return self._blobs / key[0] / (key[1] + ending)

    async def _is_complete(self, key: Key, manifest: Manifest) -> bool:
        try:
            if manifest.size <= INLINE_BYTES:
                return self._small_content(key) is not None
            return self._find(key) is not None
        except (NotFoundError, IntegrityError):
            return False

    def _small_content(self, key: Key) -> bytes | None:
        with self._lock:
            content = self._small.get(key)
            if content is not None:
                self._small.move_to_end(key)
                return content
        content = self._database.blob(*key)
        if content is None:
            return None
        if manifest_of(content).id != key[1]:
            self._database.write_late(sql.delete_blob(*key))
            raise IntegrityError(f"blob {key[1][:12]}: what is stored does not match its id; send it again")
        self._remember_small(key, content)
        return content

    def _remember_small(self, key: Key, content: bytes) -> None:
        with self._lock:
            if key not in self._small:
                self._small[key] = content
                self._small_bytes += len(content)
            while self._small_bytes > _SMALL_CACHE_BYTES:
                self._small_bytes -= len(self._small.popitem(last=False)[1])

    async def _keep_small(self, key: Key, content: bytes) -> None:
        await self._database.write(sql.put_blob(*key, content))
        self._remember_small(key, content)

    async def _keep_new_small(self, scope: str, manifest: Manifest, content: bytes) -> None:
        if content:
            await self._keep_small((scope, manifest.id), content)

    def _find(self, key: Key) -> "_Held":
        held = self._held.get(key)
        if held is not None:
            return held
        path = self._file(key)
        manifest = _load_manifest(self._file(key, ".manifest"), key[1]) if path.exists() else None
        if manifest is None:
            raise NotFoundError(f"blob {key[1][:12]}: not in {key[0]}, or not complete")
        with self._lock:
            return self._held.setdefault(key, _Held(manifest, path, verified=False))

    def _open_arrival(self, key: Key, manifest: Manifest) -> "_Arrival":
        with self._lock:
            arrival = self._arrivals.get(key)
            if arrival is None:
                arrival = self._arrivals[key] = _Arrival(
                    manifest, self._file(key, ".part"), self._file(key, ".marks"), self._spares, self._flusher()
                )
            arrival.users += 1
        try:
            with disk_errors("preparing a blob"):
                self._make_directory(key[0])
                arrival.open()
        except BaseException:
            self._close_arrival(arrival)
            raise
        return arrival

    def _close_arrival(self, arrival: "_Arrival") -> None:
        with self._lock:
            arrival.users -= 1
            if not arrival.users:
                arrival.close()

    def _flusher(self) -> "Callable[[int], Future[None]] | None":
        return (lambda file: self._threads.submit(_sync_and_close, file)) if self._durable else None

    def _make_directory(self, scope: str) -> None:
        changed = make_directory(self._blobs / scope)
        if changed and self._durable:
            with self._lock:
                self._unsynced.update(changed)

    def _complete(self, key: Key, arrival: "_Arrival") -> None:
        with arrival.lock, disk_errors("completing a blob"):
            if arrival.is_done:
                return
            if self._durable:
                arrival.sync()
            self._place(key, arrival.manifest, arrival.part, arrival)
            arrival.is_done = True
            arrival.marks_path.unlink(missing_ok=True)

    def _place(self, key: Key, manifest: Manifest, source: Path, arrival: "_Arrival | None" = None) -> None:
        """Make a file that holds a blob's verified, synced content readable under the blob's key."""
        self._make_directory(key[0])
        _save_manifest(self._file(key, ".manifest"), manifest, durable=self._durable)
        path = self._file(key)
        with self._lock:
            if arrival is not None:
                arrival.check_wanted()
                del self._arrivals[key]
            is_new = key not in self._held
            if is_new:
                source.rename(path)
                self._held[key] = _Held(manifest, path, verified=True)
        if not is_new:
            self._spares.give(source)
        if self._durable:
            self._sync_directories(path.parent)

    def _sync_directories(self, directory: Path) -> None:
        with self._lock:
            changed = {directory, *self._unsynced}
        for each in changed:
            with suppress(FileNotFoundError):
                sync_directory(each)
        with self._lock:
            self._unsynced -= changed

    def _demote(self, key: Key, held: "_Held") -> None:
        """Treat a changed blob as one under way, so that asking what is missing names the changed chunks."""
        with self._lock, suppress(OSError):
            if self._held.get(key) is held:
                del self._held[key]
                held.path.rename(self._file(key, ".part"))
                self._file(key, ".marks").write_bytes(b"\1" * held.manifest.num_chunks)

    def _delete_files(self, scope: str) -> None:
        with self._lock, disk_errors("deleting blobs"):
            busy: set[Path] = set()
            for key in [key for key in self._held if below(key[0], scope)]:
                held = self._held.pop(key)
                if not held.release():
                    busy.add(held.path)
            for key in [key for key in self._arrivals if below(key[0], scope)]:
                arrival = self._arrivals.pop(key)
                arrival.is_gone = True
                if arrival.users:
                    busy.add(arrival.part)
            for directory, _, names in os.walk(self._blobs / scope, topdown=False):
                for name in names:
                    file = Path(directory, name)
                    if file in busy or file.suffix in (".manifest", ".marks"):
                        file.unlink()
                    else:
                        self._spares.give(file)
                os.rmdir(directory)


class _Held:
    """A complete blob's file, mapped at the first read and verified chunk by chunk as it is touched."""

    def __init__(self, manifest: Manifest, path: Path, *, verified: bool) -> None:
        self.manifest = manifest
        self.path = path
        self._verified = bytearray(bytes([verified]) * manifest.num_chunks)
        self._view: memoryview | None = None
        self._mapping: mmap.mmap | None = None
        self._is_released = False
        self._lock = threading.Lock()

    def read(self, start: int, stop: int) -> memoryview:
        """A view of [start, stop) after verifying what it touches first."""
        try:
            view = self._view or self._map()
            for index in range(start // CHUNK_BYTES, -(-stop // CHUNK_BYTES)):
                if not self._verified[index]:
                    first, last = self.manifest.span(index)
                    self.manifest.verify(index, view[first:last])
                    self._verified[index] = 1
            return view[start:stop]
        except ValueError:
            raise NotFoundError(f"blob {self.manifest.id[:12]}: it was deleted") from None

    def verify_all(self) -> None:
        """Verify every chunk that this process has not seen."""
        for index in range(self.manifest.num_chunks):
            if not self._verified[index]:
                self.read(*self.manifest.span(index)).release()

    def release(self) -> bool:
        """Unmap for good; False if views of it are still alive."""
        with self._lock:
            self._is_released = True
            if self._view is None or self._mapping is None:
                return True
            self._view.release()
            try:
                self._mapping.close()
            except BufferError:
                return False
            return True

    def _map(self) -> memoryview:
        with self._lock:
            if self._view is not None:
                return self._view
            if self._is_released:
                raise ValueError
            with disk_errors("reading a blob"):
                file = _open_existing(self.path)
                try:
                    size = os.fstat(file).st_size
                    if size != self.manifest.size:
                        raise IntegrityError(
                            f"blob {self.manifest.id[:12]}: expected {self.manifest.size} bytes, found {size}"
                        )
                    self._mapping = mmap.mmap(file, size, prot=mmap.PROT_READ)
                finally:
                    os.close(file)
            self._view = memoryview(self._mapping)
            return self._view


class _Arrival:
    """A blob of which chunks are missing. Files are open while somebody puts; marks are kept between puts."""

    def __init__(
        self,
        manifest: Manifest,
        part: Path,
        marks_path: Path,
        spares: Spares,
        flush: "Callable[[int], Future[None]] | None",
    ) -> None:
        self.manifest = manifest
        self.part = part
        self.marks_path = marks_path
        self.marks = bytearray(manifest.num_chunks)
        self.users = 0
        self.is_done = False
        self.is_gone = False
        self.lock = threading.Lock()
        self._spares = spares
        self._flush = flush
        self._flushes: list[Future[None]] = []
        self._unflushed = 0
        self._was_loaded = False
        self._file = -1
        self._marks_file = -1

    @property
    def is_whole(self) -> bool:
        """Whether every chunk was written."""
        return self.is_done or all(self.marks)

    def open(self) -> None:
        """Open the files; the first time, believe of an earlier process only what can be verified."""
        with self.lock:
            if self._file >= 0 or self.is_done:
                return
            if self.part.exists() and self.marks_path.exists():
                self._file = os.open(self.part, os.O_RDWR | os.O_CLOEXEC)
                os.ftruncate(self._file, self.manifest.size)
                if not self._was_loaded:
                    self._load_marks()
            else:
                # No old mark may meet a file whose old content is somebody else's.
                self.marks_path.unlink(missing_ok=True)
                self.part.unlink(missing_ok=True)
                self.marks[:] = bytes(len(self.marks))
                self._file = self._spares.take(self.part, self.manifest.size)
            self._was_loaded = True
            self._marks_file = os.open(self.marks_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.pwrite(self._marks_file, self.marks, 0)

    def check_wanted(self) -> None:
        """Raise NotFoundError if the scope was deleted meanwhile."""
        if self.is_gone:
            raise NotFoundError(f"blob {self.manifest.id[:12]}: its scope was deleted while it came")

    def take(self, index: int, chunk: Buffer) -> None:
        """Verify, write, mark."""
        self.check_wanted()
        if self.is_done or (0 <= index < len(self.marks) and self.marks[index]):
            return
        self.manifest.verify(index, chunk)
        with disk_errors("writing a blob"):
            self._spares.write(self._file, chunk, self.manifest.span(index)[0])
            os.pwrite(self._marks_file, b"\1", index)
        self.marks[index] = 1
        self._unflushed += len(chunk)
        if self._flush is not None and self._unflushed >= _FLUSH_BYTES:
            self._unflushed = 0
            self._flushes.append(self._flush(os.dup(self._file)))

    def sync(self) -> None:
        """Bring everything that was written to the medium."""
        for flush in self._flushes:
            flush.result()
        sync_content(self._file)

    def close(self) -> None:
        """Close the files; what was written stays."""
        self._flushes.clear()
        for file in (self._file, self._marks_file):
            if file >= 0:
                os.close(file)
        self._file = self._marks_file = -1

    def _load_marks(self) -> None:
        found = self.marks_path.read_bytes()[: len(self.marks)]
        buffer = bytearray(min(CHUNK_BYTES, self.manifest.size))
        for index, mark in enumerate(found):
            start, stop = self.manifest.span(index)
            view = memoryview(buffer)[: stop - start]
            if mark == 1 and os.preadv(self._file, [view], start) == stop - start:
                self.marks[index] = content_hash(view) == self.manifest.hash_of(index)


class _Writer:
    """A `BlobWriter` on a file whose name says nothing; `seal` hashes it through the page cache."""

    def __init__(self, store: LocalBlobs, scope: str, path: Path, file: int, coverage: Coverage) -> None:
        self._store = store
        self._scope = scope
        self._path = path
        self._file = file
        self._coverage = coverage

    def write(self, start: int, content: Buffer) -> None:
        """Write `content` at byte `start`."""
        self._check_open()
        length = memoryview(content).nbytes
        self._coverage.check(start, length)
        with disk_errors("writing a blob"):
            self._store._spares.write(self._file, content, start)
        self._coverage.add(start, length)

    async def seal(self) -> Manifest:
        """Hash in threads, while the content goes to the medium if that is promised; then make it readable."""
        self._check_open()
        self._coverage.check_whole()
        store, size = self._store, self._coverage.size
        starts = range(0, size, CHUNK_BYTES)
        hashes = bytearray(32 * len(starts))
        with disk_errors("sealing a blob"), mmap.mmap(self._file, size, prot=mmap.PROT_READ) as mapping:
            lanes = [range(lane, len(starts), _LANES) for lane in range(_LANES)]
            work = [store._in_thread(lambda lane=lane: _hash_into(hashes, mapping, lane)) for lane in lanes]  # type: ignore[misc]
            if store._durable:
                work.append(store._in_thread(lambda: sync_content(self._file)))
            results = await asyncio.gather(*work, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                with disk_errors("sealing a blob"):
                    raise result
        manifest = Manifest(size, bytes(hashes))
        self._close()
        with disk_errors("sealing a blob"):
            await store._in_thread(lambda: store._place((self._scope, manifest.id), manifest, self._path))
        return manifest

    def abort(self) -> None:
        """Forget it; the file becomes a spare."""
        if self._file >= 0:
            self._close()
            self._store._spares.give(self._path)

    def _close(self) -> None:
        file, self._file = self._file, -1
        os.close(file)

    def _check_open(self) -> None:
        if self._file < 0:
            raise ValueError("blob: expected a writer that is neither sealed nor aborted")


_LANES = min(4, os.cpu_count() or 1)


def _hash_into(hashes: bytearray, mapping: mmap.mmap, indexes: range) -> None:
    with memoryview(mapping) as view:
        for index in indexes:
            with view[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES] as chunk:
                hashes[32 * index : 32 * index + 32] = content_hash(chunk)


def _sync_and_close(file: int) -> None:
    try:
        sync_content(file)
    finally:
        os.close(file)


def _checked(scope: str, id: str) -> Key:
    try:
        return check_scope(scope), check_blob_id(id)
    except ConfigError as error:
        raise NotFoundError(f"blob: {error}") from None


def _save_manifest(path: Path, manifest: Manifest, *, durable: bool) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, manifest.size.to_bytes(8, "little") + manifest.hashes)
        if durable:
            os.fsync(file)
    finally:
        os.close(file)


def _load_manifest(path: Path, id: str) -> Manifest | None:
    """The manifest if it is there and whole; a torn one has another id."""
    try:
        content = path.read_bytes()
        manifest = Manifest(int.from_bytes(content[:8], "little"), content[8:])
    except (OSError, CodecError):
        return None
    return manifest if manifest.id == id else None


def _open_existing(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFoundError("blob: its file is gone") from None


def _sweep(blobs: Path, making: Path) -> None:
    """Remove what a killed process left and nobody can use."""
    for left in making.iterdir():
        left.unlink()
    for directory, _, names in os.walk(blobs):
        present = set(names)
        for name in names:
            id, _, ending = name.partition(".")
            useful = {
                "": True,
                "part": f"{id}.marks" in present,
                "marks": f"{id}.part" in present,
                "manifest": id in present,
            }.get(ending, False)
            if not useful:
                Path(directory, name).unlink()
