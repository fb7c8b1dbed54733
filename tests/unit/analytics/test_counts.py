"""Histograms, tables of two columns, frequent values and correlations, against NumPy and SciPy on pooled rows."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hanse as hs
from hanse.analytics import Correlation, Crosstab, Histogram, Table, TopK
from hanse.analytics.significance import chi_squared_tail
from tests.unit.analytics.sites import asked, patients, pooled


def test_a_histogram_is_numpys() -> None:
    sites, edges = patients(), [0, 25, 40, 80, 89]
    answer, _ = asked(sites, Histogram("age", edges, data="patients", by="sex", min_group=1))
    whole = pooled(sites)
    found = {sex: [row["count"] for row in answer.to_rows() if row["sex"] == sex] for sex in ("f", "m")}
    for sex in ("f", "m"):
        assert found[sex] == np.histogram(whole["age"][whole["sex"] == sex], bins=edges)[0].tolist()


def test_small_cells_of_a_histogram_are_withheld_with_company() -> None:
    sites = {
        "a": {"d": {"x": [1] * 30 + [5] * 3 + [9] * 12}},
        "b": {"d": {"x": [1] * 30 + [5] * 20 + [9] * 20}},
        "c": {"d": {"x": [1] * 9}},  # fewer than ten rows in all
    }
    answer, result = asked(sites, Histogram("x", [0, 4, 8, 12], data="d"))
    assert [row["count"] for row in answer.to_rows()] == [60, 20, 20]
    assert [row["withheld"] for row in answer.to_rows()] == [0, 1, 1]
    assert result.arrays["sites"].tolist() == [2]
    assert "withheld" in answer.notes[0]


@pytest.mark.parametrize("edges", [[1], [2, 1], [1, 1], [], "ab", [0, float("inf")]])
def test_edges_rise(edges: object) -> None:
    with pytest.raises(hs.ConfigError, match="edges"):
        Histogram("x", edges, data="d")  # type: ignore[arg-type]  # wrong on purpose


def test_a_crosstab_is_pandas_and_its_test_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    sites = patients(3)
    answer, _ = asked(sites, Crosstab("sex", "stage", data="patients", min_group=1))
    whole = pooled(sites)
    table = [[int(((whole["sex"] == a) & (whole["stage"] == b)).sum()) for b in ("i", "ii", "iii")] for a in ("f", "m")]
    assert [[row[s] for s in ("i", "ii", "iii")] for row in answer.to_rows()] == table
    expected = stats.chi2_contingency(table, correction=False)
    assert answer.facts["chi2"] == pytest.approx(expected.statistic, rel=1e-12)
    assert answer.facts["p"] == pytest.approx(expected.pvalue, rel=1e-10)
    assert answer.facts["degrees of freedom"] == expected.dof


def test_a_crosstab_with_withheld_cells_has_no_test() -> None:
    rows = {"u": ["a"] * 43 + ["b"] * 60, "v": ["x"] * 40 + ["y"] * 3 + ["x"] * 30 + ["y"] * 30}
    answer, result = asked({"s": {"d": rows}}, Crosstab("u", "v", data="d"))
    assert "p" not in answer.facts
    assert answer.facts["withheld cells"] == 4  # the small one, one beside it, one below it, and the fourth
    assert result.arrays["count"].sum() == 0
    wide = {"u": ["a"] * 43 + ["b"] * 60, "v": ["x"] * 40 + ["y"] * 3 + ["x"] * 30 + ["y"] * 30}
    named, _ = asked({"s": {"d": wide}}, Crosstab("u", "v", data="d", row_values=["a", "b"], column_values=["x", "z"]))
    assert [row["z"] for row in named.to_rows()] == [0, 0]


def test_a_crosstab_of_values_that_are_all_rare_has_no_test() -> None:
    rows = {"u": ["a", "b"] * 20, "v": [str(row) for row in range(40)]}
    answer, _ = asked({"s": {"d": rows}}, Crosstab("u", "v", data="d"))
    assert not answer.facts
    assert any("needs rows of two values" in note for note in answer.notes)


@given(st.floats(0, 400), st.integers(1, 60))
def test_tails_are_scipys(statistic: float, degrees: int) -> None:
    special = pytest.importorskip("scipy.special")
    expected = float(special.chdtrc(degrees, statistic))
    assert chi_squared_tail(statistic, degrees) == pytest.approx(expected, rel=1e-9, abs=1e-14)


def test_frequent_values_are_counters() -> None:
    rng = np.random.default_rng(5)
    sites = {f"s{i}": {"d": {"icd": [f"code-{int(v)}" for v in rng.zipf(1.6, 400)]}} for i in range(4)}
    everything = Counter(word for data in sites.values() for word in data["d"]["icd"])
    expected = sorted(everything.items(), key=lambda item: (-item[1], item[0]))[:7]
    answer, _ = asked(sites, TopK("icd", 7, data="d", min_group=1))
    assert [(row["icd"], row["count"]) for row in answer.to_rows()] == expected


def test_rare_values_are_neither_counted_nor_named() -> None:
    words = {"a": ["x"] * 20 + ["secret"] * 9, "b": ["x"] * 9 + ["secret"] * 30, "c": ["hidden"] * 9}
    sites = {name: {"d": {"w": column}} for name, column in words.items()}
    answer, result = asked(sites, TopK("w", 5, data="d"))
    assert [(row["w"], row["count"]) for row in answer.to_rows()] == [("secret", 30), ("x", 20)]
    assert b"hidden" not in result.arrays["words"].tobytes()
    declared, _ = asked(sites, TopK("w", 5, data="d", words=["hidden", "x"]))
    assert [(row["w"], row["count"]) for row in declared.to_rows()] == [("x", 20)]
    few, _ = asked(sites, TopK("w", 5, data="d", min_sites=2))
    assert few.to_rows() == []


def test_correlations_are_the_pooled_ones() -> None:
    sites, names = patients(1), ["age", "bmi", "time"]
    question = Correlation(names, data="patients")
    answer, result = asked(sites, question)
    whole = pooled(sites)
    matrix = np.stack([np.asarray(whole[name], dtype=np.float64) for name in names])
    matrix = matrix[:, ~np.isnan(matrix).any(axis=0)]
    found = np.array([[row[name] for name in names] for row in answer.to_rows()], dtype=np.float64)
    np.testing.assert_allclose(found, np.corrcoef(matrix), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(np.array(question.covariances(result.arrays)), np.cov(matrix), rtol=1e-9)
    x, y = ([Fraction(v) for v in matrix[i].tolist()] for i in (0, 1))
    n = len(x)
    exact = float((n * sum(a * b for a, b in zip(x, y, strict=True)) - sum(x) * sum(y)) / (n * (n - 1)))
    assert question.covariances(result.arrays)[0][1] == exact


def test_correlation_needs_rows_and_no_rare_values() -> None:
    x = np.arange(12.0)
    rare = np.array([0.0] * 30 + [1.0] * 2)
    question = Correlation(["x", "y"], data="d")
    few = {"x": x[:9], "y": x[:9] ** 2}
    enough = {"x": x, "y": x**2}
    for rows, count in ((few, 0), (enough, 12), ({"x": np.arange(32.0), "y": rare}, 0)):
        answer, _ = asked({"a": {"d": rows}}, question)
        assert answer.facts["rows"] == count
    many = Correlation([f"c{i}" for i in range(5)], data="d")
    wide = {f"c{i}": np.sin(np.arange(14.0) * (i + 1)) for i in range(5)}
    assert asked({"a": {"d": wide}}, many)[0].facts["rows"] == 0  # 14 rows of 5 columns
    constant, _ = asked({"a": {"d": {"x": x, "y": np.ones(12)}}}, question)
    assert constant.to_rows()[1]["x"] is None
    with pytest.raises(hs.ConfigError, match="at least two"):
        Correlation("x", data="d")


def test_few_rows_outside_the_table_take_a_cell_along() -> None:
    rows = {"x": [1] * 40 + [5] * 20 + [99] * 3}
    answer, _ = asked({"a": {"d": rows}}, Histogram("x", [0, 4, 8], data="d"))
    assert [row["count"] for row in answer.to_rows()] == [40, 0]  # else 63 − 60 would be told
    wide = {"u": ["a"] * 60 + ["b"] * 43, "v": ["x"] * 40 + ["y"] * 20 + ["x"] * 40 + ["rare"] * 3}
    question = Crosstab("u", "v", data="d", row_values=["a", "b"], column_values=["x", "y"])
    answer, _ = asked({"a": {"d": wide}}, question)
    assert answer.to_rows()[1]["x"] == 0  # else 43 − 40 would be told


@given(st.lists(st.floats(-5, 15), max_size=60))
def test_bins_are_numpys_whatever_lies_outside(values: list[float]) -> None:
    edges = [0.0, 2.5, 10.0]
    question = Histogram("x", edges, data="d", min_group=1)
    told = question.tell("tell", Table.of({"x": np.array(values, dtype=np.float64)}), None)
    assert told["count"][0].tolist() == np.histogram(values, bins=edges)[0].tolist()
