"""Every edge case has a defined result, and an error names the update and the array."""

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from hanse.aggregation import (
    ArraySink,
    ArraySource,
    EmptyCohort,
    Median,
    NormBound,
    Overflow,
    TrimmedMean,
    UpdatesRefused,
    WeightedMean,
    WeightedSum,
    ZeroWeight,
    aggregate,
)
from hanse.core.arrays import Arrays, Layout
from hanse.core.errors import IntegrityError, UpdateError
from tests.unit.aggregation.oracle import mean_array
from tests.unit.aggregation.updates import mean, same_bits, spread

RULES = [WeightedMean("numpy"), Median(), TrimmedMean(0.2), NormBound(10.0)]


def ones(n: int = 3) -> np.ndarray[Any, Any]:
    return np.ones(n, dtype=np.float32)


def reduce(updates: Sequence[Any], rule: Any = None, **options: Any) -> Arrays:
    sources = [ArraySource(u) if isinstance(u, dict) else u for u in updates]
    out = ArraySink(options.pop("layout", None) or sources[0].layout)
    positions = options.pop("positions", range(len(sources)))
    weights = options.pop("weights", [1.0] * len(sources))
    aggregate(sources, positions, weights, rule=rule or WeightedMean("numpy"), out=out, **options)
    return out.arrays


@pytest.mark.parametrize("rule", RULES, ids=lambda r: type(r).__name__)
def test_an_empty_cohort_is_an_error(rule: Any) -> None:
    with pytest.raises(EmptyCohort, match="at least one update"):
        aggregate([], [], [], rule=rule, out=ArraySink(Layout(())))


def test_zero_total_weight_is_an_error_and_one_zero_weight_is_not() -> None:
    with pytest.raises(ZeroWeight, match="total weight > 0"):
        mean([ones(), ones()], [0, 1], [0.0, 0.0])
    assert mean([ones(), 5 * ones()], [0, 1], [0.0, 2.0]).tolist() == [5.0, 5.0, 5.0]


@pytest.mark.parametrize("rule", [Median(), TrimmedMean(0.1)], ids=lambda r: type(r).__name__)
def test_robust_rules_ignore_weights(rule: Any) -> None:
    updates = [{"x": i * ones()} for i in range(5)]
    found = reduce(updates, rule, weights=[0.0] * 5)
    assert found == reduce(updates, rule, weights=[1.0, 2.0, 3.0, 4.0, 5.0])
    assert found["x"].tolist() == [2.0] * 3


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.int8, np.int32])
def test_one_update_is_its_own_mean(dtype: Any, kernel: str) -> None:
    update = spread(np.random.default_rng(1), (999,), dtype)
    for position, weight in [(0, 1.0), (9, 3.0), (2, 1e-9), (7, 12345.678)]:
        assert same_bits(mean([update], [position], [weight], kernel=kernel), update)


def test_one_float64_update_is_multiplied_and_divided(kernel: str) -> None:
    update = spread(np.random.default_rng(1), (999,), np.float64)
    assert same_bits(mean([update], [0], [4.0], kernel=kernel), update)
    assert same_bits(mean([update], [0], [3.0], kernel=kernel), update * 3.0 / 3.0)
    assert not same_bits(update * 3.0 / 3.0, update)


def test_signed_zeros_and_subnormals(kernel: str) -> None:
    update = np.array([-0.0, 0.0, 5e-324, -5e-324, 1e-310], dtype=np.float64)
    assert same_bits(mean([update], [3], [1.0], kernel=kernel), update)
    assert same_bits(
        mean([update] * 5, [0, 1, 5, 9, 14], [1.0] * 5, kernel=kernel),
        mean_array([update] * 5, [0, 1, 5, 9, 14], [1.0] * 5, 15),
    )


def test_integers_round_half_to_even(kernel: str) -> None:
    low, high = np.array([0, 1, -1, -2, 3], dtype=np.int16), np.array([1, 2, -2, -3, 4], dtype=np.int16)
    assert mean([low, high], [0, 1], [1.0, 1.0], kernel=kernel).tolist() == [0, 2, -2, -2, 4]


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.int8])
def test_the_extremes_of_an_integer_dtype_stay(dtype: Any, kernel: str) -> None:
    info = np.iinfo(dtype)
    update = np.array([info.max, info.min], dtype=dtype)
    assert mean([update, update], [0, 1], [1.0, 1.0], kernel=kernel).tolist() == [info.max, info.min]


