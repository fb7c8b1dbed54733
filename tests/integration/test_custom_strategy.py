"""An app's own strategy in the server's worker: real processes, killed, failing, with every trait."""

import asyncio
import os
import signal
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hanse as hs
from hanse.backends.local import LocalStore
from hanse.clients.loader import load_app
from hanse.core.arrays import Arrays
from hanse.core.blobs import manifest_of, rechunk
from hanse.core.codec import encode
from hanse.core.errors import ConfigError, JobFailed, TaskError, UnavailableError
from hanse.core.ids import TaskId, upload_scope
from hanse.core.records import BlobRef, Reply
from hanse.core.seams import BlobStore
from hanse.demos import local_federation
from hanse.demos.local_federation import LocalFederation
from hanse.rounds.events import BlobKey
from hanse.rounds.hosts.host import Member, PlanRequest, ReduceRequest
from hanse.rounds.hosts.local import LocalHost, load_arrays
from hanse.workers import launcher
from hanse.workers.launcher import Launcher
from hanse.workers.load import Load
from hanse.workers.pool import Workers
from hanse.workers.server_host import ServerHost
from tests.nursery import LAUNCHER, MEMBERS, forks

HEAD = """
import os, signal
from dataclasses import dataclass
import numpy as np
import hanse as hs

app = hs.App(rounds=2, seed=3, threads=1, initial=[np.zeros(4, np.float32)])

@app.train
def train(arrays, config, site):
    return [arrays["0"] + 1], 1, {}
"""

MOMENTUM = """
@dataclass(frozen=True)
class Momentum(hs.Strategy):
    update_kind = "delta"
    order = "receipt"
    late = "carry"

    def state_names(self):
        return ("velocity",)

    def scalars(self, round_, memory):
        return {"rate": 1 / round_}

    def weigh(self, replies):
        return [reply.num_examples / (1 + reply.staleness) for reply in replies]

    def reducer(self):
        return hs.WeightedMean()

    def update(self, model, reduced, state, scalars):
        state[0][:] = 0.5 * state[0] + reduced
        return model + scalars["rate"] * state[0]

@app.strategy
def strategy(ctx):
    return Momentum()
"""


@dataclass
class Place:
    """A host over a local store, and the app that it runs."""

    host: ServerHost
    blobs: BlobStore
    workers: Workers
    folder: Path
    app: Any
    lines: list[str]
    heard: asyncio.Event

    async def keep(self, scope: str, arrays: Arrays) -> BlobKey:
        content = encode(arrays)
        manifest = manifest_of(content)
        await self.blobs.put(scope, manifest, rechunk([content]))
        return scope, manifest.id

    async def member(self, position: int, arrays: Arrays | None, *, kind: str = "delta", staleness: int = 0) -> Member:
        task = TaskId("j", "c", 1, "train", position + 100)
        site = f"s{position}"
        update = None
        if arrays is not None:
            content = encode(arrays)
            update = BlobRef(manifest_of(content), content=content)
            if len(content) > 65536:
                await self.keep(upload_scope(task, site), arrays)
                update = BlobRef(manifest_of(content), upload_scope(task, site))
        reply = Reply(task, site, num_examples=position + 1, update=update, update_kind=kind)
        return Member(position + 100, reply, position, staleness)


@asynccontextmanager
async def place(folder: Path, source: str) -> AsyncIterator[Place]:
    bundle = folder / "job" / "bundle"
    bundle.mkdir(parents=True)
    (bundle / "app.py").write_text(HEAD + textwrap.dedent(source))
    app = load_app(bundle, "app.py", "app")
    spec = app.spec()
    lines: list[str] = []
    heard = asyncio.Event()

    def log(line: str) -> None:
        lines.append(line)
        heard.set()

    with forks(launcher, LAUNCHER):
        workers = Workers(Launcher.start())
    store = LocalStore.open(folder / "store", durability="process")
    blobs = store.blobs
    load = Load(
        bundle,
        scratch=folder / "job" / "scratch",
        entry="app.py",
        object="app",
        role="server",
        options={"spec": spec.to_json()},
    )
    host = ServerHost(spec, blobs, workers, load, threads=2, log=log)
    try:
        yield Place(host, blobs, workers, folder, app, lines, heard)
    finally:
        await host.close()
        await workers.close()
        store.close()


