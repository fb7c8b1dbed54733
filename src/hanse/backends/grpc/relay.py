"""Channels between sites, put through by the server: what waits for whom, how much of it, and who is gone.

Each site opens one stream `Relay` for each session and role. After the opening, canonical JSON {v, session, role},
every message is the same up and down, so that the server passes on what it got:

    1 byte kind · 1 byte sender · 1 byte recipient · payload        sender, recipient: places among the sorted roles

    HELLO   a fresh public key; once for each pair
    DATA    a sealed piece of a frame; at most `WINDOW_BYTES` of a pair are on their way
    TAKEN   8 bytes little-endian: how many bytes of DATA the sender has taken from the recipient so far
    ALIVE   nothing; the sender's site is there
    END     nothing; the sender has said all
    LOST    from the server only: the sender's stream broke

Memory is bounded by `WINDOW_BYTES` for each ordered pair of roles, whatever a site does: the server never stops
reading, and ends the stream of a site that sends more than the recipient has made room for. So a slow recipient stops
its own senders and nobody else. What pieces hold, the server cannot read.
"""

import asyncio
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from hanse.core.codec import canonical_json
from hanse.core.errors import CodecError, ConflictError, NotFoundError, PolicyError, RefusedError, TooLargeError

HELLO, DATA, TAKEN, ALIVE, END, LOST = range(6)
HEAD_BYTES = 3
WINDOW_BYTES = 8 << 20
MAX_PIECE_BYTES = (1 << 20) + 4096
TAG_BYTES = 16
MAX_WAITING = 1 << 17
"""Pieces of a pair: the smallest ones of a full window."""
MAX_HELLO_BYTES = 1024
MAX_ROLES = 32
VERSION = 1


def head(kind: int, sender: int, recipient: int) -> bytes:
    """The first bytes of a message."""
    return bytes((kind, sender, recipient))


def opening(session: str, role: str) -> bytes:
    """What a site says first."""
    return canonical_json({"v": VERSION, "session": session, "role": role})


def read_opening(content: bytes | None) -> tuple[str, str]:
    """Session and role.

    Raises:
        CodecError: anything else.
    """
    try:
        body = json.loads(content or b"")
    except (ValueError, RecursionError):
        raise CodecError("relay: expected an opening, found other bytes") from None
    if not isinstance(body, dict) or body.get("v") != VERSION:
        raise CodecError(f"relay: expected an opening of version {VERSION}; update the older of site and server")
    session, role = body.get("session"), body.get("role")
    if not isinstance(session, str) or not isinstance(role, str):
        raise CodecError("relay: expected an opening with session and role")
    return session, role


@dataclass(slots=True)
class _Pair:
    """What is on its way from one role to another. Bytes count DATA only."""

    waiting: deque[bytes] = field(default_factory=deque)
    sent: int = 0
    taken: int = 0
    is_greeted: bool = False


class End:
    """One role's end at the server."""

    def __init__(self, session: "RelaySession", place: int) -> None:
        self._session = session
        self._place = place
        self._is_over = False

    def take(self, message: bytes) -> None:
        """Take one message of this role.

        Raises:
            RefusedError: it is none, or more than there is room for.
        """
        if len(message) < HEAD_BYTES:
            raise CodecError("relay: expected kind, sender and recipient")
        kind, sender, recipient = message[:HEAD_BYTES]
        num_roles = len(self._session.roles)
        if sender != self._place or recipient >= num_roles or recipient == sender or kind > END or self._is_over:
            raise RefusedError("relay: a message of a kind, from or to a place that is not this role's")
        self._session.pass_on(kind, sender, recipient, message)

    def leave(self) -> None:
        """The stream is over. Whoever has not had this role's END is told that it is lost. Harmless when repeated."""
        if not self._is_over:
            self._is_over = True
            self._session.left(self._place)

    async def next(self) -> bytes | None:
        """The next message for this role; None once the session is closed."""
        return await self._session.next_for(self._place)


