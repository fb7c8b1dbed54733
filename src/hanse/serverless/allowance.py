"""How much a member may send to the server's queue: who sends without end costs nobody more than being refused.

    allowance/KIND/NAME     {until_ms}: when what this member has sent will be forgiven

Every message costs a tenth of a second for each 16 KiB of it, and is refused where a member is two minutes ahead of the
clock; then all of its messages are, for a minute. What something else bounds costs nothing: the first answer to a task,
and packets and blobs between roles, which have quotas of their own.

Writing a row for each message would be a call more for each. So a function that is warm counts by itself, and settles
with the row after `LEASE` of them: who sends seldom costs no call at all, and the limit holds but for `LEASE` messages
for each function that runs at a time.
"""

import asyncio
import json
from collections import OrderedDict
from dataclasses import dataclass, field

from hanse.core.errors import NotFoundError, PolicyError, UnavailableError
from hanse.core.seams import Ledger

COST_MS = 100
"""Of a message, for each `UNIT_BYTES` of it: ten a second may be sent for ever."""
UNIT_BYTES = 16 * 1024
AHEAD_MS = 120_000
"""1200 small messages at once, after a while without any."""
REST_MS = 60_000
LEASE = 32
MAX_LANES = 1024
"""Members that a function remembers."""
_LOOKS = 20


@dataclass(slots=True)
class _Lane:
    """One member, as this function knows it."""

    spent: int = 0
    refused_until_ms: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Allowances:
    """What a function that is warm remembers of every member."""

    def __init__(self) -> None:
        self._lanes: OrderedDict[str, _Lane] = OrderedDict()

    async def spend(self, ledger: Ledger, member: str, size: int, now_ms: int) -> None:
        """Count a message of so many bytes.

        Args:
            member: `kind/name`, whose signature was verified.

        Raises:
            PolicyError: too many have come. StorageError, UnavailableError: count it again.
        """
        lane = self._lane(member)
        if now_ms >= lane.refused_until_ms:
            lane.spent += cost(size)
            if lane.spent < LEASE:
                return
            async with lane.turn:
                if lane.spent >= LEASE and not await _settle(ledger, member, lane, now_ms):
                    lane.refused_until_ms = now_ms + REST_MS
        if now_ms < lane.refused_until_ms:
            raise PolicyError(
                f"{member.replace('/', ' ')}: expected at most {1000 // COST_MS} messages a second and "
                f"{AHEAD_MS // COST_MS} at once, of {UNIT_BYTES // 1024} KiB, found more; refused for "
                f"{REST_MS // 1000} seconds"
            )

    def forgive(self, member: str, size: int) -> None:
        """A message that was counted was asked for."""
        self._lane(member).spent -= cost(size)

    def _lane(self, member: str) -> _Lane:
        lane = self._lanes.setdefault(member, _Lane())
        self._lanes.move_to_end(member)
        while len(self._lanes) > MAX_LANES:
            self._lanes.popitem(last=False)
        return lane


def cost(size: int) -> int:
    """Of a message of so many bytes, in units."""
    return 1 + size // UNIT_BYTES


async def _settle(ledger: Ledger, member: str, lane: _Lane, now_ms: int) -> bool:
    """Write down what was sent; whether that was not too much."""
    key = f"allowance/{member}"
    for _ in range(_LOOKS):
        spent = lane.spent
        try:
            content, version = await ledger.get(key)
            until_ms = int(json.loads(content)["until_ms"])
        except NotFoundError:
            version, until_ms = 0, 0
        wanted_ms = max(until_ms, now_ms) + spent * COST_MS
        is_too_much = wanted_ms > now_ms + AHEAD_MS
        row = json.dumps({"until_ms": min(wanted_ms, now_ms + AHEAD_MS)}).encode()
        if await (ledger.compare_and_set(key, row, version) if version else ledger.create(key, row)):
            lane.spent -= spent
            return not is_too_much
    raise UnavailableError(f"allowance of {member}: written by others {_LOOKS} times in a row")
