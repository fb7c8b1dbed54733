"""Both sorters against Python's `sorted`, and networks by the zero-one principle."""

from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hanse.aggregation import ArraySink, ArraySource, Median, TrimmedMean, UpdatesRefused, aggregate
from hanse.aggregation.networks import MERGE, PAIR, SORT, comparators, needed, steps
from hanse.aggregation.sorting import MAX_FUSED_ROWS, pick_sorter
from hanse.aggregation.windows import Window
from tests.unit.aggregation.updates import same_bits, spread


def carried_out(program: Any, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    rows = rows.copy()

    def order(a: int, b: int) -> None:
        rows[a], rows[b] = np.minimum(rows[a], rows[b]), np.maximum(rows[a], rows[b])

    for kind, *places in program.tolist():
        if kind == SORT:
            rows[places] = np.sort(rows[places], axis=0)
        elif kind == MERGE:
            a, b, c, d = places[:4]
            order(a, c)
            order(b, d)
            order(b, c)
        else:
            assert kind == PAIR
            order(places[0], places[1])
    return rows


@pytest.mark.parametrize("num", range(1, 14))
def test_a_network_sorts_everything_of_zeros_and_ones(num: int) -> None:
    """Knuth's zero-one principle: then it sorts everything."""
    columns = np.array(list(product([0, 1], repeat=num))).T
    for low, high in {(0, num), (num // 2, num // 2 + 1), (num // 5, num - num // 5)}:
        found = carried_out(steps(num, low, high), columns)
        assert (found[low:high] == np.sort(columns, axis=0)[low:high]).all()


@pytest.mark.parametrize("num", [16, 31, 50, 64, 100, 257])
def test_long_networks_sort(num: int) -> None:
    columns = np.random.default_rng(num).normal(size=(num, 300))
    cut = num // 5
    found = carried_out(steps(num, cut, num - cut), columns)
    assert (found[cut : num - cut] == np.sort(columns, axis=0)[cut : num - cut]).all()


def test_what_nobody_needs_is_left_out() -> None:
    network = comparators(50)
    assert len(needed(network, range(50))) == len(network) == 403
    assert len(needed(network, [24, 25])) == 330
    assert needed(network, []) == []


def slow(rows: list[list[float]], window: Window) -> list[float]:
    made = []
    for column in zip(*rows, strict=True):
        values = sorted(value + 0.0 for value in column)
        total = 0.0
        for place, value in enumerate(values[window.low : window.high]):
            total = value * window.scale if place == 0 else total + value * window.scale
        made.append(total / window.divisor)
    return made


@given(
    num=st.integers(1, 40),
    columns=st.sampled_from([1, 127, 128, 513, 700]),
    dtype=st.sampled_from(["f2", "f4", "f8", "i4", "u1", "bfloat16"]),
    trim=st.sampled_from([None, 0.0, 0.2, 0.45]),
    seed=st.integers(0, 9),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
def test_a_window_s_mean(kernel: Any, num: int, columns: int, dtype: str, trim: float | None, seed: int) -> None:
    import ml_dtypes

    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    rng = np.random.default_rng(seed)
    blocks = [spread(rng, (columns,), kind) for _ in range(num)]
    if num > 2 and kind.kind != "u":
        blocks[1][0], blocks[2][0] = -0.0, 0.0  # and equal values
        blocks[2][-1] = blocks[1][-1]
    before = [block.copy() for block in blocks]
    window = Median().window(num) if trim is None else TrimmedMean(trim).window(num)
    out = np.empty(columns)
    assert pick_sorter(kernel, num, 0).mean_of(blocks, window, out)
    assert same_bits(out, np.array(slow([block.astype(np.float64).tolist() for block in blocks], window)))
    assert all(same_bits(a, b) for a, b in zip(before, blocks, strict=True))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("bad", [3, 8], ids=["among eight", "left over"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_not_finite_is_found_and_named(kernel: Any, value: float, dtype: Any, bad: int) -> None:
    updates = [np.ones(1000, dtype) for _ in range(9)]
    updates[bad][999] = value
    sources = [ArraySource({"x": update}) for update in updates]
    out = ArraySink(sources[0].layout)
    with pytest.raises(UpdatesRefused) as caught:
        aggregate(sources, range(9), [1.0] * 9, rule=TrimmedMean(0.2, kernel), out=out)
    assert list(caught.value.reasons) == [bad]
    updates[bad][999] = np.finfo(dtype).max
    aggregate(sources, range(9), [1.0] * 9, rule=TrimmedMean(0.2, kernel), out=out)
    assert (out.arrays["x"] == 1).all()


@pytest.mark.parametrize("num", [2, 50, MAX_FUSED_ROWS + 1])
def test_kernels_threads_and_blocks_change_no_bit(num: int) -> None:
    pytest.importorskip("numba", reason="numba is not installed (extra `fast`)")
    rng = np.random.default_rng(num)
    sources = [ArraySource({"x": spread(rng, (3001,), np.float32), "y": spread(rng, (9,), "f8")}) for _ in range(num)]
    results = []
    for kernel, threads, block in (("numpy", 1, None), ("numba", 1, None), ("numba", 2, 700), ("numpy", 2, 333)):
        for make in (Median, lambda kernel: TrimmedMean(0.3, kernel)):
            out = ArraySink(sources[0].layout)
            rule: Any = make(kernel)
            aggregate(sources, range(num), [1.0] * num, rule=rule, out=out, threads=threads, block_elements=block)
            results.append(out.arrays)
    assert all(found == results[i % 2] for i, found in enumerate(results))
    assert results[0] != results[1] or num == 2


def test_the_middle_of_two_is_exact_also_at_the_ends_of_the_range(kernel: Any) -> None:
    top = float(np.finfo(np.float64).max)
    blocks = [np.array([top, 5e-324, -top]), np.array([top, 1e-323, top])]
    out = np.empty(3)
    with np.errstate(over="ignore"):  # as in the walk
        assert pick_sorter(kernel, 2, 0).mean_of(blocks, Median().window(2), out)
    halves = [
        float(Fraction(a) / 2) + float(Fraction(b) / 2) for a, b in zip(*(b.tolist() for b in blocks), strict=True)
    ]
    assert out.tolist() == halves
