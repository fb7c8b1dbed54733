"""Rounding against exact rational arithmetic."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.aggregation.rounding import FLOATS, INTEGERS, is_reducible, round_to, widen_into
from tests.unit.aggregation.oracle import nearest

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@given(st.lists(st.floats(-60000, 60000), min_size=1, max_size=30))
def test_floats_round_once_to_nearest_even(dtype: np.dtype[Any], values: list[float]) -> None:
    found = round_to(np.array(values), dtype)
    assert found is not None
    assert found.tobytes() == np.array([nearest(v, dtype) for v in values], dtype=dtype).tobytes()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_bfloat16_is_not_rounded_twice(sign: float) -> None:
    """Just above a tie of bfloat16, but on it in float32: going by way of float32 would round to even, down."""
    value = sign * (1 + 2.0**-8 + 2.0**-40)
    assert float(np.float64(value).astype(np.float32)) == sign * (1 + 2.0**-8)
    found = round_to(np.array([value]), BFLOAT16)
    assert found is not None
    assert float(found[0]) == sign * (1 + 2.0**-7)


@given(st.integers(0, 2**16 - 1), st.sampled_from([-1, 0, 1]))
def test_bfloat16_around_every_tie(bits: int, nudge: int) -> None:
    lower = float(np.array([bits], dtype=np.uint16).view(BFLOAT16)[0])
    upper = float(np.array([(bits + 1) % 2**16], dtype=np.uint16).view(BFLOAT16)[0])
    value = (lower + upper) / 2
    if not np.isfinite([lower, upper]).all() or (bits + 1) % 2**15 == 0:
        return
    value = float(np.nextafter(value, np.inf if nudge > 0 else -np.inf)) if nudge else value
    found = round_to(np.array([value]), BFLOAT16)
    assert found is not None
    assert found.tobytes() == np.array([nearest(value, BFLOAT16)]).astype(BFLOAT16).tobytes()


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@given(st.data())
def test_integers_round_half_to_even(dtype: np.dtype[Any], data: st.DataObject) -> None:
    info = np.iinfo(dtype)
    halves = st.integers(max(2 * int(info.min), -(2**54)), min(2 * int(info.max), 2**54)).map(lambda n: n / 2)
    values = data.draw(st.lists(halves, min_size=1, max_size=20))
    found = round_to(np.array(values), dtype)
    assert found is not None
    assert found.tolist() == [min(round(v), int(info.max)) for v in values]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64, np.float16, ml_dtypes.bfloat16, np.float32])
@pytest.mark.parametrize("value", [1e39, -1e39, np.nan, np.inf])
def test_what_does_not_fit_gives_nothing(dtype: Any, value: float) -> None:
    assert round_to(np.array([1.0, value]), np.dtype(dtype)) is None


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_nonfinite_values_pass_on_request(dtype: Any) -> None:
    found = round_to(np.array([np.nan, np.inf, -np.inf, 1.0]), np.dtype(dtype), allow_nonfinite=True)
    assert found is not None
    assert np.isnan(float(found[0]))
    assert [float(v) for v in found[1:]] == [np.inf, -np.inf, 1.0]


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS], ids=str)
def test_widening_is_exact(dtype: np.dtype[Any]) -> None:
    values = np.array([0, 1, 3, 100, 5]).astype(dtype)
    out = np.empty(5)
    widen_into(out, values)
    assert out.tolist() == [0, 1, 3, 100, 5]
    assert is_reducible(dtype)


def test_every_bfloat16_widens_exactly() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(BFLOAT16)
    out = np.empty(2**16)
    with np.errstate(invalid="ignore"):  # signalling NaNs
        widen_into(out, every)
        np.testing.assert_array_equal(out, every.astype(np.float64))
