"""Truncation with a dealer's pairs: against Python's integers, at its bound and one over, for two and more parties."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.core.errors import ConfigError
from hanse.crypto import sharing, truncation

M = 2**64


def split(value: Any, parties: int) -> list[Any]:
    shares = [sharing.expand(sharing.new_seed(), value.shape)[0] for _ in range(parties - 1)]
    return [*shares, value - sum(shares, np.zeros_like(value))]


def truncated(x: list[int], shift: int, masks: Any, parties: int = 2) -> list[int]:
    ring = np.array([each % M for each in x], np.uint64)
    quotient, top = truncation.deal(masks, shift)
    parts = zip(*(split(each, parties) for each in (ring, masks, quotient, top)), strict=True)
    shares = list(parts)
    opened = sum(
        (truncation.masked(each[0], each[1], is_first=at == 0) for at, each in enumerate(shares)),
        np.zeros_like(ring),
    )
    results = [truncation.truncate(opened, each[2], each[3], shift, is_first=at == 0) for at, each in enumerate(shares)]
    total: list[int] = sum(results, np.zeros_like(ring)).view(np.int64).tolist()
    return total


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(st.integers(-(2**62), 2**62 - 1), st.integers(-300, 300)), min_size=1, max_size=8),
    st.integers(1, 62),
    st.integers(2, 4),
    st.data(),
)
def test_within_one_unit_for_every_number_and_every_mask(x: list[int], shift: int, parties: int, data: Any) -> None:
    corners = st.sampled_from([0, 1, 2**62, 2**63 - 1, 2**63, 2**63 + 1, M - 1])
    masks = data.draw(st.lists(st.one_of(st.integers(0, M - 1), corners), min_size=len(x), max_size=len(x)))
    for value, found in zip(x, truncated(x, shift, np.array(masks, np.uint64), parties), strict=True):
        assert found - (value >> shift) in (0, 1)
        if value % 2**shift == 0:
            assert found == value >> shift


def test_at_its_bound_and_over_it() -> None:
    masks = np.random.default_rng(0).integers(0, M, 1000, np.uint64)
    for value in (2**62 - 1, -(2**62)):
        found = truncated([value] * 1000, 20, masks)
        assert all(each - (value >> 20) in (0, 1) for each in found)
    for value in (2**62 + 2**60, -(2**62) - 2**60):  # 2^60 over is wrong for one mask in 8
        found = truncated([value] * 1000, 20, masks)
        wrong = sum(each - (value >> 20) not in (0, 1) for each in found)
        assert 60 < wrong < 200


def test_it_has_no_bias() -> None:
    """The mean of 40,000 truncations of 0.3 units; standard deviation 0.0023, false alarm at 5 sigma 6e-7."""
    masks = np.random.default_rng(0).integers(0, M, 40_000, np.uint64)
    for fraction in (0.3, -0.3):
        found = truncated([round(fraction * 2**20)] * 40_000, 20, masks)
        assert abs(np.mean(found) - fraction) < 0.0115


def test_local_truncation_would_wrap_where_this_does_not() -> None:
    """The reason for the pairs: numbers of 60 bits, each share shifted by itself."""
    big = np.full(200_000, 2**60, np.uint64)
    first, second = sharing.share(big)
    alone = (first.view(np.int64) >> 20) + (second.view(np.int64) >> 20)
    assert (np.abs(alone - 2**40) > 1).any()


@pytest.mark.parametrize("shift", [0, 63, -1])
def test_a_shift_out_of_range_is_refused(shift: int) -> None:
    zero = np.zeros(1, np.uint64)
    with pytest.raises(ConfigError, match="1 to 62 bits"):
        truncation.deal(zero, shift)
    with pytest.raises(ConfigError, match="1 to 62 bits"):
        truncation.truncate(zero, zero, zero, shift, is_first=True)
