"""One app, every runtime, the same bits (DESIGN §3.10).

Every example and every app beside this file is run with one seed in `hs.simulate`, over gRPC with real processes and
mutual TLS, and in real workers that are replaced between any two tasks. Compared are the final arrays byte for byte,
and what each round's record says, down to the last bit of every metric.
"""

import asyncio
import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import hanse as hs
from hanse.clients.execute import Outcome
from hanse.clients.failures import SHOWN, SITES_LOG
from hanse.clients.loader import load_app
from hanse.core.codec import decode, encode
from hanse.core.records import Task
from hanse.demos import local_federation
from hanse.demos.local_federation import LocalFederation
from hanse.simulation import engines
from hanse.simulation.engine import Answered, Batch
from hanse.workers import launcher
from hanse.workers.assignment import Assignment
from hanse.workers.handle import Worker
from hanse.workers.launcher import PRELOAD, Launcher
from hanse.workers.load import Load
from hanse.workers.pool import Workers
from tests.conformance.over_aws import AwsFederation
from tests.nursery import LAUNCHER, MEMBERS, forks
from tests.patience import WAIT_S

EXAMPLES = Path(__file__).parents[2] / "examples"
APPS = Path(__file__).parent / "apps"
SITES = tuple(f"site-{n}" for n in range(6))
DataSets = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Case:
    """An app, and the function of its module that makes its sites' data."""

    folder: Path
    file: str
    sites: str = ""
    needs: str = ""

    def load(self) -> tuple[Any, DataSets]:
        if self.needs and importlib.util.find_spec(self.needs) is None:
            pytest.skip(f"{self.needs} is not installed")
        app = load_app(self.folder, self.file, "app")
        if self.sites:
            data = app.module_globals[self.sites]()
        else:
            asks = self.file == "asking.py"
            data = {site: {"readings": readings(n)} if asks else {} for n, site in enumerate(SITES[:4])}
        # The same names everywhere, so that one federation serves all.
        return app, dict(zip(SITES, data.values(), strict=False))


