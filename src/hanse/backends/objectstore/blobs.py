"""Blobs as objects: every 8 MiB chunk under its own hash, and a head that is written when all of them are there.

    SCOPE/C/CHUNK-HASH     a chunk
    SCOPE/H/BLOB-ID        the manifest, and the content itself of a blob up to 64 KiB

(Capitals, since no scope has any.) So a sender that stopped goes on where it was, several functions make one blob side
by side, a link is the right to write one name once, equal chunks are stored once, and there are no unfinished
multipart uploads to pay for (see docs/decisions). A chunk is verified whenever it is fetched; the last ones are kept.
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from hanse.backends.memory import EMPTY, Chunks, Coverage, check_range, puller
from hanse.backends.objectstore.objects import Objects
from hanse.core.blobs import CHUNK_BYTES, HASH_BYTES, INLINE_BYTES, Buffer, Manifest, content_hash, whole
from hanse.core.errors import CodecError, ConfigError, IntegrityError, NotFoundError
from hanse.core.ids import check_blob_id, check_scope

FOLDER = "blobs"
CACHED_CHUNKS = 20
"""Chunks kept after reading: a reduction walks over that many updates side by side (160 MiB)."""
AT_ONCE = 4
"""Chunks on their way at one time."""
_MAGIC = b"hanse-head-1\n"
_HEADS = 1024


def chunk_key(scope: str, hash: bytes) -> str:
    """The name of a chunk's object, below the store's prefix."""
    return f"{FOLDER}/{scope}/C/{hash.hex()}"


def head_key(scope: str, id: str) -> str:
    """The name of a head's object, below the store's prefix."""
    return f"{FOLDER}/{scope}/H/{id}"


class ObjectBlobs:
    """A `BlobStore` of objects.

    Args:
        cached_chunks: chunks kept after they were read, 8 MiB each.
    """

    def __init__(self, objects: Objects, *, cached_chunks: int = CACHED_CHUNKS) -> None:
        self._objects = objects
        self._heads: OrderedDict[tuple[str, str], tuple[Manifest, bytes]] = OrderedDict()
        self._chunks = _ChunkCache(objects, cached_chunks)
        self._lock = threading.Lock()

    async def put(self, scope: str, manifest: Manifest, chunks: Chunks) -> None:
        """Take chunks, verify each, write those that lack; at the end the head if none does."""
        check_scope(scope)
        if not manifest.size:
            return
        lacking = set(await self.missing(scope, manifest))
        if not lacking:
            return
        draw = puller(chunks)
        on_the_way: set[asyncio.Task[int]] = set()
        try:
            while lacking and (pair := await draw()) is not None:
                index, chunk = pair
                manifest.verify(index, chunk)
                if index not in lacking:
                    continue
                content = whole(chunk)
                if manifest.size <= INLINE_BYTES:
                    await self._put_head(scope, manifest, content)
                    return
                lacking.discard(index)
                on_the_way.add(asyncio.create_task(self._put_chunk(scope, manifest, index, content)))
                if len(on_the_way) >= AT_ONCE:
                    done, on_the_way = await asyncio.wait(on_the_way, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
        finally:
            results = await asyncio.gather(*on_the_way, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        if not await self._lacking(scope, manifest):
            await self._put_head(scope, manifest, b"")

    async def missing(self, scope: str, manifest: Manifest) -> list[int]:
        """The chunks that are not there; none of a small blob that has its head."""
        check_scope(scope)
        if not manifest.size:
            return []
        if manifest.size <= INLINE_BYTES:
            return [] if await self._has_head(scope, manifest.id) else [0]
        return await self._lacking(scope, manifest)

    async def manifest(self, scope: str, id: str) -> Manifest:
        """The manifest of a complete blob."""
        if id == EMPTY.id:
            return EMPTY
        kept = self._kept(scope, id)
        if kept is not None:
            return kept[0]
        try:
            content, _ = await self._objects.get(_checked(scope, id))
        except NotFoundError:
            raise NotFoundError(f"blob {id[:12]}: not in {scope[:80]}, or not complete") from None
        return self._keep(scope, id, content)[0]

    def read(self, scope: str, id: str, start: int, stop: int) -> memoryview:
        """Bytes of a complete blob; a range within one chunk is a view of it."""
        if id == EMPTY.id:
            check_range(0, start, stop)
            return memoryview(b"")
        manifest, inline = self.head(scope, id)
        check_range(manifest.size, start, stop)
        if manifest.size <= INLINE_BYTES:
            return memoryview(inline)[start:stop]
        if start == stop:
            return memoryview(b"")
        first, last = start // CHUNK_BYTES, (stop - 1) // CHUNK_BYTES
        if first == last:
            offset = first * CHUNK_BYTES
            return self._chunk(scope, manifest, first)[start - offset : stop - offset]
        joined = bytearray(stop - start)
        for index in range(first, last + 1):
            begin, end = manifest.span(index)
            lo, hi = max(begin, start), min(end, stop)
            joined[lo - start : hi - start] = self._chunk(scope, manifest, index)[lo - begin : hi - begin]
        return memoryview(joined).toreadonly()

    def hold(self, chunks: int) -> None:
        """Keep so many chunks after reading: of each of the blobs that are read side by side, one."""
        self._chunks.hold(chunks)

    @contextmanager
    def reading_ahead(self, order: Sequence[tuple[str, Manifest, int]], ahead: int) -> Iterator[None]:
        """Within this context chunks are read in about this order, by one thread: fetch the next `ahead` of them.

        Args:
            order: scope, blob and number of each chunk.
        """
        with self._chunks.ahead_of(
            [(chunk_key(scope, manifest.hash_of(index)), manifest, index) for scope, manifest, index in order], ahead
        ):
            yield

    def create(self, scope: str, size: int) -> "ObjectWriter":
        """Begin a blob of `size` bytes; chunks leave as soon as they are whole."""
        return ObjectWriter(self, self._objects, check_scope(scope), size)

    def path(self, scope: str, id: str) -> Path | None:
        """Nothing here is a file."""
        return None

    async def delete_scope(self, scope: str) -> None:
        """Forget `scope` and what lies below it."""
        check_scope(scope)
        keys = [found.key async for found in self._objects.list(f"{FOLDER}/{scope}")]
        await self._objects.delete(*keys)
        with self._lock:
            for key in [key for key in self._heads if key[0] == scope or key[0].startswith(scope + "/")]:
                del self._heads[key]
        self._chunks.forget(f"{FOLDER}/{scope}/")

    async def commit(self, scope: str, manifest: Manifest, content: bytes = b"") -> None:
        """Write the head of a blob whose chunks others have put.

        Args:
            content: the content itself of a blob up to 64 KiB, if it was not put as a chunk.

        Raises:
            IntegrityError: chunks are missing, or `content` is not the blob's.
        """
        check_scope(scope)
        if manifest.size <= INLINE_BYTES:
            if manifest.size and not content:
                content, _ = await self._objects.get(chunk_key(scope, manifest.hash_of(0)))
            if manifest.size:
                manifest.verify(0, content)
        elif missing := await self._lacking(scope, manifest):
            raise IntegrityError(f"blob {manifest.id[:12]}: {len(missing)} of {manifest.num_chunks} chunks are missing")
        if manifest.size:
            await self._put_head(scope, manifest, content)

    async def _lacking(self, scope: str, manifest: Manifest) -> list[int]:
        there = {found.key.rpartition("/")[2] async for found in self._objects.list(f"{FOLDER}/{scope}/C")}
        return [n for n in range(manifest.num_chunks) if manifest.hash_of(n).hex() not in there]

    async def _put_chunk(self, scope: str, manifest: Manifest, index: int, content: bytes) -> int:
        await self._objects.put(chunk_key(scope, manifest.hash_of(index)), content)
        return index

    async def _put_head(self, scope: str, manifest: Manifest, content: bytes) -> None:
        head = _packed(manifest, content if manifest.size <= INLINE_BYTES else b"")
        await self._objects.put(head_key(scope, manifest.id), head)
        self._keep(scope, manifest.id, head)

    async def _has_head(self, scope: str, id: str) -> bool:
        try:
            await self.manifest(scope, id)
        except NotFoundError:
            return False
        return True

    def head(self, scope: str, id: str) -> tuple[Manifest, bytes]:
        """Manifest and, of a blob up to 64 KiB, content; for threads.

        Raises:
            NotFoundError: no such complete blob.
        """
        kept = self._kept(scope, id)
        if kept is not None:
            return kept
        try:
            content = self._objects.get_now(_checked(scope, id))
        except NotFoundError:
            raise NotFoundError(f"blob {id[:12]}: not in {scope[:80]}, or not complete") from None
        return self._keep(scope, id, content)

    def _kept(self, scope: str, id: str) -> tuple[Manifest, bytes] | None:
        with self._lock:
            return self._heads.get((scope, id))

    def _keep(self, scope: str, id: str, content: bytes) -> tuple[Manifest, bytes]:
        head = read_head(id, content)
        with self._lock:
            self._heads[scope, id] = head
            if len(self._heads) > _HEADS:
                self._heads.popitem(last=False)
        return head

    def _chunk(self, scope: str, manifest: Manifest, index: int) -> memoryview:
        try:
            return self._chunks.get(chunk_key(scope, manifest.hash_of(index)), manifest, index)
        except NotFoundError:
            raise NotFoundError(f"blob {manifest.id[:12]}: chunk {index} is gone from {scope[:80]}") from None


_Wanted = tuple[str, Manifest, int]
"""A chunk's key, its blob and its number there."""
_OnTheWay = Future[memoryview]


