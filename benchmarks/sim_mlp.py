"""A small perceptron at many sites, over a bare PyTorch loop: 10,000 sites × 10 examples of 64 floats, cohort 1,000.

9,610 parameters, batches of 5, so 2 steps a site: what a framework costs beside the arithmetic shows here. Ratios of
median rounds, in turn; the median of 5.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks._sim_work import Case, Work, compare, missing
from benchmarks.harness import Row

CASES = [
    Case("sequential", "sequential", 0.65, True),
    Case("torch-batched", "torch-batched", 0.22, False),
    Case("numpy-batched", "numpy-batched", 0.10, False),
    Case("numpy-batched 2 replicas", "numpy-batched", 0.07, False, replicas=2),
]


def run(smoke: bool) -> Iterator[Row]:
    """See the module's text."""
    if (row := missing("sim-mlp")) is not None:
        yield row
        return
    sites, cohort, rounds, repeats = (60, 24, 2, 1) if smoke else (10_000, 1_000, 4, 5)
    work = Work("mlp", rounds, cohort, 5, (10,) * sites, (64,))
    with tempfile.TemporaryDirectory(prefix="hanse-bench-") as folder:
        yield from compare("sim-mlp", work, CASES, Path(folder), repeats)
