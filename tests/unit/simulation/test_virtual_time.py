"""Virtual time: when rounds end, who is late or lost, and asynchrony, against timelines computed by hand."""

import heapq
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

import hanse as hs
from hanse.core.errors import ConfigError, JobFailed
from hanse.core.spec import RunSpec
from hanse.rounds.names import Numbered
from hanse.simulation.traces import Visit
from hanse.strategies.strategy import Context, PhasePlan

SECONDS = {"a": 1.0, "b": 2.0, "c": 4.0, "d": 30.0}


def takes(visit: Visit) -> float:
    return SECONDS[visit.site]


def app_with(strategy: Any = None, train: Callable[..., Any] | None = None, **settings: Any) -> hs.App:
    app = hs.App(strategy, **{"rounds": 2, "initial": [np.zeros(1)], "evaluate_every": 0, **settings})
    app.train(train or (lambda arrays, config, site: ([arrays["0"] + 1], 1, {})))
    return app


def run(app: hs.App, sites: Any = tuple(SECONDS), **options: Any) -> Any:
    return hs.simulate(app, sites, progress=False, **{"durations": takes, **options})


def test_a_round_lasts_as_long_as_its_slowest_site() -> None:
    result = run(app_with(rounds=3))
    assert [record.time_s for record in result.rounds] == [30.0, 60.0, 90.0]
    assert [record.seconds_by_phase for record in result.rounds] == [{"train": 30.0}] * 3
    assert run(app_with(rounds=1), durations=2.5).rounds[0].time_s == 2.5


def test_stragglers_compute_nothing_once_they_are_released() -> None:
    seen: list[str] = []

    def train(arrays: Any, config: Any, site: Any) -> Any:
        seen.append(site.name)
        return [arrays["0"] + 1], 1, {}

    result = run(app_with(None, train, sample=2, over_select=1.0, rounds=3))
    assert [record.folded for record in result.rounds] == [("a", "b")] * 3
    assert [record.time_s for record in result.rounds] == [2.0, 4.0, 6.0]
    assert result.rounds[0].failed == {"c": "no reply", "d": "no reply"}
    assert seen == ["a", "b"] * 3


def test_the_deadline_closes_with_a_quorum_and_late_tasks_are_dropped() -> None:
    result = run(app_with(quorum=2, deadline_s=10.0))
    assert [record.folded for record in result.rounds] == [("a", "b", "c")] * 2
    assert [record.time_s for record in result.rounds] == [10.0, 20.0]


def test_without_a_quorum_at_the_deadline_the_run_fails_by_name() -> None:
    with pytest.raises(JobFailed, match=r"expected 4 replies, found 3 .*d: no reply by the deadline"):
        run(app_with(deadline_s=10.0, retries=0))


def test_grace_is_waited_for_those_who_come_within() -> None:
    result = run(app_with(sample=2, over_select=1.0, grace_s=3.0))
    assert [record.folded for record in result.rounds] == [("a", "b", "c")] * 2
    assert [record.time_s for record in result.rounds] == [5.0, 10.0]


def test_folding_is_by_position_whoever_comes_first() -> None:
    """Values over 2^±60: any other order of summing gives other bits."""
    values = {f"s{n}": float(np.ldexp(1 + n / 7, (-1) ** n * 8 * n)) for n in range(7)}

    def train(arrays: Any, config: Any, site: Any) -> Any:
        return [np.array([values[site.name]])], 1, {}

    in_order = run(app_with(None, train, rounds=1), tuple(values), durations=None)
    reversed_ = run(app_with(None, train, rounds=1), tuple(values), durations=lambda v: 10.0 - int(v.site[1:]))
    assert in_order.arrays["0"].tobytes() == reversed_.arrays["0"].tobytes()


def test_a_lost_site_is_noticed_after_its_lease() -> None:
    def there(visit: Visit) -> bool:
        return visit.site != "b"

    result = run(app_with(quorum=2), availability=there)
    assert [record.folded for record in result.rounds] == [("a", "c", "d")] * 2
    assert [record.time_s for record in result.rounds] == [30.0, 60.0]
    assert result.rounds[0].failed == {"b": "lost"}
    short = run(app_with(quorum=2), ("a", "b", "c"), availability=there)
    assert [record.time_s for record in short.rounds] == [10.0, 20.0]


