"""Coordinate median, trimmed mean and Krum of 50 updates of 1 million float32, one thread, through `aggregate`.

`speedup` is the CPU time of what one would write in numpy, over ours; the median of interleaved pairs:

    median              np.median(stacked, axis=0)
    trimmed mean        np.sort of the stacked updates, the mean of what is not cut
    trimmed mean (…)    the same over np.median, which sets the scale for both
    krum                ‖x_i − x_j‖² for each of the 1,225 pairs, by subtraction and one inner product
    krum (…)            the same by broadcasting one update against all, 50 times
    krum tied           the same where bounds on the distances do not say whom to choose, and exact ones are computed

Results are compared with numpy's.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from benchmarks.harness import Row, at_least, median, note
from hanse.aggregation import ArraySink, ArraySource, Krum, Median, Select, TrimmedMean, aggregate
from hanse.aggregation.gathers import Gather
from hanse.aggregation.nearness import Bounds
from hanse.clients.threads import set_threads

NUM_UPDATES = 50
TRIM = 0.2
NUM_BYZANTINE = 10

KernelName = Literal["numpy", "numba"]


def run(smoke: bool) -> Iterator[Row]:
    """See the module's text."""
    set_threads(1)
    elements, repeats = (3000, 1) if smoke else (1_000_000, 5)
    rng = np.random.default_rng(5)
    stacked = rng.standard_normal((NUM_UPDATES, elements), dtype=np.float32)
    stacked[7] = stacked[:5].mean(axis=0)  # the one that Krum must find
    work = Work(stacked)
    cases: dict[str, tuple[Callable[[], Any], Callable[[], Any], float | None]] = {
        "median": (work.numpy_median, lambda: work.ours(Median("numba")), 20),
        "trimmed mean": (work.numpy_trimmed, lambda: work.ours(TrimmedMean(TRIM, "numba")), None),
        "trimmed mean (np.median)": (work.numpy_median, lambda: work.ours(TrimmedMean(TRIM, "numba")), 12),
        "krum": (work.numpy_pairs, lambda: work.ours(Krum(NUM_BYZANTINE, kernel="numba")), 8),
        "krum (broadcasting)": (work.numpy_broadcast, lambda: work.ours(Krum(NUM_BYZANTINE, kernel="numba")), None),
        "krum without numba": (work.numpy_pairs, lambda: work.ours(Krum(NUM_BYZANTINE, kernel="numpy")), None),
        "krum tied": (work.numpy_pairs, lambda: work.ours(Tied(NUM_BYZANTINE, kernel="numba")), None),
        "median without numba": (work.numpy_median, lambda: work.ours(Median("numpy")), None),
        "trimmed mean without numba": (work.numpy_trimmed, lambda: work.ours(TrimmedMean(TRIM, "numpy")), None),
    }
    for case, (theirs, ours, target) in cases.items():
        ratios = []
        for turn in range(repeats + 1):
            before, expected = _timed(theirs)
            after, found = _timed(ours)
            if theirs == work.numpy_median and not case.startswith("median"):
                expected = work.numpy_trimmed()
            elif case.startswith("krum"):
                expected = work.krum(expected)
            if not np.allclose(expected, found, rtol=1e-5, atol=1e-6):
                raise RuntimeError(f"{case}: not what numpy finds")
            if turn:  # the first one compiles
                ratios.append(before / after)
        if target is None:
            yield note("robust", case, "speedup", median(ratios), "ratio")
        else:
            yield at_least("robust", case, "speedup", median(ratios), "ratio", target)


class Tied(Krum):
    """Krum that finds the bounds too wide in every case."""

    def choose_surely(self, bounds: Bounds, weights: Sequence[float]) -> None:
        """Nothing is sure."""


class Work:
    """One set of updates and what is computed of them."""

    def __init__(self, stacked: Any) -> None:
        self.stacked = stacked
        self.sources = [ArraySource({"w": row}) for row in stacked]
        self.sink = ArraySink(self.sources[0].layout)

    def ours(self, rule: Select | Gather) -> Any:
        """By `aggregate`."""
        aggregate(self.sources, range(NUM_UPDATES), [1.0] * NUM_UPDATES, rule=rule, out=self.sink)
        return self.sink.arrays["w"]

    def numpy_median(self) -> Any:
        """The usual way."""
        return np.median(self.stacked, axis=0)

    def numpy_trimmed(self) -> Any:
        """The usual way."""
        cut = int(TRIM * NUM_UPDATES)
        return np.sort(self.stacked, axis=0)[cut : NUM_UPDATES - cut].mean(axis=0)

    def numpy_pairs(self) -> Any:
        """Squared distances, pair by pair."""
        squares = np.zeros((NUM_UPDATES, NUM_UPDATES))
        for i in range(NUM_UPDATES):
            for j in range(i + 1, NUM_UPDATES):
                difference = self.stacked[i] - self.stacked[j]
                squares[i, j] = squares[j, i] = difference @ difference
        return squares

    def numpy_broadcast(self) -> Any:
        """Squared distances, one update against all."""
        return np.array([((self.stacked - row) ** 2).sum(axis=1) for row in self.stacked])

    def krum(self, squares: Any) -> Any:
        """The update that Krum takes."""
        nearest = np.sort(squares, axis=1)[:, 1 : NUM_UPDATES - NUM_BYZANTINE - 1]
        return self.stacked[np.argmin(nearest.sum(axis=1))]


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU time of this process: others may share the machine."""
    start = time.process_time()
    result = np.array(work())
    return time.process_time() - start, result
