"""A convolutional network over a bare PyTorch loop: 1,000 sites of log-normal size, 3×32×32 floats, cohorts of 50.

153,962 parameters, batches of 10, one epoch, SGD 0.05. The arithmetic fills the core here: flat vectors save what the
optimizer and the copies cost, replicas use the other cores, and stacking does not pay on a CPU.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks._sim_work import Case, Work, compare, missing
from benchmarks.harness import Row, at_most

ROUNDS = 60
"""As many as make two processes worth their start, or `auto` would rightly stay in one."""

CASES = [
    Case("sequential", "sequential", 0.90, True),
    Case("replicas", "replicas", 0.50, True, replicas=2),
    Case("auto", "auto", None, True, replicas=2),
]


def run(smoke: bool) -> Iterator[Row]:
    """See the module's text."""
    if (row := missing("sim-cnn")) is not None:
        yield row
        return
    sites, cohort, rounds, repeats = (12, 6, 2, 1) if smoke else (1_000, 50, ROUNDS, 5)
    work = Work("cnn", rounds, cohort, 10, sizes(sites), (3, 32, 32))
    with tempfile.TemporaryDirectory(prefix="hanse-bench-") as folder:
        over: dict[str, float] = {}
        for row in compare("sim-cnn", work, CASES, Path(folder), repeats):
            over |= {row.case: row.value} if row.metric == "over_bare" else {}
            yield row
        best = min(over["sequential"], over["replicas"])
        yield at_most("sim-cnn", "auto", "over_best", over["auto"] / best, "ratio", 1.1)


def sizes(count: int) -> tuple[int, ...]:
    """Log-normal numbers of examples, 7 to 379, mean 48."""
    drawn = np.random.default_rng(3).lognormal(3.64, 0.68, count)
    return tuple(int(size) for size in np.clip(drawn.round(), 7, 379))
