"""Strategies whose clients have a part of their own, run whole in simulation against slow references."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import hanse as hs
from hanse.core.errors import ConfigError
from hanse.strategies import FoldInput
from hanse.strategies.scaffold import CONTROL
from tests.unit.strategies import oracle

ROUNDS, LR = 8, 0.05
SITES = [f"s{k}" for k in range(6)]


def problem() -> oracle.Problem:
    rng = np.random.default_rng(3)
    return [
        (
            rng.uniform(0.2, 3, 5).tolist(),
            rng.normal(size=5).tolist(),
            int(rng.integers(1, 50)),
            int(rng.integers(1, 7)),
        )
        for _ in SITES
    ]


START = np.linspace(-1, 2, 5)


def simulated(strategy: hs.Strategy, *, sample: float = 1.0, initial: Any = None, rounds: int = ROUNDS) -> Any:
    """Bare functions that do what write-an-app.md says; also the cohorts that were sampled, and the models by round."""
    sites = problem()
    history: list[list[float]] = []
    initial = {"w": START, "n": np.array([3])} if initial is None else initial
    app = hs.App(strategy, rounds=rounds, sample=sample, initial=initial, seed=4)

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        assert list(arrays) == ["w", "n"]
        a, centre, count, steps = sites[SITES.index(site.name)]
        start, w = arrays["w"].copy(), arrays["w"]
        before = oracle.loss(a, centre, w.tolist())
        extra = config["correction"]["w"] if "correction" in config else 0.0
        for _ in range(steps):
            w = w - LR * (np.array(a) * (w - centre) + extra + config.get("proximal_mu", 0.0) * (w - start))
        return {"w": w, "n": arrays["n"]}, count, {"num_steps": steps, "client_lr": LR, "loss_before": before}

    @app.evaluate
    def evaluate(arrays: Any, config: Any, site: Any) -> Any:
        assert list(arrays) == ["w", "n"]
        return 1, {"loss": float(arrays["w"].sum())}

    @app.evaluate_on_server
    def evaluate_on_server(arrays: Any, round: int) -> Any:
        assert list(arrays) == ["w", "n"]
        history.append(arrays["w"].tolist())
        return {}

    result = hs.simulate(app, SITES, progress=False)
    cohorts = [[SITES.index(site) for site in record.folded] for record in result.rounds]
    return result, history, cohorts


CASES: list[Any] = [
    pytest.param(hs.FedNova(), oracle.fednova, {}, id="fednova"),
    pytest.param(hs.QFedAvg(q=1.0, client_lr=LR), oracle.qfedavg, {"q": 1.0}, id="qfedavg"),
    pytest.param(hs.QFedAvg(q=0.2, client_lr=LR), oracle.qfedavg, {"q": 0.2}, id="qfedavg-mild"),
    pytest.param(hs.QFedAvg(q=5.0, client_lr=LR), oracle.qfedavg, {"q": 5.0}, id="qfedavg-strong"),
    pytest.param(hs.Scaffold(), oracle.scaffold, {"eta_g": 1.0}, id="scaffold"),
    pytest.param(hs.Scaffold(0.5), oracle.scaffold, {"eta_g": 0.5}, id="scaffold-slow"),
    pytest.param(hs.FedDyn(0.3), oracle.feddyn, {"alpha": 0.3}, id="feddyn"),
]


@pytest.mark.parametrize("sample", [1.0, 0.5])
@pytest.mark.parametrize(("strategy", "reference", "params"), CASES)
def test_follows_its_paper(
    strategy: hs.Strategy, reference: Callable[..., Any], params: dict[str, float], sample: float
) -> None:
    if isinstance(strategy, hs.FedDyn):
        strategy = hs.FedDyn(strategy.alpha, participation=sample)
    result, found, cohorts = simulated(strategy, sample=sample)
    assert all(len(cohort) == round(sample * 6) for cohort in cohorts)
    assert sample == 1.0 or len({tuple(cohort) for cohort in cohorts}) > 1
    expected = reference(START.tolist(), ROUNDS, problem(), lambda t: cohorts[t], LR, **params)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    plain = simulated(hs.FedAvg(weights="equal"), sample=sample)[1]
    assert not np.allclose(found[-1], plain[-1], rtol=1e-3), "otherwise FedAvg would do"
    assert result.arrays["n"].tolist() == [3]


def optimum() -> np.ndarray[Any, Any]:
    """Of Σ F_k, every site the same."""
    a = np.array([each[0] for each in problem()])
    centres = np.array([each[1] for each in problem()])
    return np.asarray((a * centres).sum(axis=0) / a.sum(axis=0))


@pytest.mark.parametrize("strategy", [hs.Scaffold(), hs.FedDyn(0.3)], ids=lambda each: each.name)
def test_ends_at_the_common_optimum_where_fedavg_does_not(strategy: hs.Strategy) -> None:
    """Sites differ in curvature, centre and number of steps: FedAvg's fixed point is another one."""
    found = simulated(strategy, rounds=400)[1][-1]
    fedavg = simulated(hs.FedAvg(weights="equal"), rounds=400)[1][-1]
    assert np.abs(np.array(found) - optimum()).max() < 1e-6
    assert np.abs(np.array(fedavg) - optimum()).max() > 1e-2


