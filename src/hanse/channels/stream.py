"""A channel for two parties over one asyncio stream, such as a pair of sockets between two processes.

    4 bytes      little-endian length h of the header
    h bytes      canonical JSON [sender, recipient, name, seq, length of the content]
    the content

For benchmarks and two processes on one machine: it neither encrypts nor knows who is at the other end.
"""

import asyncio
import contextlib
import json
import time
from collections import deque
from typing import Any

from hanse.channels.frames import Frame
from hanse.core.codec import canonical_json
from hanse.core.errors import RefusedError, TooLargeError, UnavailableError

MAX_HEADER_BYTES = 1024
MAX_CONTENT_BYTES = 1 << 31
MAX_AHEAD_BYTES = 1 << 30
"""Content that a send may read ahead, but for the last frame."""


class StreamChannel:
    """One end; see `Channel`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._reading: asyncio.Task[Frame] | None = None
        self._ahead: deque[Frame] = deque()

    async def send(self, frame: Frame, wait_s: float) -> bool:
        """See `Channel.send`. While it waits for room, it reads ahead: the other party may be sending, too."""
        ends = self.now() + wait_s
        header = canonical_json([frame.sender, frame.recipient, frame.name, frame.seq, len(frame.content)])
        try:
            self._writer.write(len(header).to_bytes(4, "little") + header)
            self._writer.write(frame.content)
            draining = asyncio.ensure_future(self._writer.drain())
            try:
                await asyncio.sleep(0)  # mostly there is room, and nothing to read ahead for
                while not draining.done() and (left_s := ends - self.now()) > 0:
                    await self._read_ahead(draining, left_s)
                if not draining.done():
                    return False
                draining.result()
            finally:
                draining.cancel()
        except OSError:
            raise UnavailableError(f"{frame.recipient} has closed the connection") from None
        return True

    async def receive(self, wait_s: float) -> Frame | None:
        """See `Channel.receive`. A wait that ends does not lose the half of a frame that has come."""
        if self._ahead:
            return self._ahead.popleft()
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        done, _ = await asyncio.wait([self._reading], timeout=wait_s)
        if not done:
            return None
        reading, self._reading = self._reading, None
        return reading.result()

    async def close(self) -> None:
        """End the connection once everything sent is on its way."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def now(self) -> float:
        """See `Channel.now`."""
        return time.monotonic()

    async def _read_ahead(self, draining: "asyncio.Future[None]", wait_s: float) -> None:
        """Wait for `draining` or for one frame, which is kept. What reading fails with is kept for `receive`."""
        if self._reading is None and sum(len(each.content) for each in self._ahead) < MAX_AHEAD_BYTES:
            self._reading = asyncio.create_task(self._read())
        waiting: set[asyncio.Future[Any]] = {draining}
        if self._reading is not None and not self._reading.done():
            waiting.add(self._reading)
        await asyncio.wait(waiting, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        if self._reading is not None and self._reading.done() and self._reading.exception() is None:
            self._ahead.append(self._reading.result())
            self._reading = None

    async def _read(self) -> Frame:
        try:
            length = int.from_bytes(await self._reader.readexactly(4), "little")
            if length > MAX_HEADER_BYTES:
                raise TooLargeError(f"frame: expected a header of at most {MAX_HEADER_BYTES} bytes, found {length}")
            sender, recipient, name, seq, size = _parse(await self._reader.readexactly(length))
            return Frame(sender, recipient, name, seq, await self._reader.readexactly(size))
        except (asyncio.IncompleteReadError, OSError):
            raise UnavailableError("the other party has closed the connection") from None


def _parse(raw: bytes) -> tuple[str, str, str, int, int]:
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):
        raise RefusedError("frame: header is not JSON") from None
    if not isinstance(header, list) or [type(each) for each in header] != [str, str, str, int, int]:
        raise RefusedError("frame: header is not [sender, recipient, name, seq, length]")
    sender, recipient, name, seq, size = header
    if not (0 <= seq < 2**63 and size >= 0):
        raise RefusedError("frame: header holds a negative number")
    if size > MAX_CONTENT_BYTES:
        raise TooLargeError(f"frame: expected content of at most {MAX_CONTENT_BYTES} bytes, found {size}")
    return sender, recipient, name, seq, size
