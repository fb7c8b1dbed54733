"""The batched engine against the sequential one, over ragged sites, kinds that mix, and everything that goes wrong."""

from dataclasses import replace
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hanse as hs
from hanse.clients.app import App
from hanse.clients.loader import load_app
from hanse.clients.perceptrons import Stack
from hanse.clients.training import orders_of, steps_of
from hanse.core.arrays import Array, Arrays
from hanse.core.errors import ConfigError
from hanse.simulation.batched import Batched
from hanse.simulation.checkpoint import Checkpoints
from hanse.simulation.engine import Summing
from hanse.simulation.engines import Auto
from hanse.simulation.ragged import schedule_of
from hanse.simulation.sequential import Sequential
from tests.unit.simulation.rounds import MEAN, batch_of, distance, flat, places, play

FEATURES, CLASSES = 5, 3


def rows(seed: int, count: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((count, FEATURES)).astype(np.float32)
    return X, X[:, :CLASSES].argmax(axis=1)


def sites_of(sizes: list[int]) -> dict[str, Any]:
    return {f"s{n}": {"rows": rows(n, size)} for n, size in enumerate(sizes)}


def app_of(**declared: Any) -> App:
    app = App()
    options: dict[str, Any] = {"hidden": [7], "classes": CLASSES, "optimizer": hs.SGD(0.1), "batch_size": 4} | declared

    @app.client
    def client(site: Any) -> Any:
        return hs.mlp(*site.load("rows"), **options)

    return app


def model_of(app: App, sites: dict[str, Any]) -> Arrays:
    task = batch_of(list(sites)[:1], None, call="parameters")
    arrays = play(Sequential(places(app, sites)), task).outcomes[0].arrays
    assert arrays is not None
    return arrays


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 23), min_size=1, max_size=14),
    epochs=st.integers(1, 3),
    batch_size=st.integers(1, 12),
    hidden=st.lists(st.integers(1, 9), max_size=2),
    optimizer=st.sampled_from(
        [hs.SGD(0.1), hs.SGD(0.1, 0.9, 0.01), hs.SGD(0.05, 0.5, nesterov=True), hs.Adam(0.01, weight_decay=0.1)]
    ),
    group=st.sampled_from([4, 8, None]),
    kind=st.sampled_from(["values", "delta"]),
    mu=st.sampled_from([0.0, 0.5]),
)
def test_every_site_and_the_mean_are_those_of_the_sequential_engine(
    sizes: list[int],
    epochs: int,
    batch_size: int,
    hidden: list[int],
    optimizer: Any,
    group: int | None,
    kind: str,
    mu: float,
) -> None:
    app = app_of(epochs=epochs, batch_size=batch_size, hidden=hidden, optimizer=optimizer)
    sites = sites_of(sizes)
    model = model_of(app, sites)
    options: dict[str, Any] = {"update_kind": kind, "config": {"proximal_mu": mu, "wants": ["num_steps"]}}
    batch = batch_of(list(sites), model, **options)
    expected = play(Sequential(places(app, sites)), batch)
    said: list[str] = []
    engine = Batched(places(app, sites), group=group, say=said.append)
    found = play(engine, batch)
    assert not said
    start = model if kind == "values" else Arrays((n, np.zeros_like(a)) for n, a in model.items())
    for position, outcome in expected.outcomes.items():
        other = found.outcomes[position]
        assert outcome.arrays is not None
        assert other.arrays is not None
        assert distance(other.arrays, outcome.arrays, start) < 1e-4
        assert other.reply.num_examples == outcome.reply.num_examples
        assert other.reply.metrics == pytest.approx(outcome.reply.metrics, rel=1e-4)
        assert (other.reply.update_kind, other.reply.base) == (outcome.reply.update_kind, outcome.reply.base)
    summed = play(engine, batch_of(list(sites), model, summing=replace(MEAN, update_kind=kind), **options))
    assert summed.summed == list(range(len(sizes)))
    # summed or not, the canonical order gives the same bits
    assert summed.mean(model) == found.mean(model)
    assert distance(summed.mean(model), expected.mean(model), start) < 1e-4


