"""Each strategy over several rounds against its slow reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.strategies.fedadagrad import FedAdagrad
from hanse.strategies.fedadam import FedAdam
from hanse.strategies.fedavg import FedAvg
from hanse.strategies.fedavgm import FedAvgM
from hanse.strategies.fedprox import FedProx
from hanse.strategies.fedyogi import FedYogi
from hanse.strategies.strategy import FoldInput, Strategy
from tests.unit.strategies import oracle

ROUNDS = 12


def run(strategy: Strategy, start: oracle.Vector, train: oracle.Client, block: int) -> list[oracle.Vector]:
    """What the driver does with a strategy, in a few lines: weigh, mean, update block by block, state kept between."""
    model = np.array(start, dtype=np.float64)
    state = [np.zeros_like(model) for _ in strategy.state_names()]
    history = []
    for t in range(ROUNDS):
        cohort = train(t, model.tolist())
        weights = strategy.weigh([FoldInput(f"s{k}", n, 0, {}) for k, (n, _) in enumerate(cohort)])
        values = [np.array(w) - (model if strategy.update_kind == "delta" else 0.0) for _, w in cohort]
        reduced = np.average(values, axis=0, weights=weights)
        before = model.copy()
        pieces = []
        for low in range(0, len(model), block):
            part = slice(low, low + block)
            views = [vector[part] for vector in state]
            pieces.append(strategy.update(model[part], reduced[part], views, strategy.scalars(t + 1, {})))
        np.testing.assert_array_equal(model, before, err_msg="update changed the model it was given")
        model = np.concatenate(pieces)
        assert model.dtype == np.float64
        history.append(model.tolist())
    return history


def clients(mu: float = 0.0) -> tuple[oracle.Vector, oracle.Client]:
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(5, 6)) * [1e-3, 1, 1, 10, 100, 1]
    start = rng.normal(size=6).tolist()
    return start, oracle.quadratic_clients(centres.tolist(), [10, 200, 1, 37, 52], 0.2, 4, mu)


CASES = [
    pytest.param(FedAvg(), oracle.fedavg, {}, id="fedavg"),
    pytest.param(FedProx(0.5), oracle.fedavg, {}, id="fedprox"),
    pytest.param(FedAvgM(), oracle.fedavgm, {"beta": 0.9, "eta": 1.0}, id="fedavgm"),
    pytest.param(FedAvgM(0.5, 0.3), oracle.fedavgm, {"beta": 0.5, "eta": 0.3}, id="fedavgm-slow"),
    pytest.param(FedAdam(), oracle.fedadam, {"eta": 0.1, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3}, id="fedadam"),
    pytest.param(
        FedAdam(0.02, 0.0, 0.5, 0.1),
        oracle.fedadam,
        {"eta": 0.02, "beta_1": 0.0, "beta_2": 0.5, "tau": 0.1},
        id="fedadam-adaptive",
    ),
    pytest.param(FedAdagrad(), oracle.fedadagrad, {"eta": 0.1, "beta_1": 0.0, "tau": 1e-3}, id="fedadagrad"),
    pytest.param(FedAdagrad(0.3, 0.5, 0.2), oracle.fedadagrad, {"eta": 0.3, "beta_1": 0.5, "tau": 0.2}, id="adagrad-m"),
    pytest.param(FedYogi(), oracle.fedyogi, {"eta": 0.1, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3}, id="fedyogi"),
    pytest.param(
        FedYogi(0.02, 0.0, 0.5, 0.1),
        oracle.fedyogi,
        {"eta": 0.02, "beta_1": 0.0, "beta_2": 0.5, "tau": 0.1},
        id="fedyogi-adaptive",
    ),
]


@pytest.mark.parametrize(("strategy", "reference", "params"), CASES)
def test_follows_its_paper(strategy: Strategy, reference: object, params: dict[str, float]) -> None:
    start, train = clients(mu=getattr(strategy, "proximal_mu", 0.0))
    expected = reference(start, ROUNDS, train, **params)  # type: ignore[operator]
    found = run(strategy, start, train, block=6)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert not np.allclose(expected[0], expected[-1]), "a run that stands still proves nothing"


@pytest.mark.parametrize(("strategy", "reference", "params"), CASES)
def test_blocks_change_no_bit(strategy: Strategy, reference: object, params: dict[str, float]) -> None:
    start, train = clients()
    whole = run(strategy, start, train, block=6)
    assert run(strategy, start, train, block=1) == whole
    assert run(strategy, start, train, block=4) == whole


def test_without_momentum_fedavgm_is_fedavg() -> None:
    start, train = clients()
    np.testing.assert_allclose(
        run(FedAvgM(0.0), start, train, block=6), run(FedAvg(), start, train, block=6), rtol=1e-12
    )


def test_a_steady_delta_moves_fedavgm_by_one_over_one_minus_beta() -> None:
    v = np.zeros(1)
    model = np.zeros(1)
    for _ in range(400):
        before, model = model, FedAvgM(0.9, 2.0).update(model, np.array([1.0]), [v], {"server_lr": 2.0})
    assert (model - before)[0] == pytest.approx(2.0 / (1 - 0.9))


def test_fedadam_has_no_bias_correction() -> None:
    strategy = FedAdam(server_lr=1.0, beta_1=0.9, beta_2=0.99, tau=1e-3)
    moved = strategy.update(np.zeros(1), np.array([1.0]), [np.zeros(1), np.zeros(1)], strategy.scalars(1, {}))
    # With bias correction the first step would be about η = 1.
    assert moved[0] == pytest.approx(0.1 / (np.sqrt(0.99e-6 + 0.01) + 1e-3), rel=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20), st.floats(1e-6, 1.0), st.floats(0, 0.999))
def test_fedadam_second_moment_never_falls_below_what_the_paper_allows(
    deltas: list[float], tau: float, beta_2: float
) -> None:
    strategy = FedAdam(beta_2=beta_2, tau=tau)
    m, u = np.zeros(1), np.zeros(1)
    v = tau**2
    for t, delta in enumerate(deltas, start=1):
        strategy.update(np.zeros(1), np.array([delta]), [m, u], strategy.scalars(t, {}))
        v = beta_2 * v + (1 - beta_2) * delta**2
        assert u[0] + strategy.scalars(t, {})["v_start"] == pytest.approx(v, rel=1e-9, abs=1e-300)
