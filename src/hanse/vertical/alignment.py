"""From common identifiers to joined rows: what follows an intersection that alone does not say which rows are joined.

After one intersection with one host over one column, each identifier in one row, both sides know everything. It needs
more messages

- with several hosts: who is common to a guest and a host may be missing at another host;
- where an identifier stands in several rows, or a row has several (`hanse.vertical.psi.keys`): a host numbers those of
  its rows that hold common identifiers, in a secret order, and says which numbers hold which identifier (`holders`).

The guest then works the joined rows out, as SQL would (`guest JOIN host-1 ON … JOIN host-2 ON …`, or `LEFT JOIN`), puts
them in a secret order, and tells each host which of its rows, or none, stands in each of them (`rows`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hanse.channels.party import Party
from hanse.channels.protocol import Guarantee, Message, Protocol, Reveal
from hanse.core.arrays import Array
from hanse.core.errors import ConfigError, RefusedError
from hanse.vertical.psi.ids import Places, secret_order

JOINS = ("inner", "left")
NONE = -1
"""A place in a list of rows where a party has none."""
MAX_JOINED = 1 << 27
"""The most that may be asked for."""
USUAL_JOINED = 1 << 24
"""Joined rows, and pairs that hold an identifier, unless more are asked for; about 100 bytes each while joining."""


def declared(*, left: bool = False, linked: bool = False) -> Protocol:
    """What follows each intersection.

    Args:
        left: whether the guest keeps rows that hosts do not have.
        linked: whether an identifier may stand in several rows, or a row have several.
    """
    holders = Message("holders", "host", "guest", "int64", (None, 2))
    told = [
        Reveal(
            "host",
            "guest",
            "common_rows",
            "which of its rows stand in the joined table, and how often"
            if linked
            else "which of the rows that both share are shared by all parties",
        )
    ]
    if linked:
        told.append(
            Reveal(
                "guest",
                "host",
                "holders",
                "how many rows of the host hold each common identifier, and which of these are of one row",
            )
        )
    if left:
        told.append(Reveal("host", "guest", "joined", "how many rows the joined table has"))
    name = "-".join(["alignment/common", *(["left"] if left else []), *(["linked"] if linked else [])])
    return Protocol(
        name=name,
        roles=("guest", "host"),
        messages=(*([holders] if linked else []), Message("rows", "guest", "host", "int64", (None,))),
        guarantee=Guarantee("semi-honest", 1, 128, 128, ()),
        reveals=tuple(told),
    )


PROTOCOL = declared()
"""What follows each intersection where there are several hosts, each row has one identifier, and all must hold it."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """Which rows hold which identifiers.

    Attributes:
        places: int64 `(n,)`, of identifiers.
        rows: int64 `(n,)`, of the rows that hold them, in whatever numbering.
    """

    places: Places
    rows: Places


@dataclass(frozen=True, slots=True)
class Joined:
    """The joined table, as the guest works it out.

    Attributes:
        own: int64 `(num_joined,)`, the guest's rows.
        theirs: of each host likewise, in its numbering; `NONE` where it has none.
    """

    own: Places
    theirs: tuple[Places, ...]


def join(num_rows: int, hosts: Sequence[tuple[Holdings, Holdings]], *, left: bool, most: int = USUAL_JOINED) -> Joined:
    """Join the guest's rows with each host's in turn.

    Args:
        num_rows: how many rows the guest's table has.
        hosts: for each the guest's holdings of what is common with it, and the host's, over the same places.
        left: keep the guest's rows that a host does not have.
        most: how many joined rows there may be; what follows a host's word is counted before it takes memory.

    Returns:
        Joined rows ordered by the guest's row and then by the hosts'.

    Raises:
        ConfigError: more rows than `most`.
    """
    own = np.arange(num_rows, dtype=np.int64)
    theirs: list[Places] = []
    for holdings in hosts:
        rows, numbers = _pairs(*holdings, most)
        counts = np.bincount(rows, minlength=num_rows).astype(np.int64, copy=False)
        starts = np.cumsum(counts) - counts
        times = counts[own]
        kept = np.maximum(times, 1) if left else times
        _check_number(int(kept.sum()), most)
        first = np.repeat(starts[own], kept)
        nth = np.arange(len(first)) - np.repeat(np.cumsum(kept) - kept, kept)
        has_some = np.repeat(times > 0, kept)
        found = np.full(len(first), NONE, np.int64)
        found[has_some] = numbers[(first + nth)[has_some]]
        own, theirs = np.repeat(own, kept), [np.repeat(each, kept) for each in theirs]
        theirs.append(found)
    return Joined(own, tuple(theirs))


def _pairs(mine: Holdings, theirs: Holdings, most: int) -> tuple[Places, Places]:
    """Pairs of rows that hold one identifier, each once, in order."""
    order = np.argsort(theirs.places, kind="stable")
    places, numbers = theirs.places[order], theirs.rows[order]
    starts = np.searchsorted(places, mine.places)
    counts = np.searchsorted(places, mine.places, side="right") - starts
    _check_number(int(counts.sum()), most)
    rows = np.repeat(mine.rows, counts)
    nth = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    found = numbers[np.repeat(starts, counts) + nth]
    order = np.lexsort((found, rows))
    rows, found = rows[order], found[order]
    new = np.ones(len(rows), np.bool_)
    new[1:] = (rows[1:] != rows[:-1]) | (found[1:] != found[:-1])
    return rows[new], found[new]


def _check_number(found: int, most: int) -> None:
    if found > most:
        raise ConfigError(
            f"join: expected at most {most} joined rows, found {found}; are identifiers repeated? If they are to be, "
            f"raise max_joined"
        )


def common(meetings: list[Places]) -> tuple[Places, list[Places]]:
    """The inner join of rows with one identifier each.

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
    """Tell a host which of its rows stands where: places in the order of the meeting, or its own numbers."""
    await party.send("host", "rows", rows)