def test_positions_with_holes_and_an_unfinished_group() -> None:
    app, sites = app_of(), sites_of([5, 9, 3, 8, 8, 8, 2])
    model = model_of(app, sites)
    positions = [1, 2, 3, 6, 9, 17, 18]
    batch = batch_of(list(sites), model, summing=MEAN, positions=positions)
    part = batch_of(list(sites), model, summing=MEAN, positions=positions)
    object.__setattr__(part, "whole_below", 16)
    engine = Batched(places(app, sites), group=8)
    whole, cut = play(engine, batch), play(engine, part)
    assert (len(whole.partials), len(cut.partials)) == (3, 2)
    assert cut.summed == positions[:5]
    assert cut.mean(model) == whole.mean(model)


def test_kinds_mix_within_a_group_and_others_are_computed_alone() -> None:
    app = App()

    @app.client
    def client(site: Any) -> Any:
        X, y = site.load("rows")
        if site.name == "s5":
            return Foreign(X)
        lr = 0.1 if int(site.name[1:]) % 3 else 0.2
        return hs.mlp(X, y, classes=CLASSES, optimizer=hs.SGD(lr), batch_size=4)

    class Foreign(hs.NumPyClient):
        def __init__(self, X: Array) -> None:
            self.X = X

        def get_parameters(self, config: Any) -> Any:
            raise NotImplementedError

        def fit(self, parameters: Any, config: Any) -> Any:
            return [part + self.X.mean() for part in parameters], len(self.X), {}

        def evaluate(self, parameters: Any, config: Any) -> Any:
            return 0.0, 1, {}

    sites = sites_of([6] * 9)
    model = model_of(app, sites)
    said: list[str] = []
    expected = play(Sequential(places(app, sites)), batch_of(list(sites), model))
    for summing in (None, MEAN):
        engine = Batched(places(app, sites), group=8, say=said.append)
        found = play(engine, batch_of(list(sites), model, summing=summing))
        assert distance(found.mean(model), expected.mean(model), model) < 1e-4
    assert len(said) == 2  # each engine says it once
    assert said[0] == (
        "batched: one site after another here: NumPyAdapter is no declared training such as hs.torch(module, X, y)"
    )


def test_a_site_that_fails_is_a_failed_reply_and_a_hole() -> None:
    app = App()

    @app.client
    def client(site: Any) -> Any:
        if site.name == "s2":
            raise RuntimeError("no data here")
        X, y = site.load("rows")
        if site.name == "s4":
            X = X * np.float32(np.inf)
        return hs.mlp(X, y, classes=CLASSES, optimizer=hs.SGD(0.1), batch_size=4)

    sites = sites_of([6] * 7)
    model = model_of(app, sites)
    with np.errstate(all="ignore"):
        found = play(Batched(places(app, sites), say=print), batch_of(list(sites), model, summing=MEAN))
        expected = play(Sequential(places(app, sites)), batch_of(list(sites), model))
    assert found.summed == [0, 1, 3, 5, 6]
    for position in (2, 4):
        assert found.outcomes[position].reply.error == expected.outcomes[position].reply.error != ""
    assert "NaN" in found.outcomes[4].reply.error
    assert distance(found.mean(model), expected.mean(model), model) < 1e-4


def test_it_stops_at_a_failure_when_told_to() -> None:
    app = App()

    @app.client
    def client(site: Any) -> Any:
        raise RuntimeError("never")

    sites = sites_of([3] * 12)
    batch = batch_of(list(sites), Arrays({"w": np.zeros(2)}))
    object.__setattr__(batch, "stop_at_failure", True)
    answered = list(Batched(places(app, sites)).run(batch))
    assert 1 <= len(answered) <= 4


def test_other_calls_and_a_model_of_another_shape_are_left_to_the_sites() -> None:
    app, sites = app_of(test=0.5), sites_of([6, 8])
    model = model_of(app, sites)
    batch = batch_of(list(sites), model, call="evaluate")
    assert [o.reply.metrics for o in play(Batched(places(app, sites)), batch).outcomes.values()] == [
        o.reply.metrics for o in play(Sequential(places(app, sites)), batch).outcomes.values()
    ]
    said: list[str] = []
    wrong = Arrays({"w": np.zeros(3, np.float32)})
    found = play(Batched(places(app, sites), say=said.append), batch_of(list(sites), wrong))
    assert all("expected a model of shapes" in outcome.reply.error for outcome in found.outcomes.values())
    assert "the model is another one" in said[0]


