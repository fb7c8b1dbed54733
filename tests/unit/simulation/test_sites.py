"""Populations: what goes in as sites, what they cost, and that nothing depends on who else was asked or when."""

import hashlib
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hanse as hs
from hanse.core.errors import ConfigError
from hanse.core.ids import TaskId
from hanse.core.records import Task
from hanse.simulation import sites as places_module
from hanse.simulation.engine import Answered, Batch
from hanse.simulation.sequential import Sequential
from hanse.simulation.sites import Places, population_of


def drawing_app(**settings: Any) -> hs.App:
    """Draws from every source of chance that user code has."""
    app = hs.App(**{"rounds": 2, "initial": [np.zeros(4)], "evaluate_every": 0, **settings})

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        import random

        drawn = [random.random(), float(np.random.random()), float(site.rng.random()), float(len(site.name))]
        site.state["seen"] = [*site.state.get("seen", []), drawn[0]]
        return [arrays["0"] + drawn + len(site.state["seen"])], 1, {}

    return app


def hashes(order: list[int]) -> dict[str, str]:
    """Site and round → hash of its update, when sites are asked in this order, twice, so that clients are warm."""
    app = drawing_app()
    model = app.initial_arrays
    assert model is not None
    tasks = [Task(TaskId("j", "main", r, "train", n), f"s{n}", "train") for r in (1, 2) for n in order]
    engine = Sequential(Places(app, population_of([f"s{n}" for n in range(20)])))
    found = {}
    for place, task in enumerate(tasks):
        for item in engine.run(Batch([place], [task], [None], model)):
            assert isinstance(item, Answered)
            assert item.outcome.arrays is not None
            found[f"{task.site} {task.id.round}"] = hashlib.sha256(item.outcome.arrays["0"].tobytes()).hexdigest()
    return found


@settings(deadline=None)
@given(st.permutations(range(8)), st.lists(st.integers(8, 19), max_size=5, unique=True))
def test_who_is_asked_before_changes_no_update(order: list[int], others: list[int]) -> None:
    expected = hashes(list(range(8)))
    found = hashes([*others, *order])
    assert {site: found[site] for site in expected} == expected
    assert len(set(expected.values())) == 16


def test_sites_that_are_forgotten_come_back_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    sites = {f"s{n:02d}": {"rows": [n]} for n in range(12)}
    expected = hs.simulate(drawing_app(rounds=4), sites, progress=False)
    monkeypatch.setattr(places_module, "KEPT", 2)
    assert hs.simulate(drawing_app(rounds=4), sites, progress=False).arrays == expected.arrays


def test_data_are_kept_as_far_as_they_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    app = hs.App(rounds=3, initial=[np.zeros(1)], evaluate_every=0)

    @app.train
    def train(arrays: hs.Arrays, config: Any, site: Any) -> Any:
        return arrays, len(site.load("rows")), {}

    def data(site: str) -> Any:
        read.append(site)
        return {"rows": np.zeros(1000)}

    hs.simulate(app, hs.Population(10, data), progress=False)
    assert len(read) == 10
    monkeypatch.setattr(places_module, "DATA_BYTES", 4 * 8000)  # the fifth that is held makes the first one go
    read.clear()
    hs.simulate(app, hs.Population(10, data), progress=False)
    assert len(read) == 30
    read.clear()
    hs.simulate(app, hs.Population(5, data), progress=False)
    assert len(read) == 5