def limit_holders(party: Party, most: int) -> None:
    """Take at most so many pairs from the host, from the beginning: what it sends is its word."""
    party.limit("host", "holders", 16 * most)


async def hear_holders(party: Party, num_common: int) -> Holdings:
    """The host's holdings of the common identifiers, in its own numbering.

    Args:
        party: in the role `guest`.
        num_common: how many identifiers both hold.

    Raises:
        RefusedError: holdings of others, one twice, or a common identifier without a row.
    """
    pairs = await party.recv("host", "holders")
    places, rows = np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])
    fits = len(pairs) == 0 or (places.min() >= 0 and places.max() < num_common and rows.min() >= 0)
    if (
        not fits
        or (len(rows) and rows.max() >= len(rows))
        or not np.bincount(places, minlength=num_common).all()
        or not _are_different(places * max(1, len(rows)) + rows)
    ):
        raise RefusedError(f"host: expected rows that hold each of {num_common} identifiers, found others")
    return Holdings(places, rows)


def _are_different(numbers: Places) -> bool:
    numbers = np.sort(numbers)
    return not (numbers[1:] == numbers[:-1]).any()


async def tell_holders(party: Party, places: Places, rows: Places) -> Places:
    """Number the rows that hold common identifiers, and tell the guest.

    Args:
        party: in the role `host`.
        places: int64 `(n,)`, of identifiers in the order of the meeting.
        rows: of the rows that hold them.

    Returns:
        The row of each number.
    """
    found, numbers = np.unique(rows, return_inverse=True)
    order = secret_order(len(found))
    own = np.empty(len(found), np.int64)
    own[order] = found
    pairs = np.column_stack([places, order[numbers]]).astype(np.int64, copy=False)
    await party.send("guest", "holders", pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))])
    return own


async def host(
    party: Party, meeting: Places, *, left: bool = False, repeated: bool = False, most: int = USUAL_JOINED
) -> Places:
    """Its own rows in the joined table.

    Args:
        party: in the role `host`.
        meeting: its row of each place, as intersection returned them, or of each number.
        left: whether `NONE` may stand in between.
        repeated: whether a row may stand there more than once.
        most: how many joined rows there may be, where the meeting does not bound them.

    Raises:
        RefusedError: rows outside the meeting, or one twice. TooLargeError: more rows than that.
    """
    party.limit("guest", "rows", 8 * (most if left or repeated else len(meeting)))
    rows = await party.recv("guest", "rows")
    some = rows[rows != NONE] if left else rows
    if len(some) and (some.min() < 0 or some.max() >= len(meeting)):
        raise RefusedError(f"guest: expected rows from 0 to {len(meeting) - 1}, found others")
    if not repeated and len(np.unique(some)) != len(some):
        raise RefusedError("guest: expected each row once, found repeated ones")
    found = np.full(len(rows), NONE, np.int64)
    found[rows != NONE] = meeting[some]
    return found


def simulate_view(role: str, reveals: Mapping[str, Any]) -> list[tuple[str, Array]]:
    """What `role` receives after intersection, made from what is revealed to it and nothing else.

    Args:
        role: `guest` or `host`.
        reveals: to the host `common_rows`: how often each of its numbered rows stands in the joined table, and with a
            left join `joined`: how many rows that has. To the guest `holders`: `(place, row)` in any numbering.
    """
    if role == "guest":
        pairs = np.array(reveals["holders"], np.int64).reshape(-1, 2)
        _, numbers = np.unique(pairs[:, 1], return_inverse=True)
        pairs[:, 1] = secret_order(int(numbers.max(initial=-1)) + 1)[numbers]
        return [("holders", pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))])]
    times = np.asarray(reveals["common_rows"], np.int64)
    rows = np.repeat(np.arange(len(times), dtype=np.int64), times)
    missing = int(reveals.get("joined", len(rows))) - len(rows)
    rows = np.concatenate([rows, np.full(missing, NONE, np.int64)])
    return [("rows", rows[secret_order(len(rows))])]
