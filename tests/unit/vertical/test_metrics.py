"""Metrics: against scikit-learn, ties and all."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.core.errors import ConfigError
from hanse.vertical import metrics

oracle: Any = pytest.importorskip("sklearn.metrics", reason="the oracle is scikit-learn (extra `sklearn`)")


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=60))
def test_ranks_with_ties(rows: list[tuple[bool, int]]) -> None:
    label, scores = np.array([a for a, _ in rows]), np.array([b / 6 for _, b in rows])
    if label.all() or not label.any():
        with pytest.raises(ConfigError, match="both classes"):
            metrics.auc(label, scores)
        return
    assert metrics.auc(label, scores) == pytest.approx(oracle.roc_auc_score(label, scores))
    false, true, _ = oracle.roc_curve(label, scores, drop_intermediate=False)
    assert metrics.ks(label, scores) == pytest.approx(np.abs(true - false).max())


def test_classes_numbers_and_counts() -> None:
    rng = np.random.default_rng(0)
    label = rng.choice(["a", "b", "c"], 200)
    chances = rng.dirichlet([1, 1, 1], 200)
    found = metrics.of_classes(label, chances, ("a", "b", "c"))
    assert found["log_loss"] == pytest.approx(oracle.log_loss(label, chances, labels=["a", "b", "c"]))
    assert found["accuracy"] == pytest.approx((np.array(["a", "b", "c"])[chances.argmax(1)] == label).mean())
    two = metrics.of_classes(label == "a", chances[:, 0], (False, True))
    assert two["auc"] == pytest.approx(oracle.roc_auc_score(label == "a", chances[:, 0]))
    y, other = rng.poisson(2.0, 300), rng.uniform(0.5, 4, 300)
    numbers = metrics.of_numbers(y, other)
    assert numbers["r2"] == pytest.approx(oracle.r2_score(y, other))
    assert numbers["rmse"] == pytest.approx(oracle.mean_squared_error(y, other) ** 0.5)
    assert numbers["mae"] == pytest.approx(oracle.mean_absolute_error(y, other))
    assert metrics.of_counts(y, other)["d2"] == pytest.approx(oracle.d2_tweedie_score(y, other, power=1))
