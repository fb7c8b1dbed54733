"""Messages in order and once over a carrier that delays, repeats, reorders and loses: numbers, words on what has come.

A `Lane` is one party's end of one pair. Messages that wait together go as one packet; each packet has a number, and
every packet says up to which number all of the other side's have come. What is not spoken for is sent again. There is
no clock and no network in here: whoever drives a lane hands it the time, in seconds from anywhere.

On the wire a packet is

    4 bytes      little-endian length h of the head
    h bytes      canonical JSON {v, session, from, to, seq, ack, size, hashes, dropped, links}
    content      each message with its length before it, 4 bytes little-endian; empty where it is a blob

Not here: what messages mean, and who may send them (`hanse.site.relay` seals them; `hanse.serverless.channels` checks).
"""

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from hanse.core.blobs import Manifest
from hanse.core.codec import canonical_json
from hanse.core.errors import CodecError, ConfigError

VERSION = 1
CHANNEL = "channel"
"""The kind of the message that carries a packet."""
MAX_PACKET_BYTES = 8 << 20
"""Of one packet's content: one chunk of a blob."""
INLINE_BYTES = 96 * 1024
"""Content up to so much travels in the packet; more is a blob. A queue takes 192 KiB with everything around it."""
WINDOW = 16
"""Packets of one direction that are on their way at a time."""
MAX_EARLY_BYTES = 2 * MAX_PACKET_BYTES
"""Of packets that came before an earlier one; what is more is not taken, and comes again."""
ANSWER_S = 3.0
"""For so long a word on what has come waits for a packet to travel with."""
RESEND_S, LONGEST_RESEND_S = 20.0, 120.0
MAX_HEAD_BYTES = 8192


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet.

    Args:
        session: the run of the protocol.
        sender, recipient: roles.
        seq: its number, from 0; None for one that only says what has come.
        ack: every number below has come.
        content: the messages, joined.
        blob: where the content lies instead.
        dropped: numbers of the other side's packets whose blobs have been read and may go.
        links: where a recipient reads the blob; written by whoever passes the packet on.
    """

    session: str
    sender: str
    recipient: str
    seq: int | None
    ack: int
    content: bytes = field(default=b"", repr=False)
    blob: Manifest | None = None
    dropped: tuple[int, ...] = ()
    links: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()

    def pack(self) -> bytes:
        """As bytes."""
        head: dict[str, Any] = {"v": VERSION, "session": self.session, "from": self.sender, "to": self.recipient}
        head |= {"seq": self.seq, "ack": self.ack}
        if self.blob is not None:
            head |= {"size": self.blob.size, "hashes": self.blob.hashes.hex()}
        if self.dropped:
            head["dropped"] = list(self.dropped)
        if self.links:
            head["links"] = [[url, [list(pair) for pair in headers]] for url, headers in self.links]
        encoded = canonical_json(head)
        return len(encoded).to_bytes(4, "little") + encoded + self.content

    @classmethod
    def unpack(cls, raw: bytes) -> "Packet":
        """Read what `pack` wrote.

        Raises:
            CodecError: anything else.
        """
        length = int.from_bytes(raw[:4], "little")
        if len(raw) < 4 + length or length > MAX_HEAD_BYTES:
            raise CodecError(f"packet: expected a head of at most {MAX_HEAD_BYTES} bytes, and all of it")
        try:
            head = json.loads(raw[4 : 4 + length])
            if head["v"] != VERSION:
                raise CodecError(f"packet: expected version {VERSION}; update the older of the two sites")
            found = cls(
                _text(head["session"]),
                _text(head["from"]),
                _text(head["to"]),
                None if head["seq"] is None else _number(head["seq"]),
                _number(head["ack"]),
                bytes(raw[4 + length :]),
                Manifest(_number(head["size"]), bytes.fromhex(head["hashes"])) if "size" in head else None,
                tuple(_number(each) for each in head.get("dropped", ())),
                tuple(
                    (_text(url), tuple((_text(name), _text(value)) for name, value in headers))
                    for url, headers in head.get("links", ())
                ),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigError):
            raise CodecError("packet: expected session, from, to, seq and ack") from None
        size = len(found.content) if found.blob is None else found.blob.size
        if size > MAX_PACKET_BYTES or len(found.dropped) > WINDOW or (found.blob is not None and found.content):
            raise CodecError(f"packet: expected at most {MAX_PACKET_BYTES} bytes and {WINDOW} numbers, in one place")
        return found


@dataclass(slots=True)
class _Flight:
    """A packet on its way: when it went, and how long to wait before it goes again."""

    content: bytes
    sent_s: float
    wait_s: float


@dataclass(frozen=True, slots=True)
class Parcel:
    """What a lane wants sent now. `is_new`: whether it goes for the first time."""

    seq: int | None
    ack: int
    content: bytes = b""
    is_new: bool = True


class Lane:
    """One party's end of a pair.

    **Guarantee.** Whatever the carrier repeats, reorders, delays or loses, messages come out in the order in which the
    other end pushed them, each once, as long as the carrier brings some of what is sent again.

    Args:
        resend_s: seconds after which what was not spoken for goes again; doubled each time.
        answer_s: seconds for which a word on what has come may wait.
    """

    def __init__(self, *, resend_s: float = RESEND_S, answer_s: float = ANSWER_S) -> None:
        self._resend_s, self._answer_s = resend_s, answer_s
        self._waiting: deque[bytes] = deque()
        self._flying: dict[int, _Flight] = {}
        self._next = 0
        self._expected = 0
        self._early: dict[int, bytes] = {}
        self._answer_at: float | None = None
        self._unsaid = 0
        self._is_over = False

    # ---- what is sent ----

    def push(self, message: bytes) -> None:
        """Have a message sent. To a party that is over nothing is."""
        if not self._is_over:
            self._waiting.append(message)

    @property
    def is_flushed(self) -> bool:
        """Whether all that was pushed has come to the other end, or need not."""
        return not self._waiting and not self._flying

    def next(self, now_s: float) -> Parcel | None:
        """What is to be sent now; call again until it is None."""
        for seq, flight in self._flying.items():
            if now_s >= flight.sent_s + flight.wait_s:
                flight.sent_s, flight.wait_s = now_s, min(2 * flight.wait_s, LONGEST_RESEND_S)
                return self._said(Parcel(seq, self._expected, flight.content, is_new=False))
        if self._waiting and len(self._flying) < WINDOW:
            parts: list[bytes] = []
            size = 0
            while self._waiting and (not parts or size + 4 + len(self._waiting[0]) <= MAX_PACKET_BYTES):
                message = self._waiting.popleft()
                parts += [len(message).to_bytes(4, "little"), message]
                size += 4 + len(message)
            seq, self._next = self._next, self._next + 1
            self._flying[seq] = _Flight(b"".join(parts), now_s, self._resend_s)
            return self._said(Parcel(seq, self._expected, self._flying[seq].content))
        if self._answer_at is not None and now_s >= self._answer_at:
            return self._said(Parcel(None, self._expected))
        return None

    def due_s(self) -> float | None:
        """When `next` has something although nothing else happens; None for never."""
        times = [flight.sent_s + flight.wait_s for flight in self._flying.values()]
        if self._answer_at is not None:
            times.append(self._answer_at)
        return min(times, default=None)

    def _said(self, parcel: Parcel) -> Parcel:
        self._answer_at, self._unsaid = None, 0
        return parcel

    # ---- what comes ----

    def wants(self, seq: int) -> bool:
        """Whether the packet of this number has not come before, and there is room for it."""
        return 0 <= seq - self._expected < WINDOW and seq not in self._early

    def came(self, packet: Packet, now_s: float) -> list[bytes]:
        """Take a packet; the messages that are next.

        Raises:
            CodecError: it speaks for packets that were never sent, or does not hold messages.
        """
        if packet.ack > self._next:
            raise CodecError("packet: it speaks for packets that were never sent")
        for flown in [each for each in self._flying if each < packet.ack]:
            del self._flying[flown]
        seq = packet.seq
        if seq is None:
            return []
        if not self.wants(seq):
            self._answer_by(now_s)  # the word on it may be what was lost
            return []
        if seq != self._expected and len(packet.content) + sum(map(len, self._early.values())) > MAX_EARLY_BYTES:
            return []
        self._early[seq] = packet.content
        self._answer_by(now_s + self._answer_s)
        messages: list[bytes] = []
        while self._expected in self._early:
            messages += split(self._early.pop(self._expected))
            self._expected += 1
            self._unsaid += 1
        if self._unsaid >= WINDOW // 4:  # the other end may be waiting for room
            self._answer_by(now_s)
        return messages

    def answer_now(self, now_s: float) -> None:
        """Do not wait with the word on what has come."""
        if self._answer_at is not None:
            self._answer_by(now_s)

    def end(self) -> None:
        """The other party is over, and needs nothing more."""
        self._is_over = True
        self._waiting.clear()
        self._flying.clear()

    def take_all(self, packet: Packet, now_s: float) -> None:
        """This party is over: whatever still comes is spoken for, and not kept."""
        if packet.seq is not None:
            self._expected = max(self._expected, packet.seq + 1)
            self._early.clear()
            self._answer_by(now_s)

    def _answer_by(self, at_s: float) -> None:
        self._answer_at = at_s if self._answer_at is None else min(self._answer_at, at_s)


def split(content: bytes) -> Iterable[bytes]:
    """The messages that a packet holds.

    Raises:
        CodecError: their lengths are not those of the content.
    """
    found, at = [], 0
    while at < len(content):
        size = int.from_bytes(content[at : at + 4], "little")
        if at + 4 + size > len(content):
            raise CodecError("packet: expected messages, each with its length")
        found.append(content[at + 4 : at + 4 + size])
        at += 4 + size
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError
    return value