def test_a_phase_is_extended_by_others_when_sites_drop_out() -> None:
    """Two of four are asked; the first attempt of each drops out, so that others are asked in their stead."""
    asked: list[tuple[str, int]] = []

    def there(visit: Visit) -> bool:
        asked.append((visit.site, visit.attempt))
        return len(asked) > 2

    result = run(app_with(sample=2, quorum=2, rounds=1), availability=there)
    first, then = asked[:2], asked[2:4]
    assert {site for site, _ in first}.isdisjoint(site for site, _ in then)
    assert result.rounds[0].folded == tuple(site for site, _ in then)


def test_who_is_not_there_is_not_asked() -> None:
    trace = hs.traces.Diurnal(period_s=100.0, share=0.3)
    app = app_with(sample=2, quorum=2, rounds=20, seed=3)
    names = Numbered(40, "site")
    result = run(app, 40, durations=7.0, availability=trace)
    begun = 0.0
    for record in result.rounds:
        there = trace.present(names, 3, begun)
        assert all(there[int(site.rpartition("-")[2])] for site in record.folded)
        begun = record.time_s
    assert len({site for record in result.rounds for site in record.folded}) > 10


def test_it_waits_for_sites_while_too_few_are_there() -> None:
    class Night:
        """Nobody is there before noon."""

        step_s = 5.0

        def __call__(self, visit: Visit) -> bool:
            return True

        def present(self, names: Any, seed: int, now_s: float) -> Any:
            return np.full(len(names), now_s >= 43.0)

    result = run(app_with(quorum=2), availability=Night())
    assert [record.time_s for record in result.rounds] == [75.0, 105.0]


