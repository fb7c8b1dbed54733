"""The four seams in this process's memory: for simulation, for tests, and as the readable reference of each seam.

Everything runs on one event loop and takes no locks; only `MemoryBlobs.read` and writers are used from threads.
Nothing here outlives the process. `Grants` and `Coverage` are shared with the other backends.
"""

import asyncio
import mmap
import secrets
import threading
import time
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path

from hanse.core.blobs import CHUNK_BYTES, MAX_BLOB_BYTES, Buffer, Chunk, Manifest, manifest_of, pieces_of, whole
from hanse.core.errors import ConfigError, IntegrityError, NotFoundError, PolicyError, StorageError, TooLargeError
from hanse.core.ids import check_scope
from hanse.core.records import Envelope
from hanse.core.seams import MAX_RECORD_BYTES, BlobStore, Delivery, Link, UploadTicket

MAX_KEY_BYTES = 1024
EMPTY = Manifest(0, b"")
"""The empty blob has no chunk that could be missing, so every scope holds it."""
VISIBILITY_S = 30.0

Chunks = Iterable[tuple[int, Chunk]] | AsyncIterable[tuple[int, Chunk]]


def monotonic_ms() -> int:
    """Milliseconds of a clock that never goes back."""
    return time.monotonic_ns() // 1_000_000


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


class Coverage:
    """Which bytes of a blob in the making were written. A hole must never be sealed: it may hold an older blob's bytes.

    Thread-safe.
    """

    def __init__(self, size: int) -> None:
        if not 0 <= size <= MAX_BLOB_BYTES:
            raise TooLargeError(f"blob: expected 0 to {MAX_BLOB_BYTES} bytes, found {size}")
        self.size = size
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._lock = threading.Lock()

    def check(self, start: int, length: int) -> None:
        """Raise ValueError if [start, start + length) does not lie within the blob."""
        if start < 0 or start + length > self.size:
            raise ValueError(f"blob: expected bytes within 0 to {self.size}, found {start} to {start + length}")

    def add(self, start: int, length: int) -> None:
        """Note that [start, start + length) was written."""
        stop = start + length
        if not length:
            return
        with self._lock:
            first = bisect_left(self._stops, start)
            last = bisect_right(self._starts, stop)
            if first < last:
                start, stop = min(start, self._starts[first]), max(stop, self._stops[last - 1])
            self._starts[first:last] = [start]
            self._stops[first:last] = [stop]

    @property
    def written(self) -> int:
        """How many different bytes were written."""
        with self._lock:
            return sum(self._stops) - sum(self._starts)

    def check_whole(self) -> None:
        """Raise IntegrityError if a byte was never written."""
        found = self.written
        if found != self.size:
            raise IntegrityError(f"blob: expected {self.size} bytes to be written before sealing, found {found}")


def check_range(size: int, start: int, stop: int) -> None:
    """Refuse a range that is not inside a blob.

    Raises:
        NotFoundError: it is not.
    """
    if not 0 <= start <= stop <= size:
        raise NotFoundError(f"blob: expected a range within 0 to {size}, found {start} to {stop}")


def below(scope: str, prefix: str) -> bool:
    """Whether `scope` is `prefix` or lies below it."""
    return scope == prefix or scope.startswith(prefix + "/")


def puller(chunks: Chunks) -> Callable[[], Awaitable[tuple[int, Chunk] | None]]:
    """One way to draw from both kinds of chunks: the next pair, or None at the end."""
    if isinstance(chunks, AsyncIterable):
        iterator = aiter(chunks)

        async def draw_async() -> tuple[int, Chunk] | None:
            return await anext(iterator, None)

        return draw_async
    plain = iter(chunks)

    async def draw() -> tuple[int, Chunk] | None:
        return next(plain, None)

    return draw


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


@dataclass(slots=True)
class Message:
    """A message that lies in an inbox. `row` is its number in a durable store, 0 if it is in none."""

    to: str
    envelope: Envelope
    receipt: str
    row: int
    count: int
    durable: bool
    hidden_until_ms: int | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes two messages to one recipient the same; ids are unique per sender only."""
        return (self.envelope.sender, self.envelope.id, self.envelope.kind)


@dataclass(slots=True)
class _Box:
    """One recipient's messages: those to hand out, those handed out, and who waits."""

    messages: dict[tuple[str, str, str], Message] = field(default_factory=dict)
    ready: deque[Message] = field(default_factory=deque)
    hidden: list[tuple[int, int, Message]] = field(default_factory=list)
    waiters: list["asyncio.Future[None]"] = field(default_factory=list)

    def wake(self) -> None:
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)
        self.waiters.clear()


