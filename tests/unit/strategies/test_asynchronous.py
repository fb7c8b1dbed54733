"""Asynchronous strategies on the real driver, in random orders of receipt, against references in plain Python."""

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hanse as hs
from hanse.core.errors import ConfigError
from hanse.core.spec import RunSpec
from hanse.strategies.asynchronous import damping
from hanse.strategies.fedat import tiers_of
from tests.unit.rounds.bench import START, Bench

SITES = tuple(f"s{n}" for n in range(6))
CENTRES = {site: [float(n), -2.0 * n, n * n / 3] for n, site in enumerate(SITES)}
COUNTS = {site: 3 * n + 1 for n, site in enumerate(SITES)}
ROUNDS = 9


def trained(site: str, w: list[float]) -> list[float]:
    """A step towards the site's centre."""
    return [a + 0.3 * (c - a) for a, c in zip(w, CENTRES[site], strict=True)]


@dataclass
class Script:
    """What happened, in order: (site, round in which it was asked, model it began from, model it answered)."""

    received: list[tuple[str, int, list[float], list[float]]] = field(default_factory=list)
    closed: list[int] = field(default_factory=list)
    """How many answers had been received when each round closed."""


async def played(
    strategy: hs.Strategy, *, seed: int, sample: float = 1.0, restarts: frozenset[int] = frozenset(), **spec: Any
) -> tuple[Bench, Script]:
    """Sites answer in random order, at random times."""
    options = {"rounds": ROUNDS, "initial": "given", "evaluate_every": 0, "deadline_s": 1000.0, **spec}
    bench = await Bench(strategy, RunSpec(sample=sample, **options)).start(*SITES)
    rng, script = random.Random(seed), Script()
    while not bench.run.finished.done():
        waiting = sorted(o for o, slot in bench.run.state.open.items() if not slot.answer)
        ordinal = rng.choice(waiting)
        task = bench.tasks()[ordinal]
        before = bench.model(ordinal)["w"].tolist()
        after = trained(task.site, before)
        sent = after if task.update_kind == "values" else [b - a for a, b in zip(before, after, strict=True)]
        bench.clock.ms += rng.randrange(1, 4000)
        at = bench.run.state.round
        script.received.append((task.site, task.id.round, before, after))
        assert await bench.answer(ordinal, *sent, 0.0, num_examples=COUNTS[task.site]) == "received"
        if bench.run.state.round != at or bench.run.finished.done():
            script.closed.append(len(script.received))
        if len(script.received) in restarts and not bench.run.finished.done():
            await bench.restart(*SITES)
    return bench, script


# ---- references ----


def fedasync(script: Script, alpha: float, s: Any) -> list[float]:
    """Xie et al., Algorithm 1, server: t is the round, τ the round in which the site was asked, less one."""
    x = START["w"].tolist()
    for t, (_, asked, _, new) in enumerate(script.received, start=1):
        a_t = alpha * s(t - asked)
        x = [(1 - a_t) * old + a_t * n for old, n in zip(x, new, strict=True)]
    return x


def fedbuff(script: Script, k: int, eta: float) -> list[float]:
    """Nguyen et al., Algorithm 1, with updates damped by 1/√(1 + τ)."""
    w, buffer, t = START["w"].tolist(), [], 1
    for _, asked, before, after in script.received:
        scale = 1 / (1 + (t - asked)) ** 0.5
        buffer.append([scale * (b - a) for a, b in zip(before, after, strict=True)])
        if len(buffer) == k:
            w = [x + eta * sum(d[i] for d in buffer) / k for i, x in enumerate(w)]
            buffer, t = [], t + 1
    return w


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("strategy", "s"),
    [
        (hs.FedAsync(0.6, "constant"), lambda d: 1.0),
        (hs.FedAsync(0.9, "polynomial", a=0.5), lambda d: (d + 1) ** -0.5),
        (hs.FedAsync(0.9, "hinge", a=10.0, b=2), lambda d: 1.0 if d <= 2 else 1 / (10 * (d - 2) + 1)),
    ],
    ids=["constant", "polynomial", "hinge"],
)
async def test_fedasync_follows_its_paper(strategy: hs.FedAsync, s: Any, seed: int) -> None:
    bench, script = await played(strategy, seed=seed)
    assert len(script.received) == ROUNDS, "one answer a round"
    assert max(t - asked for t, (_, asked, _, _) in enumerate(script.received, 1)) >= 3, (
        "stale ones, or s is not tested"
    )
    found = (await bench.run.result()).arrays["w"]
    np.testing.assert_allclose(found, fedasync(script, strategy.alpha, s), rtol=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("k", "sample"), [(3, 1.0), (2, 3), (4, 2), (1, 6)])
async def test_fedbuff_follows_its_paper(k: int, sample: float, seed: int) -> None:
    bench, script = await played(hs.FedBuff(k, server_lr=0.7), seed=seed, sample=sample)
    assert len(script.received) == ROUNDS * k
    found = (await bench.run.result()).arrays["w"]
    np.testing.assert_allclose(found, fedbuff(script, k, 0.7), rtol=1e-12)


