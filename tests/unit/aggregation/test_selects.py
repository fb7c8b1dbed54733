"""Median and trimmed mean against slow references; threads, blocks and arrival change no bit."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.aggregation import ArraySink, ArraySource, Median, TrimmedMean, aggregate
from tests.unit.aggregation.oracle import nearest
from tests.unit.aggregation.updates import same_bits, spread


def slow_median(column: list[float]) -> float:
    ordered, middle = sorted(column), len(column) // 2
    return ordered[middle] if len(column) % 2 else 0.5 * ordered[middle - 1] + 0.5 * ordered[middle]


def slow_trimmed(trim: float) -> Any:
    def reduce(column: list[float]) -> float:
        cut = int(trim * len(column))
        kept = sorted(column)[cut : len(column) - cut]
        total = kept[0]
        for value in kept[1:]:
            total += value
        return total / len(kept)

    return reduce


RULES = [(Median(), slow_median), (TrimmedMean(0.0), slow_trimmed(0.0)), (TrimmedMean(0.2), slow_trimmed(0.2))]


@pytest.mark.parametrize(("rule", "slow"), RULES, ids=["median", "mean", "trimmed"])
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    num=st.integers(1, 23),
    block=st.sampled_from([None, 1, 7]),
    threads=st.integers(1, 3),
    dtype=st.sampled_from([np.float16, np.float32, np.float64, np.int32]),
)
def test_equals_the_slow_reference(
    rule: Any, slow: Any, seed: int, num: int, block: int | None, threads: int, dtype: Any
) -> None:
    rng = np.random.default_rng(seed)
    updates = [spread(rng, (20,), dtype) for _ in range(num)]
    updates[0][:3] = 0  # zeros of both signs
    updates[-1][:3] *= -0.0 if np.dtype(dtype).kind == "f" else 1
    arrival = rng.permutation(num)
    out = ArraySink(ArraySource({"x": updates[0]}).layout)
    aggregate(
        [ArraySource({"x": updates[i]}) for i in arrival],
        [3 * int(i) for i in arrival],
        [1.0] * num,
        rule=rule,
        out=out,
        threads=threads,
        block_elements=block,
    )
    columns = [[float(u[i]) + 0.0 for u in updates] for i in range(20)]
    expected = np.array([nearest(slow(column), np.dtype(dtype)) for column in columns], dtype=dtype)
    assert same_bits(out.arrays["x"], expected)


def test_one_wild_update_does_not_move_the_median_or_the_trimmed_mean() -> None:
    updates = [{"x": np.full(4, v, dtype=np.float32)} for v in (1.0, 2.0, 3.0, 4.0, 1e30)]
    rules: list[tuple[Any, float]] = [(Median(), 3.0), (TrimmedMean(0.2), 3.0)]
    for rule, expected in rules:
        out = ArraySink(ArraySource(updates[0]).layout)
        aggregate([ArraySource(u) for u in updates], range(5), [1.0] * 5, rule=rule, out=out)
        assert out.arrays["x"].tolist() == [expected] * 4


def test_the_median_of_two_huge_values_does_not_overflow() -> None:
    source = ArraySource({"x": np.full(2, 1.7e308)})
    out = ArraySink(source.layout)
    aggregate([source, source], [0, 1], [1.0, 1.0], rule=Median(), out=out)
    assert out.arrays["x"].tolist() == [1.7e308] * 2


@pytest.mark.parametrize("trim", [-0.1, 0.5, float("nan")])
def test_an_impossible_trim_is_refused(trim: float) -> None:
    with pytest.raises(ValueError, match=r"trim < 0\.5"):
        TrimmedMean(trim)
