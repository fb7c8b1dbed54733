"""Products of many numbers, one by one and eight at a time: against Python's integers."""

import importlib.util
import secrets
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.core.errors import RefusedError

pytest.importorskip("gmpy2", reason="needs gmpy2 (extra `vertical`)")

from hanse.crypto import gmp
from hanse.crypto.fixed_base import FixedBase
from hanse.crypto.products import Products


def ifma() -> bool:
    if importlib.util.find_spec("numba") is None:
        return False
    from hanse.crypto import montgomery

    return montgomery.usable()


SMALL = Products(1009 * 10007, 4)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 1008), st.integers(0, 4)), max_size=30))
def test_cells_hold_products(rows: list[tuple[int, int]]) -> None:
    expected = [1] * 5
    for number, cell in rows:
        expected[cell] = expected[cell] * number % int(SMALL.modulus)
    numbers, cells = [each for each, _ in rows], np.array([cell for _, cell in rows], np.int64)
    assert SMALL.by_cell(numbers, cells, 5) == expected
    whole = SMALL.quotients(expected, expected)
    assert whole == [1] * 5


@given(st.lists(st.integers(1, 1008), max_size=12), st.integers(1, 5), st.integers(0, 9))
def test_fields_are_shifted(numbers: list[int], per: int, bits: int) -> None:
    expected = []
    for start in range(0, len(numbers), per):
        expected.append(1)
        for at, each in enumerate(numbers[start : start + per]):
            expected[-1] = expected[-1] * pow(each, 1 << bits * at, int(SMALL.modulus)) % int(SMALL.modulus)
    assert SMALL.shifted(numbers, per, bits) == expected


def test_what_travels() -> None:
    numbers = [1, 5, 1009 * 10007 - 1]
    assert SMALL.read(SMALL.write(numbers)) == numbers
    assert SMALL.read(SMALL.write([])) == []
    for bad in (0, 1009, 1009 * 10007, 2**32 - 1):
        with pytest.raises(RefusedError, match="coprime"):
            SMALL.read(SMALL.write([5, bad]))


@pytest.mark.skipif(not ifma(), reason="needs numba (extra `fast`) and a processor with AVX-512 IFMA")
@pytest.mark.parametrize("bits", [52 * 4 - 2, 2048, 4096])
def test_eight_at_a_time_is_one_by_one(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gmp, "PATIENCE", 1 << 62)
    modulus = secrets.randbits(bits) | 1 | 1 << bits - 1
    own, rng = Products(modulus, -(-bits // 8)), np.random.default_rng(0)
    ends = [1, 2, modulus - 1, modulus - 2, (1 << bits - 1) % modulus]
    numbers: list[Any] = [own._gmpy2.mpz(each) for each in (*ends, *(secrets.randbelow(modulus) for _ in range(95)))]
    places = np.sort(rng.choice(100, 80, replace=False))
    sizes = [1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 7]
    cells = [rng.integers(0, size, 80) for size in sizes]
    slow = own.rows(numbers, 1)
    assert slow.limbs is None
    monkeypatch.setattr(gmp, "PATIENCE", 0)
    fast = own.rows(numbers, 1)
    assert fast.limbs is not None
    found = own.by_cells(fast, places, cells, sizes)
    assert found == own.by_cells(slow, places, cells, sizes)
    for per, bits_ in ((6, 108), (1, 5), (7, 0)):
        monkeypatch.setattr(gmp, "PATIENCE", 0)
        shifted = own.shifted(numbers, per, bits_)
        monkeypatch.setattr(gmp, "PATIENCE", 1 << 62)
        assert shifted == own.shifted(numbers, per, bits_)
    assert found[0] == [np.prod(np.array([int(numbers[at]) for at in places], object)) % modulus]


@pytest.mark.skipif(not ifma(), reason="needs numba (extra `fast`) and a processor with AVX-512 IFMA")
@pytest.mark.parametrize(("bits", "width", "count"), [(206, 4, 1), (683, 10, 8), (1366, 8, 19)])
def test_many_powers_are_those_of_one(bits: int, width: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gmp, "PATIENCE", 0)
    modulus = secrets.randbits(bits) | 1 | 1 << bits - 1
    base = FixedBase(secrets.randbelow(modulus), modulus, 97, window_bits=width)
    exponents = [0, 1, 2**97 - 1, *(secrets.randbits(97) for _ in range(count))][:count]
    assert base.powers(exponents) == [base.power(each) for each in exponents]
    assert base.powers([]) == []
    for bad in (-1, 1 << 97):
        with pytest.raises(ValueError, match="at most 97 bits"):
            base.powers([bad])
