"""A role's stream between sites where no server relays: packets through queues, and blobs where they are large.

To a `Bridge` it is what the stream through a server is (`hanse.backends.grpc.relay` has the messages). A packet goes to
the server's queue, whose function checks who sent it and passes it on to the queue of the site that plays the role.
What it holds is sealed. Numbers, repetitions and losses are `hanse.channels.packets`'s; here are the network and time.

A stream outlives its bridge until its peers have what it sent: the last words of a program are on their way when it
ends. Then it only answers what still comes, until the session or the job is over.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import structlog

from hanse.backends.grpc import relay as wire
from hanse.channels.packets import INLINE_BYTES, WINDOW, Lane, Packet, Parcel
from hanse.core.blobs import Manifest
from hanse.core.errors import CodecError, HanseError, NotFoundError
from hanse.core.ids import channel_scope

ALIVE_S = 20.0
"""How often a site says to its peers that it is there: each word is a message through two queues."""
MAX_EARLY, MAX_EARLY_SESSIONS, MAX_OVER = 16, 16, 256
"""Packets of one session that come before it is open here: greetings; such sessions; sessions known to be over."""
log = structlog.get_logger("hanse.link")


class Carry(Protocol):
    """What a stream needs of the link."""

    async def send_packet(self, packet: Packet) -> None:
        """Put a packet into the server's queue, however long it takes."""
        ...

    async def put_blob(self, scope: str, content: bytes) -> Manifest:
        """Put a blob of one chunk.

        Raises:
            HanseError: not now, or never.
        """
        ...

    async def get_blob(self, packet: Packet) -> bytes:
        """The blob that a packet points to.

        Raises:
            HanseError: not now, or never.
        """
        ...


@dataclass(slots=True)
class _Peer:
    """Another role, and what is between it and this one."""

    role: str
    place: int
    lane: Lane
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    blobs: dict[int, Manifest] = field(default_factory=dict)
    fetching: set[int] = field(default_factory=set)
    dropped: list[int] = field(default_factory=list)
    is_over: bool = False
    """Whether its last word has come."""


class QueueStream:
    """One role's end, for one session.

    Args:
        session: its name.
        role: this site's.
        sites: every role's site.
        carry: the link.
        resend_s, answer_s: see `Lane`.
    """

    alive_s = ALIVE_S

    def __init__(self, session: str, role: str, sites: Mapping[str, str], carry: Carry, **lane: float) -> None:
        roles = sorted(sites)
        self.session, self.role = session, role
        self._place = roles.index(role)
        self._carry = carry
        self._peers = {each: _Peer(each, n, Lane(**lane)) for n, each in enumerate(roles) if each != role}
        self._by_place = {peer.place: peer for peer in self._peers.values()}
        self._found: asyncio.Queue[bytes | HanseError | None] = asyncio.Queue()
        self._is_leaving = False
        self._is_given_up = False
        self._works: set[asyncio.Task[None]] = {
            asyncio.ensure_future(self._pump(peer)) for peer in self._peers.values()
        }

    # ---- as a bridge sees it ----

    async def write(self, message: bytes) -> None:
        """Have one message sent; returns at once, since a bridge sends no more than a peer has room for."""
        peer = self._by_place[message[2]]
        peer.lane.push(message)
        peer.changed.set()

    async def read(self) -> bytes | None:
        """The next message; None once the session is over, or all that was sent after `half_close` has come.

        Raises:
            CodecError: a peer's agent sends what is none.
        """
        found = await self._found.get()
        if isinstance(found, HanseError):
            raise found
        return found

    async def half_close(self) -> None:
        """Nothing more is written."""
        self._is_leaving = True
        self._end_if_flushed()

    def cancel(self) -> None:
        """The bridge is over. Peers that were not told so are, and what is on its way still goes."""
        if not self._is_leaving:
            self._is_leaving = True
            for peer in self._peers.values():
                peer.lane.push(wire.head(wire.LOST, self._place, peer.place))
        self._is_given_up = True
        for peer in self._peers.values():
            peer.changed.set()

    # ---- as the link sees it ----

    def take(self, packet: Packet) -> None:
        """A packet for this role has come, of a role that was checked by whoever passed it on."""
        peer = self._peers.get(packet.sender)
        if peer is None:
            return
        if self._is_given_up:
            with contextlib.suppress(HanseError):  # whatever it is, nobody reads it
                peer.lane.came(replace(packet, seq=None), _now())
            peer.lane.take_all(packet, _now())
            peer.changed.set()
        elif packet.blob is not None and packet.seq is not None and peer.lane.wants(packet.seq):
            if packet.links and packet.seq not in peer.fetching:
                peer.fetching.add(packet.seq)
                self._spawn(self._fetch(peer, packet))
        else:
            self._came(peer, packet)

    def close(self) -> None:
        """The session is over."""
        for work in self._works:
            work.cancel()
        self._found.put_nowait(None)

    # ---- details ----

    def _came(self, peer: _Peer, packet: Packet) -> None:
        now_s = _now()
        try:
            for message in peer.lane.came(packet, now_s):
                if len(message) < wire.HEAD_BYTES or message[1:3] != bytes((peer.place, self._place)):
                    raise CodecError(f"{peer.role}: a message from or to a place that is not its own")
                self._found.put_nowait(message)
                if message[0] in (wire.END, wire.LOST):
                    peer.is_over = True
        except HanseError as error:
            self._found.put_nowait(error)
            return
        if peer.is_over:
            peer.lane.end()
            peer.lane.answer_now(now_s)
        peer.changed.set()
        self._end_if_flushed()

    async def _fetch(self, peer: _Peer, packet: Packet) -> None:
        assert packet.seq is not None
        try:
            content = await self._carry.get_blob(packet)
        except HanseError as error:  # it comes again, with new links
            log.warning("a packet's blob was not read", session=self.session, sender=peer.role, reason=str(error))
            return
        finally:
            peer.fetching.discard(packet.seq)
        self._came(peer, replace(packet, blob=None, content=content))
        if not peer.lane.wants(packet.seq):  # otherwise there was no room for it, and it is read again
            peer.dropped.append(packet.seq)

    async def _pump(self, peer: _Peer) -> None:
        """Send what the lane wants sent, when it does."""
        while True:
            peer.changed.clear()
            while (parcel := peer.lane.next(_now())) is not None:
                try:
                    await self._post(peer, parcel)
                except HanseError as error:  # it goes again when its time comes
                    log.warning("a packet was not sent", session=self.session, to=peer.role, reason=str(error))
            self._end_if_flushed()
            due_s = peer.lane.due_s()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if due_s is None else max(0.0, due_s - _now())):
                    await peer.changed.wait()

    async def _post(self, peer: _Peer, parcel: Parcel) -> None:
        content, blob, seq = parcel.content, None, parcel.seq
        if seq is not None and len(content) > INLINE_BYTES:
            if seq not in peer.blobs:
                scope = channel_scope(self.session, self.role, peer.role, seq)
                peer.blobs[seq] = await self._carry.put_blob(scope, content)
            content, blob = b"", peer.blobs[seq]
        dropped, peer.dropped = tuple(peer.dropped[:WINDOW]), peer.dropped[WINDOW:]
        try:
            await self._carry.send_packet(
                Packet(self.session, self.role, peer.role, seq, parcel.ack, content, blob, dropped)
            )
        except HanseError:
            peer.dropped[:0] = dropped  # the next packet says it, or the blobs stay until the session ends
            raise

    def _end_if_flushed(self) -> None:
        if self._is_leaving and all(peer.lane.is_flushed for peer in self._peers.values()):
            self._found.put_nowait(None)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._works.add(task)
        task.add_done_callback(self._works.discard)


