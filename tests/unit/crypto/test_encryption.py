"""Paillier and Okamoto–Uchiyama: against the textbook's formulas in Python's integers, at and beyond their bounds."""

import secrets
from math import gcd, lcm
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.core.errors import ConfigError, RefusedError, TooLargeError

pytest.importorskip("gmpy2", reason="needs gmpy2 (extra `vertical`)")

from hanse.crypto import okamoto_uchiyama as ou
from hanse.crypto import paillier
from hanse.crypto.fixed_base import FixedBase
from hanse.crypto.gmp import gmpy2_module


@pytest.fixture(scope="module")
def key() -> paillier.PrivateKey:
    return paillier.generate()


@pytest.fixture(scope="module")
def ou_key() -> ou.PrivateKey:
    return ou.generate()


# ---- powers ----


@given(st.integers(2, 10**6), st.integers(3, 10**9), st.integers(0, 2**70 - 1), st.sampled_from([1, 5, 8, 9]))
def test_powers_are_those_of_pow(base: int, modulus: int, exponent: int, width: int) -> None:
    assert FixedBase(base, modulus, 70, window_bits=width).power(exponent) == pow(base, exponent, modulus)


@pytest.mark.parametrize("exponent", [-1, 1 << 16])
def test_exponents_have_a_bound(exponent: int) -> None:
    with pytest.raises(ValueError, match="at most 16 bits"):
        FixedBase(3, 1009, 16).power(exponent)


# ---- Paillier ----