class MemoryInbox:
    """An `Inbox` in this process. A receipt begins with the recipient's name and '/', so a transport can check it.

    Args:
        visibility_s: seconds after which an unacknowledged message comes again.
        now_ms: the clock; the explorer gives its own.
    """

    def __init__(self, *, visibility_s: float = VISIBILITY_S, now_ms: Callable[[], int] = monotonic_ms) -> None:
        self._visibility_ms = round(visibility_s * 1000)
        self._now_ms = now_ms
        self._boxes: dict[str, _Box] = {}
        self._by_receipt: dict[str, Message] = {}
        self._number = 0
        # Receipts of an earlier life of this inbox must not fit messages of this one.
        self._life = secrets.token_hex(6)

    async def send(self, to: str, envelope: Envelope, *, durable: bool = True) -> None:
        """Put a message into `to`'s inbox; visible at once, also where it replaces one that was handed out."""
        self.deliver(to, envelope, durable=durable)

    async def receive(self, who: str, max: int = 1, wait_s: float = 20.0) -> list[Delivery]:
        """Wait for a message; woken by `send` or by the first hidden message that is due."""
        box = self._boxes.setdefault(who, _Box())
        found = self._take(box, max)
        if found or wait_s <= 0:
            return found
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while not found and (left := deadline - loop.time()) > 0:
            if box.hidden:
                # At least a millisecond, as the caller's clock may stand still while it is due.
                left = min(left, (box.hidden[0][0] - self._now_ms() + 1) / 1000)
            waiter: asyncio.Future[None] = loop.create_future()
            timer = loop.call_later(left if left > 0.001 else 0.001, _expire, waiter)
            box.waiters.append(waiter)
            try:
                await waiter
            finally:
                timer.cancel()
                if waiter in box.waiters:
                    box.waiters.remove(waiter)
            found = self._take(box, max)
        return found

    async def extend(self, receipts: Sequence[str], seconds: float) -> None:
        """Hide messages for `seconds` from now; 0 brings them back at once."""
        until = self._now_ms() + round(seconds * 1000)
        for receipt in receipts:
            message = self._by_receipt.get(receipt)
            if message is not None:
                self._hide(self._boxes[message.to], message, until)

    async def ack(self, receipts: Sequence[str]) -> None:
        """Forget these messages."""
        self.remove(receipts)

    def deliver(self, to: str, envelope: Envelope, *, durable: bool = True, row: int = 0, count: int = 0) -> None:
        """`send` for a caller that has made the message durable itself as `row`."""
        box = self._boxes.setdefault(to, _Box())
        self._number += 1
        message = Message(to, envelope, f"{to}/{self._life}-{self._number}", row, count, durable)
        replaced = box.messages.get(message.key)
        if replaced is not None:
            if replaced.row > row > 0:
                return
            message.count = replaced.count
            del self._by_receipt[replaced.receipt]
        box.messages[message.key] = message
        self._by_receipt[message.receipt] = message
        box.ready.append(message)
        box.wake()

    def held(self, to: str, envelope: Envelope) -> Message | None:
        """The unacknowledged message that this one would replace."""
        box = self._boxes.get(to)
        return box.messages.get((envelope.sender, envelope.id, envelope.kind)) if box else None

    def peek(self, receipt: str) -> Message | None:
        """The unacknowledged message that bears this receipt."""
        return self._by_receipt.get(receipt)

    def remove(self, receipts: Sequence[str]) -> list[Message]:
        """`ack`, telling which messages it ended."""
        ended: list[Message] = []
        for receipt in receipts:
            message = self._by_receipt.pop(receipt, None)
            if message is not None:
                del self._boxes[message.to].messages[message.key]
                ended.append(message)
        return ended

    def reopen(self) -> None:
        """What a restart of the process that holds the inbox does: the volatile is lost, the rest comes at once."""
        kept = [message for box in self._boxes.values() for message in box.messages.values() if message.durable]
        self._boxes.clear()
        self._by_receipt.clear()
        self._life = secrets.token_hex(6)
        for message in kept:
            self.deliver(message.to, message.envelope, row=message.row, count=message.count)

    def _take(self, box: _Box, max: int) -> list[Delivery]:
        now = self._now_ms()
        while box.hidden and box.hidden[0][0] <= now:
            until, _, message = heappop(box.hidden)
            # Extended, acknowledged or replaced messages leave stale entries behind.
            if message.hidden_until_ms == until and self._by_receipt.get(message.receipt) is message:
                message.hidden_until_ms = None
                box.ready.append(message)
        found: list[Delivery] = []
        while box.ready and len(found) < max:
            message = box.ready.popleft()
            if self._by_receipt.get(message.receipt) is not message or message.hidden_until_ms is not None:
                continue
            message.count += 1
            self._hide(box, message, now + self._visibility_ms)
            found.append(Delivery(message.receipt, message.envelope, message.count))
        return found

    def _hide(self, box: _Box, message: Message, until_ms: int) -> None:
        self._number += 1
        message.hidden_until_ms = until_ms
        heappush(box.hidden, (until_ms, self._number, message))
        if box.waiters and box.hidden[0][2] is message:
            box.wake()


