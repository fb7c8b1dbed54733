"""The server's end of every site's inbox: what waits for a site, and the session through which it goes out.

In memory: a run's record holds what must be sent, so a server that restarts sends it again. A message stays until
it is acknowledged, and goes out again when the site opens a new session.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from hanse.core.proto import hanse_pb2 as pb
from hanse.core.records import Envelope
from hanse.core.seams import Delivery

Key = tuple[str, str]
"""(kind, id) of a message."""
MAX_UNREAD = 8192
"""Frames that wait for a site to read them before it may ask for more."""


@dataclass(slots=True)
class _Waiting:
    envelope: Envelope
    count: int = 0


ACCEPT_S = 0.005
"""How long the fate of a message may wait for a delivery to go with: a round is often over in that time."""


class Outgoing:
    """Frames on their way to one site, through one session."""

    def __init__(self) -> None:
        self._frames: deque[pb.ServerFrame] = deque()
        self._accepted: list[pb.Accepted] = []
        self._changed = asyncio.Event()
        self.ended = asyncio.Event()
        self.closed = ""
        self.status = grpc.StatusCode.UNAVAILABLE
        self.writing = False

    def put(self, frame: pb.ServerFrame) -> None:
        """Queue a frame; dropped when the session is over."""
        if self.closed:
            return
        if self._accepted and frame.WhichOneof("kind") == "delivery":
            frame.delivery.accepted.extend(self._accepted)
            self._accepted.clear()
        self._frames.append(frame)
        self._changed.set()

    def accept(self, accepted: pb.Accepted) -> None:
        """Queue the fate of a message: with the next delivery if one follows at once, on its own otherwise."""
        if len(self._accepted) + len(self._frames) >= MAX_UNREAD:
            self.close("the site does not read what it is sent")
        if not self._accepted:
            asyncio.get_running_loop().call_later(ACCEPT_S, self._flush)
        self._accepted.append(accepted)

    def _flush(self) -> None:
        due, self._accepted = self._accepted, []
        for accepted in due:
            self.put(pb.ServerFrame(accepted=accepted))

    def answer(self, frame: pb.ServerFrame) -> None:
        """Queue an answer to something that the site sent. A site that sends without reading is hung up on."""
        if len(self._frames) >= MAX_UNREAD:
            self.close("the site does not read what it is sent")
        self.put(frame)

    def close(self, reason: str, *, final: bool = False, status: Any = None) -> None:
        """End the session now; what was queued goes out through the next one. `final`: there need not be a next."""
        if not self.closed:
            self.closed = reason
            if final or status is not None:
                self.status = grpc.StatusCode.UNAUTHENTICATED if final else status
            self.ended.set()

    async def next(self) -> pb.ServerFrame:
        """The next frame."""
        while not self._frames:
            self._changed.clear()
            await self._changed.wait()
        return self._frames.popleft()


class SessionInbox:
    """An `Inbox` whose recipients hold a session each; at most one session a site, the newest."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[Key, _Waiting]] = {}
        self._sessions: dict[str, Outgoing] = {}
        self._arrived: dict[str, asyncio.Event] = {}

    # ---- sessions ----

    def attach(self, site: str, outgoing: Outgoing, holding: Sequence[str] = ()) -> None:
        """Send everything that waits, and all that comes, through `outgoing`; tasks in `holding` the site has."""
        before = self._sessions.get(site)
        if before is not None:
            before.close("replaced by a newer session of the same site")
        self._sessions[site] = outgoing
        held = set(holding)
        for (kind, id), waiting in list(self._waiting.get(site, {}).items()):
            if not (kind == "task" and id in held):
                self._push(outgoing, waiting)

    def detach(self, site: str, outgoing: Outgoing) -> bool:
        """The session is over; True if it was the site's current one."""
        if self._sessions.get(site) is not outgoing:
            return False
        del self._sessions[site]
        return True

    def session(self, site: str) -> Outgoing | None:
        """The site's current session."""
        return self._sessions.get(site)

    def _push(self, outgoing: Outgoing, waiting: _Waiting) -> None:
        waiting.count += 1
        envelope = waiting.envelope
        frame = pb.ServerFrame()
        frame.delivery.receipt, frame.delivery.count = _receipt(envelope.kind, envelope.id), waiting.count
        envelope.fill(frame.delivery.envelope)
        outgoing.put(frame)

    # ---- the seam ----

    async def send(self, to: str, envelope: Envelope, *, durable: bool = True) -> None:
        """Keep until acknowledged, and push if the site is there. What is not durable waits for nobody."""
        waiting = _Waiting(envelope)
        outgoing = self._sessions.get(to)
        if envelope.kind == "release":
            self.forget(to, "task", envelope.id)
        if durable or outgoing is None:
            self._waiting.setdefault(to, {})[(envelope.kind, envelope.id)] = waiting
        if outgoing is not None:
            self._push(outgoing, waiting)
        arrived = self._arrived.get(to)
        if arrived is not None:
            arrived.set()

    async def receive(self, who: str, max: int = 1, wait_s: float = 20.0) -> list[Delivery]:
        """What waits for a recipient without a session."""
        arrived = self._arrived.setdefault(who, asyncio.Event())
        if not self._waiting.get(who):
            arrived.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await arrived.wait()
            except TimeoutError:
                return []
        found = []
        for (kind, id), waiting in list(self._waiting.get(who, {}).items())[:max]:
            waiting.count += 1
            found.append(Delivery(f"{who}/{_receipt(kind, id)}", waiting.envelope, waiting.count))
        return found

    async def extend(self, receipts: Sequence[str], seconds: float) -> None:
        """Nothing comes again while its session lives."""

    async def ack(self, receipts: Sequence[str]) -> None:
        """These need not come again."""
        for receipt in receipts:
            who, _, rest = receipt.partition("/")
            kind, _, id = rest.partition(":")
            self.forget(who, kind, id)

    def forget(self, site: str, kind: str, id: str) -> None:
        """This message needs not come again."""
        waiting = self._waiting.get(site)
        if waiting is not None:
            waiting.pop((kind, id), None)
            if not waiting:
                del self._waiting[site]


def _receipt(kind: str, id: str) -> str:
    return f"{kind}:{id}"