def textbook(key: paillier.PrivateKey, c: int) -> int:
    """Paillier 1999, section 4: L(c^λ mod n²) / L((1 + n)^λ mod n²) mod n."""
    n, p = key.public.n, int(key._p)
    lam = lcm(p - 1, n // p - 1)
    low, base = ((pow(x, lam, n * n) - 1) // n for x in (c, 1 + n))
    return low * pow(base, -1, n) % n


def test_a_key_has_the_form_of_the_paper(key: paillier.PrivateKey) -> None:
    n, p = key.public.n, int(key._p)
    q = n // p
    assert (p * q, n.bit_length(), p % 4, q % 4, gcd(p - 1, q - 1)) == (n, 2048, 3, 3, 2)
    assert key.public.exponent_bits == 1024
    # h_n is an n-th power, so it decrypts to 0; h = −x² has Jacobi symbol 1 and is no square modulo either prime.
    assert textbook(key, key.public.h_n) == 0
    assert [pow(key.public.h_n, (r - 1) // 2, r) for r in (p, q)] == [p - 1, q - 1]


@settings(max_examples=20, deadline=None)
@given(st.integers(-(2**2040), 2**2040), st.integers(-(2**64), 2**64), st.integers(-(2**40), 2**40))
def test_paillier_computes(key: paillier.PrivateKey, a: int, b: int, factor: int) -> None:
    public = key.public
    x, y = public.encrypt(a), public.encrypt(b)
    assert key.decrypt(x) == a
    assert textbook(key, int(x)) == a % public.n
    assert key.decrypt(public.add(x, y)) == a + b
    assert key.decrypt(public.add_plain(y, a)) == a + b
    assert key.decrypt(public.multiply(y, factor)) == b * factor
    assert key.decrypt(public.rerandomise(x)) == a


def test_paillier_at_its_bound(key: paillier.PrivateKey) -> None:
    half = key.public.n // 2
    for message in (half, -half, 0):
        assert key.decrypt(key.public.encrypt(message)) == message
    for message in (half + 1, -half - 1):
        with pytest.raises(ConfigError, match="below n / 2"):
            key.public.encrypt(message)


def test_equal_messages_have_different_ciphertexts(key: paillier.PrivateKey, ou_key: ou.PrivateKey) -> None:
    assert len({int(key.public.encrypt(7)) for _ in range(20)}) == 20
    assert len({int(ou_key.public.encrypt(7, 7).value) for _ in range(20)}) == 20
    x = key.public.encrypt(7)
    assert key.public.rerandomise(x) != x


def test_what_is_no_ciphertext_is_refused(key: paillier.PrivateKey, ou_key: ou.PrivateKey) -> None:
    n, p = key.public.n, int(key._p)
    for value in (0, -1, n * n, n, p, 3 * n):
        with pytest.raises(RefusedError, match="coprime"):
            key.decrypt(value)
    n, p = ou_key.public.n, int(ou_key._p)
    for value in (0, -1, n, p, n - p):
        with pytest.raises(RefusedError, match="coprime"):
            ou_key.decrypt(ou.Ciphertext(value, 1))


def test_keys_below_policy_are_refused(key: paillier.PrivateKey, ou_key: ou.PrivateKey) -> None:
    for bits in (1024, 2046, 2049, 8194):
        with pytest.raises(ConfigError, match="from 2048 to 8192"):
            paillier.generate(bits)
    for modulus in (key.public.n >> 1 | 1, 1 << 8192 | 1):
        with pytest.raises(RefusedError, match="2048 to 8192 bits"):
            paillier.PublicKey(modulus, 5)
    n = key.public.n
    for h_n in (n - 1, n + 1, 2 * n - 1, n * n - 1, n * n - n + 1):  # masks that mask nothing
        with pytest.raises(RefusedError, match="other than 1 and -1"):
            paillier.PublicKey(n, h_n)
    with pytest.raises(RefusedError, match="coprime"):
        paillier.PublicKey(key.public.n, int(key._p))
    with pytest.raises(ConfigError, match="that give n"):
        paillier.PrivateKey(int(key._p), int(key._p), key.public)
    with pytest.raises(RefusedError, match="exactly 2048 bits"):
        ou.PublicKey(ou_key.public.n << 1 | 1, 3, 5)
    with pytest.raises(RefusedError, match="coprime"):
        ou.PublicKey(ou_key.public.n, int(ou_key._p), 5)
    with pytest.raises(ConfigError, match="divides n"):
        ou.PrivateKey(int(ou_key._p) + 2, ou_key.public)
    with pytest.raises(ConfigError, match="order divisible by p"):
        ou.PrivateKey(int(ou_key._p), ou.PublicKey(ou_key.public.n, ou_key.public.h, ou_key.public.h))


def test_short_exponents_are_an_option_by_name() -> None:
    short = paillier.generate(short_exponents=True)
    assert short.public.exponent_bits == 512
    assert short.decrypt(short.public.encrypt(-5)) == -5


def asked_bits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bits are asked of the system's random source from here on."""
    asked: list[int] = []
    plain = secrets.randbits

    def randbits(bits: int) -> int:
        asked.append(bits)
        return plain(bits)

    monkeypatch.setattr(secrets, "randbits", randbits)
    return asked


def test_masks_have_all_their_bits(
    key: paillier.PrivateKey, ou_key: ou.PrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = paillier.PublicKey(key.public.n, key.public.h_n, short_exponents=True)
    asked = asked_bits(monkeypatch)
    key.public.encrypt(1)
    x = short.encrypt(1)
    short.rerandomise(x)
    ou_key.public.encrypt(1, 1)
    ou_key.public.rerandomise(ou_key.public.encrypt(1, 1))
    assert asked == [1024, 512, 2048 + 40, 2048, 2048, 2048]


# ---- Okamoto–Uchiyama ----


def test_the_modulus_is_p_squared_q(ou_key: ou.PrivateKey) -> None:
    n, p = ou_key.public.n, int(ou_key._p)
    q, rest = divmod(n, p * p)
    assert (rest, n.bit_length(), p.bit_length()) == (0, 2048, 683)
    assert p != q
    assert pow(3, q - 1, q) == pow(3, p - 1, p) == 1  # both prime, by Fermat
    assert ou_key.public.h == pow(ou_key.public.g, n, n)


@settings(max_examples=20, deadline=None)
@given(st.integers(-(2**300), 2**300), st.integers(-(2**300), 2**300), st.integers(-(2**40), 2**40))
def test_okamoto_uchiyama_computes(ou_key: ou.PrivateKey, a: int, b: int, factor: int) -> None:
    public, bound = ou_key.public, 2**300
    x, y = public.encrypt(a, bound), public.encrypt(b, bound)
    assert ou_key.decrypt(x) == a
    assert ou_key.decrypt(public.add(x, y)) == a + b
    assert public.add(x, y).bound == 2 * bound
    product = public.multiply(y, factor)
    assert ou_key.decrypt(product) == b * factor
    assert product.bound == bound * abs(factor)
    assert ou_key.decrypt(public.rerandomise(x)) == a
    # The definition: c·g^(−m) is a power of h = g^n, so it has no part of order p.
    p = int(ou_key._p)
    rest = int(x.value) * pow(public.g, -a, public.n)
    assert pow(rest, p - 1, p * p) == 1


@settings(max_examples=20, deadline=None)
@given(st.integers(-(2**679), 2**679), st.integers(0, 2**2048 - 1))
def test_the_holder_of_the_key_encrypts_the_same(ou_key: ou.PrivateKey, message: int, r: int) -> None:
    public, bound = ou_key.public, 2**679
    sealed = ou_key.encrypt(message, bound)
    assert ou_key.decrypt(sealed) == message
    assert sealed.bound == bound
    assert sealed.value != ou_key.encrypt(message, bound).value
    p = int(ou_key._p)
    rest = int(sealed.value) * pow(public.g, -message, public.n)
    assert pow(rest, p - 1, p * p) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hanse.crypto.okamoto_uchiyama.secrets.randbits", lambda bits: r if bits == 2048 else None)
        assert ou_key.encrypt(0, 0).value == pow(public.h, r, public.n)
    with pytest.raises(TooLargeError, match="within the declared bound"):
        ou_key.encrypt(5, 4)


def test_okamoto_uchiyama_at_its_bound(ou_key: ou.PrivateKey) -> None:
    public, top = ou_key.public, 2**680 - 1
    for message in (top, -top):
        assert ou_key.decrypt(public.encrypt(message, top)) == message
    half = public.encrypt(2**679 - 1, 2**679 - 1)
    assert ou_key.decrypt(public.add(half, half)) == 2**680 - 2
    big = public.encrypt(1, 2**679)
    for over in (
        lambda: public.encrypt(1, 2**680),
        lambda: public.encrypt(8, 7),
        lambda: public.encrypt(-8, 7),
        lambda: public.add(big, big),
        lambda: public.multiply(big, -2),
        lambda: public.check(5, 2**680),
    ):
        with pytest.raises(TooLargeError, match="bound"):
            over()


def test_all_messages_take_exponents_of_one_length(ou_key: ou.PrivateKey, monkeypatch: pytest.MonkeyPatch) -> None:
    """GMP's mpz_powm_sec takes a time that depends on the exponent's number of words of 64 bits and on nothing else."""
    words: list[int] = []
    gmpy2 = gmpy2_module()
    plain = gmpy2.powmod_sec

    def recorded(base: Any, exponent: Any, modulus: Any) -> Any:
        words.append(-(-int(exponent).bit_length() // 64))
        return plain(base, exponent, modulus)

    def masks_alone(base: FixedBase, exponent: int) -> Any:
        assert base is ou_key.public._masks
        return power(base, exponent)

    power = FixedBase.power
    monkeypatch.setattr(gmpy2, "powmod_sec", recorded)
    monkeypatch.setattr(FixedBase, "power", masks_alone)
    top = 2**680 - 1
    for message in (0, 1, -1, 2**300, top, -top):
        ou_key.public.encrypt(message, top)
    assert words == [11] * 6


def test_a_message_beyond_its_bound_is_not_told_and_ends_the_key(ou_key: ou.PrivateKey) -> None:
    ou_key = ou.PrivateKey(int(ou_key._p), ou_key.public)
    x = ou_key.public.encrypt(1000, 1000)
    with pytest.raises(RefusedError, match="beyond the declared bound") as caught:
        ou_key.decrypt(ou.Ciphertext(x.value, 999))
    assert "1000" not in str(caught.value)
    for good in (x, ou_key.public.encrypt(1, 1)):  # whether another is refused would tell a bit of p
        with pytest.raises(RefusedError, match="decrypts no more"):
            ou_key.decrypt(good)
