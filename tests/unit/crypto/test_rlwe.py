"""Ring-LWE products: against Python's integers, at the bounds, with bad input, and what an answer hides."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.core.errors import ConfigError, RefusedError
from hanse.crypto import ntt, rlwe
from hanse.crypto.rlwe import Answer, Encrypted, Layout, PrivateKey, PublicKey

M = 1 << rlwe.WIDE_BITS


@cache
def key() -> PrivateKey:
    """One for all tests; not made while tests are collected."""
    return PrivateKey()


def test_primes_are_prime_and_of_the_form() -> None:
    primes = ntt.find_primes(7, 8192)
    for p in primes:
        assert p < 1 << 30
        assert p % 16384 == 1
        assert all(p % small for small in range(2, 33_000))
    assert rlwe.modulus(7).q.bit_length() <= 218
    assert not set(primes) & set(rlwe.slot_transform().primes.tolist())


@pytest.mark.parametrize("size", [8, 64])
def test_the_transform_multiplies_polynomials(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the definition, with numba's loops and NumPy's."""
    primes = ntt.find_primes(2, size)
    transform = ntt.Transform(primes, size)
    rng = np.random.default_rng(size)
    a, b = (np.stack([rng.integers(0, p, size).astype(np.uint64) for p in primes]) for _ in range(2))
    a[:, 0], b[:, -1] = transform.primes - np.uint64(1), transform.primes - np.uint64(1)
    found = []
    for loops in (ntt._loops(), None):
        monkeypatch.setattr(ntt, "_loops", lambda loops=loops: loops)
        product = transform.multiply(transform.forward(a), transform.forward(b))
        found.append((transform.forward(a).tolist(), transform.inverse(product).tolist()))
    assert found[0] == found[1]
    for at, p in enumerate(primes):
        expected = [0] * size
        for i, x in enumerate(a[at].tolist()):
            for j, y in enumerate(b[at].tolist()):
                sign = 1 if i + j < size else -1
                expected[(i + j) % size] = (expected[(i + j) % size] + sign * x * y) % p
        assert found[0][1][at] == expected


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, rlwe.modulus(5).q - 1), min_size=1, max_size=4), st.sampled_from([1, 2, 4]))
def test_switching_divides_and_rounds(values: list[int], kept: int) -> None:
    where, less = rlwe.modulus(5), rlwe.modulus(kept)
    found = rlwe._switched(rlwe._residues(values, where), where, kept)
    factor = where.q // less.q
    for value, residues in zip(values, found.T.tolist(), strict=True):
        near = [(value // factor + step) for step in (-1, 0, 1, 2)]
        assert residues in [[each % int(p) for p in less.transform.primes] for each in near]


def test_remainders_at_their_bounds() -> None:
    primes = ntt.find_primes(2, 8) + ntt.find_primes(1, 8, below=(1 << 29) + 2000)
    assert primes[2] > 1 << 29
    loops = ntt._loops()
    if loops is None:
        pytest.skip("needs numba")
    rng = np.random.default_rng(0)
    values = rng.integers(0, 1 << 60, (50, 3, 64)).astype(np.uint64)
    for at, p in enumerate(primes):
        values[0, at, :6] = [0, p - 1, p, 2 * p, (p - 1) ** 2, (p - 1) * p]
        values[1, at] = [p * k + (p - 1) * (k % 2) for k in rng.integers(0, p - 1, 64).tolist()]
    expected = values % np.array(primes, np.uint64)[:, None]
    loops[2](values, np.array(primes, np.uint64))
    assert np.array_equal(values, expected)


@settings(max_examples=12, deadline=None)
@given(st.sampled_from([(1, 1), (3, 5), (300, 64), (5, 1024), (2, 4096), (3, 5000), (70, 300)]), st.integers(0, 2**32))
def test_inner_products_are_those_of_python(shape: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.integers(-(2**18), 2**18, shape)
    vector = [int(a) << 48 ^ int(b) for a, b in rng.integers(-(2**62), 2**62, (shape[1], 2))]
    vector[0] = M - 1
    masks = [int(a) << 49 ^ int(b) for a, b in rng.integers(0, 2**63, (shape[0], 2))]
    answer = key().public.inner_products(matrix, key().encrypt_vector(vector), masks)
    found = key().decrypt_products(answer, *shape)
    for row, mask, value in zip(matrix.tolist(), masks, found, strict=True):
        exact = sum(x * y for x, y in zip(row, vector, strict=True)) + mask
        assert (value - exact) % M == 0
        assert -M // 2 <= value < M // 2


def test_inner_products_at_the_largest_rows() -> None:
    """The bound that is stated: absolute values of a row of the matrix that sum to 2^32."""
    matrix = np.full((8, 1024), 2**22)
    matrix[1] *= -1
    vector = [M // 2 - 1] * 1024
    found = key().decrypt_products(key().public.inner_products(matrix, key().encrypt_vector(vector), [0] * 8), 8, 1024)
    assert found[0] == rlwe.centred(2**22 * 1024 * (M // 2 - 1))
    assert found[1] == -found[0]


@pytest.mark.parametrize("length", [3, 5000])
def test_what_is_added_to_a_vector_is_in_its_products(length: int) -> None:
    rng = np.random.default_rng(length)
    matrix = rng.integers(-(2**18), 2**18, (2, length))
    vector, values = ([int(a) << 49 ^ int(b) for a, b in rng.integers(0, 2**63, (length, 2))] for _ in range(2))
    total = key().public.plus(key().encrypt_vector(vector), values)
    found = key().decrypt_products(key().public.inner_products(matrix, total, [0, 0]), 2, length)
    for row, value in zip(matrix.tolist(), found, strict=True):
        assert (value - sum(x * (y + z) for x, y, z in zip(row, vector, values, strict=True))) % M == 0
    with pytest.raises(RefusedError, match="ciphertexts for the vector"):
        key().public.plus(key().encrypt_vector(vector), [1] * 9000)


def test_slots_are_multiplied_one_by_one() -> None:
    rng = np.random.default_rng(0)
    values, factors = (rng.integers(-(2**20), 2**20, (2, rlwe.SIZE)) for _ in range(2))
    values[0, 0], factors[0, 0] = 2**31, -(2**31)
    primes = rlwe.slot_transform().primes
    masks = rng.integers(0, 2**63, (2, 3, rlwe.SIZE)).astype(np.uint64) % primes[:, None]
    found = key().decrypt_slots(key().public.slot_products(factors, key().encrypt_slots(values), masks), 2)
    for at, p in enumerate(primes.tolist()):
        expected = (values.astype(object) * factors.astype(object) + masks[:, at].astype(object)) % p
        assert (found[:, at].astype(object) == expected).all()
    assert rlwe.slot_modulus().bit_length() == 90


def test_an_answer_s_noise_is_the_flood() -> None:
    """What the holder of the key sees beside the masked result: uniform, whatever the matrix was."""
    spread = []
    for matrix in (np.zeros((8, 1024), np.int64), np.full((8, 1024), 2**22)):
        answer = key().public.inner_products(matrix, key().encrypt_vector([0] * 1024), [0] * 8)
        where = rlwe.modulus(rlwe.ANSWER_PRIMES[7])
        phases = key()._phases(answer, 1, 7, Layout(8, 1024).places)[0]
        weights = [where.q // int(p) * pow(where.q // int(p), -1, int(p)) for p in where.transform.primes]
        noise = [sum(int(r) * w for r, w in zip(column, weights, strict=True)) % where.q for column in phases.T]
        noise = [each - where.q if each > where.q // 2 else each for each in noise]
        assert max(map(abs, noise)) <= 1.001 * 2**34  # 2^94 before two primes were dropped
        spread.append(max(map(abs, noise)))
    assert min(spread) > 2**30  # 8 draws below a sixteenth of the range: 2^-32


def test_keys_and_ciphertexts_differ_each_time_and_look_uniform() -> None:
    first, second = key().encrypt_vector([5] * 1024), key().encrypt_vector([5] * 1024)
    assert not np.array_equal(first.body, second.body)
    for body in (
        first.body,
        key().public.inner_products(np.ones((1, 4), np.int64), key().encrypt_vector([1] * 4), [0]).heads,
    ):
        scaled = body / rlwe.modulus(body.shape[1]).column
        # the mean of 57344 uniform numbers: 6 sigma, false alarm 4e-9 for both
        assert abs(scaled.mean() - 0.5) < 6 * np.sqrt(1 / 12 / scaled.size)
    assert not np.array_equal(PrivateKey().public.body, key().public.body)


def test_errors_and_secrets_have_their_distributions() -> None:
    errors, secrets = rlwe._errors(1 << 17), rlwe._ternary(1 << 17)
    assert abs(errors.mean()) < 6 * 3.25 / 2**8.5
    assert errors.var() == pytest.approx(10.5, rel=0.05)
    assert np.abs(errors).max() <= 21
    assert np.abs(np.bincount(secrets + 1) / 2**17 - 1 / 3).max() < 6 * 0.48 / 2**8.5


def bad_answers() -> list[Any]:
    answer = key().public.inner_products(np.ones((2, 4), np.int64), key().encrypt_vector([1] * 4), [0, 0])
    large = answer.heads.copy()
    large[0, 0, 0] = 2**32 - 1
    return [
        Answer(answer.heads[:, :3], answer.tails),
        Answer(np.concatenate([answer.heads] * 2), answer.tails),
        Answer(answer.heads, answer.tails[..., :1]),
        Answer(large, answer.tails),
    ]


@pytest.mark.parametrize("answer", bad_answers())
def test_answers_that_do_not_fit_are_refused(answer: Answer) -> None:
    with pytest.raises(RefusedError, match="rlwe"):
        key().decrypt_products(answer, 2, 4)


def test_questions_that_do_not_fit_are_refused() -> None:
    good = key().encrypt_vector([1] * 4)
    large = good.body.copy()
    large[0, 0, 0] = 2**32 - 1
    for bad in (
        Encrypted(good.body[:, :3], good.seeds),
        Encrypted(good.body, good.seeds[:, :8]),
        Encrypted(large, good.seeds),
        Encrypted(np.concatenate([good.body] * 2), np.concatenate([good.seeds] * 2)),
    ):
        with pytest.raises(RefusedError, match="rlwe"):
            key().public.inner_products(np.ones((1, 4), np.int64), bad, [0])
    with pytest.raises(RefusedError, match="ciphertexts of slots"):
        key().public.slot_products(
            np.ones((2, rlwe.SIZE), np.int64),
            key().encrypt_slots(np.ones((1, rlwe.SIZE), np.int64)),
            np.zeros((2, 3, rlwe.SIZE), np.uint64),
        )
    for body in (key().public.body[:3], key().public.body + np.uint64(1 << 31), key().public.body.astype(np.int64)):
        with pytest.raises(RefusedError, match="public key"):
            PublicKey(body, key().public.other)
    with pytest.raises(ConfigError, match="at least one row"):
        Layout(0, 4)