async def test_fedbuff_keeps_as_many_at_work_as_it_is_told() -> None:
    """Two of six, and a buffer of four: a free place is given away at once, also in the middle of a round."""
    bench = await Bench(hs.FedBuff(4), RunSpec(rounds=3, sample=2, initial="given", evaluate_every=0)).start(*SITES)
    seen = set()
    while not bench.run.finished.done():
        waiting = [o for o, slot in bench.run.state.open.items() if not slot.answer]
        assert len(waiting) == 2
        await bench.answer(waiting[-1], 0.0, 0.0, 0.0, 0.0)
    for task in bench.tasks().values():
        key = (task.site, task.id.round, task.attempt)
        assert key not in seen, "two trainings would draw the same numbers"
        seen.add(key)
    assert max(attempt for _, _, attempt in seen) > 0, "somebody is asked twice in a round"
    assert len({site for site, _, _ in seen}) > 3, "who is asked is drawn anew"


@pytest.mark.parametrize("strategy", [hs.FedAsync(), hs.FedBuff(3), hs.FedAT(2)], ids=lambda each: each.name)
async def test_a_server_that_starts_again_changes_no_bit(strategy: hs.Strategy) -> None:
    calm, script = await played(strategy, seed=5)
    disturbed, again = await played(strategy, seed=5, restarts=frozenset({1, 2, 5, 8, 9, 13}))
    assert again == script
    assert disturbed.run.state.model == calm.run.state.model
    other, _ = await played(strategy, seed=6)
    assert other.run.state.model != calm.run.state.model, "otherwise the order of receipt would not matter"


async def test_a_site_that_fails_is_not_asked_again_in_that_round_and_the_run_ends() -> None:
    spec = RunSpec(rounds=2, sample=2, initial="given", evaluate_every=0, retries=1)
    bench = await Bench(hs.FedBuff(2), spec).start(*SITES)
    while not bench.run.finished.done():
        waiting = [o for o, slot in bench.run.state.open.items() if not slot.answer]
        await bench.answer(waiting[0], error="no", error_kind="raised", num_examples=0)
    assert await bench.run.finished == "failed"
    asked = [task.site for task in bench.tasks().values()]
    assert set(asked) == set(SITES)
    assert len(asked) <= 2 * len(SITES)


async def test_a_lost_site_costs_no_place() -> None:
    bench = await Bench(hs.FedBuff(9), RunSpec(rounds=1, sample=2, initial="given", evaluate_every=0)).start(*SITES)
    first = bench.tasks()[0].site
    await bench.run.sites_changed([site for site in SITES if site != first])
    waiting = [slot.site for slot in bench.run.state.open.values() if not slot.answer and slot.site != first]
    assert len(waiting) == 2


async def test_an_evaluation_asks_those_who_are_free_while_the_others_go_on() -> None:
    spec = RunSpec(rounds=2, initial="given", evaluate_every=1)
    bench = await Bench(hs.FedBuff(2), spec).start(*SITES)
    for ordinal in (0, 1):
        await bench.answer(ordinal, 1.0, 1.0, 1.0, 1.0)
    evaluations = [task for task in bench.tasks().values() if task.call == "evaluate"]
    assert [task.site for task in evaluations] == ["s1"], "s0 was set to work again when it had answered"
    await bench.answer(2, 1.0, 1.0, 1.0, 1.0)  # an update comes meanwhile
    for task in evaluations:
        await bench.answer(task.id.ordinal, metrics={"loss": 1.0})
    assert bench.run.state.round == 2
    await bench.answer(3, 1.0, 1.0, 1.0, 1.0)
    assert bench.run.state.phase == "evaluate", "the update of before and this one make the second step"


# ---- tiers ----