def test_what_needs_the_single_site_is_computed_alone() -> None:
    app, sites = app_of(), sites_of([6, 8])
    model = model_of(app, sites)
    batch = batch_of(list(sites), model, config={"wants": ["loss_before"]})
    said: list[str] = []
    found = play(Batched(places(app, sites), say=said.append), batch)
    assert "loss_before" in found.outcomes[0].reply.metrics
    assert "site by site" in said[0]


def test_a_query_beside_the_training_is_no_obstacle() -> None:
    app, sites = app_of(), sites_of([6, 8, 5, 7])
    model = model_of(app, sites)
    app.query(lambda config, site: {"count": 1})
    said: list[str] = []
    engine = Batched(places(app, sites), say=said.append)
    found = play(engine, batch_of(list(sites), model))
    assert engine.group
    assert not said
    alone = play(Sequential(places(app, sites)), batch_of(list(sites), model))
    for position, outcome in alone.outcomes.items():
        assert outcome.arrays is not None
        for name, array in outcome.arrays.items():
            np.testing.assert_allclose(found.outcomes[position].arrays[name], array, rtol=1e-4, atol=1e-6)


def test_memory_that_is_short_halves_the_group_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    app, sites = app_of(), sites_of([6, 9, 3, 4, 8, 8, 2, 6, 6, 11])
    model = model_of(app, sites)
    expected = play(Sequential(places(app, sites)), batch_of(list(sites), model))
    original = Stack.gradients

    def short(self: Stack, X: Array, *args: Any, **options: Any) -> Any:
        if len(self) > 4:
            raise MemoryError("cannot allocate")
        return original(self, X, *args, **options)

    monkeypatch.setattr(Stack, "gradients", short)
    said: list[str] = []
    found = play(Batched(places(app, sites), group=16, say=said.append), batch_of(list(sites), model, summing=MEAN))
    assert said == [
        "batched: memory was short; groups of 8 sites from here on",
        "batched: memory was short; groups of 4 sites from here on",
    ]
    assert [partial.subtree.level for partial in found.partials] == [0, 0, 0]
    assert distance(found.mean(model), expected.mean(model), model) < 1e-4


def test_a_kernel_that_fails_leaves_the_sites_to_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    app, sites = app_of(), sites_of([6, 9, 3])
    model = model_of(app, sites)
    expected = play(Sequential(places(app, sites)), batch_of(list(sites), model))
    engine = Batched(places(app, sites), say=(said := []).append)  # type: ignore[var-annotated]
    monkeypatch.setattr("hanse.simulation.stacked_numpy.NumpyStack.train", lambda *a, **k: [][0])
    found = play(engine, batch_of(list(sites), model))
    assert said == ["batched: one site after another here: list index out of range"]
    assert found.mean(model) == expected.mean(model)


def test_weights_of_strategies_that_weigh_equally() -> None:
    app, sites = app_of(), sites_of([6, 90])
    model = model_of(app, sites)
    batch = batch_of(list(sites), model, summing=Summing("mean", "values", "equal"))
    (partial,) = play(Batched(places(app, sites)), batch).partials
    assert partial.weight == 2.0


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=9), epochs=st.integers(1, 3), batch_size=st.integers(1, 9)
)
def test_a_schedule_is_every_sites_batches_in_order(sizes: list[int], epochs: int, batch_size: int) -> None:
    orders = orders_of(list(range(len(sizes))), sizes, epochs)
    schedule = schedule_of(sizes, orders, batch_size)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    assert sorted(schedule.members) == list(range(len(sizes)))
    assert list(schedule.active) == sorted(schedule.active, reverse=True)
    for row, site in enumerate(schedule.members):
        steps = [step for step, active in enumerate(schedule.active) if row < active]
        assert len(steps) == steps_of(sizes[site], batch_size, epochs)
        batches = [schedule.places[step, row, : schedule.counts[step, row]] for step in steps]
        cut = [
            order[first : first + batch_size] + starts[site]
            for order in orders[site]
            for first in range(0, sizes[site], batch_size)
        ]
        assert [list(batch) for batch in batches] == [list(batch) for batch in cut]
        for step in steps:
            share = schedule.share(step, np.float64)[row]
            assert share.sum() == pytest.approx(1)
            assert (share > 0).sum() == schedule.counts[step, row]
    for step, full in enumerate(schedule.is_full):
        assert full == bool((schedule.share(step, np.float64) > 0).all())


