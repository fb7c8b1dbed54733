"""Which checkpoint the parties go on from: the newest that all of them have.

One role leads: the others tell it theirs, it tells all which. Numbers of pieces of work are told, nothing of anybody's
data. Whoever goes on draws all one-time material anew; a piece that was under way when a session broke is done again
from the state before it, under fresh masks.
"""

from collections.abc import Sequence

import numpy as np

from hanse.channels.checkpoints import newest_common
from hanse.channels.party import Party
from hanse.channels.protocol import Guarantee, Message, Protocol
from hanse.core.errors import RefusedError

MAX_RANGES = 64
NONE = -1
"""There is no common checkpoint."""
Ranges = list[tuple[int, int]]


def protocol(leader: str, followers: Sequence[str], listeners: Sequence[str] = ()) -> Protocol:
    """The declaration.

    Args:
        followers: the other roles that keep checkpoints.
        listeners: roles that keep none, and are told.
    """
    others = (*followers, *listeners)
    return Protocol(
        name="resuming",
        roles=(leader, *others),
        messages=(
            *(Message("have", follower, leader, "int64", (None, 2)) for follower in followers),
            *(Message("agreed", leader, other, "int64", ()) for other in others),
        ),
        guarantee=Guarantee("semi-honest", len(others), 128, 128, ()),
        reveals=(),
    )


async def lead(party: Party, own: Ranges) -> int:
    """Ask all followers and tell all others; the number, or `NONE`.

    Raises:
        RefusedError: a follower tells what are no ranges.
    """
    followers = [message.sender for message in party.protocol.messages if message.name == "have"]
    everybody = [own, *[_ranges(each, await party.recv(each, "have")) for each in followers]]
    agreed = newest_common(everybody)
    for other in party.protocol.roles:
        if other != party.role:
            await party.send(other, "agreed", np.array(agreed, np.int64))
    return agreed


async def follow(party: Party, own: Ranges, leader: str) -> int:
    """The other side.

    Raises:
        RefusedError: the leader names a checkpoint that is not here.
    """
    await party.send(leader, "have", np.array(own, np.int64).reshape(-1, 2))
    agreed = int(await party.recv(leader, "agreed"))
    if agreed != NONE and not any(since <= agreed <= last for since, last in own):
        raise RefusedError(f"{leader}: expected a checkpoint that this side has, found another")
    return agreed


async def listen(party: Party, leader: str) -> int:
    """Whoever keeps nothing is told.

    Raises:
        RefusedError: what is told is no number of a checkpoint.
    """
    agreed = int(await party.recv(leader, "agreed"))
    if agreed < NONE:
        raise RefusedError(f"{leader}: expected the number of a checkpoint, found another")
    return agreed


def _ranges(sender: str, found: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Ranges:
    ranges = [(int(since), int(last)) for since, last in found[:MAX_RANGES]]
    if len(found) > MAX_RANGES or not all(0 <= since <= last for since, last in ranges):
        raise RefusedError(f"{sender}: expected at most {MAX_RANGES} ranges of checkpoints, found others")
    return ranges