def request(members: list[Member], model: BlobKey | None, *, state: tuple[BlobKey, ...] = ()) -> ReduceRequest:
    return ReduceRequest(2, "train", "fold", tuple(members), 3, model, state, "j/c/2/model")


def vector(size: int, seed: int) -> Arrays:
    return Arrays({"0": np.random.default_rng(seed).standard_normal(size, dtype=np.float32)})


ASKED = PlanRequest(1, 0, ("a", "b"), (), (), False)


@pytest.mark.parametrize("size", [4, 100_000])
async def test_the_worker_gives_the_bits_of_this_process(tmp_path: Path, size: int) -> None:
    async with place(tmp_path, MOMENTUM) as at:
        answer = await at.host.plan(ASKED)
        assert (answer.update_kind, answer.order, answer.late) == ("delta", "receipt", "carry")
        assert [ask.site for ask in answer.plan.asks] == ["a", "b"]
        model = await at.keep("j/c/0/model", vector(size, 9))
        members = [await at.member(n, vector(size, n), staleness=n) for n in range(3)]
        strategy = at.app.server_side.strategy(None)
        local = LocalHost(strategy, at.app.spec(), at.blobs, threads=2)
        first = await at.host.reduce(request(members, model))
        assert first == await local.reduce(request(members, model))
        assert first.model is not None
        second = await at.host.reduce(request(members, first.model, state=first.state))
        assert second == await local.reduce(request(members, first.model, state=first.state))
        assert second.state != first.state
        assert (await load_arrays(at.blobs, second.state[0]))["0"].dtype == np.float64
        assert not (tmp_path / "job" / "reduced").exists()


async def test_refused_updates_are_named_by_ordinal(tmp_path: Path) -> None:
    async with place(tmp_path, MOMENTUM) as at:
        model = await at.keep("j/c/0/model", vector(20_000, 9))
        good, nan, wrong = vector(20_000, 0), vector(20_000, 1), vector(20_001, 2)
        nan["0"][7] = np.nan
        members = [await at.member(n, arrays) for n, arrays in enumerate((good, nan, wrong))]
        answer = await at.host.reduce(request(members, model))
        assert list(answer.refused or {}) == [102]
        answer = await at.host.reduce(request(members[:2], model))
        assert list(answer.refused or {}) == [101]
        members = [members[0], await at.member(1, None), await at.member(2, good, kind="values")]
        answer = await at.host.reduce(request(members, model))
        assert answer.refused == {101: "expected arrays, found none", 102: "expected delta, found values"}
        await at.blobs.delete_scope(upload_scope(members[0].reply.task, "s0"))
        answer = await at.host.reduce(request(members[:1], model))
        assert list(answer.refused or {}) == [100]


KILLED_ONCE = """
class Dying(hs.Strategy):
    def weigh(self, replies):
        if not os.path.exists("died"):
            open("died", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().weigh(replies)

@app.strategy
def strategy(ctx):
    return Dying()
"""


async def test_a_call_whose_worker_is_killed_is_repeated(tmp_path: Path) -> None:
    async with place(tmp_path, KILLED_ONCE) as at:
        model = await at.keep("j/c/0/model", vector(4, 9))
        answer = await at.host.reduce(request([await at.member(0, vector(4, 0), kind="values")], model))
        assert (tmp_path / "job" / "scratch" / "died").exists()
        assert answer.model is not None
        assert (await load_arrays(at.blobs, answer.model))["0"].tolist() == vector(4, 0)["0"].tolist()


async def test_a_worker_killed_between_calls_is_replaced(tmp_path: Path) -> None:
    async with place(tmp_path, MOMENTUM) as at:
        first = await at.host.plan(ASKED)
        worker = at.host._worker
        assert worker is not None
        os.kill(worker.pid, signal.SIGKILL)
        await asyncio.shield(worker.exited)
        assert await at.host.plan(ASKED) == first


async def test_a_worker_that_always_dies_fails_by_name(tmp_path: Path) -> None:
    source = KILLED_ONCE.replace('os.path.exists("died")', "False")
    async with place(tmp_path, source) as at:
        model = await at.keep("j/c/0/model", vector(4, 9))
        with pytest.raises(TaskError, match="SIGKILL"):
            await at.host.reduce(request([await at.member(0, vector(4, 0), kind="values")], model))


