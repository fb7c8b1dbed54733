"""A role channel without a server, on an emulator of AWS: a ping-pong of 1 kB, and 32 MB one way, sealed.

Two sites as processes, functions in one. The emulator says nothing of how long AWS takes: what is judged is our own
time around its calls; their number is the same there. Calls of a turn and of a megabyte are differences between jobs
that differ in that alone, so that what a job costs besides drops out; polls that find nothing and renewals of a
message's hiding are not counted.
"""

import importlib.util
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import Row, at_most, note
from hanse.clients.loader import find_app
from hanse.person.jobs import submit

TURN_S, CALLS_A_TURN = 1.0, 16.0
MB = 1_000_000
APP = """
import time

import numpy as np

import hanse as hs
from hanse.channels.protocol import Guarantee, Message, Protocol

TALK = Protocol(
    "talk", ("guest", "host"),
    (
        Message("ping", "guest", "host", "uint8", (None,)),
        Message("pong", "host", "guest", "uint8", (None,)),
    ),
    Guarantee("none", 0, 0, 0, ()), (),
)
app = hs.RoleApp(TALK, tells={{"turn_s": "the median turn", "one_way_s": "until the end of it is answered"}})
TURNS, SIZE = {turns}, {size}


@app.role("guest")
async def guest(party, site):
    small, times = np.arange(1000, dtype=np.uint8), []
    large = np.arange(SIZE, dtype=np.uint8)
    for turn in range(TURNS + 1):
        began = time.perf_counter()
        await party.send("host", "ping", small)
        assert (await party.recv("host", "pong") == small[::-1]).all()
        times.append(time.perf_counter() - began)
    began = time.perf_counter()
    await party.send("host", "ping", large)
    assert (await party.recv("host", "pong") == large[-1000:][::-1]).all()
    told = {{"turn_s": float(np.median(times[1:])), "one_way_s": time.perf_counter() - began}}
    return {{"done": np.zeros(1)}}, told


@app.role("host")
async def host(party, site):
    for turn in range(TURNS + 2):
        await party.send("guest", "pong", (await party.recv("guest", "ping"))[-1000:][::-1])
    return {{"done": np.zeros(1)}}, {{}}
"""
ANY = "{peers: any, reveals: any, unproven: true}"  # what it says is no secret
POLICY = f"apps: any\npeople: any\nroles: {{guest: {ANY}, host: {ANY}}}\n"


def run(smoke: bool) -> Iterator[Row]:
    """Three jobs: few turns, more turns, and the same with a large message."""
    if importlib.util.find_spec("moto") is None:
        yield note("aws-channel", "no emulator: install moto", "skipped", 1.0, "")
        return
    from tests.conformance import over_aws

    few, many, size = (1, 3, 2 * MB) if smoke else (5, 45, 32 * MB)
    with tempfile.TemporaryDirectory(prefix="hanse-bench-") as place:
        federation = over_aws.AwsFederation(Path(place) / "federation", {"bank": {}, "shop": {}}, policy=POLICY)
        with federation as running:
            base, _ = _played(running, Path(place), few, 1000)
            turns, told = _played(running, Path(place), many, 1000)
            large, bulk = _played(running, Path(place), few, size)
    yield at_most("aws-channel", "2 sites", "turn_s_median", told["guest_turn_s"], "s", TURN_S)
    yield at_most("aws-channel", "2 sites", "calls_per_turn", _calls(base, turns) / (many - few), "calls", CALLS_A_TURN)
    yield note("aws-channel", "2 sites", "one_way_mb_s", size / MB / bulk["guest_one_way_s"], "MB/s")
    yield note("aws-channel", "2 sites", "calls_per_mb", _calls(base, large) / (size / MB), "calls")


def _played(running: Any, place: Path, turns: int, size: int) -> tuple[Counter[str], dict[str, float]]:
    """The emulator's calls of one job, and what its roles told."""
    from tests.conformance.emulator import calls

    path = place / f"app_{turns}_{size}.py"
    path.write_text(APP.format(turns=turns, size=size))
    before = Counter(calls)
    result = submit(find_app(str(path)), running.federation(), roles={"guest": "bank", "host": "shop"}).result()
    return Counter(calls) - before, dict(result.rounds[-1].metrics)


def _calls(base: Counter[str], more: Counter[str]) -> int:
    """How many calls one job made more than another, of those that do something."""
    made = Counter(more)
    made.subtract(base)
    sent = made["SQS SendMessage"]
    polls = made.pop("SQS ReceiveMessage", 0)
    made.pop("SQS ChangeMessageVisibilityBatch", 0)
    watching = sum(count for name, count in made.items() if name.startswith("S3 GET") and "documents" in name)
    return sum(made.values()) - watching + min(max(polls, 0), sent)
