"""`hs.simulate`: what it gives back, what it says when something fails, and where it can be called."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import hanse as hs
from hanse.clients.threads import num_threads
from hanse.core.errors import ConfigError, JobFailed
from hanse.strategies.strategy import Context, PhasePlan


def app_with(train: Any = None, *arguments: Any, **settings: Any) -> hs.App:
    app = hs.App(*arguments, **{"rounds": 2, "initial": [np.zeros(3)], **settings})
    app.train(train or (lambda arrays, config, site: ([arrays["0"] + len(site.name)], 1, {"loss": 0.5})))
    return app


def run(app: hs.App, sites: Any = ("a", "bbb"), **options: Any) -> Any:
    return hs.simulate(app, sites, progress=False, **options)


# ---- what comes back ----


def test_the_result_and_its_records() -> None:
    result = run(app_with())
    assert result.status == "finished"
    assert result.arrays["0"].tolist() == [4.0] * 3
    assert [record.folded for record in result.rounds] == [("a", "bbb")] * 2
    assert result.rounds[0].metrics == {"train_loss": 0.5}
    assert result.rounds[0].by_site["bbb"] == {"train_loss": 0.5, "train_examples": 1}
    assert result.sites == ("a", "bbb")
    assert set(result.fingerprints) == {"a", "bbb"}


def test_large_models_go_through_the_store() -> None:
    size = 100_000

    def train(arrays: Any, config: Any, site: Any) -> Any:
        arrays["w"][:] += site.round  # user code's own copy
        return arrays, 1, {}

    app = app_with(train, initial={"w": np.zeros(size, np.float32)}, rounds=3)
    assert set(run(app).arrays["w"].tolist()) == {6.0}


def test_user_code_cannot_change_what_other_sites_get() -> None:
    def train(arrays: Any, config: Any, site: Any) -> Any:
        assert (arrays["0"] == site.round - 1).all()
        arrays["0"][:] += 1
        return arrays, 1, {}

    assert run(app_with(train), ["a", "b", "c"]).arrays["0"].tolist() == [2.0] * 3


def test_a_list_in_the_config_is_each_sites_own() -> None:
    layers = [1, 2]

    class Layered(hs.FedAvg):
        def plan(self, context: Context) -> PhasePlan:
            made = super().plan(context)
            return replace(made, asks=tuple(replace(ask, config={"layers": layers}) for ask in made.asks))

    def train(arrays: Any, config: Any, site: Any) -> Any:
        assert config["layers"] == [1, 2]
        config["layers"].append(3)
        return arrays, 1, {}

    assert run(app_with(train, Layered()), ["a", "b", "c"]).status == "finished"
    assert layers == [1, 2]


def test_what_a_client_keeps_and_changes_later_is_not_in_the_model() -> None:
    class Keeping:
        """Answers one and the same array every time."""

        def __init__(self) -> None:
            self.w = np.zeros(3)

        def get_parameters(self, config: Any) -> Any:
            return [self.w]

        def fit(self, parameters: Any, config: Any) -> Any:
            self.w += 1
            return [self.w], 1, {}

        def evaluate(self, parameters: Any, config: Any) -> Any:
            seen = float(parameters[0][0])
            self.w += 100
            return seen, 1, {}

    app = hs.App(rounds=1)
    app.client(lambda site: Keeping())
    result = run(app)
    assert result.arrays["0"].tolist() == [1.0] * 3
    assert result.rounds[0].metrics["loss"] == 1.0


def test_early_stop_and_the_servers_own_evaluation() -> None:
    app = app_with(rounds=50, stop=hs.EarlyStop("server_norm", patience=2))
    app.evaluate_on_server(lambda arrays, round: {"norm": abs(float(arrays["0"][0]) - 6)})
    result = run(app)
    assert [record.metrics["server_norm"] for record in result.rounds] == [4, 2, 0, 2, 4]


def test_threads_are_those_of_the_job_and_afterwards_those_before() -> None:
    before = num_threads()
    seen: list[int] = []

    def train(arrays: Any, config: Any, site: Any) -> Any:
        seen.append(num_threads())
        return arrays, 1, {}

    run(app_with(train, threads=1, rounds=1))
    assert set(seen) == {1}
    assert num_threads() == before


# ---- data ----


def test_data_are_given_as_they_are_or_made_once() -> None:
    made: list[str] = []

    def make() -> str:
        made.append("b")
        return "made"

    loaded: dict[str, Any] = {}

    def train(arrays: Any, config: Any, site: Any) -> Any:
        loaded[site.name] = site.load("patients")
        return arrays, 1, {}

    rows = object()
    run(app_with(train), {"a": {"patients": rows}, "b": {"patients": make}})
    assert loaded == {"a": rows, "b": "made"}
    assert made == ["b"]


def test_an_undeclared_data_set_is_a_policy_error(capsys: pytest.CaptureFixture[str]) -> None:
    def train(arrays: Any, config: Any, site: Any) -> Any:
        return arrays, len(site.load("secrets")), {}

    with pytest.raises(JobFailed, match=r"PolicyError.*'secrets' is not declared; declared are: patients"):
        run(app_with(train), {"a": {"patients": 1}})
    assert "PolicyError" in capsys.readouterr().err


@pytest.mark.parametrize("sites", [{}, []])
def test_without_sites_there_is_nothing_to_do(sites: Any) -> None:
    with pytest.raises(ConfigError, match="sites: expected at least one"):
        run(app_with(), sites)


def test_names_of_sites_are_checked() -> None:
    with pytest.raises(ConfigError, match="site: expected 1 to 63 characters"):
        run(app_with(), ["St. Mary"])


# ---- failures ----


def failing_at(*sites: str) -> Any:
    def train(arrays: Any, config: Any, site: Any) -> Any:
        if site.name in sites:
            raise RuntimeError("patient 4711")
        return arrays, 1, {}

    return train


def test_a_failure_keeps_its_traceback_and_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        JobFailed, match=r"2 of 2 sites: a, bbb: raised: RuntimeError at test_simulate\.py:\d+ in train"
    ) as caught:
        run(app_with(failing_at("a", "bbb"), retries=0))
    assert "4711" not in str(caught.value)
    result = caught.value.result
    assert result.status == "failed"
    assert result.error == str(caught.value)
    assert set(result.rounds[0].failed) == {"a", "bbb"}
    err = capsys.readouterr().err
    assert "RuntimeError: patient 4711" in err
    assert "Traceback" in err


def test_a_failing_site_is_left_out_while_the_quorum_holds(capsys: pytest.CaptureFixture[str]) -> None:
    result = run(app_with(failing_at("bbb"), quorum=1))
    assert result.status == "finished"
    assert result.rounds[0].folded == ("a",)
    assert "RuntimeError" in result.rounds[0].failed["bbb"]


def test_on_error_fail_asks_nobody_else(capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []

    def train(arrays: Any, config: Any, site: Any) -> Any:
        asked.append(site.name)
        raise ValueError

    with pytest.raises(JobFailed, match="site a: raised: ValueError"):
        run(app_with(train, quorum=1, on_error="fail"), ["a", "b", "c"])
    assert asked == ["a"]


@pytest.mark.parametrize(
    ("register", "says"),
    [
        ("config", "KeyError"),
        ("evaluate_on_server", "KeyError"),
        ("strategy", "KeyError"),
    ],
)
def test_the_server_side_fails_by_name_with_its_traceback(
    register: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*arguments: Any) -> Any:
        raise KeyError("patient 4711")

    app = app_with()
    getattr(app, register)(broken)
    with pytest.raises(JobFailed, match=rf"{says} at test_simulate\.py:\d+ in broken") as caught:
        run(app)
    assert "4711" not in str(caught.value)
    assert "KeyError: 'patient 4711'" in capsys.readouterr().err


def test_a_strategy_of_ones_own_fails_by_name_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(hs.Strategy):
        def plan(self, context: Context) -> PhasePlan:
            raise KeyError("patient 4711")

    with pytest.raises(JobFailed, match=r"KeyError at test_simulate\.py:\d+ in plan"):
        run(app_with(None, Broken()))
    assert "KeyError: 'patient 4711'" in capsys.readouterr().err


def test_a_keyboard_interrupt_passes_through() -> None:
    def train(arrays: Any, config: Any, site: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(app_with(train))


# ---- where it is called, and who watches ----


async def test_inside_a_running_event_loop_as_in_a_notebook() -> None:
    asyncio.get_running_loop()
    assert run(app_with()).arrays["0"].tolist() == [4.0] * 3


def test_an_observer_sees_every_event() -> None:
    events: list[Mapping[str, Any]] = []
    result = run(app_with(), observer=events.append)
    words = [event["what"] for event in events]
    assert sorted(words) == sorted([*["phase", "reply", "reply", "round"] * 2, "finished"])
    assert {event["job"] for event in events} == {result.job}
    replies = [event for event in events if event["what"] == "reply"]
    assert [event["site"] for event in replies] == ["a", "bbb"] * 2
    assert events[-1]["status"] == "finished"


def test_no_bar_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    run(app_with())
    hs.simulate(app_with(), ["a"])  # standard error is no terminal here
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_a_bar_where_it_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    hs.simulate(app_with(), ["a"], progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""


# ---- queries, sampling ----


def test_queries_have_no_model() -> None:
    app = hs.App()

    @app.query
    def query(config: Any, site: Any) -> Any:
        values = np.asarray(site.load("ages"))
        return {"sum": [values.sum()], "n": [len(values)]}, len(values), {"oldest": int(values.max())}

    result = run(app, {"a": {"ages": [30, 40]}, "b": {"ages": [50]}})
    assert result.status == "finished"
    assert {name: array.tolist() for name, array in result.arrays.items()} == {"sum": [120], "n": [3]}
    (record,) = result.rounds
    assert record.folded == ("a", "b")
    assert record.metrics["query_oldest"] == pytest.approx((2 * 40 + 50) / 3)
    assert record.by_site["b"]["query_oldest"] == 50
    assert set(record.seconds_by_phase) == {"query"}


def test_queries_may_answer_metrics_alone_round_after_round() -> None:
    app = hs.App(rounds=3)
    app.config(lambda round, site: {"threshold": 10 * round})
    app.query(lambda config, site: {"above": len(site.name) + config["threshold"]})
    result = run(app, ["a", "bbb"])
    assert not result.arrays
    assert [record.metrics["query_above"] for record in result.rounds] == [12, 22, 32]
    assert [record.folded for record in result.rounds] == [("a", "bbb")] * 3


def test_sites_are_sampled_by_the_seed() -> None:
    def cohorts(seed: int) -> list[tuple[str, ...]]:
        result = run(app_with(sample=0.5, seed=seed, rounds=6), [f"s{n}" for n in range(6)])
        return [record.folded for record in result.rounds]

    assert cohorts(1) == cohorts(1)
    assert cohorts(1) != cohorts(2)
    assert {len(cohort) for cohort in cohorts(1)} == {3}


def test_more_are_asked_than_needed_and_the_last_is_late() -> None:
    result = run(app_with(sample=2, over_select=0.5, rounds=3), ["a", "b", "c"])
    assert all(len(record.folded) == 2 for record in result.rounds)
    assert sum(len(record.late) for record in result.rounds) >= 2


def test_a_strategy_that_keeps_tasks_in_flight() -> None:
    """FedBuff in small: every two answers a model, the others go on; late ones carry their staleness."""
    seen: list[list[int]] = []

    class Buffered(hs.Strategy):
        update_kind, order, late = "delta", "receipt", "carry"

        def plan(self, context: Context) -> PhasePlan:
            asks = tuple(hs.Ask(site, "train", {"round": context.round}) for site in context.sites)
            return PhasePlan(asks, hs.Close(2, 2, keep_in_flight=True))

        def phases(self, spec: Any, round_: int) -> tuple[str, ...]:
            return ("train",)

        def weigh(self, replies: Any) -> list[float]:
            seen.append([reply.staleness for reply in replies])
            return [1.0 / (1 + reply.staleness) for reply in replies]

    result = run(app_with(None, Buffered(), rounds=6), ["a", "b", "c", "d"])
    assert result.status == "finished"
    assert [len(record.folded) for record in result.rounds] == [2] * 6
    assert max(staleness for replies in seen for staleness in replies) >= 1


def test_asynchronous_sites_that_are_all_at_work_when_they_should_evaluate() -> None:
    durations = hs.traces.LogNormal(median_s=60, spread=1.0)

    def evaluating(**settings: Any) -> hs.App:
        app = app_with(None, hs.FedAsync(), **settings)
        app.evaluate(lambda arrays, config, site: (1, {"loss": 0.5}))
        return app

    app = evaluating(rounds=6)
    with pytest.raises(JobFailed, match=r"found none beside \d at work; set hs.App\(sample"):
        run(app, 8, durations=durations)
    assert run(evaluating(rounds=6, sample=4), 8, durations=durations).status == "finished"
