"""Which checkpoint the parties go on from: the newest that all of them have.

The hosts tell the guest theirs, the guest tells all which. Numbers of pieces of work are told, nothing of anybody's
data. Whoever goes on draws all one-time material anew; a piece that was under way when a session broke is done again
from the state before it, under fresh masks.
"""

from collections.abc import Sequence

import numpy as np

from hanse.channels.checkpoints import newest_common
from hanse.channels.party import Party
from hanse.channels.protocol import Guarantee, Message, Protocol
from hanse.core.errors import RefusedError
from hanse.vertical.parties import ARBITER, GUEST

MAX_RANGES = 16
NONE = -1
"""There is no common checkpoint."""
Ranges = list[tuple[int, int]]


def protocol(hosts: Sequence[str], *, arbiter: bool) -> Protocol:
    """The declaration."""
    told = (*hosts, ARBITER) if arbiter else tuple(hosts)
    return Protocol(
        name="vertical/resuming",
        roles=(GUEST, *told),
        messages=(
            *(Message("have", host, GUEST, "int64", (None, 2)) for host in hosts),
            *(Message("agreed", GUEST, other, "int64", ()) for other in told),
        ),
        guarantee=Guarantee("semi-honest", len(told), 128, 128, ()),
        reveals=(),
    )


async def guest(party: Party, own: Ranges, hosts: Sequence[str]) -> int:
    """Ask all hosts and tell all others; the number, or `NONE`.

    Raises:
        RefusedError: a host tells what are no ranges.
    """
    everybody = [own, *[_ranges(host, await party.recv(host, "have")) for host in hosts]]
    agreed = newest_common(everybody)
    for other in party.protocol.roles[1:]:
        await party.send(other, "agreed", np.array(agreed, np.int64))
    return agreed


async def host(party: Party, own: Ranges) -> int:
    """The other side.

    Raises:
        RefusedError: the guest names a checkpoint that is not here.
    """
    await party.send(GUEST, "have", np.array(own, np.int64).reshape(-1, 2))
    agreed = int(await party.recv(GUEST, "agreed"))
    if agreed != NONE and not any(since <= agreed <= last for since, last in own):
        raise RefusedError("guest: expected a checkpoint that this side has, found another")
    return agreed


async def arbiter(party: Party) -> int:
    """Whoever keeps nothing is told.

    Raises:
        RefusedError: what is told is no number of a checkpoint.
    """
    agreed = int(await party.recv(GUEST, "agreed"))
    if agreed < NONE:
        raise RefusedError("guest: expected the number of a checkpoint, found another")
    return agreed


def _ranges(host: str, found: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Ranges:
    ranges = [(int(since), int(last)) for since, last in found[:MAX_RANGES]]
    if len(found) > MAX_RANGES or not all(0 <= since <= last for since, last in ranges):
        raise RefusedError(f"{host}: expected at most {MAX_RANGES} ranges of checkpoints, found others")
    return ranges
