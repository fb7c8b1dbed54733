"""Blobs in a directory: up to 64 KiB as a row of the database, larger ones as one file each with the content only.

    blobs/<scope>/<id>             the content of a complete blob; a worker may map it
    blobs/<scope>/<id>.manifest    size (8 bytes, little-endian) and hashes; proves itself, as the id is its hash
    blobs/<scope>/<id>.part        content of which chunks are missing
    blobs/<scope>/<id>.marks       one byte a chunk: 1 once the chunk was verified and written
    making/<n>                     content whose hash is not known yet
    spare/<n>                      files to be overwritten

A small blob that is *made* here (`create`, `seal`) can be read at once, and is durable no later than anything that is
written to the store's ledger after it; one that is *put* is durable first.

Only the rename from `.part` or `making` makes a blob readable; with durability `power` its bytes are on the medium
before. Marks found by a later process are believed only after hashing the chunks again. A reader hashes each chunk it
touches first in its process, unless this process verified it as it was written.
"""

import asyncio
import logging
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
from hanse.backends.local.arrival import Arrival
from hanse.backends.local.files import (
    Spares,
    disk_errors,
    make_directory,
    sync_content,
    sync_directory,
)
from hanse.backends.local.held import Held, load_manifest, save_manifest
from hanse.backends.memory import EMPTY, Chunks, Coverage, MemoryWriter, below, check_range, puller
from hanse.core.blobs import CHUNK_BYTES, INLINE_BYTES, Buffer, Chunk, Manifest, content_hash, manifest_of, whole
from hanse.core.errors import ConfigError, IntegrityError, NotFoundError, StorageError
from hanse.core.ids import check_blob_id, check_scope
from hanse.core.seams import BlobWriter

_log = logging.getLogger(__name__)
T = TypeVar("T")
Key = tuple[str, str]

_SMALL_CACHE_BYTES = 16 * 1024 * 1024
_RETRY_S = 1.0
"""How long to wait before a full disk is asked again for a small blob."""


