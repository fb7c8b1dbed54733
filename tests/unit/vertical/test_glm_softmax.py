"""A softmax of log sums of pairs: exact in exact functions, close with their series, and bounded for every score."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.core.errors import ConfigError
from hanse.vertical.glm import families
from hanse.vertical.glm.series import RANGES
from hanse.vertical.glm.softmax import SeriesMean, log_sums, mean_of
from hanse.vertical.glm.training import Training


def slow(z: Any) -> Any:
    """Straight from the definition, one row and class after another."""
    rows = []
    for row in z.astype(np.longdouble):
        powers = [np.exp(each - row.max()) for each in row]
        rows.append([power / sum(powers) for power in powers])
    return np.array(rows, np.float64)


@pytest.mark.parametrize("num_classes", range(3, families.MAX_CLASSES + 1))
def test_the_plan_is_a_softmax_where_functions_are_exact(num_classes: int) -> None:
    z = np.random.default_rng(num_classes).normal(size=(4, num_classes)) * 8
    plan = log_sums(num_classes)
    exact: Any = SeriesMean(
        lambda x: 0.5 + 0.5 * np.tanh(x / 2),  # type: ignore[arg-type]
        plan,
        lambda x: np.logaddexp(x / 2, -x / 2),  # type: ignore[arg-type]
    )
    assert np.abs(exact(z) - slow(z)).max() < 1e-12
    assert np.abs(families.softmax(z) - slow(z)).max() < 1e-12
    assert sum(plan.pairs) < 3 * num_classes
    assert len(plan.levels) <= 2 * np.ceil(np.log2(num_classes)) - 1


@settings(max_examples=60, deadline=None)
@given(
    num_classes=st.sampled_from([3, 4, 5, 8, 17, 64]),
    wide=st.booleans(),
    spread=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_the_series_are_close_within_their_range(num_classes: int, wide: bool, spread: float, seed: int) -> None:
    """Off by the sigmoid's error and a quarter of that of its argument, the log sums of up to ten levels."""
    mean: Any = mean_of(Training(wide_scores=wide), num_classes)
    widest = (RANGES["logistic", wide].high - np.log(num_classes - 1)) * spread
    z = np.random.default_rng(seed).uniform(0, 1, (40, num_classes)) * widest
    z[0] = 0.0
    z[1], z[2, 0], z[3, 1:] = 0.0, widest, widest
    z += np.random.default_rng(seed + 100).normal(size=(40, 1)) * 1000
    assert np.abs(mean(z) - slow(z)).max() < 0.0005 + 0.25 * 0.0002 * len(log_sums(num_classes).levels)


@settings(max_examples=60, deadline=None)
@given(
    num_classes=st.sampled_from([3, 4, 7, 64]),
    wide=st.booleans(),
    exponent=st.floats(0, 12),
    seed=st.integers(0, 99),
)
def test_it_is_bounded_for_every_score(num_classes: int, wide: bool, exponent: float, seed: int) -> None:
    mean: Any = mean_of(Training(wide_scores=wide), num_classes)
    found = mean(np.random.default_rng(seed).normal(size=(30, num_classes)) * 10.0**exponent)
    assert np.isfinite(found).all()
    assert found.min() > -0.01
    assert found.max() < 1.01


def test_which_trainings_have_one() -> None:
    two, several, rest = mean_of(Training(), 1), mean_of(Training(), 3), mean_of(Training(multi_class="ovr"), 3)
    assert (two and two.log_sums) is None
    assert (rest and rest.log_sums) is None
    assert several is not None
    assert several.log_sums == log_sums(3)
    assert mean_of(Training(family="linear"), 1) is None
    with pytest.raises(ConfigError, match="3 classes or more, found 2"):
        log_sums(2)
