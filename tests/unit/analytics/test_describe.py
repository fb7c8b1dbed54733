"""Means, deviations and order statistics: to the last bit those of the pooled rows, however they lie at sites."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hanse as hs
from hanse.analytics import Describe, Quantiles
from hanse.analytics.describe import NAMES, QUARTILES
from hanse.analytics.orders import from_keys, to_keys
from tests.unit.analytics.sites import asked, patients, pooled


def true_moments(values: np.ndarray[Any, Any]) -> tuple[float, float]:
    exact = [Fraction(float(v)) for v in values]
    mean = sum(exact, Fraction(0)) / len(exact)
    return float(mean), math.sqrt(float(sum(((v - mean) ** 2 for v in exact), Fraction(0)) / (len(exact) - 1)))


def test_moments_are_the_pooled_ones_to_the_last_bit() -> None:
    sites = patients()
    answer, _ = asked(sites, Describe(["age", "bmi"], data="patients"))
    whole = pooled(sites)
    for row in answer.to_rows():
        values = np.asarray(whole[str(row["column"])], dtype=np.float64)
        known = values[~np.isnan(values)]
        assert (row["mean"], row["std"]) == true_moments(known)
        assert row["count"] == len(known)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e150, 1e150), min_size=2, max_size=40), st.data())
def test_division_into_sites_changes_no_bit(values: list[float], data: st.DataObject) -> None:
    rows = np.array(values)
    cut = data.draw(st.integers(1, len(rows) - 1))
    whole = Describe("x", data="d", min_group=1).answer
    one = hs.simulate(hs.App(Describe("x", data="d", min_group=1)), {"a": {"d": {"x": rows}}}, progress=False)
    shuffled = data.draw(st.permutations(values))
    parts = {"b": np.array(shuffled[:cut]), "a": np.array(shuffled[cut:])}
    sites = {name: {"d": {"x": part}} for name, part in parts.items()}
    two = hs.simulate(hs.App(Describe("x", data="d", min_group=1)), sites, progress=False)
    assert whole(one.arrays).to_rows() == whole(two.arrays).to_rows()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=20), min_size=1, max_size=4).filter(
        any
    ),
    st.lists(st.floats(0, 1), min_size=1, max_size=4),
)
def test_quantiles_are_numpys(parts: list[list[float]], q: list[float]) -> None:
    sites = {f"s{i}": {"d": {"x": np.array(part, dtype=np.float64)}} for i, part in enumerate(parts)}
    answer, _ = asked(sites, Quantiles("x", q, data="d", min_group=1))
    with np.errstate(all="ignore"):
        expected = np.quantile(np.concatenate([np.array(part, dtype=np.float64) for part in parts]), q)
    for row, value in zip(answer.to_rows(), expected, strict=True):
        if math.isfinite(value):
            assert row["value"] == value


@given(st.lists(st.floats(allow_nan=False), min_size=1))
def test_keys_keep_the_order(values: list[float]) -> None:
    array = np.array(values) + 0.0
    keys = to_keys(array)
    assert np.array_equal(from_keys(keys), array)
    assert np.array_equal(np.sort(keys), to_keys(np.sort(array)))


def test_released_values_keep_their_rank_within_the_bound() -> None:
    sites, k = patients(sizes=(400, 57, 211)), 10
    answer, _ = asked(sites, Quantiles("bmi", [0.0, 0.1, 0.5, 0.9, 1.0], data="patients", min_group=k))
    values = np.sort(pooled(sites)["bmi"])
    values = values[~np.isnan(values)]
    for row in answer.to_rows():
        q, value = float(row["q"] or 0), float(row["value"] or 0)
        rank = q * (len(values) - 1)
        low, high = np.searchsorted(values, value, "left"), np.searchsorted(values, value, "right")
        assert low - 3 * (2 * k - 1) <= rank <= high + 3 * (2 * k - 1)
    assert values[0] < float(answer.to_rows()[0]["value"] or 0)  # not the lowest: a mean of ten


def test_groups_and_quartiles_are_the_pooled_ones() -> None:
    sites = patients()
    answer, _ = asked(sites, Describe("bmi", data="patients", by="sex", min_group=1))
    whole = pooled(sites)
    assert [row["sex"] for row in answer.to_rows()] == ["f", "m"]
    for row in answer.to_rows():
        values = whole["bmi"][whole["sex"] == row["sex"]]
        known = values[~np.isnan(values)]
        assert row["missing"] == np.isnan(values).sum()
        assert (row["mean"], row["std"]) == true_moments(known)
        assert [row[name] for name in NAMES] == np.quantile(known, QUARTILES).tolist()


def test_few_rows_never_leave_a_site() -> None:
    sites = {
        "a": {"patients": {"x": np.arange(30.0), "g": ["u"] * 21 + ["v"] * 9}},
        "b": {"patients": {"x": np.arange(9.0), "g": ["u"] * 9}},
    }
    answer, result = asked(sites, Describe("x", data="patients", by="g"))
    assert [row["g"] for row in answer.to_rows()] == ["u"]  # not even the name of v
    assert answer.to_rows()[0]["count"] == 21  # and none of b's nine
    declared, _ = asked(sites, Describe("x", data="patients", by="g", groups=["u", "v"]))
    assert [row["count"] for row in declared.to_rows()] == [21, None]
    assert declared.to_rows()[1]["mean"] is None
    assert declared.to_rows()[1]["median"] is None
    del result


def test_few_missing_values_and_rare_ones_are_not_told() -> None:
    x = np.arange(50.0)
    x[:9] = np.nan
    rare = np.zeros(50)
    rare[:9] = 1
    answer, _ = asked({"a": {"d": {"x": x, "sick": rare}}}, Describe(["x", "sick"], data="d"))
    first, second = answer.to_rows()
    assert (first["count"], first["missing"]) == (41, 0)
    assert second["count"] is None
    assert second["mean"] is None
    assert second["max"] is None


def test_a_number_of_one_site_is_emptied() -> None:
    sites = {
        "a": {"d": {"x": np.arange(30.0), "g": ["u"] * 15 + ["v"] * 15}},
        "b": {"d": {"x": np.arange(20.0), "g": ["u"] * 20}},
    }
    answer, result = asked(sites, Describe("x", data="d", by="g", min_sites=2))
    assert [row["count"] for row in answer.to_rows()] == [35, None]
    assert answer.to_rows()[1]["median"] is None
    assert not result.arrays["sum"][1].any()
    assert not result.arrays["values"][1].any()


def test_without_order_one_phase_is_enough() -> None:
    question = Describe("age", data="patients", order=False)
    assert question.phases() == ("moments",)
    answer, _ = asked(patients(), question)
    assert "median" not in answer.columns


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"columns": []}, "at least one column"),
        ({"columns": 3}, "list of names"),
        ({"columns": ["a", "a"]}, "distinct"),
        ({"columns": "a", "min_group": 0}, "min_group"),
        ({"columns": "a", "min_group": True}, "min_group"),
        ({"columns": "a", "groups": ["x"]}, "without by"),
        ({"columns": "a", "data": ""}, "data"),
    ],
)
def test_wrong_questions_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(hs.ConfigError, match=said):
        Describe(**{"data": "d", **options})


@pytest.mark.parametrize("q", [[-0.1], [1.1], [], ["a"], "a", [math.nan]])
def test_levels_lie_between_0_and_1(q: Any) -> None:
    with pytest.raises(hs.ConfigError, match="q: expected"):
        Quantiles("a", q, data="d")