@pytest.mark.parametrize(
    ("value", "size"),
    [(np.zeros(10), 80), ({"a": np.zeros(4), "b": (np.zeros(2),)}, 64 + 2 * (32 + 80) // 2), (7, 32), ("ab", 66)],
)
def test_what_data_take(value: Any, size: int) -> None:
    assert places_module.bytes_of(value) == pytest.approx(size, abs=16)
    assert places_module.bytes_of(object()) == places_module.UNKNOWN_BYTES


def test_one_runtime_for_bare_functions_mixes_up_no_sites() -> None:
    app = hs.App(rounds=2, initial=[np.zeros(1)], evaluate_every=0)
    seen: list[tuple[str, Any, int]] = []

    @app.train
    def train(arrays: hs.Arrays, config: Any, site: Any) -> Any:
        site.state["times"] = site.state.get("times", 0) + 1
        seen.append((site.name, site, site.state["times"]))
        return arrays, 1, {}

    hs.simulate(app, 3, progress=False)
    assert [(name, times) for name, _, times in seen] == [(f"site-{n}", t) for t in (1, 2) for n in range(3)]
    assert all(site.name == name for name, site, _ in seen)  # a site that somebody has kept stays what it was


def test_large_clients_are_kept_in_smaller_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    app = hs.App(rounds=3, initial=[np.zeros(1000)], evaluate_every=0)

    class Client:
        def get_parameters(self, config: Any) -> Any:
            return [np.zeros(1000)]

        def fit(self, parameters: Any, config: Any) -> Any:
            return parameters, 1, {}

        def evaluate(self, parameters: Any, config: Any) -> Any:
            return 0.0, 1, {}

    @app.client
    def client(site: Any) -> Any:
        made.append(site.name)
        return Client()

    hs.simulate(app, 20, progress=False)
    assert len(made) == 20
    monkeypatch.setattr(places_module, "CLIENT_BYTES", 8000)  # one of them; sixteen are kept at least
    made.clear()
    hs.simulate(app, 20, progress=False)
    assert len(made) == 60


def test_a_million_sites_take_the_memory_of_a_thousand() -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        try:
            population = hs.Population(count, data=lambda site: {"rows": np.zeros(3)})
            result = hs.simulate(drawing_app(sample=20), population, progress=False)
            assert len(result.rounds[1].folded) == 20
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small = peak(1000)
    assert peak(1_000_000) < small + 2_000_000


def test_every_form_of_sites() -> None:
    app = hs.App(rounds=1)
    app.query(lambda config, site: {"size": float(len(site.load("rows")))})
    given = {"b": {"rows": [1, 2]}, "a": {"rows": lambda: [1, 2, 3, 4]}}
    for sites in (given, hs.Population(["b", "a"], data=given.__getitem__)):
        result = hs.simulate(app, sites, progress=False)
        assert result.sites == ("a", "b")
        assert result.metrics["query_size"] == 3.0
    parts = hs.datasets.iid(10, 4, seed=1)
    rows = np.arange(10)
    eager = hs.simulate(app, parts.sites("rows", rows), progress=False)
    lazy = hs.simulate(app, hs.Population(list(parts.parts), data=parts.reader("rows", rows)), progress=False)
    assert eager.metrics == lazy.metrics
    assert [record.by_site for record in eager.rounds] == [record.by_site for record in lazy.rounds]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: hs.Population(0), "sites: expected at least one"),
        (lambda: hs.Population(-3), "sites: expected at least one"),
        (lambda: hs.Population(True), "sites: expected at least one"),
        (lambda: hs.Population(10**10), "sites: expected at least one and at most"),
        (lambda: hs.Population(["a", "a"]), "expected distinct names, found 'a' twice"),
        (lambda: hs.Population(["A"]), "site: expected 1 to 63"),
        (lambda: hs.Population(3, prefix="Site"), "site: expected 1 to 63"),
        (lambda: hs.Population(3, data={"a": 1}), "data: expected a function"),
        (lambda: population_of("abc"), "sites: expected a mapping"),
        (lambda: population_of(3.5), "sites: expected a mapping"),
        (lambda: population_of({"a": 3}), "sites: expected a mapping of data sets for 'a'"),
        (lambda: population_of([1, 2]), "sites: expected names, found int"),
        (lambda: hs.simulate(drawing_app(sample=9), 8, progress=False), "sample: expected at most the 8 sites"),
        (lambda: hs.simulate(drawing_app(quorum=9), 8, progress=False), "quorum: expected at most the 8 sites"),
        (lambda: hs.simulate(drawing_app(min_sites=9), 8, progress=False), "min_sites: expected at most the 8 sites"),
        (lambda: hs.simulate(drawing_app(), 8, engine="x", progress=False), "engine: expected one of auto"),
    ],
)
def test_bad_arguments(make: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()


def test_data_that_are_no_mapping_fail_at_their_site() -> None:
    app = hs.App(rounds=1, quorum=1, retries=0)
    app.query(lambda config, site: {"size": len(site.load("rows"))})
    population = hs.Population(2, data=lambda site: {"rows": [1]} if site.endswith("0") else [1])  # type: ignore[arg-type,return-value]
    result = hs.simulate(app, population, progress=False)
    assert "data: expected a mapping" in result.rounds[0].failed["site-1"]
