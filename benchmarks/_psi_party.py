"""One party of the benchmark `psi`, as a process: `python -m benchmarks._psi_party CASE ROLE NUM_IDS SOCKET`.

In the case `parts` identifiers are made piece by piece, as if they were read, and never all in memory.

Makes its identifiers, says `ready` on stdout, waits for a line on stdin, runs its role over the socket that it
inherited, checks the result against what it knows, and prints one line of JSON.
"""

import asyncio
import hashlib
import json
import math
import resource
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import count
from typing import Any

import numpy as np

from hanse.channels.party import Party
from hanse.channels.stream import StreamChannel
from hanse.core.stream import Stream
from hanse.vertical.psi import chase_miao, diffie_hellman, parts

TIMEOUT_S = 900.0
_SEEDS = {"common": 1, "guest": 2, "host": 3}


def shared(num_ids: int) -> list[str]:
    """Those that both roles have: half."""
    return _texts("common", num_ids // 2, "c")


def identifiers(role: str, num_ids: int) -> list[str]:
    """`num_ids` random identifiers of 16 characters, in a random order."""
    ids = shared(num_ids) + _texts(role, num_ids - num_ids // 2, role[0])
    order = np.random.default_rng(_SEEDS[role] + 10).permutation(num_ids)
    return [ids[at] for at in order]


def _texts(name: str, num_ids: int, prefix: str) -> list[str]:
    values = np.random.default_rng(_SEEDS[name]).permutation(16 * num_ids)[:num_ids]
    return [f"{prefix}{value:015x}" for value in values.tolist()]


class Streamed:
    """`num_ids` identifiers of 16 characters that are computed from their places; the shared half is everywhere."""

    def __init__(self, role: str, num_ids: int) -> None:
        self.role, self.num_ids = role, num_ids
        self._step = next(n for n in count(num_ids // 3 + _SEEDS[role]) if math.gcd(n, num_ids) == 1)

    def numbers(self, places: Any) -> Any:
        """Which identifier stands where: numbers below half of `num_ids` are shared."""
        return places * np.int64(self._step) % np.int64(self.num_ids)

    def pieces(self) -> Iterator[list[str]]:
        """All of them, 100,000 at a time."""
        for start in range(0, self.num_ids, 100_000):
            numbers = self.numbers(np.arange(start, min(start + 100_000, self.num_ids), dtype=np.int64))
            mixed = _mixed(numbers, 0 if self.role == "guest" else self.num_ids, self.num_ids // 2)
            yield [f"{value:016x}" for value in mixed.tolist()]


def _mixed(numbers: Any, offset: int, num_shared: int) -> Any:
    """Distinct 64-bit numbers without a pattern: multiplied by odd ones and folded, which is a bijection."""
    with np.errstate(over="ignore"):
        x = np.where(numbers < num_shared, numbers, numbers + offset).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return x ^ (x >> np.uint64(32))


async def play(case: str, role: str, ids: Any, connection: socket.socket) -> tuple[Any, Party]:
    """Run one role; returns its result and its party."""
    module = {"fallback": diffie_hellman}.get(case, chase_miao)
    channel = StreamChannel(connection)
    party = Party(role, module.PROTOCOL, channel, timeout_s=TIMEOUT_S)
    result = await getattr(module, role)(party, ids)
    await channel.close()
    return result, party


def check_listed(role: str, ids: list[str], places: Any) -> str:
    """A digest of the common identifiers in their order, if they are those that both have."""
    common = set(shared(len(ids)))
    joined = [ids[at] for at in places]
    if len(joined) != len(common) or set(joined) != common:
        raise RuntimeError(f"{role}: expected the {len(common)} common identifiers, found {len(joined)}")
    return hashlib.sha256("\n".join(joined).encode()).hexdigest()


def check_streamed(streamed: Streamed, places: Any) -> str:
    """Likewise."""
    numbers = streamed.numbers(places)
    wanted = streamed.num_ids // 2
    if len(numbers) != wanted or numbers.max() >= wanted or not np.bincount(numbers, minlength=wanted).all():
        raise RuntimeError(f"{streamed.role}: expected the {wanted} common identifiers, found {len(numbers)}")
    return hashlib.sha256(numbers.tobytes()).hexdigest()


def main(case: str, role: str, num_ids: int, descriptor: int) -> None:
    """See the module's text."""
    streamed = Streamed(role, num_ids) if case == "parts" else None
    ids: Any = identifiers(role, num_ids) if streamed is None else Stream(streamed.pieces)
    if streamed is not None and num_ids <= parts.PART:  # a smoke run
        parts.PART = num_ids // 2
    print("ready", flush=True)
    sys.stdin.readline()
    cpu, wall = time.process_time(), time.perf_counter()
    places, party = asyncio.run(play(case, role, ids, socket.socket(fileno=descriptor)))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    order = check_listed(role, ids, places) if streamed is None else check_streamed(streamed, places)
    figures = {"cpu_s": cpu, "wall_s": wall, "peak_mb": peak_mb, "order": order, **asdict(party.counters)}
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
