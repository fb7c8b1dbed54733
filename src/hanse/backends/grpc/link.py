"""A site's lasting connection: opens the one stream, keeps it alive, opens it again, and loses nothing on the way.

Messages that the server has not accepted yet are sent again on the next stream. Whether the server lives is judged by
its answers to heartbeats: a proxy that swallows packets looks like a broken connection after a lease.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
import grpc.aio
import structlog

from hanse.backends.grpc.client import Connection
from hanse.backends.grpc.protocol import HEARTBEAT_S, LEASE_S, error_of
from hanse.core.errors import CodecError, HanseError, TrustError, UnavailableError
from hanse.core.proto import hanse_pb2 as pb
from hanse.core.records import WIRE_VERSION, Envelope

Deliver = Callable[[Envelope, int], Awaitable[None]]
Accepted = Callable[[str, str, str], None]
log = structlog.get_logger("hanse.link")

FIRST_WAIT_S, LONGEST_WAIT_S = 0.05, 2.0


class Link:
    """One site's session, for as long as the site runs.

    Args:
        connect: makes a connection; called anew after each that broke, so that new certificates are used.
        deliver: takes one message of the server. It must return quickly.
        accepted: told the outcome of each message sent: id, outcome, reason.
        holding: task ids that the site has already, so that they need not be sent again.
        facts: what the site tells about itself.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        *,
        deliver: Deliver,
        accepted: Accepted,
        holding: Callable[[], Sequence[str]] = tuple,
        facts: Callable[[], dict[str, str]] = dict,
        software: str = "",
    ) -> None:
        self._connect = connect
        self._deliver = deliver
        self._on_accepted = accepted
        self._holding = holding
        self._facts = facts
        self._software = software
        self._unaccepted: dict[str, Envelope] = {}
        self._outgoing: asyncio.Queue[pb.SiteFrame] = asyncio.Queue()
        self._heard = 0.0
        self.connection: Connection | None = None
        self.connected = asyncio.Event()
        self.last_error = ""

    def send(self, envelope: Envelope) -> None:
        """Send until accepted, over as many connections as it takes."""
        self._unaccepted[envelope.id] = envelope
        if self.connected.is_set():
            self._outgoing.put_nowait(_frame_of(envelope))

    def done(self, kind: str, id: str) -> None:
        """A delivered message needs not come again."""
        self._outgoing.put_nowait(pb.SiteFrame(done=f"{kind}:{id}"))

    def report(self, task: str, stage: str) -> None:
        """Progress, for people; may be lost."""
        if self.connected.is_set():
            self._outgoing.put_nowait(pb.SiteFrame(report=pb.TaskReport(task=task, stage=stage)))

    def ask(self, job: str) -> bool:
        """The server proposes by itself, with each session, what the site has not decided."""
        return False

    async def leave(self) -> None:
        """The end of the stream says it."""

    async def run(self) -> None:
        """Hold a session until cancelled.

        Raises:
            TrustError: the server does not know this site any more (revoked, expired, foreign).
        """
        wait_s = FIRST_WAIT_S
        while True:
            connection = self.connection = self._connect()
            try:
                await self._session(connection)
                wait_s = FIRST_WAIT_S
            except TrustError as error:
                self.last_error = str(error)
                raise
            except (HanseError, OSError) as error:
                if str(error) != self.last_error:
                    log.warning("connection lost", reason=str(error))
                self.last_error = str(error)
                if self._heard:
                    wait_s = FIRST_WAIT_S
            finally:
                self._heard = 0.0
                self.connected.clear()
                await connection.close()
            # back-off with jitter, so that a server that comes back is not run over by all its sites at once
            await asyncio.sleep(wait_s * (0.5 + random.random()))
            wait_s = min(wait_s * 2, LONGEST_WAIT_S)

    async def _session(self, connection: Connection) -> None:
        call = connection.open_session()
        loop = asyncio.get_running_loop()
        self._outgoing = asyncio.Queue()
        try:
            hello = pb.Hello(v=WIRE_VERSION, software=self._software, holding=self._holding(), facts=self._facts())
            await call.write(pb.SiteFrame(hello=hello))
            first = await call.read()
            if first is grpc.aio.EOF or first.WhichOneof("kind") != "welcome":
                raise await _ended(call)
            self._heard = loop.time()
            self.last_error = ""
            self.connected.set()
            log.info("connected", server=connection.address)
            for envelope in list(self._unaccepted.values()):
                self._outgoing.put_nowait(_frame_of(envelope))
            await self._hold(call)
        except grpc.RpcError as error:
            raise error_of(error) from None
        except asyncio.InvalidStateError:
            raise UnavailableError("the session ended") from None
        finally:
            call.cancel()

    async def _hold(self, call: Any) -> None:
        tasks = [asyncio.ensure_future(work) for work in (self._read(call), self._write(call), self._keep_alive())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, call: Any) -> None:
        loop = asyncio.get_running_loop()
        while (frame := await call.read()) is not grpc.aio.EOF:
            self._heard = loop.time()
            match frame.WhichOneof("kind"):
                case "delivery":
                    for accepted in frame.delivery.accepted:
                        self._accept(accepted)
                    try:
                        envelope = Envelope.from_message(frame.delivery.envelope)
                    except CodecError as error:
                        log.error("message refused", reason=str(error))
                        continue
                    await self._deliver(envelope, frame.delivery.count)
                case "accepted":
                    self._accept(frame.accepted)
                case _:
                    pass  # heartbeats only need to be heard; a newer server's kinds are left alone
        raise await _ended(call)

    def _accept(self, accepted: pb.Accepted) -> None:
        if accepted.outcome != "later":  # the server could not keep it: it goes again with the next session
            self._unaccepted.pop(accepted.id, None)
        self._on_accepted(accepted.id, accepted.outcome, accepted.reason)

    async def _write(self, call: Any) -> None:
        while True:
            await call.write(await self._outgoing.get())

    async def _keep_alive(self) -> None:
        loop = asyncio.get_running_loop()
        number = 0
        while True:
            began = loop.time()
            await asyncio.sleep(HEARTBEAT_S)
            self._heard += max(0.0, loop.time() - began - HEARTBEAT_S)  # while we stood still we did not listen
            if loop.time() - self._heard > LEASE_S:
                raise UnavailableError(f"the server has not answered for {LEASE_S:g} s")
            number += 1
            self._outgoing.put_nowait(pb.SiteFrame(heartbeat=pb.Heartbeat(n=number)))


def _frame_of(envelope: Envelope) -> pb.SiteFrame:
    frame = pb.SiteFrame()
    envelope.fill(frame.envelope)
    return frame


async def _ended(call: Any) -> HanseError:
    """Why a stream ended."""
    code = await call.code()
    details = await call.details()
    if code == grpc.StatusCode.UNAUTHENTICATED:
        return TrustError(details)
    return UnavailableError(f"the server ended the session: {details or code}")
