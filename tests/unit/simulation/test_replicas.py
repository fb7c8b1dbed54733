"""Replicas: the bits of the sequential engine with any number of processes, whichever of them dies."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hanse as hs
from hanse.aggregation import GROUP
from hanse.clients.loader import load_app
from hanse.core.errors import ConfigError
from hanse.core.ids import TaskId
from hanse.core.records import Task
from hanse.simulation import engines, hands
from hanse.simulation.engine import Batch
from hanse.simulation.replicas import Replicas
from tests.nursery import REPLICA, forks

APPS = Path(__file__).parent / "apps"
NUM_SITES = 30


@pytest.fixture
def app() -> Any:
    return load_app(APPS, "crowd.py", "app")


@pytest.fixture
def warm() -> Iterator[None]:
    """Replicas that begin as forks, where starting them is not what is tested."""
    with forks(hands, REPLICA):
        yield


def crowd(app: Any, counted: bool = True, **extra: dict[str, Any]) -> dict[str, Any]:
    """Site → data sets; `extra`: site → what its rows hold beside."""
    made = app.module_globals["made"]
    sites = {f"site-{n:02d}": made(f"site-{n:02d}") for n in range(NUM_SITES)}
    for site, sets in sites.items():
        sets["rows"].update(extra.get(site.replace("-", "_"), {}))
        if not counted:
            sets["rows"]["n"] = 0
    return sites


def said(result: Any) -> Any:
    rounds = [replace(record, seconds_by_phase={}) for record in result.rounds]
    return {name: array.tobytes() for name, array in result.arrays.items()}, rounds, result.fingerprints


def run(app: Any, sites: Any, engine: str, **options: Any) -> Any:
    return said(hs.simulate(app, sites, engine=engine, progress=False, **options))


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("counted", [True, False])
def test_the_same_bits_with_any_number_of_processes(app: Any, count: int, counted: bool) -> None:
    sites = crowd(app, counted, site_03={"fails": 1}, site_07={"fails": 1})
    assert run(app, sites, "replicas", replicas=count) == run(app, sites, "sequential")


class Own(hs.Strategy):
    """Not built in."""

    def weigh(self, replies: Any) -> list[float]:
        return [1.0 + place for place in range(len(replies))]


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("strategy", [hs.FedMedian(), hs.FedAdam(), hs.FedAvg(weights="equal"), hs.FedDyn(), Own()])
def test_every_kind_of_strategy(app: Any, strategy: Any) -> None:
    """Medians see updates whole, optimisers keep a state, FedDyn has a part at sites."""
    varied = app.variant(strategy=strategy, seed=8, rounds=2)
    expected = run(varied, crowd(app), "sequential")
    assert run(varied, crowd(app), "replicas", replicas=2) == expected
    assert expected[0] != run(app, crowd(app), "sequential")[0]


@pytest.mark.usefixtures("warm")
def test_a_killed_replica_changes_no_bit(app: Any, tmp_path: Path) -> None:
    expected = run(app, crowd(app), "sequential")
    marks = [tmp_path / name for name in ("first", "second")]
    for mark in marks:
        mark.touch()
    sites = crowd(app, site_05={"kill": str(marks[0])}, site_20={"kill": str(marks[1])})
    assert run(app, sites, "replicas", replicas=2) == expected
    assert not any(mark.exists() for mark in marks), "somebody was to be killed"


@pytest.mark.usefixtures("warm")
def test_a_site_that_kills_whoever_runs_it_has_failed(app: Any) -> None:
    sites = crowd(app, site_11={"always": 1})
    result = hs.simulate(app, sites, engine="replicas", replicas=2, progress=False)
    failed = [record.failed for record in result.rounds if record.failed]
    assert failed
    assert {site for sites in failed for site in sites} == {"site-11"}
    assert "killed: the process ended (signal SIGKILL)" in failed[0]["site-11"]
    others = crowd(app, site_11={"fails": 1})
    assert run(app, others, "sequential")[0] == {name: array.tobytes() for name, array in result.arrays.items()}


@pytest.mark.usefixtures("warm")
def test_data_from_a_function_of_the_module(app: Any) -> None:
    population = hs.Population(NUM_SITES, data=app.module_globals["made"])
    assert run(app, population, "replicas", replicas=2) == run(app, crowd(app), "sequential")


@pytest.mark.usefixtures("warm")
def test_asynchrony_and_virtual_time(app: Any) -> None:
    options = {"durations": hs.traces.LogNormal(9.0), "availability": hs.traces.Dropout(0.1)}
    assert run(app, crowd(app), "replicas", replicas=2, **options) == run(app, crowd(app), "sequential", **options)


@pytest.mark.usefixtures("warm")
def test_auto_goes_over_to_replicas_where_it_pays(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    original = engines.make_engine

    def make(*args: Any, **options: Any) -> Any:
        made.append(original(*args, **options))
        return made[-1]

    monkeypatch.setattr(engines, "make_engine", make)
    expected = run(app, crowd(app), "sequential")
    assert run(app, crowd(app), "auto", replicas=2) == expected
    assert made[-1].name == "sequential", "three rounds of nothing are not worth two processes"
    monkeypatch.setattr(engines, "STARTING_S", 0.0)
    monkeypatch.setattr(engines, "IMPORTING_TORCH_S", 0.0)
    assert run(app, crowd(app), "auto", replicas=2) == expected
    assert made[-1].name == "replicas"


@pytest.mark.usefixtures("warm")
def test_auto_stays_in_one_process_where_replicas_do_not_start(
    app: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Found when they are started: here they would load another app than the one that is run."""
    monkeypatch.setattr(engines, "STARTING_S", 0.0)
    monkeypatch.setattr(engines, "IMPORTING_TORCH_S", 0.0)
    expected = run(app, crowd(app), "sequential")
    monkeypatch.setattr(Replicas, "_problem", lambda self, loaded: "it is another one")
    assert run(app, crowd(app), "auto", replicas=2) == expected
    assert "simulation: one process, since" in capsys.readouterr().err