def test_mixed_dtypes_and_odd_shapes_in_one_model(kernel: str) -> None:
    rng = np.random.default_rng(2)
    kinds = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64, np.int32, np.uint8]
    updates = [
        {
            **{np.dtype(k).name: spread(rng, (3, 5), k) for k in kinds},
            "scalar": spread(rng, (), np.float32),
            "empty": np.empty((0, 4), dtype=np.float32),
        }
        for _ in range(6)
    ]
    weights = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    found = reduce(updates, WeightedMean(kernel), weights=weights, block_elements=4, threads=2)  # type: ignore[arg-type]
    for name, array in found.items():
        if array.size:
            assert same_bits(array, mean_array([u[name] for u in updates], range(6), weights, 6)), name


@pytest.mark.parametrize("array", [np.ones(2, dtype=bool), np.ones(2, dtype=np.complex64)], ids=["bool", "complex"])
def test_arrays_without_a_mean_are_refused_by_name(array: Any) -> None:
    with pytest.raises(UpdateError, match="mask"):
        reduce([{"w": ones(), "mask": array}])


def test_strings_are_refused() -> None:
    with pytest.raises(UpdateError, match="names"):
        ArraySource({"names": np.array(["a", "b"])})


def test_every_wrong_layout_is_named() -> None:
    good = {"w": ones(), "b": ones(1)}
    wrong = [
        {"w": ones(4), "b": ones(1)},
        {"w": ones().astype(np.float64), "b": ones(1)},
        {"b": ones(1), "w": ones()},
        {"w": ones()},
    ]
    with pytest.raises(UpdatesRefused) as caught:
        reduce([good, *wrong, good])
    assert list(caught.value.reasons) == [1, 2, 3, 4]
    assert "float32 (3,)" in caught.value.reasons[1]
    assert "found w float32 (4,)" in caught.value.reasons[1]
    assert "float64" in caught.value.reasons[2]
    assert "expected 2 arrays, found 1" in caught.value.reasons[4]


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), float("-inf")])
def test_impossible_weights_are_named(weight: float) -> None:
    with pytest.raises(UpdatesRefused, match="weight") as caught:
        mean([ones(), ones()], [4, 9], [1.0, weight])
    assert list(caught.value.reasons) == [9]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rule", RULES, ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_every_update_that_is_not_finite_is_named(value: float, rule: Any, dtype: Any) -> None:
    updates = [{"a": np.ones(50, dtype=dtype), "b": np.ones((2, 40), dtype=dtype)} for _ in range(7)]
    updates[2]["b"][1, 39] = value
    updates[5]["a"][0] = value
    updates[6]["a"][49] = -value  # an infinity of the other sign in another block
    block = {} if isinstance(rule, NormBound) else {"block_elements": 16}
    with pytest.raises(UpdatesRefused) as caught:
        reduce(updates, rule, positions=[10 * i for i in range(7)], **block)
    assert list(caught.value.reasons) == [20, 50, 60]
    assert "not finite" in caught.value.reasons[20]
    assert " b " in caught.value.reasons[20]
    assert str(value) not in str(caught.value).replace("infinite", "")


def test_two_infinities_of_opposite_sign_at_one_place_are_both_named(kernel: str) -> None:
    a, b = ones(), ones()
    a[1], b[1] = np.inf, -np.inf
    with pytest.raises(UpdatesRefused) as caught:
        mean([a, b, ones()], [0, 1, 2], [1.0, 1.0, 1.0], kernel=kernel)
    assert list(caught.value.reasons) == [0, 1]


def test_nonfinite_updates_pass_where_that_is_allowed(kernel: str) -> None:
    update = np.array([np.nan, np.inf, 1.0], dtype=np.float32)
    found = mean([update, ones()], [0, 1], [1.0, 1.0], kernel=kernel, allow_nonfinite=True)
    assert np.isnan(found[0])
    assert found[1:].tolist() == [np.inf, 1.0]