def readings(number: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(number)
    return rng.normal(number / 4, 1, 50 + number), np.arange(50 + number)


CASES = {
    "sklearn_logreg": Case(EXAMPLES, "sklearn_logreg.py", "hospitals", "sklearn"),
    "numpy_client": Case(EXAMPLES, "numpy_client.py", "laboratories"),
    "torch_mlp": Case(EXAMPLES, "torch_mlp.py", "sites", "torch"),
    "keras_mlp": Case(EXAMPLES, "keras_mlp.py", "sites", "keras"),
    "custom_strategy": Case(EXAMPLES, "custom_strategy.py", "sites"),
    "analytics": Case(EXAMPLES, "analytics.py", "clinics"),
    "surviving": Case(APPS, "surviving.py", "clinics"),
    "bagging": Case(APPS, "bagging.py", "shops", "xgboost"),
    "boosting": Case(EXAMPLES, "boosting.py", "banks"),
    "boosting_classes": Case(APPS, "boosting_classes.py", "gardens"),
    "declared": Case(APPS, "declared.py", "sites"),
    **{
        name: Case(APPS, f"{name}.py")
        for name in (
            "stateful",
            "adaptive",
            "at_home",
            "gathering",
            "listing",
            "asking",
            "counting",
            "compressed",
            "controlled",
            "dynamic",
            "fair",
            "nova",
            "robust",
        )
    },
}


def test_no_example_is_left_out() -> None:
    of_groups = {EXAMPLES / "groups.py", APPS / "grouped.py"}  # see test_groups
    files = {case.folder / case.file for case in CASES.values()} | of_groups
    assert files == {*EXAMPLES.glob("*.py"), *APPS.glob("*.py")}


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def said(result: Any) -> dict[str, Any]:
    """Everything about a result that must be equal."""
    rounds = [record.to_json() for record in result.rounds]
    for record in rounds:  # where the rest is to be read is not the same everywhere
        record["failed"] = {site: cause.replace(SHOWN, SITES_LOG) for site, cause in record["failed"].items()}
    kept = ("number", "folded", "late", "failed", "metrics", "by_site", "model")
    return {
        "status": result.status,
        "layout": result.arrays.layout,
        "bytes": {name: array.tobytes() for name, array in result.arrays.items()},
        "rounds": [{name: record[name] for name in kept} for record in rounds],
        "fingerprints": result.fingerprints,
    }


def simulated(app: Any, data: DataSets) -> dict[str, Any]:
    return said(hs.simulate(app, data, progress=False))


# ---- over gRPC ----


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """One federation for all apps: the data lie in files that every site declares. A site keeps one worker warm."""
    folder = tmp_path_factory.mktemp("same-bits")
    declared: dict[str, dict[str, Any]] = {site: {} for site in SITES}
    loader = folder / "owners_loader.py"
    loader.write_text("import numpy as np\n\ndef array(file):\n    return np.load(file, allow_pickle=False)\n")
    for case in CASES.values():
        if case.needs and importlib.util.find_spec(case.needs) is None:
            continue
        _, data = case.load()
        for site, sets in data.items():
            for name, content in sets.items():
                assert name not in declared[site], "two apps would load each other's data"
                declared[site][name] = declaration(folder / f"{site}-{name}", content, loader)
    # workers.limit 1: two jobs side by side take the worker from each other between any two tasks.
    place = LocalFederation(folder / "federation", declared, durability="process", settings={"workers": {"limit": 1}})
    with forks(local_federation, MEMBERS), place:
        yield place


def declaration(path: Path, content: Any, loader: Path) -> dict[str, Any]:
    if isinstance(content, tuple):
        np.savez(path, x=content[0], y=content[1])
        return {"kind": "npz", "path": f"{path}.npz", "x": "x", "y": "y"}
    np.save(path, content)
    file = f"{path}.npy"
    return {
        "kind": "python", "path": str(loader), "function": "array", "arguments": {"file": file}, "read": [file],
    }  # fmt: skip


@pytest.mark.slow
def test_simulation_and_federation_give_the_same_bits(case: Case, federation: LocalFederation) -> None:
    app, data = case.load()
    expected = simulated(app, data)
    job = hs.submit(app, federation.federation(), sites=list(data))
    found = said(job.result())
    assert found == expected
    assert found["status"] == "finished"
    assert found["bytes"] or case.file == "counting.py"
    assert found["rounds"]


@pytest.mark.slow
def test_two_jobs_that_share_one_worker_change_no_bit(
    federation: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, data = CASES["stateful"].load()
    monkeypatch.setattr(app, "_spec", replace(app._spec, rounds=3))  # a worker is replaced in each
    expected = simulated(app, data)
    jobs = [hs.submit(app, federation.federation(), sites=list(data)) for _ in range(2)]
    for job in jobs:
        assert said(job.result()) == expected


# ---- without a server ----


@pytest.fixture(scope="module")
def functions(federation: LocalFederation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsFederation]:
    """The same data behind queues, a bucket and a table of an emulator."""
    with AwsFederation(tmp_path_factory.mktemp("functions") / "federation", federation.sites) as place:
        yield place


@pytest.mark.long
@pytest.mark.parametrize("name", ["stateful", "asking"])
def test_a_federation_without_a_server_gives_the_same_bits(name: str, functions: AwsFederation) -> None:
    """Of a training with state at the sites and evaluations at the server, and of a question."""
    app, data = CASES[name].load()
    job = hs.submit(app, functions.federation(), sites=list(data))
    assert said(job.result()) == simulated(app, data)
    assert job.status()["status"] == "finished"


# ---- workers that are replaced ----


class InWorkers:
    """An engine that executes every task in a real worker process.

    Args:
        fresh: whether each task gets a worker of its own; otherwise each site keeps one.
    """

    name: ClassVar[str] = "workers"
    exact: ClassVar[bool] = True
    settings: Mapping[str, Any] = {}

    def __init__(self, case: Case, app: Any, data: DataSets, folder: Path, *, fresh: bool) -> None:
        preload = (*PRELOAD, "sklearn.linear_model", "sklearn.datasets") if case.needs == "sklearn" else PRELOAD
        self.case, self.seed, self.data, self.folder, self.fresh = case, app.spec().seed, data, folder, fresh
        self.started = 0
        self._loop = asyncio.Runner()
        self.workers = self._loop.run(self._launch(preload))
        self._warm: dict[str, Worker] = {}

    async def _launch(self, preload: tuple[str, ...]) -> Workers:
        with forks(launcher, LAUNCHER):
            return Workers(Launcher.start(preload))

    def run(self, batch: Batch) -> Iterator[Answered]:
        for position, task, state in zip(batch.positions, batch.tasks, batch.states, strict=True):
            yield Answered(position, self._loop.run(self._execute(task, batch.model, state)))

    async def _execute(self, task: Task, model: hs.Arrays | None, state: bytes | None) -> Outcome:
        worker = self._warm.get(task.site) or await self._start(task.site)
        out = self.folder / "update"
        content = None if model is None else encode(model)
        done = await worker.execute(Assignment(task, model=content, state=state, out=out, timeout_s=WAIT_S))
        if self.fresh:
            await worker.close()
            del self._warm[task.site]
        update = done.reply.update
        if update is None:
            return Outcome(done.reply, None, done.state)
        arrays = decode(out.read_bytes() if done.written else update.content or b"")
        return Outcome(replace(done.reply, update=None), arrays, done.state)

    async def _start(self, site: str) -> Worker:
        self.started += 1
        scratch = self.folder / f"scratch-{self.started}"
        scratch.mkdir()
        datasets = {}
        loader = self.folder / "owners_loader.py"
        loader.write_text("import numpy as np\n\ndef array(file):\n    return np.load(file, allow_pickle=False)\n")
        for name, content in self.data[site].items():
            datasets[name] = declaration(self.folder / f"{site}-{name}", content, loader)
        worker = await self.workers.spawn()
        load = Load(
            bundle=self.case.folder,
            entry=self.case.file,
            object="app",
            site=site,
            seed=self.seed,
            scratch=scratch,
            datasets=datasets,
        )
        await worker.load(load, timeout_s=WAIT_S)
        self._warm[site] = worker
        return worker

    def close(self) -> None:
        self._loop.run(self.workers.close())
        self._loop.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rounds"),
    [
        ("stateful", 3),
        ("compressed", 2),
        ("controlled", 3),
        ("dynamic", 2),
        ("at_home", 2),
        ("gathering", 2),
        ("sklearn_logreg", 1),
    ],
)
def test_a_worker_may_be_replaced_between_any_two_tasks(
    name: str, rounds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, data = CASES[name].load()
    monkeypatch.setattr(app, "_spec", replace(app._spec, rounds=rounds))  # a fresh worker imports the app anew
    expected = simulated(app, data)
    for fresh in (False, True):
        folder = tmp_path / str(fresh)
        folder.mkdir()
        used = InWorkers(CASES[name], app, data, folder, fresh=fresh)
        with monkeypatch.context() as patch:
            patch.setattr(engines, "make_engine", lambda *args, used=used, **options: used)
            assert simulated(app, data) == expected
        tasks = sum(len(record["folded"]) for record in expected["rounds"])
        assert used.started >= tasks if fresh else used.started <= len(data)


def test_another_seed_gives_other_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the tests above would prove nothing about streams."""
    app, data = CASES["stateful"].load()
    expected = simulated(app, data)
    monkeypatch.setattr(app, "_spec", replace(app._spec, seed=12))
    other = simulated(app, data)
    assert other["bytes"] != expected["bytes"]
    assert json.dumps(other["rounds"]) != json.dumps(expected["rounds"])
