"""What a simulation spends on a client that does nothing: 10,000 sites, 10,000 float32, cohorts of 1,000 and of all.

The client adds one to one element of its own copy, so that the final model says that every site of every round was
called and folded; the first round is timed from the call, imports of the package aside. `clients_per_s` is the median
round's. Beside it, without a target: the same from CPU time, for machines that do something else too; a population of a
million; and what the arithmetic alone takes, copying the model and adding one update to a float64 sum, as numpy does.
"""

import gc
import os
import time
from collections.abc import Iterator

import numpy as np

import hanse as hs
from benchmarks.harness import PeakMemory, Row, at_least, at_most, median, note

SIZE = 10_000
CASES = (("cohort 1,000", 10_000, 1_000, 20, 30_000.0), ("cohort 10,000", 10_000, 10_000, 6, 20_000.0))
MILLION = ("1,000 of 1,000,000", 1_000_000, 1_000, 10, None)


def run(smoke: bool) -> Iterator[Row]:
    """Every case in this process, by the sequential engine."""
    yield note("sim-overhead", "arithmetic alone", "clients_per_s", 1.0 / _arithmetic_s(200 if smoke else 5000), "1/s")
    for case, sites, cohort, rounds, target in (*CASES, MILLION):
        if smoke:
            sites, cohort, rounds = min(sites, 200_000) // 100, cohort // 100, 3
        yield from _case(case, sites, cohort, rounds, target)


def _case(case: str, sites: int, cohort: int, rounds: int, target: float | None) -> Iterator[Row]:
    app = hs.App(rounds=rounds + 1, sample=cohort, evaluate_every=0, initial=[np.zeros(SIZE, np.float32)])
    marks: list[tuple[float, float]] = []

    @app.train
    def train(arrays: hs.Arrays, config: object, site: object) -> object:
        arrays["0"][0] += 1
        return arrays, 1, {}

    @app.evaluate_on_server
    def evaluate(arrays: hs.Arrays, round_: int) -> dict[str, float]:
        marks.append((time.perf_counter(), time.process_time()))
        return {}

    gc.collect()
    with PeakMemory([os.getpid()]) as memory:
        begun = time.perf_counter()
        result = hs.simulate(app, sites, engine="sequential", progress=False)
    if result.arrays["0"][0] != rounds + 1 or any(len(record.folded) != cohort for record in result.rounds):
        raise AssertionError(f"expected {rounds + 1} rounds of {cohort} sites in the model")
    wall, cpu = (cohort / median(np.diff([mark[i] for mark in marks]).tolist()) for i in (0, 1))
    first_s = marks[0][0] - begun
    if target is None:
        yield note("sim-overhead", case, "clients_per_s", wall, "1/s")
        yield note("sim-overhead", case, "first_round_s", first_s, "s")
    else:
        yield at_least("sim-overhead", case, "clients_per_s", wall, "1/s", target)
        yield at_most("sim-overhead", case, "first_round_s", first_s, "s", 1.0)
    yield note("sim-overhead", case, "clients_per_cpu_s", cpu, "1/s")
    yield at_most("sim-overhead", case, "peak_mb", memory.peak_mb, "MB", 200.0)


def _arithmetic_s(repeats: int) -> float:
    """CPU seconds of copying the model and of widening, multiplying and adding one update."""
    update, total, product = np.random.rand(SIZE).astype(np.float32), np.zeros(SIZE), np.empty(SIZE)
    begun = time.process_time()
    for _ in range(repeats):
        own = update.copy()
        np.copyto(product, own)
        np.multiply(product, 2.0, out=product)
        np.add(total, product, out=total)
    return (time.process_time() - begun) / repeats
