"""Data of every form as named columns."""

from typing import Any

import numpy as np
import pytest

from hanse.analytics import Table
from hanse.core.errors import ConfigError

AGES = [41, None, 63]


def forms() -> list[Any]:
    structured = np.zeros(3, dtype=[("age", "f8"), ("sex", "U1")])
    structured["age"], structured["sex"] = [41, np.nan, 63], ["f", "m", "f"]
    made: list[Any] = [{"age": AGES, "sex": np.array(["f", "m", "f"])}, structured]
    for name, make in (
        ("pandas", lambda m: m.DataFrame({"age": AGES, "sex": ["f", "m", "f"]})),
        ("polars", lambda m: m.DataFrame({"age": AGES, "sex": ["f", "m", "f"]})),
        ("pyarrow", lambda m: m.table({"age": AGES, "sex": ["f", "m", "f"]})),
    ):
        try:
            made.append(make(__import__(name)))
        except ImportError:
            made.append(pytest.param(None, marks=pytest.mark.skip(f"{name} is not installed")))
    return made


@pytest.mark.parametrize("data", forms(), ids=["mapping", "structured", "pandas", "polars", "pyarrow"])
def test_columns_are_found(data: Any) -> None:
    table = Table.of(data)
    assert table.names == ("age", "sex")
    np.testing.assert_array_equal(table.numbers("age"), [41, np.nan, 63])
    assert table.words("age").tolist() == ["41", None, "63"]
    assert table.words("sex").tolist() == ["f", "m", "f"]
    assert table.num_rows == 3


def test_a_pair_has_numbered_columns_and_y() -> None:
    table = Table.of((np.eye(3), np.array([1, 0, 1])))
    assert table.names == ("x0", "x1", "x2", "y")
    assert Table.of(({"age": [1, 2]}, [0, 1])).names == ("age", "y")


def test_nullable_columns_of_pandas() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame({"a": pandas.array([1, None], dtype="Int64"), "b": pandas.Categorical(["x", None])})
    table = Table.of(frame)
    np.testing.assert_array_equal(table.numbers("a"), [1, np.nan])
    assert table.words("a").tolist() == ["1", None]
    assert table.words("b").tolist() == ["x", None]


def test_texts_of_any_type() -> None:
    column = [True, 1.5, 2.0, b"x", "", None, float("nan"), "ü"]
    assert Table.of({"a": column}).words("a").tolist() == ["True", "1.5", "2", "x", None, None, None, "ü"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (7, "found int"),
        ({"a": [1], "b": [1, 2]}, "one length"),
        ({"a": np.zeros((2, 2))}, "column 'a': expected one value a row"),
        ((np.zeros(3), np.zeros(3)), "X of two dimensions"),
        ({}, "one length"),
    ],
)
def test_other_data_are_refused(data: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Table.of(data)


def test_columns_that_do_not_fit_are_named_without_values() -> None:
    table = Table.of({"a": ["secret"], "b": [np.inf]})
    for column, said in (("a", "expected numbers"), ("b", "finite"), ("c", "found none")):
        with pytest.raises(ConfigError, match=said) as caught:
            table.numbers(column)
        assert "secret" not in str(caught.value)
