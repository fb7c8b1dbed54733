"""A round without a server, on an emulator of AWS: 4 sites as processes, 10k float32, train phase only.

The emulator says nothing of how long AWS takes: what is judged is our own time around its calls, and their number,
which is the same there. What a person does who watches is not counted, nor polls
that find nothing, nor renewals of a message's hiding. The functions run in one process: an invocation costs no start.
"""

import importlib.util
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._apps import NO_OP
from benchmarks.harness import Row, at_most, median, note
from hanse.clients.loader import find_app
from hanse.person.jobs import submit

SITES, SIZE = 4, 10_000
ROUND_S, CALLS, SERIAL = 6.0, 12.0, 4.0


def run(smoke: bool) -> Iterator[Row]:
    """The replies of a round in one batch; one by one; and with the table's stream looking at the run."""
    if importlib.util.find_spec("moto") is None:
        yield note("aws-round", "no emulator: install moto", "skipped", 1.0, "")
        return
    from tests.conformance import over_aws

    rounds = 3 if smoke else 20
    cases = (("4 sites", 10, False), ("4 sites, one by one", 1, False), ("4 sites, stream", 10, True))
    for case, batch, watched in cases[: 1 if smoke else None]:
        with tempfile.TemporaryDirectory(prefix="hanse-bench-") as place:
            environment = {"HANSE_STREAM": "1"} if watched else {}
            sites: dict[str, dict[str, Any]] = {f"site-{number}": {} for number in range(SITES)}
            federation = over_aws.AwsFederation(Path(place) / "federation", sites, environment=environment, batch=batch)
            with federation as running:
                yield from _measure(running, Path(place), case, rounds)


def _measure(running: Any, place: Path, case: str, rounds: int) -> Iterator[Row]:
    from tests.conformance.emulator import calls

    path = place / "bench_app.py"
    path.write_text(NO_OP.format(rounds=rounds, sites=SITES, size=SIZE))
    marks: list[tuple[float, Counter[str], int]] = []
    documents = running.local.place.documents
    put_round = documents.put_round

    async def marked(job: str, record: Any, readers: Any = None) -> None:
        await put_round(job, record, readers)
        marks.append((time.perf_counter(), Counter(calls), sum(running.local.invocations.values())))

    documents.put_round = marked
    job = submit(find_app(str(path)), running.federation())
    result = job.result()
    documents.put_round = put_round
    if len(result.rounds) != rounds or not np.array_equal(result.arrays["0"], np.full(SIZE, rounds, np.float32)):
        raise AssertionError(f"expected {rounds} rounds of adding one, found {len(result.rounds)}")
    marks = marks[: rounds - 1]  # the last one is followed by the end of the job
    steps = len(marks) - 1
    made = sum((Counter(later[1]) - Counter(earlier[1]) for earlier, later in pairwise(marks)), Counter[str]())
    polls = made.pop("SQS ReceiveMessage", 0)
    made.pop("SQS ChangeMessageVisibilityBatch", 0)
    received = min(polls, made["SQS SendMessage"])  # a poll that found something found at least one message
    people = sum(count for name, count in made.items() if name.startswith("S3 GET") and "documents" in name)
    total = sum(made.values()) - people + received
    seconds, each = median([b[0] - a[0] for a, b in pairwise(marks)]), total / steps / SITES
    yield at_most("aws-round", case, "round_s_median", seconds, "s", ROUND_S)
    if case == "4 sites":
        yield at_most("aws-round", case, "calls_per_site_round", each, "calls", CALLS)
    else:
        yield note("aws-round", case, "calls_per_site_round", each, "calls")
    writes = made["DynamoDB PutItem"] / steps
    yield note("aws-round", case, "table_writes_per_round", writes, "calls")
    invocations = (marks[-1][2] - marks[0][2]) / steps
    yield note("aws-round", case, "invocations_per_round", invocations, "calls")