class RelaySession:
    """One run of role programs.

    Args:
        sites: the site of each role.
    """

    def __init__(self, sites: Mapping[str, str]) -> None:
        if not 1 <= len(sites) <= MAX_ROLES:
            raise TooLargeError(f"relay: expected 1 to {MAX_ROLES} roles, found {len(sites)}")
        self.sites = dict(sites)
        self.roles = tuple(sorted(sites))
        places = range(len(self.roles))
        self._pairs = {(one, other): _Pair() for one in places for other in places if one != other}
        self._ends: dict[int, End] = {}
        self._over: set[tuple[int, int]] = set()
        self._dropped: set[int] = set()
        self._taken: list[dict[int, bytes]] = [{} for _ in places]
        self._alive: list[dict[int, bytes]] = [{} for _ in places]
        self._changed = [asyncio.Event() for _ in places]
        self._turn = [0] * len(self.roles)
        self.is_closed = False

    @property
    def waiting_bytes(self) -> int:
        """Of DATA, held now."""
        return sum(len(each) for pair in self._pairs.values() for each in pair.waiting)

    @property
    def moved_bytes(self) -> int:
        """Of DATA, that roles have sent so far."""
        return sum(each.sent for each in self._pairs.values())

    def attach(self, role: str, site: str) -> End:
        """A site opens its stream, once.

        Raises:
            PolicyError: the role is another site's. ConflictError: a second time.
        """
        if self.sites.get(role) != site:
            raise PolicyError(f"relay: site {site} does not have the role {role[:64]}")
        place = self.roles.index(role)
        if place in self._ends:
            raise ConflictError(f"relay: the stream of {role} has been opened before; a new session is needed")
        self._ends[place] = End(self, place)
        return self._ends[place]

    def pass_on(self, kind: int, sender: int, recipient: int, message: bytes) -> None:
        """Queue a message; see `End.take`."""
        pair = self._pairs[sender, recipient]
        size = len(message) - HEAD_BYTES
        if kind == TAKEN:
            self._take_word(sender, recipient, message)
        elif kind == ALIVE:
            self._alive[recipient][sender] = message[:HEAD_BYTES]
        elif (sender, recipient) in self._over:
            raise RefusedError("relay: nothing may follow an END")
        elif kind == DATA:
            if size <= TAG_BYTES or len(pair.waiting) >= MAX_WAITING:
                raise RefusedError(f"relay: expected pieces with a content, at most {MAX_WAITING} of them on their way")
            if size > MAX_PIECE_BYTES or pair.sent + size - pair.taken > WINDOW_BYTES:
                raise TooLargeError(
                    f"relay: expected pieces of at most {MAX_PIECE_BYTES} and {WINDOW_BYTES} bytes on their way"
                )
            pair.sent += size
            pair.waiting.append(message)
        elif kind == HELLO:
            if pair.is_greeted or size > MAX_HELLO_BYTES:
                raise RefusedError("relay: expected one hello, and a short one")
            pair.is_greeted = True
            pair.waiting.append(message)
        else:
            self._over.add((sender, recipient))
            pair.waiting.append(message[:HEAD_BYTES])
        self._changed[recipient].set()

    def _take_word(self, sender: int, recipient: int, message: bytes) -> None:
        """`sender` has taken bytes of what `recipient` had sent to it."""
        pair = self._pairs[recipient, sender]
        taken = int.from_bytes(message[HEAD_BYTES:], "little")
        if len(message) != HEAD_BYTES + 8 or not pair.taken <= taken <= pair.sent:
            raise RefusedError("relay: a number of taken bytes that cannot be")
        pair.taken = taken
        self._taken[recipient][sender] = message

    def left(self, place: int) -> None:
        """See `End.leave`."""
        for other in range(len(self.roles)):
            if other != place and (place, other) not in self._over:
                self._over.add((place, other))
                self._pairs[place, other].waiting.append(head(LOST, place, other))
                self._changed[other].set()
            if other != place:
                self._pairs[other, place].waiting.clear()

    async def next_for(self, place: int) -> bytes | None:
        """See `End.next`. Words on taken bytes go first; senders take turns."""
        while True:
            self._changed[place].clear()
            if place in self._dropped:
                return None
            if self._taken[place]:
                return self._taken[place].pop(next(iter(self._taken[place])))
            num_roles = len(self.roles)
            for step in range(num_roles):
                sender = (self._turn[place] + step) % num_roles
                if sender != place and self._pairs[sender, place].waiting:
                    self._turn[place] = sender + 1
                    return self._pairs[sender, place].waiting.popleft()
            if self._alive[place]:
                return self._alive[place].pop(next(iter(self._alive[place])))
            if self.is_closed:
                return None
            await self._changed[place].wait()

    def drop(self, site: str) -> None:
        """End a site's stream, and let it open none."""
        for role, each in self.sites.items():
            if each == site:
                place = self.roles.index(role)
                self._dropped.add(place)
                self._ends.setdefault(place, End(self, place)).leave()
                self._changed[place].set()

    def close(self) -> None:
        """Nothing is put through any more."""
        self.is_closed = True
        for pair in self._pairs.values():
            pair.waiting.clear()
        for changed in self._changed:
            changed.set()


class Relays:
    """Every session of a server."""

    def __init__(self) -> None:
        self._sessions: dict[str, RelaySession] = {}

    def open(self, session: str, sites: Mapping[str, str]) -> RelaySession:
        """Make a session, before its roles are asked to begin. Asking again is harmless."""
        if session not in self._sessions:
            self._sessions[session] = RelaySession(sites)
        return self._sessions[session]

    def find(self, session: str) -> RelaySession:
        """A session that is open.

        Raises:
            NotFoundError: it is over, or never was.
        """
        found = self._sessions.get(session)
        if found is None:
            raise NotFoundError(f"relay: there is no session {session[:200]}; it may be over")
        return found

    def drop(self, site: str) -> None:
        """End every stream of a site."""
        for session in self._sessions.values():
            session.drop(site)

    def close(self, session: str) -> None:
        """End a session and its streams. Harmless when repeated."""
        found = self._sessions.pop(session, None)
        if found is not None:
            found.close()