class _ChunkCache:
    """The chunks that were read last, each verified when it came. Of threads that want the same, one fetches."""

    def __init__(self, objects: Objects, size: int) -> None:
        self._objects = objects
        self._size = size
        self._kept: OrderedDict[str, memoryview] = OrderedDict()
        self._lock = threading.Lock()
        self._fetching = [threading.Lock() for _ in range(64)]
        self._ahead: _Ahead | None = None

    def get(self, key: str, manifest: Manifest, index: int) -> memoryview:
        """A chunk. What does not match its hash is removed, so that it can be sent again."""
        found = self._find(key)
        if found is not None:
            return found
        with self._fetching[hash(key) % len(self._fetching)]:
            found = self._find(key)
            if found is not None:
                return found
            ahead = self._ahead
            on_the_way = None if ahead is None else ahead.take(key)
            found = self._fetch(key, manifest, index) if on_the_way is None else on_the_way.result()
            with self._lock:
                self._kept[key] = found
                while len(self._kept) > self._size:
                    self._kept.popitem(last=False)
            return found

    @contextmanager
    def ahead_of(self, order: Sequence[_Wanted], ahead: int) -> Iterator[None]:
        """Fetch chunks that will be wanted next before they are; for one reader: a second one goes without."""
        with ThreadPoolExecutor(ahead, "chunks") as pool:
            mine = _Ahead(lambda wanted: pool.submit(self._fetch, *wanted), order, ahead)
            with self._lock:
                is_first = self._ahead is None
                if is_first:
                    self._ahead = mine
            try:
                yield
            finally:
                if is_first:
                    self._ahead = None
                mine.stop()

    def _fetch(self, key: str, manifest: Manifest, index: int) -> memoryview:
        content = self._objects.get_now(key)
        try:
            manifest.verify(index, content)
        except IntegrityError:
            self._objects.delete_now(key)
            raise
        return memoryview(content)

    def hold(self, size: int) -> None:
        """Keep so many."""
        with self._lock:
            self._size = size
            while len(self._kept) > size:
                self._kept.popitem(last=False)

    def forget(self, prefix: str) -> None:
        """Let go of the chunks below `prefix`."""
        with self._lock:
            for key in [key for key in self._kept if key.startswith(prefix)]:
                del self._kept[key]

    def _find(self, key: str) -> memoryview | None:
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found