class LocalBlobs:
    """A `BlobStore` under `directory`; see the module's text for the files.

    Deleting a scope recycles the files of large blobs. Views that `read` gave stay as they are, since a file with live
    views is not recycled. Another process that maps `path()` must be done before the scope is deleted, or hold a shared
    `flock` on the file while it maps it.
    """

    def __init__(self, directory: Path, database: sql.Database, *, durable: bool, max_spare_files: int = 8) -> None:
        self._folder = directory
        self._blobs = directory / "blobs"
        self._root = str(self._blobs)
        self._making = directory / "making"
        self._database = database
        self._durable = durable
        self._spares = Spares(directory / "spare", max_files=max_spare_files)
        self._threads = ThreadPoolExecutor((os.cpu_count() or 1) + 2, thread_name_prefix="hanse-blobs")
        self._lock = threading.Lock()
        self._held: dict[Key, Held] = {}
        self._arrivals: dict[Key, Arrival] = {}
        self._small: OrderedDict[Key, tuple[Manifest, bytes]] = OrderedDict()
        self._small_bytes = 0
        self._unsaved: dict[Key, tuple[Manifest, bytes]] = {}
        self._unsynced: set[Path] = set()
        self._number = 0
        make_directory(self._blobs)
        make_directory(self._making)
        _sweep(self._blobs, self._making)

    async def put(self, scope: str, manifest: Manifest, chunks: Chunks) -> None:
        """Take, verify and write chunks; one that came as `bytes` goes to the disk while the next one comes."""
        check_scope(scope)
        key = (scope, manifest.id)
        if not manifest.size or (key in self._small and key not in self._unsaved):
            return
        draw = puller(chunks)
        if manifest.size <= INLINE_BYTES:  # one that is there already is kept once more, which changes nothing
            pair = await draw()
            if pair is not None:
                manifest.verify(*pair)
                await self._keep_small(scope, manifest, whole(pair[1]))
            return
        if await self._is_complete(key, manifest):
            return
        arrival = await self._in_thread(self._open_arrival, key, manifest)
        try:
            taking: asyncio.Future[None] | None = None
            while not arrival.is_whole and (pair := await draw()) is not None:
                if taking is not None:
                    await asyncio.shield(taking)
                taking = self._begin_taking(arrival, *pair)
                # A view may be of memory that is used for the next chunk, and after the last one nothing comes.
                if not isinstance(pair[1], list | bytes) or arrival.num_missing < 2:
                    await asyncio.shield(taking)
            if taking is not None:
                await asyncio.shield(taking)
            if arrival.is_whole:
                await self._in_thread(self._complete, key, arrival)
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
        arrival = await self._in_thread(self._open_arrival, key, manifest)
        try:
            if arrival.is_whole:
                await self._in_thread(self._complete, key, arrival)
            return [index for index in every if not arrival.marks[index]]
        finally:
            self._close_arrival(arrival)

    async def manifest(self, scope: str, id: str) -> Manifest:
        """The manifest of a complete blob."""
        if id == EMPTY.id:
            return EMPTY
        key = _checked(scope, id)
        small = self._find_small(key)
        return small[0] if small is not None else self._find(key).manifest

    def read(self, scope: str, id: str, start: int, stop: int) -> memoryview:
        """A read-only view: of the mapped file, or of a small blob's bytes."""
        key = (scope, id)
        held = self._held.get(key)
        if held is None:
            if id == EMPTY.id:
                check_range(0, start, stop)
                return memoryview(b"")
            small = self._find_small(_checked(scope, id))
            if small is not None:
                check_range(small[0].size, start, stop)
                return memoryview(small[1])[start:stop]
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
            return MemoryWriter(size, lambda manifest, content: self._keep_made(scope, manifest, bytes(content)), scope)
        coverage = Coverage(size)
        with self._lock:
            self._number += 1
            path = self._making / str(self._number)
        with disk_errors("making a blob", self._folder):
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
        unsaved = [key for key in self._unsaved if below(key[0], scope)]
        for key in unsaved:
            del self._unsaved[key]
        if unsaved or self._database.has_blobs(scope):
            await self._database.write(sql.delete_blobs(scope), patience_s=sql.SOON_S)
        inside = f"{scope}/"
        with self._lock:
            for key in [key for key in self._small if key[0] == scope or key[0].startswith(inside)]:
                self._small_bytes -= self._small.pop(key)[0].size
        if os.path.exists(f"{self._root}/{scope}"):  # a Path takes longer to make than to ask
            await self._in_thread(self._delete_files, scope)

    def close(self) -> None:
        """End the threads; what is under way ends first."""
        self._threads.shutdown(wait=True)

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def _file(self, key: Key, ending: str = "") -> Path:
        return self._blobs / key[0] / (key[1] + ending)

    async def _is_complete(self, key: Key, manifest: Manifest) -> bool:
        try:
            if manifest.size <= INLINE_BYTES:
                return self._find_small(key) is not None
            return self._find(key) is not None
        except (NotFoundError, IntegrityError):
            return False

    def _find_small(self, key: Key) -> tuple[Manifest, bytes] | None:
        with self._lock:
            found = self._small.get(key)
            if found is not None:
                self._small.move_to_end(key)
                return found
        unsaved = self._unsaved.get(key)
        if unsaved is not None:
            return unsaved
        content = self._database.blob(*key)
        if content is None:
            return None
        manifest = manifest_of(content)
        if manifest.id != key[1]:
            self._database.write_late(sql.delete_blob(*key))
            raise IntegrityError(f"blob {key[1][:12]}: what is stored does not match its id; send it again")
        self._remember_small(key, manifest, content)
        return manifest, content

    def _remember_small(self, key: Key, manifest: Manifest, content: bytes) -> None:
        with self._lock:
            if key not in self._small:
                self._small[key] = manifest, content
                self._small_bytes += manifest.size
            while self._small_bytes > _SMALL_CACHE_BYTES:
                self._small_bytes -= self._small.popitem(last=False)[1][0].size

    async def _keep_small(self, scope: str, manifest: Manifest, content: bytes) -> None:
        if content:
            await self._database.write(sql.put_blob(scope, manifest.id, content))
            self._remember_small((scope, manifest.id), manifest, content)

    async def _keep_made(self, scope: str, manifest: Manifest, content: bytes) -> None:
        """Readable at once. A ledger write that is begun from now on is refused until this is in the database."""
        key = (scope, manifest.id)
        self._unsaved[key] = manifest, content
        self._remember_small(key, manifest, content)
        self._save(key, None)

    def _save(self, key: Key, failed: "sql.Write[None] | None") -> None:
        found = self._unsaved.get(key)
        if found is not None:
            write = self._database.begin(sql.put_blob(*key, found[1]), patience_s=sql.SOON_S)
            assert write.future is not None
            write.future.add_done_callback(lambda done: self._saved(key, write, done))
        if failed is not None:  # not before the next attempt is in the queue
            self._database.forgive(failed)

    def _saved(self, key: Key, write: "sql.Write[None]", done: "asyncio.Future[None]") -> None:
        error = None if done.cancelled() else done.exception()
        if error is None:
            self._unsaved.pop(key, None)
            return
        _log.warning("a small blob waits for the disk: %s", error)
        done.get_loop().call_later(_RETRY_S, self._save_again, key, write)

    def _save_again(self, key: Key, failed: "sql.Write[None]") -> None:
        with suppress(StorageError):  # closed meanwhile
            self._save(key, failed)

    def _find(self, key: Key) -> Held:
        held = self._held.get(key)
        if held is not None:
            return held
        path = self._file(key)
        manifest = load_manifest(self._file(key, ".manifest"), key[1]) if path.exists() else None
        if manifest is None:
            raise NotFoundError(f"blob {key[1][:12]}: not in {key[0]}, or not complete")
        with self._lock:
            return self._held.setdefault(key, Held(manifest, path, verified=False))

    def _open_arrival(self, key: Key, manifest: Manifest) -> Arrival:
        with self._lock:
            arrival = self._arrivals.get(key)
            if arrival is None:
                arrival = self._arrivals[key] = Arrival(
                    manifest, self._file(key, ".part"), self._file(key, ".marks"), self._spares, self._flusher()
                )
            arrival.users += 1
        try:
            with disk_errors("preparing a blob", self._folder):
                self._make_directory(key[0])
                arrival.open()
        except BaseException:
            self._close_arrival(arrival)
            raise
        return arrival

    def _begin_taking(self, arrival: Arrival, index: int, chunk: Chunk) -> "asyncio.Future[None]":
        """`Arrival.take` in a thread. Its files stay open until that is done, also where nobody waits for it any more:
        a descriptor that is closed under a writing thread may be another file's by the time it writes.
        """

        def take() -> None:
            try:
                arrival.take(index, chunk)
            finally:
                self._close_arrival(arrival)

        with self._lock:
            arrival.users += 1
        try:
            work = self._threads.submit(take)
        except RuntimeError:
            self._close_arrival(arrival)
            raise
        taking = asyncio.wrap_future(work)
        taking.add_done_callback(_heard)
        return taking

    def _close_arrival(self, arrival: Arrival) -> None:
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

    def _complete(self, key: Key, arrival: Arrival) -> None:
        with arrival.lock, disk_errors("completing a blob", self._folder):
            if arrival.is_done:
                return
            if self._durable:
                arrival.sync()
            self._place(key, arrival.manifest, arrival.part, arrival)
            arrival.is_done = True
            arrival.marks_path.unlink(missing_ok=True)

    def _place(self, key: Key, manifest: Manifest, source: Path, arrival: Arrival | None = None) -> None:
        """Make a file that holds a blob's verified, synced content readable under the blob's key."""
        self._make_directory(key[0])
        save_manifest(self._file(key, ".manifest"), manifest, durable=self._durable)
        path = self._file(key)
        with self._lock:
            if arrival is not None:
                arrival.check_wanted()
                del self._arrivals[key]
            is_new = key not in self._held
            if is_new:
                source.rename(path)
                self._held[key] = Held(manifest, path, verified=True)
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

    def _demote(self, key: Key, held: Held) -> None:
        """Treat a changed blob as one under way, so that asking what is missing names the changed chunks."""
        with self._lock, suppress(OSError):
            if self._held.get(key) is held:
                del self._held[key]
                held.path.rename(self._file(key, ".part"))
                self._file(key, ".marks").write_bytes(b"\1" * held.manifest.num_chunks)

    def _delete_files(self, scope: str) -> None:
        with self._lock, disk_errors("deleting blobs", self._folder):
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
        with disk_errors("writing a blob", self._store._folder):
            self._store._spares.write(self._file, content, start)
        self._coverage.add(start, length)

    async def seal(self) -> Manifest:
        """Hash in threads, while the content goes to the medium if that is promised; then make it readable."""
        self._check_open()
        self._coverage.check_whole()
        store, size = self._store, self._coverage.size
        starts = range(0, size, CHUNK_BYTES)
        hashes = bytearray(32 * len(starts))
        with disk_errors("sealing a blob", self._store._folder):
            mapping = mmap.mmap(self._file, size, prot=mmap.PROT_READ)
            lanes = [range(lane, len(starts), _LANES) for lane in range(_LANES)]
            work = [store._in_thread(_hash_into, hashes, mapping, lane) for lane in lanes]
            if store._durable:
                work.append(store._in_thread(sync_content, self._file))
            results = await asyncio.gather(*work, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                with disk_errors("sealing a blob", self._store._folder):
                    raise result
        manifest = Manifest(size, bytes(hashes))
        self._close()
        with disk_errors("sealing a blob", self._store._folder):
            await store._in_thread(store._place, (self._scope, manifest.id), manifest, self._path)
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


def _heard(done: "asyncio.Future[None]") -> None:
    """An error of which nobody is left to hear is none."""
    if not done.cancelled():
        done.exception()


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
