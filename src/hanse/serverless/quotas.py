"""How much one role may have on its way to another: who sends without end fills nobody's queue, and no bucket.

    quota/JOB/COMPONENT/ATTEMPT/SENDER/RECIPIENT     {owed, acked, at_ms, blobs}: what one direction of a pair owes

A packet is owed until its recipient speaks for it, answers it, or `REFILL_MS` pass; a blob until it was deleted. What
an agent that keeps to `channels.packets` sends stays below the limits, whatever is lost, repeated or late. A packet
that is refused is one that was lost, and comes again.

Writing a row for each packet would be a call more for each. So a function that is warm counts by itself, and settles
with the row after `LEASE` packets: the limits hold but for `LEASE` packets for each function that runs at a time.
"""

import asyncio
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hanse.channels.packets import MAX_PACKET_BYTES, WINDOW, Packet
from hanse.core.blobs import Manifest
from hanse.core.errors import NotFoundError, PolicyError, UnavailableError
from hanse.core.seams import Ledger

MAX_OWED = 4 * WINDOW
"""Packets of one direction: a window four times over, as when three words on it are late."""
MAX_BLOBS = 8 * WINDOW
MAX_BLOB_BYTES = 8 * MAX_PACKET_BYTES
REFILL_MS = 5000
"""A packet is not owed for ever: what was lost goes again, and the word on it may be lost, too."""
LEASE = WINDOW // 2
MAX_LANES = 1024
"""Directions that a function remembers."""
_LOOKS = 20
Direction = tuple[str, str, str]
"""Session, sender and recipient."""


@dataclass(frozen=True, slots=True)
class Account:
    """What one direction owes, as the ledger keeps it.

    Attributes:
        owed: packets.
        acked: the recipient has spoken for every number below.
        at_ms: until when time was counted.
        blobs: number → blob and bytes, of those that may be in the bucket.
    """

    owed: int = 0
    acked: int = 0
    at_ms: int = 0
    blobs: Mapping[int, tuple[str, int]] = field(default_factory=dict)

    def settled(self, *, passed: int, answers: int, acked: int, dropped: frozenset[int], now_ms: int) -> "Account":
        """After so many packets more, so many of the other direction, a word on numbers, and blobs that are gone."""
        refilled = max(0, now_ms - self.at_ms) // REFILL_MS
        gained = max(0, acked - self.acked) + answers + refilled
        return Account(
            max(0, self.owed + passed - gained),
            max(self.acked, acked),
            self.at_ms + refilled * REFILL_MS,
            {number: blob for number, blob in self.blobs.items() if number not in dropped},
        )

    def with_blob(self, number: int, manifest: Manifest) -> tuple["Account", tuple[int, ...]]:
        """With one blob more.

        Returns:
            The account, and the numbers of blobs that have been read, so that there is room: they are to be deleted.

        Raises:
            PolicyError: there is no room, or another blob of that number.
        """
        if number in self.blobs:
            if self.blobs[number][0] != manifest.id:
                raise PolicyError(f"packet {number}: expected the blob that it had before, found another")
            return self, ()
        if not self.acked <= number < self.acked + 2 * WINDOW:
            raise PolicyError(f"packet {number}: expected a number of the next {2 * WINDOW} from {self.acked} on")
        kept, read = dict(self.blobs), tuple[int, ...]()
        if not _fits(kept, manifest):
            read = tuple(sorted(each for each in kept if each < self.acked))
            kept = {each: blob for each, blob in kept.items() if each >= self.acked}
        if not _fits(kept, manifest):
            held = sum(size for _, size in kept.values())
            raise PolicyError(
                f"packet {number}: expected at most {MAX_BLOBS} blobs and {MAX_BLOB_BYTES} bytes on their way, "
                f"found {len(kept)} and {held} before it"
            )
        return replace(self, blobs=kept | {number: (manifest.id, manifest.size)}), read

    def has_room(self, number: int | None, more: int) -> bool:
        """Whether a packet of this number may be passed on after `more` that are not counted here."""
        return self.owed + more < MAX_OWED and (number is None or number < self.acked + 2 * WINDOW)

    def pack(self) -> bytes:
        """As the ledger keeps it."""
        blobs = {str(number): list(blob) for number, blob in self.blobs.items()}
        value = {"owed": self.owed, "acked": self.acked, "at_ms": self.at_ms, "blobs": blobs}
        return json.dumps(value, separators=(",", ":")).encode()

    @classmethod
    def unpack(cls, content: bytes) -> "Account":
        """Read what `pack` wrote."""
        value = json.loads(content)
        blobs = {int(number): (str(id), int(size)) for number, (id, size) in value["blobs"].items()}
        return cls(value["owed"], value["acked"], value["at_ms"], blobs)


def _fits(blobs: Mapping[int, tuple[str, int]], manifest: Manifest) -> bool:
    return len(blobs) < MAX_BLOBS and sum(size for _, size in blobs.values()) + manifest.size <= MAX_BLOB_BYTES


