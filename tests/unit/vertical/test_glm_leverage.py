"""Rows of high leverage: against the hat matrix, and what is left when they are left out."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.core.errors import ConfigError
from hanse.vertical.glm.leverage import LARGEST_SHARE, leverages, weighed_down
from hanse.vertical.glm.models import LogisticRegression
from hanse.vertical.glm.training import Training

whole = st.integers(-3, 3)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 5).flatmap(lambda width: st.lists(st.lists(whole, min_size=width, max_size=width), min_size=6)))
def test_leverages_are_the_diagonal_of_the_hat_matrix(rows: list[list[int]]) -> None:
    """And each is what the best weights for a row make of it: the largest share of d_i in a unit combination."""
    x = np.array(rows)
    found = leverages(x)
    assert np.abs(found - np.diag(x @ np.linalg.pinv(x.astype(float)))).max() < 1e-9
    assert found.sum() == pytest.approx(np.linalg.matrix_rank(x), abs=1e-6)


@pytest.mark.parametrize("apart", [0.0, 1e-9, 1e-3, 3e-3, 1e-2, 1.0])
def test_columns_that_are_nearly_dependent_have_exact_leverages_too(apart: float) -> None:
    """On both sides of the bound by which one of two ways is taken; against exact fractions."""
    rng = np.random.default_rng(4)
    x = rng.integers(-4096, 4096, (40, 3))
    x[:, 2] = x[:, 0] + x[:, 1] + np.rint(apart * rng.integers(-4096, 4096, 40)).astype(np.int64)
    kept = x if apart > 1e-6 else x[:, :2]
    exact = [[Fraction(int(each)) for each in row] for row in (kept.T @ kept)]
    expected = [float(sum(a * b for a, b in zip(row, solved(exact, row), strict=True))) for row in kept.tolist()]
    assert np.abs(leverages(x) - expected).max() < 1e-9


def solved(matrix: list[list[Fraction]], right: list[int]) -> list[Fraction]:
    """By elimination."""
    rows = [[*row, Fraction(value)] for row, value in zip(matrix, right, strict=True)]
    for at in range(len(rows)):
        rows[at] = [each / rows[at][at] for each in rows[at]]
        for other in range(len(rows)):
            if other != at:
                rows[other] = [a - rows[other][at] * b for a, b in zip(rows[other], rows[at], strict=True)]
    return [row[-1] for row in rows]


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.sampled_from([0.3, 0.5, 0.9]))
def test_none_is_high_afterwards_and_rows_are_multiples_of_what_they_were(seed: int, width: int, bound: float) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(-999, 1000, (60, width)) * (rng.random((60, width)) < rng.choice([0.05, 0.9], width))
    x[rng.integers(0, 60, 2)] *= 50
    cuts = [(0, 30), (30, 60)]
    high = sum(int((leverages(x[start:stop]) >= bound - 1e-9).sum()) for start, stop in cuts)
    try:
        found = weighed_down(x, cuts, bound, "weigh_down")
    except ConfigError:
        with pytest.raises(ConfigError, match="for three rows of four"):
            weighed_down(x, cuts, bound, "weigh_down")
        return
    for start, stop in cuts:
        assert (leverages(found[start:stop]) < bound).all()
        lost = x[start:stop].any(axis=1) & ~found[start:stop].any(axis=1)
        assert lost.mean() <= LARGEST_SHARE
    sizes = np.maximum((x.astype(float) ** 2).sum(axis=1), 1)
    weights = (x * found).sum(axis=1) / sizes
    assert np.abs(found - x * weights[:, None]).max() <= 1
    assert weights.min() >= 0
    assert weights.max() <= 1 + 1e-9
    if high:
        with pytest.raises(ConfigError, match=f"found {high} of more"):
            weighed_down(x, cuts, bound, "refuse")
    else:
        assert found.tolist() == x.tolist() == weighed_down(x, cuts, bound, "refuse").tolist()
    assert weighed_down(x, cuts, bound, "accept") is x


def test_heavy_tails_are_weighed_down_and_not_out() -> None:
    """Removing rows one after another would raise the others' leverage until none is left."""
    x = np.rint(np.random.default_rng(1).standard_t(2, (96, 20)) * 4096).astype(np.int64)
    assert (leverages(x) >= 0.5).sum() >= 4
    found = weighed_down(x, [(0, 96)], 0.5, "weigh_down")
    assert leverages(found).max() < 0.5
    assert found.any(axis=1).all()
    assert (found == x).all(axis=1).mean() > 0.8


@pytest.mark.parametrize("protocol", ["own-gradient", "arbiter"])
def test_a_bound_above_the_usual_one_is_named_in_what_is_revealed(protocol: str) -> None:
    """With 0.999 a gradient tells next to nothing but such a row's label."""

    def told(**given: Any) -> bool:
        declared = LogisticRegression(protocol=protocol, **given).declared(1)
        return "single_rows" in {each.what for each in declared.reveals}

    assert not told()
    assert not told(max_leverage=0.3, high_leverage="refuse")
    for choice in ("weigh_down", "refuse"):
        assert told(max_leverage=0.999, high_leverage=choice)
    assert told(high_leverage="accept")


@pytest.mark.parametrize("given", [{"max_leverage": 0.0}, {"max_leverage": 1.5}, {"high_leverage": "warn"}])
def test_settings_out_of_their_range_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="leverage"):
        Training(**given)
