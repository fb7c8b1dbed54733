"""Fixed point, packing, shares and triples: against Python's integers and fractions, at the bound and one over."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.core.errors import ConfigError, RefusedError, TooLargeError
from hanse.crypto import fixed_point, sharing
from hanse.crypto.packing import Packing

M = 2**64


# ---- fixed point ----


@given(st.floats(-(2.0**30), 2.0**30), st.integers(0, 32))
def test_fixed_point_rounds_half_to_even(value: float, bits: int) -> None:
    exact = round(Fraction(value) * 2**bits)
    ring = fixed_point.encode(np.array([value]), bits)
    assert int(ring[0]) == exact % M
    assert Fraction(float(fixed_point.decode(ring, bits)[0])) == Fraction(float(exact)) / 2**bits


def test_fixed_point_at_its_bound() -> None:
    top = np.nextafter(2.0**43, 0)
    assert fixed_point.decode(fixed_point.encode(np.array([top, -top]), 20), 20).tolist() == [top, -top]
    for bad in (2.0**43, -(2.0**43), np.inf, -np.inf, np.nan):
        with pytest.raises(ConfigError, match="found 1 others"):
            fixed_point.encode(np.array([1.0, bad]), 20)
    for bits in (-1, 53):
        with pytest.raises(ConfigError, match="fraction bits"):
            fixed_point.encode(np.array([1.0]), bits)


# ---- packing ----


def test_one_over_is_seen_in_a_field_without_slack() -> None:
    packing = Packing((15, 15), 1)
    full = packing.pack((15, 7))
    for more in ((1, 0), (15, 0), (15, 8)):
        with pytest.raises(RefusedError, match="more than its terms"):
            packing.unpack(full + packing.pack(more))


@pytest.mark.parametrize("value", [-(2**63), 2**62])
def test_integers_of_numpy_are_held_to_the_bound(value: int) -> None:
    with pytest.raises(TooLargeError, match="last value within"):
        Packing((100, 100), 1).pack([np.int64(1), np.int64(value)])  # type: ignore[list-item]


@given(st.data())
def test_sums_of_packed_are_packed_sums(data: Any) -> None:
    largest = tuple(data.draw(st.lists(st.integers(1, 2**40), min_size=1, max_size=4)))
    packing = Packing(largest, data.draw(st.integers(1, 50)))
    rows = []
    for _ in range(data.draw(st.integers(1, packing.max_terms))):
        low = [data.draw(st.sampled_from([0, 1, each])) for each in largest[:-1]]
        rows.append([*low, data.draw(st.sampled_from([-largest[-1], -1, 0, largest[-1]]))])
    total = sum(packing.pack(row) for row in rows)
    assert packing.unpack(total) == tuple(sum(column) for column in zip(*rows, strict=True))
    assert abs(total) <= packing.bound


def test_packing_at_the_bound_and_one_over() -> None:
    packing = Packing((2**16, 2**20), 1000)
    for sign in (1, -1):
        full = sum([packing.pack((2**16, sign * 2**20))] * 1000)
        assert packing.unpack(full) == (2**16 * 1000, sign * 2**20 * 1000)
        with pytest.raises(RefusedError, match="than its terms can give"):
            packing.unpack(full + packing.pack((1, 0)))
        with pytest.raises(RefusedError, match="than its terms can give"):
            packing.unpack(full + packing.pack((0, sign)))
    for values in ((2**16 + 1, 0), (-1, 0), (0, 2**20 + 1), (0, -(2**20) - 1)):
        with pytest.raises(TooLargeError, match="packing"):
            packing.pack(values)
    with pytest.raises(ConfigError, match="2 values"):
        packing.pack((1,))
    for largest, terms in (((), 1), ((0,), 1), ((1,), 0)):
        with pytest.raises(ConfigError, match="packing"):
            Packing(largest, terms)


# ---- shares ----


def python_matmul(a: Any, b: Any) -> list[list[int]]:
    rows, columns = a.tolist(), list(zip(*b.tolist(), strict=True))
    return [[sum(x * y for x, y in zip(row, column, strict=True)) % M for column in columns] for row in rows]


def elements(rng: np.random.Generator, *shape: int) -> Any:
    values = rng.integers(0, M, shape, np.uint64, endpoint=False)
    return np.where(rng.random(shape) < 0.2, np.uint64(M - 1), values)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 5), st.integers(0, 2**32))
def test_products_are_those_of_python(n: int, k: int, m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = elements(rng, n, k), elements(rng, k, m)
    assert sharing.matmul(x, y).tolist() == python_matmul(x, y)
    seeds = sharing.new_seed(), sharing.new_seed()
    triples = (
        sharing.first_share((n, k, m), seeds[0]),
        sharing.second_share((n, k, m), seeds[1], sharing.deal((n, k, m), *seeds)),
    )
    xs, ys = sharing.share(x), sharing.share(y)
    masked = [sharing.mask(xs[i], ys[i], triples[i]) for i in range(2)]
    e, f = (sharing.reveal(masked[0][i], masked[1][i]) for i in range(2))
    parts = [sharing.multiply(e, f, triples[i], is_first=i == 0) for i in range(2)]
    assert sharing.reveal(*parts).tolist() == python_matmul(x, y)


def test_limbs_stay_exact_at_their_worst() -> None:
    k = 1 << 21
    ones = np.full((1, k), M - 1, np.uint64)
    assert int(sharing.matmul(ones, ones.T)[0, 0]) == k % M  # (−1)·(−1) added k times
    with pytest.raises(ConfigError, match="matmul"):
        sharing.matmul(np.zeros((1, k + 1), np.uint64), np.zeros((k + 1, 1), np.uint64))
    with pytest.raises(ConfigError, match="matmul"):
        sharing.matmul(ones, ones)


def test_a_share_and_what_is_opened_are_uniform() -> None:
    """Each of 64 bits is 1 in half of 4000 elements; false alarm 5 sigma at 256 bits in all, 1.5e-4."""
    zero = np.zeros((4000, 1), np.uint64)
    one = np.zeros((1, 1), np.uint64)
    seeds = sharing.new_seed(), sharing.new_seed()
    first = sharing.first_share((4000, 1, 1), seeds[0])
    second = sharing.second_share((4000, 1, 1), seeds[1], sharing.deal((4000, 1, 1), *seeds))
    shares = sharing.share(zero)
    opened = sharing.reveal(sharing.mask(shares[0], one, first)[0], sharing.mask(shares[1], one, second)[0])
    for values in (*shares, opened, second.c):
        bits = np.unpackbits(np.ascontiguousarray(values).view(np.uint8).reshape(4000, 8), axis=1)
        assert np.abs(bits.mean(axis=0) - 0.5).max() * 2 * np.sqrt(4000) < 5
    assert not np.array_equal(shares[0], sharing.share(zero)[0])