class Tiers:
    """Chai et al., Algorithm 1, server, in plain Python."""

    def __init__(self, num: int) -> None:
        self.models = [START["w"].tolist() for _ in range(num)]
        self.updates = [0] * num

    def take(self, tier: int, cohort: list[tuple[int, list[float]]]) -> list[float]:
        n = sum(count for count, _ in cohort)
        self.models[tier] = [sum(count / n * w[i] for count, w in cohort) for i in range(3)]
        self.updates[tier] += 1
        total, num = sum(self.updates), len(self.models)
        shares = [self.updates[num - 1 - m] / total for m in range(num)]
        return [sum(shares[m] * self.models[m][i] for m in range(num)) for i in range(3)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num", [1, 2, 3])
async def test_fedat_follows_its_paper(num: int, seed: int) -> None:
    """A site takes as long as its number says; the order of receipt follows."""
    spec = RunSpec(rounds=12, initial="given", evaluate_every=0, deadline_s=1e6)
    bench = await Bench(hs.FedAT(num), spec).start(*SITES)
    rng, reference = random.Random(seed), Tiers(num)
    began = bench.clock.ms
    ends: dict[int, int] = {}
    answers: dict[int, tuple[int, list[float]]] = {}
    turns = []
    while not bench.run.finished.done():
        for ordinal, slot in bench.run.state.open.items():
            if not slot.answer and ordinal not in ends:
                ends[ordinal] = bench.clock.ms + 1000 * (1 + 4 * SITES.index(slot.site)) + rng.randrange(500)
        waiting = [o for o, slot in bench.run.state.open.items() if not slot.answer]
        ordinal = min(waiting, key=lambda o: ends[o])
        groups = {o: slot.group for o, slot in bench.run.state.open.items()}
        slots = dict(bench.run.state.open)
        bench.clock.ms = max(bench.clock.ms, ends[ordinal])
        site, before = bench.tasks()[ordinal].site, bench.model(ordinal)["w"].tolist()
        answers[ordinal] = COUNTS[site], trained(site, before)
        at = bench.run.state.round
        await bench.answer(ordinal, *answers[ordinal][1], 0.0, num_examples=COUNTS[site])
        same = [o for o, group in groups.items() if group == groups[ordinal]]
        if all(o in answers for o in same):
            expected = reference.take(groups[ordinal], [answers[o] for o in same])
            turns.append(sorted(slots[o].site for o in same))
            assert bench.run.state.round == at + 1 or bench.run.finished.done(), "a tier that is whole closes the round"
            found = (await bench.run.result()).arrays["w"]
            np.testing.assert_allclose(found, expected, rtol=1e-12)
        else:
            assert bench.run.state.round == at
    assert bench.clock.ms > began
    if num == 3:
        fast = sum(turn == ["s0", "s1"] for turn in turns)
        assert fast > sum("s5" in turn for turn in turns), "tiers are those of the response times"


@given(st.dictionaries(st.sampled_from(SITES), st.floats(0, 1e6)), st.integers(1, 9))
def test_tiers_lose_nobody_and_are_in_order_of_time(seconds: dict[str, float], num: int) -> None:
    tiers = tiers_of(SITES, seconds, num)
    assert sorted(site for tier in tiers for site in tier) == list(SITES)
    slowest = 0.0
    for tier in tiers:
        known = [seconds[site] for site in tier if site in seconds]
        assert not known or min(known) >= slowest
        slowest = max([slowest, *known])
    sizes = [sum(site in seconds for site in tier) for tier in tiers]
    assert max(sizes) - min(sizes) <= 1


def test_fedat_measures_with_the_servers_clock() -> None:
    strategy = hs.FedAT(2, smoothing=0.75)
    memory: Any = {}
    for seconds in (8.0, 4.0):
        reply = hs.FoldInput("a", 1, 0, {}, seconds=seconds, group=1)
        memory = strategy.remember(RunSpec(), memory, [reply])
    assert memory == {"seconds": {"a": 7.0}, "updates": [0, 2], "tier": 1}
    assert strategy.scalars(2, memory) == {"tier": 1, "first": 0.0, "weight-0": 1.0, "weight-1": 0.0}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: hs.FedAsync(alpha=1.5), "fedasync.alpha: expected a number above 0 to 1, found 1.5"),
        (lambda: hs.FedAsync(staleness="none"), "fedasync.staleness: expected one of constant, hinge, polynomial"),
        (lambda: hs.FedAsync(b=-1), "fedasync.b: expected a whole number from 0, found -1"),
        (lambda: hs.FedBuff(0), "fedbuff.buffer: expected a whole number from 1, found 0"),
        (lambda: hs.FedBuff(a=-1.0), "fedbuff.a: expected a number from 0, found -1.0"),
        (lambda: hs.FedAT(0), "fedat.tiers: expected a whole number from 1, found 0"),
        (lambda: hs.FedAT(smoothing=1.0), "fedat.smoothing: expected a number from 0 below 1, found 1.0"),
    ],
)
def test_parameters_out_of_range_are_refused(make: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()


@given(st.integers(0, 1000), st.floats(0, 20), st.integers(0, 50))
def test_fresh_updates_count_in_full_and_staler_ones_never_more(staleness: int, a: float, b: int) -> None:
    for kind in ("constant", "hinge", "polynomial"):
        assert damping(kind, 0, a, b) == 1.0
        assert 0 <= damping(kind, staleness + 1, a, b) <= damping(kind, staleness, a, b)


def test_in_simulation_they_reach_what_the_sites_agree_on() -> None:
    for strategy in (hs.FedAsync(0.9), hs.FedBuff(3), hs.FedAT(2)):
        app = hs.App(strategy, rounds=500, initial=[np.zeros(2)], evaluate_every=0, seed=3)

        @app.train
        def train(arrays: Any, config: Any, site: Any) -> Any:
            return [arrays["0"] + 0.2 * (np.array([1.0, -3.0]) - arrays["0"])], 1, {}

        result = hs.simulate(app, SITES, progress=False)
        np.testing.assert_allclose(result.arrays["0"], [1.0, -3.0], atol=1e-2)