def test_an_app_without_a_file_stays_in_this_process(capsys: pytest.CaptureFixture[str]) -> None:
    own: dict[str, Any] = {"__name__": "prompt", "hs": hs, "np": np}
    exec("app = hs.App(rounds=1, initial=[np.zeros(1)])", own)
    app = own["app"]
    app.train(lambda arrays, config, site: (arrays, 1, {}))
    with pytest.raises(ConfigError, match="put the app into a file"):
        hs.simulate(app, 5, engine="replicas", progress=False)


def test_data_that_cannot_travel_are_refused_by_name(app: Any) -> None:
    with pytest.raises(ConfigError, match=r"found object in 'rows' of b"):
        hs.simulate(app, {**crowd(app), "b": {"rows": object()}}, engine="replicas", progress=False)
    with pytest.raises(ConfigError, match="data: expected a function at the top level of the app's module"):
        hs.simulate(app, hs.Population(NUM_SITES, data=lambda site: {}), engine="replicas", progress=False)


@pytest.mark.usefixtures("warm")
def test_another_app_in_the_file_is_refused(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "_spec", replace(app._spec, sample=7))
    with pytest.raises(ConfigError, match="the app in that file is another one"):
        hs.simulate(app, crowd(app), engine="replicas", replicas=1, progress=False)


@pytest.mark.usefixtures("warm")
def test_another_fingerprint_is_refused(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hanse.simulation.replicas.fingerprint", lambda: "another machine")
    with pytest.raises(ConfigError, match="expected the numerics fingerprint another machine"):
        hs.simulate(app, crowd(app), engine="replicas", replicas=1, progress=False)
    taken = hs.simulate(app, crowd(app), engine="replicas", replicas=1, mixed_hardware=True, progress=False)
    assert "not comparable" in taken.about["Hardware"]


@pytest.mark.parametrize("count", [0, -1, 1.5, True])
def test_numbers_of_replicas_are_checked(app: Any, count: Any) -> None:
    with pytest.raises(ConfigError, match="replicas: expected a whole number"):
        hs.simulate(app, crowd(app), engine="replicas", replicas=count, progress=False)


def test_nothing_is_left_behind(app: Any) -> None:
    engine = Replicas(app, hs.Population(5, data=app.module_globals["made"]), 2, mixed_hardware=True)
    engine.start()
    pids = engine.pids
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    engine.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_chunks_are_whole_subtrees_and_the_longest_go_first(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every position is in one chunk; what is summed are whole groups: all that there are, and never the broken one."""
    engine = Replicas(app, hs.Population(1000, data=app.module_globals["made"]), 2)
    engine._sizes = {f"s{n}": float((n * 7919) % 101) for n in range(1000)}
    given: list[Any] = []
    monkeypatch.setattr(engine, "start", lambda: None)
    monkeypatch.setattr(engine, "_feed", lambda: iter(given.extend(engine._waiting) or ()))
    for size, first in ((1, 0), (7, 0), (50, 0), (997, 0), (64, 3)):
        given.clear()
        positions = list(range(first, size))
        tasks = [Task(TaskId("j", "main", 1, "train", n), f"s{n}", "train") for n in positions]
        begins = -(-first // GROUP) * GROUP
        batch = Batch(positions, tasks, [None] * len(tasks), None, None, begins, size - size % GROUP)
        with pytest.raises(RuntimeError):  # nobody is there to answer
            list(engine.run(batch))
        assert sorted(p for chunk in given for p in chunk.batch.positions) == positions
        assert [chunk.cost for chunk in given] == sorted((chunk.cost for chunk in given), reverse=True)
        summed = [p for c in given for p in range(c.batch.whole_from, c.batch.whole_below)]
        assert sorted(summed) == list(range(begins, size - size % GROUP))
        for chunk in given:
            inside = range(chunk.batch.whole_from, chunk.batch.whole_below)
            assert set(inside) <= set(chunk.batch.positions)
            assert inside.start % GROUP == inside.stop % GROUP == 0 or not inside
    engine.close()