class _Ahead:
    """Chunks on their way, in the order in which they will be wanted.

    The order is a forecast: what is wanted and not soon to come is fetched by whoever wants it, and what is passed over
    (it was still held) is let go.
    """

    def __init__(self, submit: Callable[[_Wanted], _OnTheWay], order: Sequence[_Wanted], ahead: int) -> None:
        self._submit = submit
        self._order = order
        self._ahead = ahead
        self._at = 0
        self._coming: dict[int, _OnTheWay] = {}
        self._lock = threading.Lock()

    def take(self, key: str) -> _OnTheWay | None:
        """The chunk with this key, if its turn is near."""
        with self._lock:
            near = range(self._at, min(self._at + 2 * self._ahead, len(self._order)))
            found = next((place for place in near if self._order[place][0] == key), None)
            if found is None:
                return None
            for passed in range(self._at, found):
                self._let_go(passed)
            self._at = found + 1
            taken = self._coming.pop(found, None)
            for place in range(self._at, min(self._at + self._ahead, len(self._order))):
                if place not in self._coming:
                    self._coming[place] = self._submit(self._order[place])
            return taken

    def stop(self) -> None:
        """Nothing more is wanted."""
        with self._lock:
            for place in list(self._coming):
                self._let_go(place)
            self._order = ()

    def _let_go(self, place: int) -> None:
        coming = self._coming.pop(place, None)
        if coming is not None:
            coming.cancel()


