"""The digits demo: its network's gradient, what its tables are made of, and that they say what the runs said."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

import hanse as hs
from hanse.demos import digits, digits_app, digits_scanners, digits_text
from hanse.strategies.catalogue import catalogue


def test_the_gradient_is_that_of_the_loss() -> None:
    """Central differences in float64."""
    rng = np.random.default_rng(0)
    model = {name: array.astype(np.float64) for name, array in digits_app.initial(3).items()}
    X, y = rng.random((7, 64)), rng.integers(0, 10, 7)
    slopes = digits_app.gradient(model, X, y)
    for name, array in model.items():
        for _ in range(5):
            place = tuple(int(rng.integers(0, size)) for size in array.shape)
            before = array[place]
            array[place] = before + 1e-6
            above = digits_app.loss_of(model, X, y)
            array[place] = before - 1e-6
            below = digits_app.loss_of(model, X, y)
            array[place] = before
            assert slopes[name][place] == pytest.approx((above - below) / 2e-6, rel=1e-4, abs=1e-8)


def test_the_gradient_of_moons_term_is_that_of_the_loss() -> None:
    rng = np.random.default_rng(1)
    z, X = rng.uniform(0.1, 1, (5, 32)), rng.random((5, 64))
    models = [{name: array.astype(np.float64) for name, array in digits_app.initial(n).items()} for n in (1, 2)]
    contrast = digits_app.Contrast(*models, mu=0.7, temperature=0.4)
    slope = contrast.slope(z, X)
    near, far = (digits_app.forward(model, X)[0] for model in models)
    for row in range(5):  # Equation 3 by hand, for one example
        sims = [np.exp(z[row] @ o / np.linalg.norm(z[row]) / np.linalg.norm(o) / 0.4) for o in (near[row], far[row])]
        one = digits_app.Contrast(*models, mu=0.7, temperature=0.4).loss(z[row : row + 1], X[row : row + 1])
        assert one == pytest.approx(-0.7 * math.log(sims[0] / sum(sims)))
    for _ in range(20):
        place = int(rng.integers(5)), int(rng.integers(32))
        above, below = z.copy(), z.copy()
        above[place] += 1e-6
        below[place] -= 1e-6
        expected = (contrast.loss(above, X) - contrast.loss(below, X)) / 2e-6
        assert slope[place] == pytest.approx(expected, rel=1e-3, abs=1e-8)


def test_accuracy_at_a_site_is_mixed_as_its_labels() -> None:
    model = {name: np.zeros_like(array) for name, array in digits_app.initial(0).items()}
    model["b1"][3] = 1.0  # says 3, whatever it sees
    X, y = np.zeros((4, 64), np.float32), np.array([3, 3, 5, 5])
    assert digits_app.accuracy_at(model, np.array([3, 3, 3, 5]), X, y) == 0.75
    assert digits_app.accuracy_at(model, np.array([3, 7]), X, y) == 1.0


def test_loss_of_even_chances() -> None:
    nothing = {name: np.zeros_like(array) for name, array in digits_app.initial(0).items()}
    X, y = np.ones((4, 64)), np.array([0, 1, 2, 9])
    assert digits_app.loss_of(nothing, X, y) == pytest.approx(math.log(10))
    assert digits_app.accuracy_of(nothing, X, y) == 0.25


def test_nobody_trains_on_what_is_held_out() -> None:
    cut = digits.load(1)
    assert (len(cut.y), len(cut.y_test)) == (1437, 360)
    trained = {row.tobytes() for row in cut.X}
    assert sum(row.tobytes() in trained for row in cut.X_test) == 0, "no image occurs twice in the set"
    assert not np.array_equal(cut.X_test, digits.load(2).X_test)


def test_liars_are_a_fifth_and_never_the_root() -> None:
    cut = digits.load(0)
    for name in digits.CUTS:
        sites = digits.CUTS[name](cut, 0).sites("digits", cut.X, cut.y)
        for seed in range(20):
            bad = digits.liars(sites, seed)
            assert len(set(bad)) == 4 == 0.2 * len(sites)
            assert digits.ROOT in sites
            assert digits.ROOT not in bad


def test_tables_hold_every_strategy_that_trains() -> None:
    shown = {strategy.name for strategy in (*digits.STRATEGIES, *digits.PERSONAL, *digits.DEFENCES)}
    shown |= {strategy.name for strategy, _ in digits.SCANNED.values()}
    without = {"query", "analysis", "boosting", "xgboost"}  # they train no such model
    assert shown == set(catalogue()) - without


@pytest.mark.long
@pytest.mark.parametrize("strategy", digits.STRATEGIES, ids=lambda each: each.name)
def test_strategies_learn(strategy: hs.Strategy) -> None:
    """Ten rounds of twenty sites with skewed labels: chance is 0.1, and FedAvg reaches 0.6 to 0.7 on this seed."""
    (run,) = digits.by_strategy([0], 10, [strategy]).values()
    assert len(run[0]) == 10
    assert run[0][-1] > 0.35


@pytest.mark.long
@pytest.mark.parametrize("strategy", digits.PERSONAL, ids=lambda each: each.name)
def test_personalised_ones_learn(strategy: hs.Strategy) -> None:
    (run,) = digits.by_personal([0], 5, [strategy]).values()
    assert len(run) == 1
    assert 0.25 < run[0] < 1.0


def test_the_normalised_gradient_is_that_of_the_loss() -> None:
    """Central differences in float64."""
    rng = np.random.default_rng(0)
    model = {name: array.astype(np.float64) for name, array in digits_scanners.normalised_initial(3).items()}
    model["bn.gain"] += rng.normal(0, 0.2, 32)
    model["bn.shift"] += rng.normal(0, 0.2, 32)
    X, y = rng.random((9, 64)), rng.integers(0, 10, 9)
    slopes = digits_scanners.normalised_gradient(model, X, y)
    for name in ("w0", "bn.gain", "bn.shift", "w1", "b1"):
        array = model[name]
        for _ in range(5):
            place = tuple(int(rng.integers(0, size)) for size in array.shape)
            found = []
            for step in (1e-6, -2e-6):
                array[place] += step
                found.append(digits_scanners.normalised_loss(model, X, y))
            array[place] += 1e-6
            assert slopes[name][place] == pytest.approx((found[0] - found[1]) / 2e-6, rel=1e-4, abs=1e-7)


def test_folding_a_normalising_layer_changes_nothing_and_undoes_a_scanner() -> None:
    rng = np.random.default_rng(1)
    model, X = digits_scanners.normalised_initial(1), rng.random((40, 64), dtype=np.float32)
    y = rng.integers(0, 10, 40)
    for site in ("site-00", "site-07"):
        seen = digits_scanners.scanned(X, site, 5)
        z = seen @ model["w0"]
        own = {**model, "bn.running_mean": z.mean(axis=0), "bn.running_var": z.var(axis=0)}
        loss = digits_app.loss_of(digits_scanners.folded(own), seen, y)
        assert loss == pytest.approx(digits_scanners.normalised_loss(model, seen, y), rel=1e-4)
        assert loss == pytest.approx(digits_scanners.normalised_loss(model, X, y), rel=1e-3)


def test_fedbn_is_ahead_where_sites_see_other_pixels() -> None:
    found = {name: run[0] for name, run in digits.by_scanner([1], 6).items()}
    assert found["FedBN(), normalised"] > max(found["FedAvg(), normalised"] + 0.1, 0.8)


@pytest.mark.long
def test_a_backdoor_opens_where_the_mean_is_taken_and_not_where_updates_are_bounded() -> None:
    cut = digits.load(0)
    sites = digits.CUTS["IID"](cut, 0).sites("digits", cut.X, cut.y)
    attack = digits.ATTACKS["backdoor × 5"]
    found = {}
    for strategy in (hs.FedAvg(weights="equal"), hs.FedMedian()):
        app = digits_app.app_of(strategy, rounds=8, seed=0)
        app = hs.attacks.attacked(app, attack, digits.liars(sites, 0), sites)
        _, model = digits.trained(app, sites, cut)
        found[strategy.name] = digits.fooled(model, cut, attack)
    assert found["fedavg"] > 0.8
    assert found["fedmedian"] < found["fedavg"] - 0.3


def test_lines_are_means_of_runs() -> None:
    lines = digits_text.strategy_lines({"A()": [[0.1] * 9 + [0.5, 0.7], [0.1] * 9 + [0.7, 0.9]]})
    assert lines[0] == "| strategy | 10 rounds | 11 rounds | lowest |"
    assert lines[2] == "| `A()` | 0.600 ± 0.141 | 0.800 ± 0.141 | 0.700 |"
    table: Any = {("A()", "none"): [0.5, 0.7], ("A()", "x"): [0.1], ("B()", "none"): [1.0], ("B()", "x"): [0.0]}
    assert digits_text.attack_lines(table) == [
        "| defence | none | x |",
        "|---|---|---|",
        "| `A()` | 0.600 | 0.100 |",
        "| `B()` | 1.000 | 0.000 |",
    ]


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    digits.main(["strategies", "--seeds", "1", "--rounds", "1"])
    printed = capsys.readouterr().out
    assert "| `FedAvg()` |" in printed
    assert "100 sites, Dirichlet(0.1), 20% in a round, 1 rounds, 1 seeds" in printed


def test_the_page_of_results_has_the_rows_and_columns_of_the_tables() -> None:
    page = (Path(__file__).parents[3] / "docs" / "results.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(.+?)` \|", page, re.MULTILINE)
    strategies = [digits_text.described(each) for each in digits.STRATEGIES]
    defences = [digits_text.described(each) for each in digits.DEFENCES]
    selections = [repr(each) for each in digits.SELECTIONS]
    personal = [digits_text.described(each) for each in digits.PERSONAL]
    assert rows == strategies + selections + personal + list(digits.SCANNED) + defences * len(digits.CUTS)
    backdoors = [name for name in digits.ATTACKS if "backdoor" in name]
    columns = [name for name in digits.ATTACKS if name not in backdoors]
    columns += [each for name in backdoors for each in (name, name.replace("backdoor", "fooled"))]
    assert page.count("| defence | " + " | ".join(columns) + " |") == len(digits.CUTS)
