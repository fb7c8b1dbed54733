"""Krum and Bulyan by bounds on distances: the bounds hold, and what is chosen is what exact distances choose."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hanse.aggregation import ArraySink, ArraySource, Bulyan, Krum, UpdatesRefused, aggregate, choosing
from hanse.aggregation.gathers import MEASURE_ELEMENTS
from hanse.aggregation.gram import gram, squared_distances
from hanse.aggregation.kernels import numba_installed
from hanse.aggregation.nearness import BLOCK_ELEMENTS, DOUBLE, LEAST_ELEMENTS, SINGLE, Bounds, Nearness, Precision
from tests.unit.aggregation.updates import same_bits

Updates = np.ndarray[Any, Any]
N = LEAST_ELEMENTS + 77
COMPILED = pytest.mark.skipif(not numba_installed(), reason="numba is not installed (extra `fast`)")
WAYS = [
    pytest.param("numpy", SINGLE, id="numpy-single"),
    pytest.param("numpy", DOUBLE, id="numpy-double"),
    pytest.param("numba", SINGLE, id="numba-single", marks=COMPILED),
]


def bounds_of(updates: Updates, precision: Precision, kernel: Any = "numpy") -> Bounds | None:
    near = Nearness(len(updates), precision, kernel)
    with np.errstate(all="ignore"):
        for start in range(0, updates.shape[1], BLOCK_ELEMENTS):
            near.add(list(updates[:, start : start + BLOCK_ELEMENTS]))
    return near.bounds()


def exact_products(updates: Updates) -> Updates:
    total = np.zeros((len(updates), len(updates)))
    for start in range(0, updates.shape[1], MEASURE_ELEMENTS):
        total += gram(updates[:, start : start + MEASURE_ELEMENTS].astype(np.float64))
    return total


def true_distance(a: Updates, b: Updates) -> Fraction:
    return sum(((Fraction(x) - Fraction(y)) ** 2 for x, y in zip(a.tolist(), b.tolist(), strict=True)), Fraction(0))


@st.composite
def awkward(draw: st.DrawFn) -> Updates:
    """Rows of very different size, near each other far from zero, equal, zero, almost too large, almost nothing."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    num, n = draw(st.integers(2, 6)), draw(st.sampled_from([1, 5, 1023, 2048, 3000]))
    rows = rng.normal(size=(num, n)) * 2.0 ** rng.integers(-20, 20, (num, 1))
    offset = draw(st.sampled_from([0.0, 0.0, 1.0, 2.0**20, -(2.0**30)]))
    rows = (rows * draw(st.sampled_from([1.0, 1e-3, 1e-7])) + offset) * 2.0 ** draw(st.sampled_from([0, 20, -55, -70]))
    if draw(st.booleans()):
        rows[1] = rows[0]
    if draw(st.booleans()):
        rows[-1] = 0
    if draw(st.booleans()):
        rows *= rng.choice([-1.0, 1.0], rows.shape)  # sums that cancel
    return rows.astype(draw(st.sampled_from([np.float32, np.float64])))


@pytest.mark.parametrize(("kernel", "precision"), WAYS)
@settings(max_examples=40, deadline=None)
@given(updates=awkward())
@example(updates=np.full((3, 4), 2.0**-149, np.float32))
def test_true_and_exactly_added_distances_lie_within_the_bounds(
    kernel: str, precision: Precision, updates: Any
) -> None:
    bounds = bounds_of(updates, precision, kernel)
    assert bounds is not None
    added = squared_distances(exact_products(updates))
    assert (bounds.low <= added).all()
    assert (added <= bounds.high).all()
    if updates.shape[1] < 1500:  # fractions are slow
        assert bounds.low[1, 0] <= true_distance(updates[1], updates[0]) <= bounds.high[1, 0]


def test_bounds_are_as_narrow_as_they_say(kernel: str) -> None:
    """Or nothing would ever be sure: about 1.2e-4 of the squares in float32, 6e-8 in float64."""
    updates = np.random.default_rng(0).normal(size=(5, 5000)).astype(np.float32)
    for precision, width in [(SINGLE, 3e-4), (DOUBLE, 3e-7)]:
        bounds = bounds_of(updates, precision, kernel)
        assert bounds is not None
        assert (bounds.high - bounds.low <= width * 2 * 5500).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_nothing_is_said_of_what_is_not_finite(bad: float) -> None:
    updates = np.ones((4, 3000), np.float32)
    updates[2, 2999] = bad
    assert bounds_of(updates, SINGLE) is None
    assert (bounds_of(updates, DOUBLE) is None) == (bad != 1e30)


def reduce(updates: Any, rule: Any, **options: Any) -> Updates:
    order = list(options.pop("order", range(len(updates))))
    out = ArraySink(ArraySource({"x": updates[0]}).layout)
    sources = [ArraySource({"x": updates[i]}) for i in order]
    aggregate(sources, order, [1.0] * len(order), rule=rule, out=out, **options)
    found: Updates = out.arrays["x"]
    return found


def in_the_open(kind: str) -> Updates:
    """Eleven updates of which the nearest is plain to see, hard to see, or not the only one."""
    rng = np.random.default_rng(7)
    rows = rng.normal(size=(11, N))
    if kind == "close":  # scores differ by 1e-5 of themselves: too little for float32's bounds
        rows = np.repeat(rows[:1], 11, axis=0)
        signs = rng.choice([-1.0, 1.0], rows.shape)
        rows += signs * (1 + 1e-6 * np.arange(11, 0, -1)[:, None])
    elif kind == "tied":  # two are the same, bit for bit, and nearer to the others than those are
        rows[6] = rows[3] = rows.mean(axis=0)
    return rows.astype(np.float32)


@pytest.mark.parametrize("rule", [Krum(2), Krum(2, keep=3), Bulyan(2)], ids=["krum", "multi-krum", "bulyan"])
@pytest.mark.parametrize("kind", ["plain", "close", "tied"])
def test_the_choice_is_that_of_exact_distances(monkeypatch: pytest.MonkeyPatch, rule: Any, kind: str) -> None:
    updates = in_the_open(kind)
    found = reduce(updates, rule)
    for order, threads in [(range(10, -1, -1), 1), ([6, 2, 0, 5, 1, 3, 4, 10, 9, 8, 7], 3)]:
        assert same_bits(reduce(updates, rule, order=order, threads=threads), found)
    monkeypatch.setattr(choosing, "_choose_surely", lambda *_: None)
    assert same_bits(reduce(updates, rule), found)


@pytest.mark.parametrize(("kind", "exact_needed", "precisions"), [("plain", 0, 1), ("close", 0, 2), ("tied", 1, 2)])
def test_more_digits_are_asked_for_only_where_the_choice_is_open(
    monkeypatch: pytest.MonkeyPatch, kind: str, exact_needed: int, precisions: int
) -> None:
    tried, measured = list[Precision](), list[int]()

    class Watched(Nearness):
        def __init__(self, num: int, precision: Precision, kernel: Any) -> None:
            tried.append(precision)
            super().__init__(num, precision, kernel)

    class Rule(Krum):
        def measure(self, blocks: Any) -> Any:
            measured[:] = [1]
            return super().measure(blocks)

    monkeypatch.setattr(choosing, "Nearness", Watched)
    reduce(in_the_open(kind), Rule(2))
    assert (sum(measured), len(tried)) == (exact_needed, precisions)


def test_whose_values_are_not_finite_is_named() -> None:
    updates = in_the_open("plain")
    updates[4, N - 1] = np.nan
    with pytest.raises(UpdatesRefused, match="not finite"):
        reduce(updates, Krum(2))