def test_traces_are_functions_of_their_visit() -> None:
    visits = [Visit(1, f"s{n % 50}", n // 50, "train", 0, 0.0) for n in range(5000)]
    slow = hs.traces.LogNormal(median_s=10.0, spread=0.5, jitter=0.1)
    seconds = [slow(visit) for visit in visits]
    assert seconds == [slow(visit) for visit in visits]
    logs = np.log(seconds).reshape(100, 50)
    # 50 sites: the mean of logs has deviation 0.5/√50 = 0.07; 5 of them are exceeded once in 10^6.
    assert abs(logs.mean() - np.log(10)) < 0.36
    assert logs.std(axis=0).mean() == pytest.approx(0.1, rel=0.1)
    drops = np.mean([not hs.traces.Dropout(0.2)(visit) for visit in visits])
    assert drops == pytest.approx(0.2, abs=0.03)  # 5 deviations of √(0.16/5000)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"durations": "slow"}, "durations: expected a function of a Visit"),
        ({"durations": lambda visit: -1.0}, "durations: expected seconds from 0"),
        ({"durations": lambda visit: float("nan")}, "durations: expected seconds from 0"),
        ({"availability": 0.5}, "availability: expected a function"),
    ],
)
def test_bad_traces_are_refused(arguments: Mapping[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        run(app_with(), **arguments)


@pytest.mark.parametrize("make", [lambda: hs.traces.Dropout(1.0), lambda: hs.traces.LogNormal(0.0)])
def test_traces_check_their_numbers(make: Callable[[], Any]) -> None:
    with pytest.raises(ConfigError, match="expected a number"):
        make()


# ---- asynchrony ----


class Buffered(hs.Strategy):
    """FedBuff in small: every two answers a model, three sites at work at any time."""

    update_kind, order = "delta", "receipt"

    def plan(self, context: Context) -> PhasePlan:
        free = 3 - len(context.busy)
        asks = tuple(hs.Ask(site, "train", {"round": context.round}) for site in context.sites[:free])
        return PhasePlan(asks, hs.Close(2, 2, keep_in_flight=True, deadline_s=1000.0))

    def phases(self, spec: RunSpec, round_: int) -> tuple[str, ...]:
        return ("train",)

    def weigh(self, replies: Any) -> list[float]:
        return [1.0 / (1 + reply.staleness) for reply in replies]


def timeline(seconds: Mapping[str, float], rounds: int) -> tuple[list[tuple[str, ...]], list[float], float]:
    """The same, slowly: a heap of finishing times."""
    model, now, sent = 0.0, 0.0, 0
    working: list[tuple[float, int, str, int, float]] = []
    folded: list[tuple[str, ...]] = []
    times: list[float] = []
    for round_ in range(1, rounds + 1):
        busy = {site for _, _, site, _, _ in working}
        for site in [name for name in sorted(seconds) if name not in busy][: 3 - len(busy)]:
            heapq.heappush(working, (now + seconds[site], sent, site, round_, model))
            sent += 1
        closed = [heapq.heappop(working) for _ in range(2)]
        now = closed[-1][0]
        weights = [1.0 / (1 + round_ - begun) for _, _, _, begun, _ in closed]
        deltas = [1.0 + base / 8 for _, _, _, _, base in closed]
        model += sum(w * d for w, d in zip(weights, deltas, strict=True)) / sum(weights)
        folded.append(tuple(site for _, _, site, _, _ in closed))
        times.append(now)
    return folded, times, model


def test_asynchrony_follows_the_timeline() -> None:
    def train(arrays: Any, config: Any, site: Any) -> Any:
        return [arrays["0"] + 1 + arrays["0"] / 8], 1, {}

    seconds = {"a": 3.0, "b": 5.0, "c": 11.0, "d": 2.0, "e": 7.0}
    app = app_with(Buffered(), train, rounds=12)
    result = run(app, tuple(seconds), durations=lambda visit: seconds[visit.site])
    folded, times, model = timeline(seconds, 12)
    assert [record.folded for record in result.rounds] == folded
    assert [record.time_s for record in result.rounds] == times
    assert result.arrays["0"][0] == pytest.approx(model, rel=1e-12)


def test_asynchrony_repeats_bit_for_bit() -> None:
    def once() -> Any:
        trace = hs.traces.LogNormal(20.0)
        drops = hs.traces.Dropout(0.1)
        return run(app_with(Buffered(), rounds=30), 12, durations=trace, availability=drops)

    first, second = once(), once()
    assert first.arrays == second.arrays
    assert [r.time_s for r in first.rounds] == [r.time_s for r in second.rounds]
    assert len({r.time_s for r in first.rounds}) == 30


def test_a_lost_evaluator_holds_up_nobody_who_trains() -> None:
    """That is noticed after ten seconds; the phase ends with the last evaluation, and not with training in flight."""

    def slow(visit: Visit) -> float:
        return 30.0 if visit.phase == "evaluate" else 20.0 * (1 + "abcdef".index(visit.site))

    def there(visit: Visit) -> bool:
        return visit.phase == "train" or visit.site < "d"

    app = app_with(hs.FedBuff(1), rounds=1, evaluate_every=1, sample=3)
    app.evaluate(lambda arrays, config, site: (1, {"loss": 0.0}))
    result = run(app, tuple("abcdef"), durations=slow, availability=there)
    assert result.rounds[0].failed == {"d": "lost", "e": "lost", "f": "lost"}
    assert result.rounds[0].time_s == 50.0, "a trains for 20 s and evaluates for 30; c trains until 60"


def test_a_site_that_was_released_before_its_loss_was_noticed_is_not_lost_later() -> None:
    """`c` is gone in round 1, which the deadline ends at 5 s; that it has been gone is no news at 10 s."""

    def slow(visit: Visit) -> float:
        return {1: 1.0, 2: 3.0, 3: 4.0 if visit.site == "c" else 1.0}[visit.round]

    app = app_with(rounds=3, quorum=1, deadline_s=5.0)

    def there(visit: Visit) -> bool:
        return (visit.site, visit.round) != ("c", 1)

    result = run(app, ("a", "b", "c"), durations=slow, availability=there)
    assert [record.time_s for record in result.rounds] == [5.0, 8.0, 12.0]
    assert result.rounds[-1].folded == ("a", "b", "c")
