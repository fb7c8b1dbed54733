"""Who is at all parties, and in which order their rows are used: the first part of every vertical job.

The guest meets each host by private set intersection; where there are several hosts it tells each which rows remain
(`alignment`). Then every party orders the common rows by a keyed hash of their identifiers, which all of them hold:

    BLAKE2b(identifier; key = seed)

So no message is needed for the order, nobody learns more than who is common, and the same tables with the same seed
come in the same order whenever and wherever they meet: a job repeats what a simulation gave. For whoever does not know
the identifiers in advance the order is as good as random.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hanse.channels.party import Party
from hanse.channels.protocol import Protocol
from hanse.core.errors import ConfigError
from hanse.vertical import alignment
from hanse.vertical.psi import chase_miao
from hanse.vertical.psi.ids import Ids, Places, encoded, kind_of


def parts(hosts: Sequence[str]) -> dict[str, Protocol]:
    """What is joined into the job's protocol.

    Args:
        hosts: names of the hosts' roles.
    """
    found = {f"psi-{host}": chase_miao.PROTOCOL.recast({"host": host}) for host in hosts}
    if len(hosts) > 1:
        found |= {f"common-{host}": alignment.PROTOCOL.recast({"host": host}) for host in hosts}
    return found


async def guest(party: Party, ids: Ids, hosts: Sequence[str], seed: int) -> Places:
    """Meet all hosts, one after another.

    Returns:
        int64, `(num_common,)`: places in `ids` of the rows that all parties hold, in the common order.

    Raises:
        ConfigError: no common rows; repeated identifiers or mixed kinds. Otherwise as `chase_miao.guest`.
    """
    if not hosts:
        return ordered(ids, np.arange(len(ids), dtype=np.int64), seed)
    meetings = [await chase_miao.guest(party.part(f"psi-{host}", {"host": host}), ids) for host in hosts]
    everywhere, rows = alignment.common(meetings)
    if len(hosts) > 1:
        for host, kept in zip(hosts, rows, strict=True):
            await alignment.guest(party.part(f"common-{host}", {"host": host}), kept)
    return ordered(ids, some(everywhere), seed)


async def host(party: Party, ids: Ids, hosts: Sequence[str], seed: int) -> Places:
    """The other side; arguments, result and errors as for `guest`."""
    names = {"host": party.role}
    places = await chase_miao.host(party.part(f"psi-{party.role}", names), ids)
    if len(hosts) > 1:
        places = await alignment.host(party.part(f"common-{party.role}", names), places)
    return ordered(ids, some(places), seed)


def ordered(ids: Ids, places: Places, seed: int) -> Places:
    """`places` in the common order, which depends on the identifiers there and on `seed` alone."""
    common: Any = ids[places] if isinstance(ids, np.ndarray) else [ids[at] for at in places]
    key = seed.to_bytes(8, "little")
    hashes = (
        hashlib.blake2b(each, digest_size=16, key=key, person=b"hanse row order").digest()
        for each in encoded(common, kind_of(common))
    )
    return places[_ranked(hashes)]


def held_out(num_rows: int, share: float, seed: int) -> tuple[Places, Places]:
    """Rows to train on and rows to judge by, the same at all parties.

    Args:
        share: of the rows that are held out, 0 ≤ share < 1.

    Returns:
        Both ascending, int64; the second is empty where `share` is 0, and otherwise holds at least one row.
    """
    count = max(1, round(num_rows * share)) if share else 0

    chosen = np.zeros(num_rows, np.bool_)
    if count:
        hashes = (
            hashlib.blake2b(b"%d %d" % (seed, row), digest_size=16, person=b"hanse held out").digest()
            for row in range(num_rows)
        )
        chosen[_ranked(hashes)[:count]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _ranked(hashes: Iterable[bytes]) -> Places:
    """Places of hashes of 16 bytes, rising, int64; 16 bytes a hash while they are sorted."""
    joined = bytearray()
    for each in hashes:
        joined += each
    words = np.frombuffer(joined, ">u8").reshape(-1, 2)
    return np.lexsort((words[:, 1], words[:, 0])).astype(np.int64, copy=False)


def some(places: Places) -> Places:
    """The places of common rows, if there are any.

    Raises:
        ConfigError: there are none.
    """
    if not len(places):
        raise ConfigError("tables: expected rows that all parties hold, found none in common")
    return places
