"""Sites that play roles through a relay: in memory, where the server may be dishonest, or over gRPC on loopback."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hanse.backends.grpc.relay import End, RelaySession
from hanse.channels.party import Party, run_role
from hanse.channels.protocol import Protocol
from hanse.channels.stream import StreamChannel
from hanse.site.relay import Bridge, Stream
from hanse.trust.sessions import SessionContext, SessionEnd
from tests.patience import WAIT_S

CONTEXT = SessionContext("lubeck", "job1", "main", "job1/main/1", "ab" * 32)
Tamper = Callable[[bytes], list[bytes]]


class MemoryStream:
    """A site's stream straight into a `RelaySession`; `tamper` is what a dishonest server makes of a message."""

    alive_s = 2.5

    def __init__(self, end: End, tamper: Tamper = lambda message: [message]) -> None:
        self._end, self._tamper = end, tamper
        self._closed = asyncio.Event()

    async def write(self, message: bytes) -> None:
        for each in self._tamper(message):
            self._end.take(each)
        await asyncio.sleep(0)

    async def read(self) -> bytes | None:
        coming, closed = asyncio.ensure_future(self._end.next()), asyncio.ensure_future(self._closed.wait())
        try:
            await asyncio.wait((coming, closed), return_when=asyncio.FIRST_COMPLETED)
            return coming.result() if coming.done() else None
        finally:
            coming.cancel()
            closed.cancel()

    async def half_close(self) -> None:
        self._end.leave()
        self._closed.set()

    def cancel(self) -> None:
        self._end.leave()
        self._closed.set()


class Sites:
    """Keys of each role's site, and roles played with them."""

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self.keys = {role: X25519PrivateKey.generate() for role in protocol.roles}
        self.ends = {
            role: SessionEnd(role, f"site-{role}", key.public_key().public_bytes_raw())
            for role, key in self.keys.items()
        }
        self.session = RelaySession({role: end.site for role, end in self.ends.items()})
        self.channels: dict[str, StreamChannel] = {}

    def stream(self, role: str, tamper: Tamper = lambda message: [message]) -> MemoryStream:
        return MemoryStream(self.session.attach(role, f"site-{role}"), tamper)

    @asynccontextmanager
    async def bridged(
        self, role: str, stream: Stream, *, context: SessionContext = CONTEXT, **party: Any
    ) -> AsyncIterator[tuple[Party, "asyncio.Task[None]"]]:
        """A party whose frames go through `stream`, and the bridge at work."""
        ours, theirs = socket.socketpair()
        bridge = Bridge(stream, ours, self.protocol, role, ends=self.ends, context=context, key=self.keys[role])
        running = asyncio.ensure_future(bridge.run())
        channel = self.channels[role] = StreamChannel(theirs)
        try:
            yield Party(role, self.protocol, channel, **{"timeout_s": WAIT_S, **party}), running
        finally:
            await channel.close()
            with contextlib.suppress(BaseException):
                await asyncio.wait_for(running, WAIT_S)

    async def play(
        self,
        programs: Mapping[str, Callable[[Party], Awaitable[Any]]],
        streams: Mapping[str, Stream] | None = None,
        **party: Any,
    ) -> dict[str, Any]:
        """Every role's result, or its error; a bridge's error goes before its program's."""
        streams = {role: self.stream(role) for role in programs} if streams is None else streams

        async def one(role: str) -> Any:
            try:
                async with self.bridged(role, streams[role], **party) as (own, running):
                    playing = asyncio.ensure_future(run_role(own, programs[role]))
                    await asyncio.wait((playing, running), return_when=asyncio.FIRST_COMPLETED)
                    if not playing.done():
                        await asyncio.wait([playing], timeout=WAIT_S)
                        playing.cancel()
                        await asyncio.gather(playing, return_exceptions=True)
                    if running.done():
                        running.result()
                    return playing.result()
            except Exception as error:
                return error

        return dict(zip(programs, await asyncio.gather(*(one(role) for role in programs)), strict=True))
