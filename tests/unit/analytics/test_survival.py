"""Kaplan and Meier, Greenwood, log-rank: against hand computation, and lifelines where it is installed."""

import math
from typing import Any

import numpy as np
import pytest

import hanse as hs
from hanse.analytics import Survival
from hanse.analytics.survival import at_risk_of, log_rank
from tests.unit.analytics.sites import asked, patients, pooled


def test_freireichs_remissions() -> None:
    """Kalbfleisch and Prentice's and Cox's (1972) data: 6-MP and placebo, weeks; the log-rank χ² is 16.79."""
    treated = [6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35]
    seen = [1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
    placebo = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]
    rows = {"t": treated + placebo, "e": seen + [1] * 21, "arm": ["6-mp"] * 21 + ["placebo"] * 21}
    places = np.arange(42) % 3
    sites = {
        f"s{i}": {"d": {k: [v[j] for j in np.flatnonzero(places == i)] for k, v in rows.items()}} for i in range(3)
    }
    answer, _ = asked(sites, Survival("t", "e", data="d", by="arm", min_group=1))
    lines = [row for row in answer.to_rows() if row["arm"] == "6-mp"]
    assert [row["time"] for row in lines] == [6, 7, 10, 13, 16, 22, 23]
    assert [row["at_risk"] for row in lines] == [21, 17, 15, 12, 11, 7, 6]
    survival = [0.8571, 0.8067, 0.7529, 0.6902, 0.6275, 0.5378, 0.4482]
    np.testing.assert_allclose([float(row["survival"] or 0) for row in lines], survival, atol=5e-5)
    assert answer.facts["log-rank chi2"] == pytest.approx(16.793, abs=5e-4)
    assert answer.facts["median of placebo"] == 8
    assert answer.facts["median of 6-mp"] == 23


def test_curves_bands_and_test_are_those_of_lifelines() -> None:
    lifelines = pytest.importorskip("lifelines", reason="lifelines is not installed")
    from lifelines.statistics import multivariate_logrank_test

    sites = patients(4)
    answer, _ = asked(sites, Survival("time", "event", data="patients", by="stage", min_group=1))
    whole = pooled(sites)
    for stage in ("i", "ii", "iii"):
        chosen = whole["stage"] == stage
        model = lifelines.KaplanMeierFitter().fit(whole["time"][chosen], whole["event"][chosen])
        for row in (row for row in answer.to_rows() if row["stage"] == stage):
            assert row["survival"] == pytest.approx(float(model.predict(row["time"])), rel=1e-12)
            band = model.confidence_interval_.loc[row["time"]].to_numpy()
            if 0 < float(row["survival"] or 0) < 1:
                np.testing.assert_allclose([row["low"], row["high"]], band, rtol=1e-9)
    expected = multivariate_logrank_test(whole["time"], whole["stage"], whole["event"])
    assert answer.facts["log-rank chi2"] == pytest.approx(expected.test_statistic, rel=1e-10)
    assert answer.facts["p"] == pytest.approx(expected.p_value, rel=1e-8)


def slow_survival(time: Any, event: Any, at: float) -> float:
    value = 1.0
    for t in sorted(set(time[event == 1])):
        if t <= at:
            value *= 1 - ((time == t) & (event == 1)).sum() / (time >= t).sum()
    return float(value)


def test_one_group_against_a_slow_reference() -> None:
    sites = patients(6)
    answer, _ = asked(sites, Survival("time", "event", data="patients", min_group=1, unit=5.0))
    whole = pooled(sites)
    time = np.ceil(whole["time"] / 5) * 5
    for row in answer.to_rows():
        expected = slow_survival(time, whole["event"], float(row["time"] or 0))
        assert row["survival"] == pytest.approx(expected, rel=1e-12)


def test_groups_of_ten_stay_near_and_never_stand_for_fewer() -> None:
    sites = patients(7, sizes=(400, 350, 380))
    answer, result = asked(sites, Survival("time", "event", data="patients"))
    assert all(int(row["events"] or 0) >= 10 for row in answer.to_rows())
    assert int(answer.to_rows()[-1]["at_risk"] or 0) >= 30
    counts = [*result.arrays["events"].ravel(), *result.arrays["lost"].ravel()]
    assert not [count for count in counts if 0 < count < 10]
    whole = pooled(sites)
    for row in answer.to_rows():
        expected = slow_survival(whole["time"], whole["event"], float(row["time"] or 0))
        assert abs(float(row["survival"] or 0) - expected) < 3 * 2 * 19 / 1130 + 0.02


def test_a_site_with_few_events_says_nothing() -> None:
    rows = {"t": np.arange(1.0, 41), "e": [1] * 9 + [0] * 31}
    answer, result = asked({"a": {"d": rows}}, Survival("t", "e", data="d"))
    assert answer.to_rows() == []
    assert result.arrays["lost"].sum() == 0
    assert len(result.arrays["times"]) == 0


def test_everyone_gone_and_nobody_gone() -> None:
    answer, _ = asked({"a": {"d": {"t": [1.0, 2.0], "e": [1, 1]}}}, Survival("t", "e", data="d", min_group=1))
    last = answer.to_rows()[-1]
    assert (last["survival"], last["low"], last["high"]) == (0.0, 0.0, 0.0)
    assert at_risk_of(np.array([1, 1]), np.array([0, 0, 0])).tolist() == [2, 1]
    assert log_rank(np.array([[1, 0]]), np.array([[0, 0, 0]])) == (None, 0)
    assert log_rank(np.array([[1, 0], [0, 0]]), np.array([[0, 0, 3], [0, 0, 0]]))[1] == 0


@pytest.mark.parametrize(("column", "values"), [("e", [0, 2]), ("t", [-1.0, 3.0])])
def test_other_values_are_refused_without_showing_them(column: str, values: list[float]) -> None:
    rows = {"t": [1.0, 2.0], "e": [0, 1], column: values}
    with pytest.raises(hs.JobFailed, match="to be 0 or 1"):
        asked({"a": {"d": rows}}, Survival("t", "e", data="d", min_group=1))


def test_levels_are_checked() -> None:
    for options in ({"level": 1.0}, {"unit": -1.0}, {"unit": math.nan}):
        with pytest.raises(hs.ConfigError):
            Survival("t", "e", data="d", **options)