@dataclass(slots=True)
class _Lane:
    """One direction, as this function knows it: the row, and what has happened since."""

    account: Account = field(default_factory=Account)
    version: int | None = None
    passed: int = 0
    answers: int = 0
    acked: int = 0
    dropped: frozenset[int] = frozenset()
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def is_due(self) -> bool:
        return max(self.passed, self.answers, len(self.dropped)) >= LEASE or self.acked - self.account.acked >= LEASE


class Quotas:
    """What a function that is warm remembers of every direction."""

    def __init__(self) -> None:
        self._lanes: OrderedDict[Direction, _Lane] = OrderedDict()

    async def spend(self, ledger: Ledger, packet: Packet, now_ms: int) -> None:
        """Count a packet that is about to be passed on.

        Raises:
            PolicyError: too much is on its way already. StorageError, UnavailableError: count it again.
        """
        back = self._lane((packet.session, packet.recipient, packet.sender))
        back.acked = max(back.acked, packet.ack)
        back.answers += 1
        back.dropped |= set(packet.dropped)
        if back.is_due:
            await self._settle(ledger, (packet.session, packet.recipient, packet.sender), back, now_ms)
        lane = self._lane(direction := (packet.session, packet.sender, packet.recipient))
        has_room = lane.account.has_room(packet.seq, lane.passed)
        if lane.version is None or lane.is_due or not has_room:
            await self._settle(ledger, direction, lane, now_ms, is_fresh=has_room)
            if not lane.account.has_room(packet.seq, lane.passed):
                raise PolicyError(
                    f"role {packet.sender}: expected at most {MAX_OWED} packets on their way to {packet.recipient}, "
                    f"and numbers below {lane.account.acked + 2 * WINDOW}; found {lane.account.owed}, and {packet.seq}"
                )
        lane.passed += 1

    async def put(
        self, ledger: Ledger, direction: Direction, number: int, manifest: Manifest, now_ms: int
    ) -> tuple[int, ...]:
        """Count a blob that is about to be put.

        Returns:
            The numbers of blobs of this direction that have been read, and are to be deleted.

        Raises:
            PolicyError: there is no room for it. StorageError, UnavailableError: count it again.
        """
        return await self._settle(ledger, direction, self._lane(direction), now_ms, (number, manifest))

    async def _settle(
        self,
        ledger: Ledger,
        direction: Direction,
        lane: _Lane,
        now_ms: int,
        blob: tuple[int, Manifest] | None = None,
        is_fresh: bool = True,
    ) -> tuple[int, ...]:
        """Write down what has happened.

        Args:
            is_fresh: the row as it is known here will do, unless that has no room for the blob. Others may have heard
                since of what makes room, and nobody is refused before the row was read again.
        """
        session, sender, recipient = direction
        key = f"quota/{session}/{sender}/{recipient}"
        async with lane.turn:
            if not is_fresh:
                lane.version = None
            is_read = False
            for _ in range(_LOOKS):
                if lane.version is None:
                    await _read(ledger, key, lane, now_ms)
                    is_read = True
                assert lane.version is not None
                passed, answers, dropped = lane.passed, lane.answers, lane.dropped
                account, read = (
                    lane.account.settled(
                        passed=passed, answers=answers, acked=lane.acked, dropped=dropped, now_ms=now_ms
                    ),
                    tuple[int, ...](),
                )
                if blob is not None:
                    try:
                        account, read = account.with_blob(*blob)
                    except PolicyError:
                        if is_read:
                            raise
                        lane.version = None
                        continue
                if account == lane.account and not passed:
                    if not is_read and (answers or dropped):
                        lane.version = None  # others may have written what they are for
                        continue
                    lane.answers, lane.dropped = lane.answers - answers, lane.dropped - dropped
                    return read
                if await ledger.compare_and_set(key, account.pack(), lane.version):
                    lane.account, lane.version = account, lane.version + 1
                    lane.passed, lane.answers, lane.dropped = (
                        lane.passed - passed,
                        lane.answers - answers,
                        lane.dropped - dropped,
                    )
                    return read
                lane.version = None
        raise UnavailableError(f"session {session}: written by others {_LOOKS} times in a row")

    def _lane(self, direction: Direction) -> _Lane:
        lane = self._lanes.setdefault(direction, _Lane())
        self._lanes.move_to_end(direction)
        if len(self._lanes) > MAX_LANES:
            idle = [each for each, old in self._lanes.items() if old is not lane and not old.turn.locked()]
            for each in idle[: len(self._lanes) - MAX_LANES]:  # one that is being written is still counted on
                del self._lanes[each]
        return lane


async def _read(ledger: Ledger, key: str, lane: _Lane, now_ms: int) -> None:
    try:
        content, lane.version = await ledger.get(key)
        lane.account = Account.unpack(content)
    except NotFoundError:
        lane.account = Account(at_ms=now_ms)
        if await ledger.create(key, lane.account.pack()):
            lane.version = 1
        else:
            content, lane.version = await ledger.get(key)
            lane.account = Account.unpack(content)
