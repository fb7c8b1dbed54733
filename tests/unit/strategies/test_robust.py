"""Robust strategies end to end: honest sites decide what comes out, whatever two of eleven send."""

from typing import Any

import numpy as np
import pytest

import hanse as hs
from hanse.core.errors import ConfigError
from hanse.core.spec import RunSpec
from hanse.strategies import Context, FoldInput
from hanse.strategies.robust import FLTrust

SITES = [f"s{n:02}" for n in range(11)]
LIARS = SITES[:2]

DEFENCES = [
    hs.FedMedian(),
    hs.FedTrimmedMean(0.2),
    hs.FedKrum(2),
    hs.FedKrum(2, keep=7),
    hs.FedBulyan(2),
    hs.RFA(),
    hs.FedNormBound(2.0),
    hs.FLTrust("s10"),
]


def distance_after(strategy: hs.Strategy, lie: float, rounds: int = 25) -> float:
    """How far from 8 the model ends, which honest sites walk towards and liars send far away."""
    app = hs.App(strategy, rounds=rounds, initial=[np.zeros(30)], evaluate_every=0)

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        if site.name in LIARS:
            return [arrays["0"] + lie], 1_000_000, {}
        target = 8 + site.rng.normal(0, 0.1, 30)
        return [arrays["0"] + 0.5 * (target - arrays["0"])], 1, {}

    result = hs.simulate(app, SITES, progress=False)
    assert result.status == "finished"
    return float(np.abs(result.arrays["0"] - 8).max())


@pytest.mark.parametrize("strategy", DEFENCES, ids=lambda each: type(each).__name__)
def test_liars_do_not_move_the_model(strategy: hs.Strategy) -> None:
    room = 2.5 if isinstance(strategy, hs.FedNormBound) else 0.25
    assert distance_after(strategy, -1e6) < room


@pytest.mark.parametrize("strategy", DEFENCES, ids=lambda each: type(each).__name__)
def test_where_nobody_lies_much_it_learns(strategy: hs.Strategy) -> None:
    assert distance_after(strategy, 0.0) < 2.5


def test_fedavg_is_moved_by_them() -> None:
    """Otherwise the tests above would prove nothing."""
    assert distance_after(hs.FedAvg(), -1e6) > 1e5
    assert distance_after(hs.FedAvg(weights="equal"), -1e6) > 1e5


def test_every_site_counts_the_same() -> None:
    replies = [FoldInput("a", 3, 0, {}), FoldInput("root", 300, 0, {})]
    assert hs.FedKrum().weigh(replies) == [1.0, 1.0]
    assert hs.FLTrust("root").weigh(replies) == [1.0, 0.0]


def context(sites: tuple[str, ...], **spec: Any) -> Context:
    return Context(RunSpec(**spec), round=3, phase="train", sites=sites)


def test_fltrust_asks_its_root_in_every_round() -> None:
    sites = tuple(SITES)
    for seed in range(8):
        plan = FLTrust("s05").plan(context(sites, sample=3, seed=seed))
        asked = [ask.site for ask in plan.asks]
        assert asked == sorted(set(asked))
        assert "s05" in asked
        assert len(asked) in (3, 4)
        assert plan.close.count == plan.close.quorum == len(asked)
    assert [ask.site for ask in FLTrust("s05").plan(context(sites)).asks] == SITES
    with pytest.raises(ConfigError, match="expected the root site 'elsewhere', found it is not available"):
        FLTrust("elsewhere").plan(context(sites))


def test_a_round_without_the_root_fails_by_name() -> None:
    app = hs.App(hs.FLTrust("b"), rounds=1, initial=[np.zeros(2)], quorum=1, retries=0)

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        if site.name == "b":
            raise RuntimeError("away")
        return [arrays["0"] + 1], 1, {}

    with pytest.raises(hs.JobFailed, match="needs exactly one root's update, of weight 0; found 0"):
        hs.simulate(app, ["a", "b", "c"], progress=False)


def test_too_few_updates_for_the_proof_fail_by_name() -> None:
    app = hs.App(hs.FedBulyan(1), rounds=1, initial=[np.zeros(2)])

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        return [arrays["0"] + 1], 1, {}

    with pytest.raises(hs.JobFailed, match="Bulyan with num_byzantine=1 needs at least 7 updates, found 3"):
        hs.simulate(app, ["a", "b", "c"], progress=False)