def _now() -> float:
    return asyncio.get_running_loop().time()


class Streams:
    """Every stream of a site.

    Args:
        carry: the link.
    """

    def __init__(self, carry: Carry, **lane: float) -> None:
        self._carry, self._lane = carry, lane
        self._open: dict[tuple[str, str], QueueStream] = {}
        self._over: OrderedDict[str, None] = OrderedDict()
        self._early: OrderedDict[tuple[str, str], list[Packet]] = OrderedDict()

    def open(self, session: str, role: str, sites: Mapping[str, str]) -> QueueStream:
        """This site's end of a session. Earlier sessions of its component are over.

        Raises:
            NotFoundError: the session is over.
        """
        component, _, attempt = session.rpartition("/")
        for before in [name for name, _ in self._open if name.rpartition("/")[0] == component]:
            if int(before.rpartition("/")[2]) < int(attempt):
                self.end(before)
        if session in self._over:
            raise NotFoundError(f"the session {session} is over")
        stream = self._open[session, role] = QueueStream(session, role, sites, self._carry, **self._lane)
        for packet in self._early.pop((session, role), []):
            stream.take(packet)
        return stream

    def take(self, packet: Packet) -> None:
        """A packet has come. What comes before its session is open here is kept, if it is little."""
        key = (packet.session, packet.recipient)
        if key in self._open:
            self._open[key].take(packet)
        elif packet.session not in self._over and packet.blob is None:
            early = self._early.setdefault(key, [])
            if len(early) < MAX_EARLY:
                early.append(packet)
            while len(self._early) > MAX_EARLY_SESSIONS:
                self._early.popitem(last=False)

    def end(self, session: str) -> None:
        """The server has ended a session."""
        self._over[session] = None
        while len(self._over) > MAX_OVER:
            self._over.popitem(last=False)
        for key in [key for key in self._open if key[0] == session]:
            self._open.pop(key).close()

    def forget(self, job: str) -> None:
        """A job is over."""
        for session in {name for name, _ in self._open if name.startswith(f"{job}/")}:
            self.end(session)

    def close(self) -> None:
        """The link is."""
        while self._open:
            self._open.popitem()[1].close()
