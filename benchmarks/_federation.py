"""What the federation benchmarks share: a federation in a temporary directory, an app file, times of rounds."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from hanse.clients.loader import find_app
from hanse.core.errors import UnavailableError
from hanse.demos.local_federation import LocalFederation
from hanse.person.jobs import Job, submit


@contextmanager
def federation(num_sites: int, *, durability: str = "power") -> Iterator[LocalFederation]:
    """A running federation of `num_sites` sites, as processes, over mutual TLS."""
    with tempfile.TemporaryDirectory(prefix="hanse-bench-") as place:
        sites: dict[str, dict[str, Any]] = {f"site-{number}": {} for number in range(num_sites)}
        with LocalFederation(Path(place), sites, name="bench", durability=durability) as running:
            yield running


def submit_text(running: LocalFederation, text: str) -> Job:
    """Submit an app given as text, as soon as the server answers."""
    path = running.directory / "bench_app.py"
    path.write_text(text)
    app = find_app(str(path))
    end = time.monotonic() + 60
    while True:
        try:
            return submit(app, running.federation())
        except UnavailableError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def round_times(job: Job) -> list[float]:
    """Seconds between the ends of successive rounds, by the server's clock, as the job goes on.

    The first is counted from the end of round 0, or left out where there was none.
    """
    ends = [event["at_s"] for event in job.follow() if event["what"] == "round"]
    return [later - earlier for earlier, later in pairwise(ends)]
