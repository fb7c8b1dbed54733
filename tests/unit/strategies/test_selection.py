"""Which sites are asked, learning rates by round, and partial work."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hanse as hs
from hanse.core.errors import ConfigError, JobFailed
from hanse.core.spec import RunSpec
from hanse.strategies import named
from hanse.strategies.selection import Selection, selection_of
from hanse.strategies.strategy import Earlier, sample_sites

SITES = tuple(f"s{n}" for n in range(8))
KINDS: list[Selection] = [hs.Uniform(), hs.ByExamples(), hs.PowerOfChoice(5), hs.Balanced()]


def context(selection: Selection | None, round_: int = 1, **more: Any) -> hs.Context:
    spec = RunSpec(selection=None if selection is None else selection.to_json(), seed=3)
    return hs.Context(spec, round_, more.pop("phase", "train"), more.pop("sites", SITES), **more)


@pytest.mark.parametrize("selection", KINDS, ids=lambda each: each.name)
@given(count=st.integers(0, 9), round_=st.integers(1, 50))
def test_it_is_that_many_different_sites_in_order_and_the_same_again(
    selection: Selection, count: int, round_: int
) -> None:
    chosen = sample_sites(context(selection, round_), count)
    assert len(chosen) == min(count, len(SITES))
    assert list(chosen) == sorted(set(chosen))
    assert set(chosen) <= set(SITES)
    assert list(sample_sites(context(selection, round_), count)) == list(chosen)
    assert selection_of(RunSpec.from_json(RunSpec(selection=selection.to_json()).to_json())) == selection


@pytest.mark.parametrize("selection", KINDS, ids=lambda each: each.name)
def test_other_rounds_choose_others(selection: Selection) -> None:
    assert len({tuple(sample_sites(context(selection, round_), 3)) for round_ in range(1, 20)}) > 5


def test_a_run_without_a_selection_is_uniform() -> None:
    assert sample_sites(context(None), 3) == sample_sites(context(hs.Uniform()), 3)


def test_chances_are_those_of_the_examples() -> None:
    """Successive sampling of two: exact chances. 4000 rounds; a false alarm is beyond five deviations."""
    sizes = {"s0": 1, "s1": 2, "s2": 5, "s3": 12}
    total, times = sum(sizes.values()), 4000
    memory = {"examples": sizes}
    counted = dict.fromkeys(sizes, 0)
    for round_ in range(times):
        for site in sample_sites(context(hs.ByExamples(), round_, sites=tuple(sizes), memory=memory), 2):
            counted[site] += 1
    for site, size in sizes.items():
        first = size / total
        second = sum(s / total * size / (total - s) for other, s in sizes.items() if other != site)
        chance = first + second
        assert abs(counted[site] - times * chance) < 5 * math.sqrt(times * chance * (1 - chance))


def test_examples_are_those_of_the_last_answer_and_unknown_sites_count_as_the_mean() -> None:
    memory: Any = {}
    for counts in ({"a": 3, "b": 9}, {"a": 100}):
        memory = hs.ByExamples().remember(memory, [hs.FoldInput(site, n, 0, {}) for site, n in counts.items()])
    assert memory == {"examples": {"a": 100, "b": 9}}


def answered(losses: dict[str, Any]) -> tuple[Earlier, ...]:
    return tuple(Earlier(site, 1, {} if loss is None else {"loss": loss}, b"") for site, loss in losses.items())


def test_power_of_choice_takes_the_highest_losses() -> None:
    losses = {"s0": 0.1, "s3": 9.0, "s4": 2.0, "s5": math.nan, "s6": 3.0, "away": 99.0}
    chosen = sample_sites(context(hs.PowerOfChoice(5), previous=answered(losses)), 3)
    assert chosen == ["s3", "s4", "s6"]


def test_power_of_choice_in_a_run_trains_those_that_fit_worst() -> None:
    """Cho et al., algorithm π_pow-d with d = all: every round trains the two sites with the highest loss."""
    app = hs.App(
        hs.FedAvg("equal"), rounds=6, sample=2, initial=[np.zeros(1)], selection=hs.PowerOfChoice(8), evaluate_every=0
    )
    centres = {site: float(n) for n, site in enumerate(SITES)}

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        return [arrays["0"] + 0.5 * (centres[site.name] - arrays["0"])], 1, {}

    @app.evaluate
    def evaluate(arrays: Any, config: Any, site: Any) -> Any:
        return 1, {"loss": abs(float(arrays["0"][0]) - centres[site.name])}

    result = hs.simulate(app, list(SITES), progress=False)
    w = 0.0
    for record in result.rounds:
        worst = sorted(SITES, key=lambda site: (-abs(w - centres[site]), site))[:2]
        assert sorted(record.folded) == sorted(worst)
        w = sum(w + 0.5 * (centres[site] - w) for site in worst) / 2
        assert record.metrics["candidates_loss"] > 0
    assert float(result.arrays["0"][0]) == pytest.approx(w)


def test_power_of_choice_without_losses_ends_the_run_by_name() -> None:
    app = hs.App(sample=1, rounds=1, initial=[np.zeros(1)], selection=hs.PowerOfChoice(2))

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        return [arrays["0"]], 1, {}

    with pytest.raises(JobFailed, match="expected sites to answer a metric 'loss'"):
        hs.simulate(app, list(SITES), progress=False)


def test_balanced_lets_everybody_take_part_alike_and_prefers_who_was_away() -> None:
    app = hs.App(rounds=8, sample=3, initial=[np.zeros(1)], selection=hs.Balanced(), evaluate_every=0)

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        return [arrays["0"]], 1, {}

    result = hs.simulate(app, list(SITES), progress=False)
    counted = [site for record in result.rounds for site in record.folded]
    assert all(counted.count(site) == 3 for site in SITES), "8 rounds of 3 are 3 for each of 8"
    memory = {"served": {site: 4 for site in SITES if site != "s6"}}
    assert "s6" in sample_sites(context(hs.Balanced(), memory=memory), 1)


def test_asynchronous_strategies_choose_by_it_too() -> None:
    app = hs.App(hs.FedBuff(2), rounds=12, sample=2, initial=[np.zeros(1)], selection=hs.Balanced(), evaluate_every=0)

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        return [arrays["0"]], 1, {}

    result = hs.simulate(app, list(SITES), progress=False)
    counted = [site for record in result.rounds for site in record.folded]
    assert {counted.count(site) for site in SITES} <= {2, 3, 4}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: hs.PowerOfChoice(0), "candidates: expected a whole number from 1, found 0"),
        (lambda: hs.App(selection="uniform"), "selection: expected such as hs.PowerOfChoice\\(10\\), found str"),
        (
            lambda: hs.App(hs.FedAsync(), selection=hs.PowerOfChoice(3)),
            "PowerOfChoice asks candidates first",
        ),
        (lambda: selection_of(RunSpec(selection={"name": "lucky"})), "selection: expected one of uniform, by-examples"),
        (lambda: selection_of(RunSpec(selection={"name": "uniform", "d": 1})), "selection uniform: .*'d'"),
        (lambda: hs.Schedule(0.0), "schedule.lr: expected a number above 0, found 0"),
        (lambda: hs.Schedule(0.1, "linear"), "schedule.kind: expected one of constant, step, cosine, found 'linear'"),
        (lambda: hs.Schedule(0.1, every=0), "schedule.every: expected a whole number from 1, found 0"),
        (lambda: hs.Schedule(0.1, least=0.2), "schedule.least: expected a number from 0 to lr, found 0.2"),
        (lambda: hs.App(lr=-1.0), "lr: expected a number above 0, found -1.0"),
        (lambda: hs.FedAdam(server_lr="fast"), "fedadam.server_lr: expected a number above 0, found 'fast'"),
        (lambda: named("fedbuff", {"server_lr": {"lr": 1.0, "x": 1}}), "fedbuff.server_lr: .*'x'"),
        (lambda: hs.FedProx(partial=1.5), "fedprox.partial: expected a number from 0 to 1, found 1.5"),
        (lambda: hs.FedProx(weights="n"), "fedprox.weights: expected examples or equal, found 'n'"),
    ],
)
def test_what_cannot_be_is_refused(make: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()


# ---- learning rates ----


def test_schedules_are_their_closed_forms() -> None:
    assert [hs.Schedule(0.3).at(t) for t in (1, 7, 10**6)] == [0.3] * 3
    step = hs.Schedule(1.0, "step", every=3, factor=0.5)
    assert [step.at(t) for t in range(1, 9)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]
    cosine = hs.Schedule(2.0, "cosine", rounds=11, least=1.0)
    for t in range(1, 12):
        assert cosine.at(t) == pytest.approx(1 + 0.5 * (1 + math.cos(math.pi * (t - 1) / 10)))
    assert cosine.at(99) == pytest.approx(1.0)
    warm = hs.Schedule(0.8, "cosine", rounds=20, warmup=3)
    assert [warm.at(t) for t in (1, 2, 3, 4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert warm.at(20) == pytest.approx(0.0)


@given(st.sampled_from(["constant", "step", "cosine"]), st.floats(1e-6, 10), st.integers(1, 50), st.integers(0, 20))
def test_rates_rise_in_the_warm_up_and_never_after(kind: str, lr: float, rounds: int, warmup: int) -> None:
    rates = [hs.Schedule(lr, kind, rounds=rounds, every=4, factor=0.7, warmup=warmup).at(t) for t in range(1, 80)]
    assert all(0 <= rate <= lr for rate in rates)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert rates[warmup] == pytest.approx(lr)


def test_sites_find_their_rate_and_the_app_may_overrule_it() -> None:
    schedule = hs.Schedule(0.5, "step", every=1, factor=0.5)
    app = hs.App(rounds=3, initial=[np.zeros(1)], lr=schedule)
    seen = []

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        seen.append(config["lr"])
        return [arrays["0"]], 1, {}

    @app.evaluate
    def evaluate(arrays: Any, config: Any, site: Any) -> Any:
        assert config["lr"] == seen[-1], "some strategies train there"
        return 1, {}

    hs.simulate(app, ["a"], progress=False)
    assert seen == [0.5, 0.25, 0.125]

    @app.config
    def config(round: int, site: str) -> Any:
        return {"lr": 9.0} if round == 2 else {}

    hs.simulate(app, ["a"], progress=False)
    assert seen[3:] == [0.5, 9.0, 0.125]


@pytest.mark.parametrize(
    "make", [hs.FedAvgM, hs.FedAdam, hs.FedAdagrad, hs.FedYogi, hs.FedBuff, hs.Scaffold], ids=lambda each: each.__name__
)
def test_the_servers_rate_may_be_a_schedule(make: Any) -> None:
    """A constant schedule is the number; one that has fallen to a half makes half the step."""
    steady, falling = make(server_lr=hs.Schedule(0.4)), make(server_lr=hs.Schedule(0.4, "step", every=1, factor=0.5))
    again = named(make.name, json.loads(json.dumps(falling.params())))
    assert again == falling
    model, reduced = np.array([1.0, -2.0]), np.array([0.3, 0.7])
    moved = []
    for strategy in (make(server_lr=0.4), steady, falling, again):
        state = [np.full(2, 0.1) for _ in strategy.state_names()]
        moved.append(strategy.update(model, reduced, state, strategy.scalars(2, {})) - model)
    np.testing.assert_array_equal(moved[0], moved[1])
    np.testing.assert_allclose(moved[2], moved[0] / 2, rtol=1e-9)
    np.testing.assert_array_equal(moved[2], moved[3])


# ---- partial work ----


def test_partial_work_is_asked_of_that_share_of_sites_and_drawn_uniformly() -> None:
    strategy, drawn = hs.FedProx(partial=0.9), []
    for round_ in range(1, 501):
        drawn += [strategy.config(context(None, round_), site)["work"] for site in SITES]
    whole = sum(work == 1.0 for work in drawn) / len(drawn)
    assert abs(whole - 0.1) < 5 * math.sqrt(0.09 / len(drawn))
    part = [work for work in drawn if work < 1]  # type: ignore[operator]
    assert abs(float(np.mean(part)) - 0.5) < 5 / math.sqrt(12 * len(part))  # type: ignore[arg-type]
    assert min(part) > 0  # type: ignore[type-var,operator]
    assert strategy.config(context(None, 3), "s1") == strategy.config(context(None, 3), "s1")
    assert "work" not in hs.FedProx().config(context(None), "s1")


def test_what_a_site_has_done_of_its_work_is_taken_with_equal_weights() -> None:
    """Algorithm 2: the plain mean of inexact solutions."""
    app = hs.App(hs.FedProx(0.5, partial=1.0, weights="equal"), rounds=3, initial=[np.zeros(1)], evaluate_every=0)
    expected, steps_of = [0.0], dict[tuple[int, str], int]()

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        w, received = float(arrays["0"][0]), float(arrays["0"][0])
        steps = steps_of[site.round, site.name] = max(1, round(20 * config["work"]))
        for _ in range(steps):
            w -= 0.1 * ((w - ord(site.name)) + config["proximal_mu"] * (w - received))
        return [np.array([w])], 1 if site.name == "a" else 1000, {}

    result = hs.simulate(app, ["a", "b"], progress=False)
    for round_ in (1, 2, 3):
        ends = []
        for site in "ab":
            w = expected[-1]
            for _ in range(steps_of[round_, site]):
                w -= 0.1 * ((w - ord(site)) + 0.5 * (w - expected[-1]))
            ends.append(w)
        expected.append(sum(ends) / 2)
    assert len(set(steps_of.values())) > 3
    assert float(result.arrays["0"][0]) == pytest.approx(expected[-1], rel=1e-12)


def test_scikit_learns_linear_models_do_a_part_of_their_steps() -> None:
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 2))
    rows = X, (X[:, 0] > 0).astype(int)

    def end(epochs: int, strategy: hs.Strategy, asked: Any) -> Any:
        app = hs.App(strategy, rounds=1, initial="ask", evaluate_every=0)

        @app.client
        def client(site: Any) -> Any:
            return hs.sklearn(linear.LogisticRegression(), *site.load("rows"), classes=[0, 1], test=0, epochs=epochs)

        @app.config
        def config(round: int, site: str) -> Any:
            return asked

        return hs.simulate(app, {"a": {"rows": rows}}, progress=False).arrays

    half, full = end(10, hs.FedAvg(), {"work": 0.5}), end(5, hs.FedAvg(), {})
    np.testing.assert_array_equal(half["coef"], full["coef"])
    assert np.abs(end(10, hs.FedAvg(), {})["coef"] - full["coef"]).max() > 1e-3
