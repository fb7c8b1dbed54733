"""Common rows of a guest and several hosts, in one order that nobody chose.

The guest meets each host by private set intersection and keeps who is at all of them; then it tells each host which
rows of their own intersection remain, in the common order, which is that of the first meeting: random.

Reveals beyond the intersections: each host learns which of the identifiers that it shares with the guest are at all
parties; the guest learns each host's intersection with its own.
"""

import numpy as np

from hanse.channels.party import Party
from hanse.channels.protocol import Guarantee, Message, Protocol, Reveal
from hanse.core.errors import RefusedError
from hanse.vertical.psi.ids import Places

PROTOCOL = Protocol(
    name="alignment/common",
    roles=("guest", "host"),
    messages=(Message("rows", "guest", "host", "int64", (None,)),),
    guarantee=Guarantee("semi-honest", 1, 128, 128, ()),
    reveals=(Reveal("host", "guest", "common_rows", "which of the rows that both share are shared by all parties"),),
)
"""What follows each intersection where there are several hosts."""


def common(meetings: list[Places]) -> tuple[Places, list[Places]]:
    """What the guest works out.

    Args:
        meetings: for each host, places in the guest's own list, as intersection returned them.

    Returns:
        The places of common rows in the guest's list, in the common order; and for each host, where these are in the
        order of its meeting.
    """
    everywhere = meetings[0]
    for other in meetings[1:]:
        everywhere = everywhere[np.isin(everywhere, other)]
    rows = []
    for meeting in meetings:
        order = np.argsort(meeting, kind="stable")
        rows.append(order[np.searchsorted(meeting[order], everywhere)].astype(np.int64, copy=False))
    return everywhere, rows


async def guest(party: Party, rows: Places) -> None:
    """Tell a host which rows of the common meeting remain."""
    await party.send("host", "rows", rows)


async def host(party: Party, meeting: Places) -> Places:
    """Its own places of the common rows, in the common order.

    Args:
        party: in the role `host`.
        meeting: places in its list, as intersection returned them.

    Raises:
        RefusedError: rows outside the meeting, or one twice.
    """
    rows = await party.recv("guest", "rows")
    if len(rows) and (rows.min() < 0 or rows.max() >= len(meeting) or len(np.unique(rows)) != len(rows)):
        raise RefusedError(f"guest: expected each row once, from 0 to {len(meeting) - 1}, found others")
    return meeting[rows]
