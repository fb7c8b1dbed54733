"""What every blob store needs, wherever it keeps blobs: which bytes were written, which ranges there are."""

import threading
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable

from hanse.core.blobs import MAX_BLOB_BYTES, Chunk, Manifest
from hanse.core.errors import IntegrityError, NotFoundError, TooLargeError

EMPTY = Manifest(0, b"")
"""The empty blob has no chunk that could be missing, so every scope holds it."""
Chunks = Iterable[tuple[int, Chunk]] | AsyncIterable[tuple[int, Chunk]]


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