def test_wrong_arguments() -> None:
    with pytest.raises(ConfigError, match="kernel: expected one of auto"):
        Batched(places(app_of(), {"a": {}}), kernel="jax")
    for group in (3, 12, 0, 4.0):
        with pytest.raises(ConfigError, match="group: expected 4, 8, 16"):
            Batched(places(app_of(), {"a": {}}), group=group)  # type: ignore[arg-type]


@pytest.mark.parametrize(("tick", "chosen"), [(0.0, "batched"), (1000.0, "sequential")])
def test_auto_stacks_only_where_it_may_and_where_it_is_faster(
    tick: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = count(0.0, tick)
    monkeypatch.setattr("hanse.simulation.batched.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    app, sites = app_of(), sites_of([6, 9, 3, 8] * 16)
    model = model_of(app, sites)
    batch = batch_of(list(sites), model, summing=MEAN)
    expected = play(Sequential(places(app, sites)), batch).mean(model)
    free = Auto(places(app, sites), 1, 1, reproducible=False)
    monkeypatch.setattr(free._stacking._stacks, "group", 16)  # type: ignore[union-attr]
    found = play(free, batch).mean(model)
    assert (free.name, free.exact) == (chosen, False)
    assert distance(found, expected, model) < 1e-4
    kept = Auto(places(app, sites), 1, 1)
    assert play(kept, batch).mean(model) == expected
    assert (kept.name, kept.exact) == ("sequential", True)


def test_a_simulation_runs_on_it_alone_and_inside_replicas_and_is_resumed_with_its_group(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stacking_app.py").write_text(
        "import numpy as np\nimport hanse as hs\n\n"
        "app = hs.App(rounds=3, sample=12, seed=2)\n\n\n"
        "@app.client\n"
        "def client(site):\n"
        "    return hs.mlp(*site.load('rows'), classes=3, hidden=[7], optimizer=hs.SGD(0.1), batch_size=4, test=0.25)\n"
    )
    app = load_app(tmp_path, "stacking_app.py", "app")
    sites = sites_of([6, 9, 5, 8] * 5)
    expected = hs.simulate(app, sites, engine="sequential", progress=False)
    start = expected.arrays  # a distance from nothing: the move is of the order of the model
    zero = Arrays((name, np.zeros_like(array)) for name, array in start.items())
    for replicas in (None, 2):
        found = hs.simulate(app, sites, engine="numpy-batched", replicas=replicas, progress=False)
        assert distance(found.arrays, expected.arrays, zero) < 1e-4
        assert found.metrics["accuracy"] == pytest.approx(expected.metrics["accuracy"])
        assert found.metrics["train_loss"] == pytest.approx(expected.metrics["train_loss"], rel=1e-4)
    folder = tmp_path / "kept"
    whole = hs.simulate(app, sites, engine="batched", checkpoint=folder, progress=False)
    kept = Checkpoints(folder, resume=True).load().engine
    assert kept["name"] == "batched"
    assert kept["settings"]["group"] >= 4
    resumed = hs.simulate(app, sites, engine="auto", checkpoint=folder, resume=True, progress=False)
    assert resumed.arrays == whole.arrays
    with pytest.raises(ConfigError, match="on which the run was begun"):
        hs.simulate(app, sites, engine="sequential", checkpoint=folder, resume=True, progress=False)


def test_equal_runs_give_equal_bits() -> None:
    app, sites = app_of(), sites_of([6, 9, 3, 8])
    model = model_of(app, sites)
    batch = batch_of(list(sites), model)
    one, other = (play(Batched(places(app, sites)), batch).mean(model) for _ in range(2))
    assert one == other
    assert np.abs(flat(one) - flat(model)).max() > 0