def _expire(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)


class Grants:
    """`Links` for stores that the transport itself reads and writes: rights in memory, links without URLs.

    Whoever resumes grants anew. `max_bytes` is the largest blob that anybody may put.
    """

    def __init__(self, blobs: BlobStore, *, max_bytes: int = MAX_BLOB_BYTES) -> None:
        self._blobs = blobs
        self._max_bytes = max_bytes
        self._read: dict[str, set[tuple[str, str]]] = {}
        self._write: dict[str, set[str]] = {}

    def grant(self, who: str, *, read: Iterable[tuple[str, str]] = (), write: Iterable[str] = ()) -> None:
        """Add rights."""
        self._read.setdefault(who, set()).update(read)
        self._write.setdefault(who, set()).update(map(check_scope, write))

    def revoke(self, who: str, *, scope_prefix: str) -> None:
        """End every right of `who` in `scope_prefix` and below it."""
        read, write = self._read.get(who), self._write.get(who)
        if read:
            read.difference_update([pair for pair in read if below(pair[0], scope_prefix)])
        if write:
            write.difference_update([scope for scope in write if below(scope, scope_prefix)])

    async def get(self, who: str, scope: str, id: str) -> Link:
        """A link for reading what was granted, if it exists."""
        if (scope, id) not in self._read.get(who, ()):
            raise PolicyError(f"{who}: not allowed to read blob {id[:12]} in {scope[:80]}")
        await self._blobs.manifest(scope, id)
        return Link(scope, id)

    async def put(self, who: str, scope: str, manifest: Manifest) -> UploadTicket:
        """A ticket that names the chunks which are still missing."""
        if scope not in self._write.get(who, ()):
            raise PolicyError(f"{who}: not allowed to write into {scope[:80]}")
        if manifest.size > self._max_bytes:
            raise TooLargeError(f"blob: expected at most {self._max_bytes} bytes, found {manifest.size}")
        return UploadTicket(scope, manifest, tuple(await self._blobs.missing(scope, manifest)))


@dataclass(slots=True)
class MemoryStore:
    """The four seams of one place, in memory; the same shape as `LocalStore`."""

    ledger: MemoryLedger
    blobs: MemoryBlobs
    inbox: MemoryInbox
    links: Grants

    @classmethod
    def open(
        cls,
        *,
        visibility_s: float = VISIBILITY_S,
        now_ms: Callable[[], int] = monotonic_ms,
        max_blob_bytes: int = MAX_BLOB_BYTES,
    ) -> "MemoryStore":
        """Empty seams."""
        blobs = MemoryBlobs()
        inbox = MemoryInbox(visibility_s=visibility_s, now_ms=now_ms)
        return cls(MemoryLedger(), blobs, inbox, Grants(blobs, max_bytes=max_blob_bytes))

    def close(self) -> None:
        """Nothing to do; here for the sake of one shape."""
