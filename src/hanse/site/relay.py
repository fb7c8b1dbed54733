"""A role's channel through the server: seals what its worker sends, opens what its peers sent, and stops who is ahead.

The worker holds no key and speaks the format of `hanse.channels.stream` over a socket; here is the other end of that
socket. A frame goes through the server in pieces of at most 1 MiB, sealed each under the session's keys
(`hanse.trust.sessions`), so that neither end of the relay ever holds a whole frame:

    1 byte: 1 where a frame begins, otherwise 0
    where it begins: 2 bytes little-endian length, canonical JSON [name, seq, length of the content]
    content

What a worker or a peer sends is checked by its head, against the job's declared messages, before anything of it is
passed on. A peer's site says every few seconds that it is there, whatever its program does.
"""

import asyncio
import contextlib
import json
import socket
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hanse.backends.grpc import relay as wire
from hanse.channels.frames import ALIVE, LOST, PASSED_ON, STOPPED, Frame
from hanse.channels.protocol import Protocol as Declared
from hanse.channels.stream import MAX_CONTENT_BYTES, MAX_HEADER_BYTES, SocketReader, encode_head, parse_head
from hanse.core.codec import canonical_json
from hanse.core.errors import CodecError, RefusedError, TooLargeError, TrustError, UnavailableError
from hanse.trust.sessions import TAG_BYTES, Handshake, Opener, Sealer, SessionContext, SessionEnd

PIECE_BYTES = 1 << 20
TELL_BYTES = wire.WINDOW_BYTES // 4
"""Bytes taken from a peer before it is told."""


class Stream(Protocol):
    """What is needed of `backends.grpc.client.RelayStream` and of `site.queue_streams.QueueStream`.

    Attributes:
        alive_s: how often a site says to its peers that it is there.
    """

    alive_s: float

    async def write(self, message: bytes) -> None: ...
    async def read(self) -> bytes | None: ...
    async def half_close(self) -> None: ...
    def cancel(self) -> None: ...


@dataclass(slots=True)
class _Peer:
    """Another role, its keys, and the bytes on their way in both directions."""

    role: str
    place: int
    handshake: Handshake
    sealer: Sealer | None = None
    opener: Opener | None = None
    sent: int = 0
    taken_by_it: int = 0
    came: int = 0
    taken: int = 0
    told: int = 0
    waiting: deque[bytes] = field(default_factory=deque)
    end: str = ""
    """The sign with which it ended, once that has come."""
    room: asyncio.Event = field(default_factory=asyncio.Event)


def worker_pair() -> tuple[socket.socket, socket.socket]:
    """The agent's and the worker's end of a channel, with room for a piece, so that both wake up less often."""
    pair = socket.socketpair()
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE_BYTES)
    return pair


