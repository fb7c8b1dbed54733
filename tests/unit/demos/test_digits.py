"""The digits demo: its network's gradient, what its tables are made of, and that they say what the runs said."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

import hanse as hs
from hanse.demos import digits, digits_app
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
    shown = {strategy.name for strategy in (*digits.STRATEGIES, *digits.DEFENCES)}
    assert shown == set(catalogue()) - {"query", "analysis", "boosting", "xgboost"}


@pytest.mark.parametrize("strategy", digits.STRATEGIES, ids=lambda each: each.name)
def test_strategies_learn(strategy: hs.Strategy) -> None:
    """Ten rounds of twenty sites with skewed labels: chance is 0.1, and FedAvg reaches 0.6 to 0.7 on this seed."""
    (run,) = digits.by_strategy([0], 10, [strategy]).values()
    assert len(run[0]) == 10
    assert run[0][-1] > 0.35


def test_lines_are_means_of_runs() -> None:
    lines = digits.strategy_lines({"A()": [[0.1] * 9 + [0.5, 0.7], [0.1] * 9 + [0.7, 0.9]]})
    assert lines[0] == "| strategy | 10 rounds | 11 rounds | lowest |"
    assert lines[2] == "| `A()` | 0.600 ± 0.141 | 0.800 ± 0.141 | 0.700 |"
    table: Any = {("A()", "none"): [0.5, 0.7], ("A()", "x"): [0.1], ("B()", "none"): [1.0], ("B()", "x"): [0.0]}
    assert digits.attack_lines(table) == [
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
    strategies = [digits.described(each) for each in digits.STRATEGIES]
    defences = [digits.described(each) for each in digits.DEFENCES]
    assert rows == strategies + defences * len(digits.CUTS)
    assert page.count("| defence | " + " | ".join(digits.ATTACKS) + " |") == len(digits.CUTS)