def test_a_sum_that_overflows_is_nobodys_fault(kernel: str) -> None:
    huge = np.full(3, 1.5e308)
    with pytest.raises(Overflow, match="the sum of x float64"):
        mean([huge, huge], [0, 1], [1.0, 1.0], kernel=kernel)
    with pytest.raises(Overflow, match="the total of the weights"):
        mean([ones(), ones()], [0, 1], [1.5e308, 1.5e308], kernel=kernel)
    largest = np.full(3, np.finfo(np.float32).max, dtype=np.float32)
    assert same_bits(mean([largest] * 3, [0, 1, 2], [3.0, 5.0, 7.0], kernel=kernel), largest)


@pytest.mark.parametrize(
    ("base", "delta"),
    [
        (np.full(2, 60000, dtype=np.float16), np.full(2, 60000, dtype=np.float16)),
        (np.full(2, 100, dtype=np.int8), np.full(2, 100, dtype=np.int8)),
        (np.full(2, 3e38, dtype=np.float32), np.full(2, 3e38, dtype=np.float32)),
    ],
    ids=["float16", "int8", "float32"],
)
def test_a_result_outside_its_dtype_is_an_error(base: Any, delta: Any) -> None:
    with pytest.raises(Overflow, match="the result of x"):
        reduce([{"x": delta}], kind="delta", base=ArraySource({"x": base}))


def test_a_plain_sum_is_not_divided(kernel: str) -> None:
    rule = WeightedSum(kernel)  # type: ignore[arg-type]
    assert reduce([{"x": 2 * ones()}] * 5, rule, weights=[1.0, 1.0, 1.0, 1.0, 3.0])["x"].tolist() == [14.0] * 3
    assert reduce([{"x": np.full(2, 2, np.int8)}] * 5, rule)["x"].tolist() == [10, 10]


def test_positions_must_be_distinct_and_in_the_plan() -> None:
    for positions, size in [([1, 1], None), ([-1, 0], None), ([0, 8], 8)]:
        with pytest.raises(ValueError, match="distinct positions"):
            mean([ones(), ones()], positions, [1.0, 1.0], plan_size=size)
    with pytest.raises(ValueError, match="as many positions and weights"):
        mean([ones(), ones()], [0], [1.0, 1.0])
    with pytest.raises(ValueError, match="block_elements >= 1"):
        mean([ones()], [0], [1.0], block_elements=0)


class Corrupt(ArraySource):
    """Its last elements do not verify."""

    def block(self, index: int, start: int, stop: int) -> Any:
        if stop == 3:
            raise IntegrityError("blob 0123: chunk 7 does not match its hash")
        return super().block(index, start, stop)


@pytest.mark.parametrize("rule", RULES, ids=lambda r: type(r).__name__)
def test_an_update_that_does_not_verify_while_it_is_read_is_named(rule: Any) -> None:
    with pytest.raises(UpdatesRefused) as caught:
        reduce([{"x": ones()}, Corrupt({"x": ones()}), {"x": ones()}], rule, positions=[0, 5, 6])
    assert list(caught.value.reasons) == [5]
    assert "chunk 7 does not match" in caught.value.reasons[5]


class Broken(ArraySource):
    """A defect of ours, not of an update."""

    def block(self, index: int, start: int, stop: int) -> Any:
        raise RuntimeError("boom")


@pytest.mark.parametrize("threads", [1, 3])
def test_other_errors_come_through_and_threads_end(threads: int) -> None:
    with pytest.raises(RuntimeError, match="boom"):
        reduce([Broken({"x": ones(100)})], threads=threads, block_elements=1)


def test_after_leaving_the_refused_out_the_rest_is_the_mean_with_holes(kernel: str) -> None:
    rng = np.random.default_rng(8)
    updates = [spread(rng, (30,), np.float32) for _ in range(9)]
    bad = [u.copy() for u in updates]
    bad[3][7] = np.nan
    weights = [float(i + 1) for i in range(9)]
    with pytest.raises(UpdatesRefused) as caught:
        mean(bad, range(9), weights, kernel=kernel)
    rest = [i for i in range(9) if i not in caught.value.reasons]
    found = mean([bad[i] for i in rest], rest, [weights[i] for i in rest], kernel=kernel)
    assert same_bits(found, mean_array([updates[i] for i in rest], rest, [weights[i] for i in rest], 9))