class Bridge:
    """One role's end, for one session. `run` it while the worker plays the role.

    Args:
        stream: opened to the server.
        worker: the agent's end of a `worker_pair` whose other end the worker has.
        protocol: what the signed job declares.
        role: this site's.
        ends: every role's site and lasting public key.
        context: see `SessionContext`.
        key: this site's lasting private key.
    """

    def __init__(
        self,
        stream: Stream,
        worker: socket.socket,
        protocol: Declared,
        role: str,
        *,
        ends: Mapping[str, SessionEnd],
        context: SessionContext,
        key: X25519PrivateKey,
    ) -> None:
        worker.setblocking(False)
        self._stream = stream
        self._worker = worker
        self._protocol = protocol
        self._role = role
        roles = sorted(ends)
        self._place = roles.index(role)
        self._peers = {
            each: _Peer(each, roles.index(each), Handshake(context, ends[role], ends[each], key))
            for each in roles
            if each != role
        }
        self._by_place = {peer.place: peer for peer in self._peers.values()}
        self._arrived = asyncio.Event()
        self._turn: deque[_Peer] = deque(self._peers.values())
        self._alive: set[str] = set()

    async def run(self) -> None:
        """Carry frames until the worker closes its end and all that it sent is on its way.

        Raises:
            TrustError: a peer is not who it should be, or the server has changed something. RefusedError: the worker
                or a peer sent what is not declared. UnavailableError: the stream broke.
        """
        tasks: list[asyncio.Task[None]] = []
        try:
            for peer in self._peers.values():
                await self._stream.write(wire.head(wire.HELLO, self._place, peer.place) + peer.handshake.hello)
            works = (self._up(), self._read(), self._down(), self._say_alive())
            up, reading, down, alive = tasks = [asyncio.ensure_future(work) for work in works]
            pending = set(tasks)
            while not up.done():
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                if reading in done:
                    raise UnavailableError("the server has closed the session")
            alive.cancel()
            down.cancel()
            await self._finish(reading)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._worker.close()
            self._stream.cancel()

    async def _finish(self, reading: "asyncio.Task[None]") -> None:
        """Say that nothing follows, and wait until the server has taken all."""
        for peer in self._peers.values():
            if not peer.end:
                await self._stream.write(wire.head(wire.END, self._place, peer.place))
        await self._stream.half_close()
        await reading

    # ---- from the worker to the peers ----

    async def _up(self) -> None:
        reader = SocketReader(self._worker)
        room = memoryview(bytearray(MAX_HEADER_BYTES + PIECE_BYTES))  # used again: fresh pages cost more than the copy
        with contextlib.suppress(ConnectionError):  # the program is over
            while True:
                length = int.from_bytes(await reader.exactly(4), "little")
                if length > MAX_HEADER_BYTES:
                    raise TooLargeError(f"frame: expected a header of at most {MAX_HEADER_BYTES} bytes")
                sender, recipient, name, seq, size = parse_head(await reader.exactly(length))
                self._check(sender, recipient, name, size)
                if sender != self._role:
                    raise RefusedError(f"role {self._role}: its program sends in the name of another role")
                inner = canonical_json([name, seq, size])
                start = b"\1" + len(inner).to_bytes(2, "little") + inner
                peer = self._peers[recipient]
                while start or size:
                    part = min(size, PIECE_BYTES)
                    start = start or b"\0"
                    piece = room[: len(start) + part]
                    piece[: len(start)] = start
                    await reader.fill(piece[len(start) :])
                    await self._send(peer, piece)
                    start, size = b"", size - part

    async def _send(self, peer: _Peer, piece: memoryview) -> None:
        """Seal and send, once there are keys and room. What goes to a peer that has ended is dropped."""
        size = len(piece) + TAG_BYTES
        while not peer.end and (peer.sealer is None or peer.sent + size - peer.taken_by_it > wire.WINDOW_BYTES):
            peer.room.clear()
            await peer.room.wait()
        if peer.end or peer.sealer is None:
            return
        peer.sent += size
        sealed = peer.sealer.seal(piece)
        await self._stream.write(wire.head(wire.DATA, self._place, peer.place) + sealed)

    async def _say_alive(self) -> None:
        while True:
            await asyncio.sleep(self._stream.alive_s)
            for peer in self._peers.values():
                if not peer.end:
                    await self._stream.write(wire.head(wire.ALIVE, self._place, peer.place))

    # ---- from the peers to the worker ----

    async def _read(self) -> None:
        """Take what the server passes on; returns when it has ended the stream."""
        while (message := await self._stream.read()) is not None:
            if len(message) < wire.HEAD_BYTES:
                raise CodecError("relay: expected kind, sender and recipient")
            kind, sender, recipient = message[: wire.HEAD_BYTES]
            peer = self._by_place.get(sender)
            if peer is None or recipient != self._place:
                raise CodecError("relay: a message from or to a place that is not in this session")
            self._take(peer, kind, message)

    def _take(self, peer: _Peer, kind: int, message: bytes) -> None:
        payload = memoryview(message)[wire.HEAD_BYTES :]
        if kind == wire.DATA:
            peer.came += len(payload)
            if len(payload) <= wire.TAG_BYTES or peer.came - peer.taken > wire.WINDOW_BYTES or peer.end:
                raise TooLargeError("relay: more than there was room for")
            peer.waiting.append(message)
        elif kind == wire.HELLO:
            peer.sealer, peer.opener = peer.handshake.finish(bytes(payload))
            peer.room.set()
        elif kind == wire.TAKEN:
            taken = int.from_bytes(payload, "little")
            if not peer.taken_by_it <= taken <= peer.sent:
                raise CodecError("relay: a number of taken bytes that cannot be")
            peer.taken_by_it = taken
            peer.room.set()
        elif kind == wire.ALIVE:
            self._alive.add(peer.role)
        elif kind in (wire.END, wire.LOST):
            if peer.end:
                return
            peer.end = STOPPED if kind == wire.END else LOST
            peer.waiting.append(b"")
            peer.room.set()
        self._arrived.set()

    async def _down(self) -> None:
        """Open pieces and hand their frames to the worker, one frame at a time."""
        with contextlib.suppress(ConnectionError):  # the program is over, which `_up` sees as well
            while True:
                peer = await self._next_peer()
                if peer is None:
                    await self._sign_alive()
                    continue
                piece = await self._next_piece(peer)
                if piece is None:
                    await self._write(encode_head(Frame(peer.role, self._role, peer.end, 0, b""), 0))
                    continue
                name, seq, size, content = self._begin(peer, piece)
                await self._write(encode_head(Frame(peer.role, self._role, name, seq, b""), size) + content)
                size -= len(content)
                while size:
                    piece = await self._next_piece(peer)
                    if piece is None:
                        raise UnavailableError(f"{peer.role} was lost in the middle of a message")
                    if not piece or piece[0] or not 1 < len(piece) <= size + 1:
                        raise RefusedError(f"{peer.role}: expected the rest of a frame, found another piece")
                    await self._write(memoryview(piece)[1:])
                    size -= len(piece) - 1

    async def _next_peer(self) -> _Peer | None:
        """Whose piece is next, in turns; None where there is only word that some are alive."""
        while True:
            self._arrived.clear()
            for _ in range(len(self._turn)):
                self._turn.rotate(-1)
                if self._turn[-1].waiting:
                    return self._turn[-1]
            if self._alive:
                return None
            await self._arrived.wait()

    async def _next_piece(self, peer: _Peer) -> bytes | None:
        """The peer's next piece, opened; None at its end. The peer is told when there is room for much again."""
        while not peer.waiting:
            self._arrived.clear()
            await self._arrived.wait()
        message = peer.waiting.popleft()
        if not message:
            return None
        if peer.opener is None:
            raise TrustError(f"{peer.role}: a piece before its hello")
        piece = peer.opener.open(memoryview(message)[wire.HEAD_BYTES :])
        peer.taken += len(message) - wire.HEAD_BYTES
        if peer.taken - peer.told >= TELL_BYTES:
            peer.told = peer.taken
            word = wire.head(wire.TAKEN, self._place, peer.place) + peer.taken.to_bytes(8, "little")
            await self._stream.write(word)
        return piece

    def _begin(self, peer: _Peer, piece: bytes) -> tuple[str, int, int, bytes]:
        """Name, number, length and first content of a frame."""
        length = int.from_bytes(piece[1:3], "little")
        try:
            name, seq, size = json.loads(piece[3 : 3 + length])
        except (ValueError, TypeError, RecursionError):
            raise RefusedError(f"{peer.role}: a frame's head is not [name, seq, length]") from None
        content = piece[3 + length :]
        if piece[:1] != b"\1" or [type(each) for each in (name, seq, size)] != [str, int, int]:
            raise RefusedError(f"{peer.role}: expected the beginning of a frame, found another piece")
        if not (0 <= seq < 2**63 and len(content) <= size <= MAX_CONTENT_BYTES):
            raise RefusedError(f"{peer.role}: a frame's head holds a number that cannot be")
        self._check(peer.role, self._role, name, size)
        return name, seq, size, content

    async def _sign_alive(self) -> None:
        """Pass on who is there, unless the worker is not reading: it will see what waits for it first."""
        for role in sorted(self._alive):
            with contextlib.suppress(BlockingIOError):
                sign = encode_head(Frame(role, self._role, ALIVE, 0, b""), 0)
                sent = self._worker.send(sign)
                if sent < len(sign):
                    await self._write(sign[sent:])
        self._alive.clear()

    async def _write(self, content: bytes | memoryview) -> None:
        await asyncio.get_running_loop().sock_sendall(self._worker, content)

    def _check(self, sender: str, recipient: str, name: str, size: int) -> None:
        """Refuse what the job does not declare, before any of it is passed on."""
        if {sender, recipient} - {self._role, *self._peers} or sender == recipient:
            raise RefusedError("a frame from or to a role that is not in this session")
        message = self._protocol.find(sender, recipient, name)
        if message is None and name not in PASSED_ON:
            raise RefusedError(f"{sender}: a message that {self._protocol.name} does not declare")
        limit = 0 if message is None else message.max_bytes()
        if limit is not None and size > limit:
            raise TooLargeError(f"{sender}: a message of more bytes than is declared, {size} of {limit}")
