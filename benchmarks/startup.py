"""How long one waits: `hanse --help`, `import hanse`, and a federation of four sites until its first round."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks._apps import NO_OP
from benchmarks._federation import submit_text
from benchmarks.harness import Row, at_most, median
from hanse.demos.local_federation import LocalFederation

SITES = 4


def run(smoke: bool) -> Iterator[Row]:
    """Medians of several fresh processes; the federation has joined before and is started cold."""
    repeats = 1 if smoke else 7
    hanse = str(Path(sys.executable).parent / "hanse")
    yield at_most("startup", "help", "seconds", _median_of([hanse, "--help"], repeats), "s", 0.25)
    yield at_most(
        "startup", "import", "seconds", _median_of([sys.executable, "-c", "import hanse"], repeats), "s", 0.25
    )
    seconds = median([_first_round(2 if smoke else SITES) for _ in range(1 if smoke else 3)])
    yield at_most("startup", "federation", "seconds", seconds, "s", 3.0)


def _median_of(command: Sequence[str], repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - began)
    return median(times[1:])


def _first_round(sites: int) -> float:
    with tempfile.TemporaryDirectory(prefix="hanse-bench-") as place:
        running = LocalFederation(Path(place), {f"site-{n}": {} for n in range(sites)}, name="bench")
        try:
            running.start()  # makes keys and joins
            running.stop()
            began = time.perf_counter()
            running.server.start({})
            for child in running.children.values():
                child.start({})
            job = submit_text(running, NO_OP.format(rounds=1, sites=sites, size=1000))
            ends = next(event for event in job.follow() if event["what"] == "round" and event["record"]["number"])
            seconds = time.perf_counter() - began
            if len(ends["record"]["folded"]) != sites:
                raise AssertionError(f"expected {sites} sites in the first round, found {ends['record']['folded']}")
            return seconds
        finally:
            running.stop()
