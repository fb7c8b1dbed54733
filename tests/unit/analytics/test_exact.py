"""Sums without rounding: against fractions, in any order and division."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.analytics.exact import (
    PRODUCT_DIGITS,
    PRODUCT_SCALE,
    SUM_DIGITS,
    SUM_SCALE,
    exact_dot,
    exact_sum,
    from_digits,
    to_digits,
)

finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(finite, max_size=30))
def test_a_sum_is_the_sum(values: list[float]) -> None:
    total = sum((Fraction(value) for value in values), Fraction(0))
    assert Fraction(exact_sum(np.array(values, dtype=np.float64)), 1 << SUM_SCALE) == total


@given(st.lists(st.tuples(finite, finite), max_size=20))
def test_a_dot_product_is_the_dot_product(pairs: list[tuple[float, float]]) -> None:
    left, right = (np.array([pair[i] for pair in pairs], dtype=np.float64) for i in (0, 1))
    total = sum((Fraction(a) * Fraction(b) for a, b in pairs), Fraction(0))
    assert Fraction(exact_dot(left, right), 1 << PRODUCT_SCALE) == total


def test_the_extremes_of_float64_fit() -> None:
    largest, smallest = np.finfo(np.float64).max, 5e-324
    values = np.array([largest] * 1000 + [smallest] * 3)
    for digits, value in ((SUM_DIGITS, exact_sum(values)), (PRODUCT_DIGITS, exact_dot(values, values))):
        assert from_digits(to_digits(value << 21, digits)) == value << 21  # as if 2**21 times as many rows
    assert Fraction(exact_sum(values), 1 << SUM_SCALE) == 1000 * Fraction(largest) + 3 * Fraction(smallest)


def test_blocks_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=1000) * 2.0 ** np.arange(-500, 500)
    whole = exact_sum(values), exact_dot(values, values[::-1])
    monkeypatch.setattr("hanse.analytics.exact._BLOCK", 7)
    assert (exact_sum(values), exact_dot(values, values[::-1])) == whole


@given(st.lists(st.integers(-(2**2000), 2**2000), min_size=1, max_size=8))
def test_digits_of_many_sites_add_up(numbers: list[int]) -> None:
    total = np.sum([to_digits(number, SUM_DIGITS) for number in numbers], axis=0)
    assert from_digits(total) == sum(numbers)


def test_a_number_that_is_too_long_is_refused() -> None:
    with pytest.raises(OverflowError):
        to_digits(1 << (32 * 4), 4)
