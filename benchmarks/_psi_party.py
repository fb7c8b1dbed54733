"""One party of the benchmark `psi`, as a process: `python -m benchmarks._psi_party CASE ROLE NUM_IDS SOCKET`.

Makes its identifiers, says `ready` on stdout, waits for a line on stdin, runs its role over the socket that it
inherited, checks the result against what it knows, and prints one line of JSON.
"""

import asyncio
import hashlib
import json
import resource
import socket
import sys
import time
from dataclasses import asdict
from typing import Any

import numpy as np

from hanse.channels.party import Party
from hanse.channels.stream import StreamChannel
from hanse.vertical.psi import chase_miao, diffie_hellman

TIMEOUT_S = 300.0
_SEEDS = {"common": 1, "guest": 2, "host": 3}


def shared(num_ids: int) -> list[str]:
    """Those that both roles have: half."""
    return _texts("common", num_ids // 2, "c")


def identifiers(role: str, num_ids: int) -> list[str]:
    """`num_ids` random identifiers of 16 characters, in a random order."""
    ids = shared(num_ids) + _texts(role, num_ids - num_ids // 2, role[0])
    order = np.random.default_rng(_SEEDS[role] + 10).permutation(num_ids)
    return [ids[at] for at in order]


def _texts(name: str, count: int, prefix: str) -> list[str]:
    values = np.random.default_rng(_SEEDS[name]).permutation(16 * count)[:count]
    return [f"{prefix}{value:015x}" for value in values.tolist()]


async def play(case: str, role: str, ids: list[str], connection: socket.socket) -> tuple[Any, Party]:
    """Run one role; returns its result and its party."""
    module = {"default": chase_miao, "fallback": diffie_hellman}[case]
    channel = StreamChannel(connection)
    party = Party(role, module.PROTOCOL, channel, timeout_s=TIMEOUT_S)
    result = await getattr(module, role)(party, ids)
    await channel.close()
    return result, party


def main(case: str, role: str, num_ids: int, descriptor: int) -> None:
    """See the module's text."""
    ids = identifiers(role, num_ids)
    print("ready", flush=True)
    sys.stdin.readline()
    cpu, wall = time.process_time(), time.perf_counter()
    places, party = asyncio.run(play(case, role, ids, socket.socket(fileno=descriptor)))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    common = set(shared(num_ids))
    joined = [ids[at] for at in places]
    if len(joined) != len(common) or set(joined) != common:
        raise RuntimeError(f"{role}: expected the {len(common)} common identifiers, found {len(joined)}")
    figures = {
        "cpu_s": cpu,
        "wall_s": wall,
        "peak_mb": peak_mb,
        "order": hashlib.sha256("\n".join(joined).encode()).hexdigest(),
        **asdict(party.counters),
    }
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