class ObjectWriter:
    """A `BlobWriter` that holds only the chunks that are not whole yet."""

    def __init__(self, blobs: ObjectBlobs, objects: Objects, scope: str, size: int) -> None:
        self._blobs = blobs
        self._objects = objects
        self._scope = scope
        self._coverage = Coverage(size)
        self._open: dict[int, tuple[bytearray, Coverage]] = {}
        self.hashes: dict[int, bytes] = {}
        """Of the chunks that are whole, and written."""
        self._inline = b""
        self._ended = False
        self._lock = threading.Lock()

    def write(self, start: int, content: Buffer) -> None:
        """Put `content` at byte `start`; a chunk that becomes whole leaves in this thread."""
        self._check_open()
        view = memoryview(content).cast("B")
        self._coverage.check(start, len(view))
        taken = 0
        while taken < len(view):
            index, offset = divmod(start + taken, CHUNK_BYTES)
            part = view[taken : taken + CHUNK_BYTES - offset]
            self._fill(index, offset, part)
            taken += len(part)
        self._coverage.add(start, len(view))

    async def seal(self) -> Manifest:
        """Write the head."""
        self._check_open()
        self._coverage.check_whole()
        self._ended = True
        size = self._coverage.size
        manifest = Manifest(size, b"".join(self.hashes[n] for n in range(-(-size // CHUNK_BYTES))))
        await self._blobs.commit(self._scope, manifest, self._inline)
        return manifest

    def abort(self) -> None:
        """Forget it; chunks that have left go when their scope goes."""
        self._ended = True
        self._open.clear()

    def _fill(self, index: int, offset: int, part: memoryview) -> None:
        begin = index * CHUNK_BYTES
        length = min(CHUNK_BYTES, self._coverage.size - begin)
        with self._lock:
            if index not in self._open:
                buffer, covered = bytearray(length), Coverage(length)
                if index in self.hashes:  # written once more
                    buffer[:] = self._inline or self._objects.get_now(chunk_key(self._scope, self.hashes[index]))
                    covered.add(0, length)
                self._open[index] = buffer, covered
            buffer, covered = self._open[index]
        buffer[offset : offset + len(part)] = part
        covered.add(offset, len(part))
        if covered.written < covered.size:
            return
        with self._lock:
            if self._open.get(index, (None,))[0] is not buffer:
                return  # another thread found it whole first
            del self._open[index]
        content = bytes(buffer)
        hash = content_hash(content)
        if self._coverage.size <= INLINE_BYTES:
            self._inline = content
        else:
            self._objects.put_now(chunk_key(self._scope, hash), content)
        self.hashes[index] = hash

    def _check_open(self) -> None:
        if self._ended:
            raise ValueError("blob: expected a writer that is neither sealed nor aborted")


def _checked(scope: str, id: str) -> str:
    try:
        return head_key(check_scope(scope), check_blob_id(id))
    except ConfigError:
        raise NotFoundError(f"blob {id[:12]}: not in {scope[:80]}, or not complete") from None


def _packed(manifest: Manifest, content: bytes) -> bytes:
    return _MAGIC + manifest.size.to_bytes(8, "big") + manifest.hashes + content


def read_head(id: str, content: bytes) -> tuple[Manifest, bytes]:
    """Manifest and inline content of a head.

    Raises:
        IntegrityError: it is not the head of that blob.
    """
    begin = len(_MAGIC) + 8
    size = int.from_bytes(content[len(_MAGIC) : begin], "big")
    end = begin + -(-size // CHUNK_BYTES) * HASH_BYTES
    try:
        manifest = Manifest(size, content[begin:end])
        if not content.startswith(_MAGIC) or manifest.id != id:
            raise CodecError("another blob")
        if size <= INLINE_BYTES:
            manifest.verify(0, content[end:])
    except (CodecError, IntegrityError):
        raise IntegrityError(f"blob {id[:12]}: its head is not what was written") from None
    return manifest, content[end:]
