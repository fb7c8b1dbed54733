"""The case `directory` of the benchmark `psi`: one query at a time against a set that was prepared once.

A directory of 10^6 identifiers is made as it is in earnest. The one of 10^7 holds the values of 1,000 identifiers and
random ones for all others, which are the same to whoever asks: to compute them would take ten times as long. Each query
goes through both roles over a local channel and is counted in a database with synchronous writes before it is answered.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.harness import Row, note
from hanse.channels.local import run_local
from hanse.channels.party import Party
from hanse.channels.spending import FileSpending
from hanse.crypto.curve25519 import Encoder, multiply, new_secret
from hanse.vertical.psi import directory
from hanse.vertical.psi.directory import Directory, Secret

BUDGET = 10_000
NUM_QUERIES = 200


def rows(smoke: bool) -> Iterator[Row]:
    """Figures of both directories."""
    num_ids = 2_000 if smoke else 1_000_000
    ids = [f"c{at:015x}" for at in range(num_ids)]
    secret = Secret(new_secret(), BUDGET)
    cpu = time.process_time()
    made = directory.build(secret, ids)
    yield note("psi", "directory", "build_core_s", time.process_time() - cpu, "s")
    yield from _asked("directory", secret, made, ids)

    known = ids[:1000]
    values = directory.values_of(multiply(secret.key, map(Encoder(directory.TAG), (each.encode() for each in known))))
    others = np.random.default_rng(1).integers(0, 256, (10 * num_ids - len(known), values.shape[1]), np.uint8)
    large = directory.directory_of(np.concatenate([values, others]), made.kind, BUDGET)
    yield from _asked("directory 10x", secret, large, known)


def _asked(case: str, secret: Secret, made: Directory, ids: list[str]) -> Iterator[Row]:
    yield note("psi", case, "cache_mb", sum(each.nbytes for each in made.to_arrays().values()) / 1e6, "MB")
    asked = [*ids[: NUM_QUERIES // 2], *(f"x{at}" for at in range(NUM_QUERIES // 2))]
    seconds: list[float] = []
    found: list[bool] = []

    async def guest(party: Party) -> None:
        for each in asked:
            start = time.perf_counter()
            found.extend(await directory.ask(party, made, [each]))
            seconds.append(time.perf_counter() - start)
        await directory.leave(party)

    async def host(party: Party) -> int:
        with tempfile.TemporaryDirectory() as folder:
            spending = FileSpending(Path(folder) / "queries.db")
            return await directory.answer(party, secret, lambda n: spending.spend("bank", case, n, BUDGET))

    cpu = time.process_time()
    asyncio.run(run_local(directory.ASKING, {"guest": guest, "host": host}))
    cpu = time.process_time() - cpu
    if found != [True] * (NUM_QUERIES // 2) + [False] * (NUM_QUERIES // 2):
        raise RuntimeError(f"{case}: expected the first half to be found and the second not")
    yield note("psi", case, "query_ms_median", 1000 * statistics.median(seconds), "ms")
    yield note("psi", case, "query_core_ms", 1000 * cpu / NUM_QUERIES, "ms")