def test_fairness_lowers_the_highest_loss() -> None:
    def worst(strategy: hs.Strategy) -> float:
        w = simulated(strategy, rounds=300)[1][-1]
        return max(oracle.loss(a, centre, w) for a, centre, _, _ in problem())

    assert worst(hs.QFedAvg(q=5.0, client_lr=LR)) < 0.9 * worst(hs.FedAvg(weights="equal"))


def test_equal_steps_make_fednova_fedavg() -> None:
    replies = [FoldInput(s, n, 0, {"num_steps": 4}) for s, n in (("a", 3), ("b", 9))]
    assert hs.FedNova().weigh(replies) == pytest.approx([0.25, 0.75])


def test_without_fairness_qfedavg_is_the_plain_mean() -> None:
    found = simulated(hs.QFedAvg(q=0.0, client_lr=LR))[1]
    np.testing.assert_allclose(found, simulated(hs.FedAvg(weights="equal"))[1], rtol=1e-12)


@pytest.mark.parametrize(
    ("strategy", "metrics", "says"),
    [
        (hs.FedNova(), {}, "expected a metric 'num_steps', finite and ≥ 0, found none"),
        (hs.FedNova(), {"num_steps": 0}, "expected a metric 'num_steps' from 1 to 1000000000, found 0"),
        (hs.FedNova(), {"num_steps": 1e308}, "found 1e+308"),
        (hs.FedNova(), {"num_steps": True}, "found bool"),
        (hs.QFedAvg(), {"loss_before": float("nan")}, "found nan"),
        (hs.QFedAvg(), {"loss_before": -1.0}, "found -1.0"),
        (hs.QFedAvg(), {"loss_before": "low"}, "found str"),
        (hs.QFedAvg(q=20.0), {"loss_before": 1e300}, "expected a metric 'loss_before' up to 1e+06, found 1e+300"),
        (hs.Scaffold(), {"num_steps": 3}, "num_steps and client_lr above 0"),
        (hs.Scaffold(), {"num_steps": 3, "client_lr": 0.0}, "num_steps and client_lr above 0"),
    ],
)
def test_a_site_that_does_not_say_what_is_wanted_is_left_out_by_name(
    strategy: hs.Strategy, metrics: dict[str, Any], says: str
) -> None:
    app = hs.App(strategy, rounds=2, initial=[np.zeros(2)], quorum=2, retries=0)

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        assert config["wants"] == list(strategy.wants)
        good = {"num_steps": 2, "client_lr": 0.1, "loss_before": 1.0}
        return [arrays["0"] + 1.0], 1, metrics if site.name == "b" else good

    result = hs.simulate(app, ["a", "b", "c"], progress=False)
    assert result.status == "finished"
    said = str(result.rounds[0].to_json())
    assert says in said
    assert "'b'" in said


def test_control_variates_travel_beside_the_model_and_can_be_taken_away() -> None:
    result, _, _ = simulated(hs.Scaffold())
    assert list(result.arrays) == ["w", "n", CONTROL + "w"]
    assert list(hs.without_control(result.arrays)) == ["w", "n"]
    assert np.abs(result.arrays[CONTROL + "w"]).max() > 0
    with pytest.raises(ConfigError, match="without arrays named control/…, found 'control/w'"):
        hs.App(hs.Scaffold(), initial={"control/w": np.zeros(1)})


def test_a_site_s_initial_parameters_get_them_too() -> None:
    app = hs.App(hs.Scaffold(), rounds=2)

    @app.parameters
    def parameters(site: Any) -> Any:
        return [np.ones(2, np.float32)]

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        assert config["correction"]["0"].dtype == np.float32
        return (
            [arrays["0"] - np.float32(0.1) * (arrays["0"] + config["correction"]["0"])],
            1,
            {
                "num_steps": 1,
                "client_lr": 0.1,
            },
        )

    result = hs.simulate(app, ["a", "b"], progress=False)
    assert list(result.arrays) == ["0", "control/0"]
    np.testing.assert_allclose(result.arrays["0"], 0.81, rtol=1e-6)
    np.testing.assert_allclose(result.arrays["control/0"], 0.9, rtol=1e-6)
