"""A channel over one stream socket: between two processes, or between a worker and the agent that speaks for its peers.

    4 bytes      little-endian length h of the header
    h bytes      canonical JSON [sender, recipient, name, seq, length of the content]
    the content

A header is checked by whoever receives before anything of the content is read. It does not encrypt: whoever holds the
other end of the socket is believed to be one of `peers`. Large contents go from and into their own memory, uncopied.
"""

import asyncio
import json
import socket
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np

from hanse.channels.frames import CheckHead, Frame
from hanse.core.codec import canonical_json
from hanse.core.errors import RefusedError, TooLargeError, UnavailableError

MAX_HEADER_BYTES = 1024
MAX_CONTENT_BYTES = 1 << 30
"""Of one frame, refused by its head: as much as may wait for a party in all."""
MAX_AHEAD_BYTES = 1 << 30
"""Content that a send may read ahead, but for the last frame."""
_READ_BYTES = 1 << 16


class StreamChannel:
    """One end; see `Channel`.

    Args:
        sock: connected; this object's own from here on.
        peers: roles for which the other end may speak; None for every role but the receiver's.
    """

    def __init__(self, sock: socket.socket, peers: Iterable[str] | None = None) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._peers = None if peers is None else frozenset(peers)
        self._check: CheckHead | None = None
        self._reader = SocketReader(sock)
        self._reading: asyncio.Task[Frame] | None = None
        self._ahead: deque[Frame] = deque()
        self._unsent: deque[memoryview] = deque()

    def expect(self, check: CheckHead) -> None:
        """See `Channel.expect`."""
        self._check = check

    async def send(self, frame: Frame, wait_s: float) -> bool:
        """See `Channel.send`. While it waits for room, it reads ahead: the other party may be sending, too."""
        ends = self.now() + wait_s
        self._unsent += (memoryview(encode_head(frame, len(frame.content))), memoryview(frame.content).cast("B"))
        try:
            if self._push():
                return True
            draining = asyncio.ensure_future(self._drain())
            try:
                while not draining.done() and (left_s := ends - self.now()) > 0:
                    await self._read_ahead(draining, left_s)
                if not draining.done():
                    return False  # the rest goes before the next frame
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
        """End the connection. What `send` was told is sent has left this process."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        self._sock.close()

    def now(self) -> float:
        """See `Channel.now`."""
        return time.monotonic()

    def _push(self) -> bool:
        """Send what the socket takes now; whether that was all."""
        while self._unsent:
            try:
                sent = self._sock.sendmsg(list(self._unsent)[:8])
            except BlockingIOError:
                return False
            while self._unsent and sent >= len(self._unsent[0]):
                sent -= len(self._unsent.popleft())
            if sent:
                self._unsent[0] = self._unsent[0][sent:]
        return True

    async def _drain(self) -> None:
        while not self._push():
            await writable(self._sock)

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
            length = int.from_bytes(await self._reader.exactly(4), "little")
            if length > MAX_HEADER_BYTES:
                raise TooLargeError(f"frame: expected a header of at most {MAX_HEADER_BYTES} bytes, found {length}")
            sender, recipient, name, seq, size = parse_head(await self._reader.exactly(length))
            if self._peers is not None and sender not in self._peers:
                raise RefusedError("frame: the other end speaks for a role that is not its own")
            if self._check is not None:
                self._check(sender, recipient, name, size)
            content = np.empty(size, np.uint8).data  # untouched: a head costs no memory before its content comes
            await self._reader.fill(content)
        except OSError:
            raise UnavailableError("the other party has closed the connection") from None
        return Frame(sender, recipient, name, seq, content)


class SocketReader:
    """Exact amounts from a non-blocking socket. At its end it raises `ConnectionResetError`."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()

    async def exactly(self, size: int) -> bytes:
        """The next `size` bytes; for few."""
        while len(self._buffer) < size:
            part = await asyncio.get_running_loop().sock_recv(self._sock, _READ_BYTES)
            if not part:
                raise ConnectionResetError
            self._buffer += part
        found = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        return found

    async def fill(self, view: memoryview) -> None:
        """Read exactly as much as `view` holds, past the buffer where it is empty."""
        loop = asyncio.get_running_loop()
        taken = min(len(view), len(self._buffer))
        view[:taken] = self._buffer[:taken]
        del self._buffer[:taken]
        while taken < len(view):
            count = await loop.sock_recv_into(self._sock, view[taken:])
            if not count:
                raise ConnectionResetError
            taken += count


async def writable(sock: socket.socket) -> None:
    """Wait until a non-blocking socket takes bytes again."""
    loop = asyncio.get_running_loop()
    free: asyncio.Future[None] = loop.create_future()

    def note() -> None:
        if not free.done():
            free.set_result(None)

    loop.add_writer(sock, note)
    try:
        await free
    finally:
        loop.remove_writer(sock)


def encode_head(frame: Frame, size: int) -> bytes:
    """What goes before a content of `size` bytes."""
    header = canonical_json([frame.sender, frame.recipient, frame.name, frame.seq, size])
    return len(header).to_bytes(4, "little") + header


def parse_head(raw: bytes) -> tuple[str, str, str, int, int]:
    """Sender, recipient, name, number and length of the content.

    Raises:
        RefusedError: not a header. TooLargeError: of a content over `MAX_CONTENT_BYTES`.
    """
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
