"""The weighted mean against the slow reference, and the laws: who, when and in which pieces changes no bit."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.aggregation.oracle import mean_array, weighted_mean
from tests.unit.aggregation.updates import mean, same_bits, spread

FLOATS = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
INTEGERS = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]


@pytest.mark.parametrize("dtype", FLOATS + INTEGERS, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("num", [1, 2, 4, 5, 13, 37])
def test_equals_the_slow_reference(dtype: Any, num: int, kernel: str) -> None:
    rng = np.random.default_rng(num)
    updates = [spread(rng, (7, 5), dtype) for _ in range(num)]
    positions = sorted(rng.choice(2 * num, num, replace=False).tolist())
    weights = rng.integers(1, 1000, num).astype(float).tolist()
    found = mean(updates, positions, weights, plan_size=2 * num, kernel=kernel)
    assert same_bits(found, mean_array(updates, positions, weights, 2 * num))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 2**32),
    num=st.integers(1, 40),
    holes=st.integers(0, 40),
    block=st.sampled_from([1, 3, 64, 1000]),
    threads=st.integers(1, 3),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_threads_blocks_and_arrival_change_no_bit(
    seed: int, num: int, holes: int, block: int, threads: int, dtype: Any, kernel: str
) -> None:
    rng = np.random.default_rng(seed)
    updates = [spread(rng, (65,), dtype) for _ in range(num)]
    positions = rng.choice(num + holes, num, replace=False).tolist()
    weights = (rng.random(num) * 2.0 ** rng.integers(-20, 20, num)).tolist()
    expected = mean_array(updates, positions, weights, num + holes)
    found = mean(updates, positions, weights, block_elements=block, threads=threads, kernel=kernel)
    assert same_bits(found, expected)


def test_the_data_would_show_a_wrong_order() -> None:
    """Left to right over everything, or the tree over present members only, gives other bits on such data."""
    rng = np.random.default_rng(5)
    updates = [spread(rng, (200,), np.float64) for _ in range(23)]
    positions = sorted(rng.choice(40, 23, replace=False).tolist())
    weights = rng.random(23).tolist()
    found = mean(updates, positions, weights, kernel="numpy")
    naive = np.zeros(200)
    for update, weight in zip(updates, weights, strict=True):
        naive += weight * update
    assert not same_bits(found, naive / sum(weights))
    closed_up = [weighted_mean([float(u[i]) for u in updates], list(range(23)), weights, 23) for i in range(200)]
    assert not same_bits(found, np.array(closed_up))