@pytest.mark.parametrize(
    ("body", "call", "says"),
    [
        ("def plan(self, context): raise KeyError('patient 4711')", "plan", r"KeyError at app\.py:\d+ in plan"),
        ("def plan(self, context): return 3", "plan", "expected plan.. to return a PhasePlan"),
        ("def weigh(self, replies): return [1 / 0]", "reduce", r"ZeroDivisionError at app\.py:\d+ in weigh"),
        ("def weigh(self, replies): return [-1.0]", "reduce", "finite numbers ≥ 0, found -1"),
        ("def weigh(self, replies): return [0.0]", "reduce", "expected a total weight > 0"),
        ("def reducer(self): return None", "reduce", "expected reducer.. to return a Fold"),
        ("def update(self, *blocks): raise SystemExit(3)", "reduce", "called exit"),
    ],
)
async def test_what_goes_wrong_in_the_apps_code_is_named(tmp_path: Path, body: str, call: str, says: str) -> None:
    source = f"class Wrong(hs.Strategy):\n    {body}\n\n@app.strategy\ndef strategy(ctx):\n    return Wrong()\n"
    async with place(tmp_path, source) as at:
        model = await at.keep("j/c/0/model", vector(4, 9))
        members = [await at.member(0, vector(4, 0), kind="values")]
        with pytest.raises(TaskError, match=says) as caught:
            await (at.host.plan(ASKED) if call == "plan" else at.host.reduce(request(members, model)))
        assert "4711" not in str(caught.value)


async def test_too_few_sites_are_waited_for(tmp_path: Path) -> None:
    source = MOMENTUM + "\napp._spec = __import__('dataclasses').replace(app._spec, quorum=3)\n"
    async with place(tmp_path, source) as at:
        with pytest.raises(ConfigError, match="expected at least 3 sites, found 2"):
            await at.host.plan(ASKED)


async def test_an_app_that_cannot_be_imported_ends_the_run(tmp_path: Path) -> None:
    async with place(tmp_path, MOMENTUM) as at:
        (tmp_path / "job" / "bundle" / "app.py").write_text("app = 3\n")
        with pytest.raises(TaskError, match=r"no worker for the app's server side.*hs\.App"):
            await at.host.plan(ASKED)


SLOW = """
import time

class Slow(hs.Strategy):
    def plan(self, context):
        print("planning", flush=True)
        time.sleep(600)

@app.strategy
def strategy(ctx):
    return Slow()
"""


async def test_a_server_that_is_stopped_fails_no_run(tmp_path: Path) -> None:
    async with place(tmp_path, SLOW) as at:
        planning = asyncio.create_task(at.host.plan(ASKED))
        await at.heard.wait()
        assert at.lines == ["planning"]
        await at.host.close()
        with pytest.raises(UnavailableError, match="is being stopped"):
            await planning
        with pytest.raises(UnavailableError, match="is being stopped"):
            await at.host.plan(ASKED)


# ---- the whole way ----

FAILING = """
class Failing(hs.Strategy):
    def weigh(self, replies):
        raise RuntimeError("patient 4711")

@app.strategy
def strategy(ctx):
    return Failing()
"""


@pytest.mark.slow
def test_over_grpc(tmp_path: Path) -> None:
    def app_of(name: str, source: str) -> Any:
        (tmp_path / f"{name}.py").write_text(HEAD + source)
        return load_app(tmp_path, f"{name}.py", "app")

    with (
        forks(local_federation, MEMBERS),
        LocalFederation(tmp_path / "federation", {"a": {}, "b": {}}, durability="process") as federation,
    ):
        person = federation.federation()
        with pytest.raises(JobFailed, match=r"phase train: RuntimeError at failing\.py:\d+ in weigh") as caught:
            hs.run(app_of("failing", FAILING), person)
        assert "4711" not in str(caught.value)
        assert caught.value.result.status == "failed"
        dying = app_of("dying", KILLED_ONCE)
        found = hs.run(dying, person)
        assert found.status == "finished"
        assert found.arrays["0"].tolist() == [2.0] * 4
        assert found.rounds[0].folded == ("a", "b")
    log = (federation.directory / "server" / "log").read_text()
    assert "patient 4711" in log, "the traceback is in the server's own log"
