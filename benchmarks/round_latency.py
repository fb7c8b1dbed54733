"""An empty round: 10k float32, train phase only, real processes, mutual TLS, durability `power`; median of 50."""

from collections.abc import Iterator

import numpy as np

from benchmarks._apps import NO_OP
from benchmarks._federation import federation, round_times, submit_text
from benchmarks.harness import Row, at_most, median

TARGETS = {2: 0.005, 8: 0.012, 32: 0.045}
SIZE = 10_000


def run(smoke: bool) -> Iterator[Row]:
    """Each size once; the first two rounds, which start the workers, are in the median as all others are."""
    rounds = 5 if smoke else 50
    for num_sites, target in list(TARGETS.items())[: 1 if smoke else None]:
        with federation(num_sites) as running:
            job = submit_text(running, NO_OP.format(rounds=rounds, sites=num_sites, size=SIZE))
            times = round_times(job)
            result = job.snapshot()
        if len(result.rounds) != rounds or not np.array_equal(result.arrays["0"], np.full(SIZE, rounds, np.float32)):
            raise AssertionError(f"expected {rounds} rounds of adding one, found {len(result.rounds)}")
        yield at_most("round-latency", f"{num_sites} sites", "round_s_median", median(times), "s", target)
