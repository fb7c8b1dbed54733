"""Four sites in two groups against the same four sites without: what the wide link carries, and how long it takes.

Every site trains as often in both. Flat, the server is sent all four updates of every round; in groups, one of each
group for every fourth. An app that does nothing to 100k float32, durability `power`, everything on this machine, so the
wide link is as quick as any other here: time shows what groups cost, and bytes what they save.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks._federation import federation, round_times, submit_text
from benchmarks.harness import Row, at_most, median, note
from hanse.demos.local_groups import grouped
from hanse.rounds.result import Result

SIZE, PER_ROUND = 100_000, 4
GROUPS = {"north": ("a", "b"), "south": ("c", "d")}
TARGET = 1 / (2 * PER_ROUND)
"""Two updates instead of four, for one round in four."""
APP = """
import numpy as np

import hanse as hs

app = hs.App(
    rounds={rounds}, quorum={sites}, min_sites={sites}, evaluate_every=0, initial=[np.zeros({size}, np.float32)],
    groups={groups},
)


@app.train
def train(arrays, config, site):
    return [arrays["0"] + np.float32(1)], 1, {{}}
"""


def run(smoke: bool) -> Iterator[Row]:
    """Each once."""
    rounds = 2 if smoke else 10
    with federation(4) as running:
        text = APP.format(rounds=rounds * PER_ROUND, sites=4, size=SIZE, groups=None)
        job = submit_text(running, text)
        flat_times, flat = round_times(job), _checked(job.snapshot(), rounds)
    with tempfile.TemporaryDirectory(prefix="hanse-bench-") as place:  # noqa: SIM117 - the folder outlives them all
        with grouped(Path(place), GROUPS, durability="power") as made:
            text = APP.format(rounds=rounds, sites=2, size=SIZE, groups=f"hs.Groups({PER_ROUND})")
            job = submit_text(made.above, text)
            times, found = round_times(job), _checked(job.snapshot(), rounds)
    wide, before = (sum(record.moved_bytes for record in each.rounds) for each in (found, flat))
    yield at_most("groups", "2 groups of 2", "wide_bytes_over_flat", wide / before, "ratio", TARGET * 1.01)
    per_training = median(times) / PER_ROUND
    yield note("groups", "2 groups of 2", "seconds_over_flat", per_training / median(flat_times), "ratio")


def _checked(result: Result, rounds: int) -> Result:
    expected = np.full(SIZE, rounds * PER_ROUND, np.float32)
    if result.status != "finished" or not np.array_equal(result.arrays["0"], expected):
        raise AssertionError(f"expected every site to have added one {rounds * PER_ROUND} times, found otherwise")
    return result
