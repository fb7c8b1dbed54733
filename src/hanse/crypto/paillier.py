"""Paillier encryption in the variant of I. Damgård, M. Jurik, J. B. Nielsen, "A generalization of Paillier's public-key
system with applications to electronic voting", International Journal of Information Security 9, 2010 (s = 1).

n = p·q with p ≡ q ≡ 3 (mod 4) and gcd(p − 1, q − 1) = 2; h = −x² mod n for a random x; a ciphertext of m is
(1 + m·n) · (h^n)^r mod n² with r of half n's bits. Messages are integers of absolute value below n / 2.

Not authenticated, and malleable on purpose: whoever holds the public key can add to a ciphertext.

Guarantee: semantically secure under the decisional composite residuosity assumption (n of 2048 bits: 112-bit security).
With `short_exponents` r has 512 bits, under the further assumption that short powers of h cannot be told from others.
Reveals: the holder of the private key learns every message that it is sent; a result must be re-randomised before it is
sent back, or its ciphertext tells how it was computed. A short r does not hide it from the holder of the key,
for whom no assumption holds: `rerandomise` draws r of 40 bits more than n, which hides how a ciphertext was made from
those of `encrypt` up to 2^-40, whoever knows p and q.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import gcd
from typing import Any

from hanse.core.errors import ConfigError, RefusedError
from hanse.crypto.fixed_base import FixedBase
from hanse.crypto.gmp import gmpy2_module
from hanse.crypto.primes import random_prime

MIN_BITS = 2048
MAX_BITS = 8192
"""A peer's key may not cost more than this."""
SHORT_EXPONENT_BITS = 512
STATISTICAL_BITS = 40


@dataclass(frozen=True)
class PublicKey:
    """What encrypts and computes.

    Attributes:
        n: the modulus, 2048 to 8192 bits.
        h_n: h^n mod n², not ±1 modulo n, which would mask nothing.
        short_exponents: r of 512 bits instead of half of n's.

    Raises:
        RefusedError: a modulus outside policy, or values that are not a key.
    """

    n: int
    h_n: int
    short_exponents: bool = False

    def __post_init__(self) -> None:
        if not MIN_BITS <= self.n.bit_length() <= MAX_BITS or self.n % 2 == 0:
            raise RefusedError(f"paillier key: expected an odd modulus of {MIN_BITS} to {MAX_BITS} bits")
        if not 1 < self.h_n < self.n_squared or gcd(self.h_n, self.n) != 1:
            raise RefusedError("paillier key: expected h^n between 1 and n², coprime to n")
        if self.h_n % self.n in (1, self.n - 1):
            raise RefusedError("paillier key: expected h^n other than 1 and -1 modulo n")

    @cached_property
    def n_squared(self) -> int:
        """n²."""
        return self.n * self.n

    @property
    def exponent_bits(self) -> int:
        """Bits of r in `encrypt`."""
        return SHORT_EXPONENT_BITS if self.short_exponents else -(-self.n.bit_length() // 2)

    @cached_property
    def _powers(self) -> FixedBase:
        return FixedBase(self.h_n, self.n_squared, self.exponent_bits)

    @property
    def _wide_bits(self) -> int:
        """Bits of r in `rerandomise`."""
        return self.n.bit_length() + STATISTICAL_BITS

    @cached_property
    def _wide_powers(self) -> FixedBase:
        return FixedBase(self.h_n, self.n_squared, self._wide_bits)

    @cached_property
    def _modulus(self) -> Any:
        return gmpy2_module().mpz(self.n_squared)

    def encrypt(self, message: int) -> Any:
        """A fresh ciphertext, an mpz.

        Raises:
            ConfigError: a message whose absolute value is not below n / 2.
        """
        (made,) = self.encrypt_all([message])
        return made

    def encrypt_all(self, messages: Sequence[int]) -> list[Any]:
        """`encrypt` of many, at less cost each."""
        known = [self._plain(message) for message in messages]
        masks = self._powers.powers([secrets.randbits(self.exponent_bits) for _ in known])
        return [each * mask % self._modulus for each, mask in zip(known, masks, strict=True)]

    def add(self, a: Any, b: Any) -> Any:
        """A ciphertext of the sum of two ciphertexts' messages. Not re-randomised."""
        return a * b % self._modulus

    def add_plain(self, a: Any, message: int) -> Any:
        """A ciphertext of the sum with a known message. Not re-randomised."""
        return a * self._plain(message) % self._modulus

    def multiply(self, a: Any, factor: int) -> Any:
        """A ciphertext of the product with a known factor, which may be secret. Not re-randomised."""
        gmpy2 = gmpy2_module()
        if factor < 0:
            a, factor = gmpy2.invert(a, self._modulus), -factor
        return gmpy2.powmod_sec(a, factor, self._modulus) if factor else gmpy2.mpz(1)

    def rerandomise(self, a: Any) -> Any:
        """Another ciphertext of the same message, which tells not even the holder of the key how `a` was made."""
        (made,) = self.rerandomise_all([a])
        return made

    def rerandomise_all(self, ciphertexts: Sequence[Any]) -> list[Any]:
        """`rerandomise` of many, at less cost each."""
        masks = self._wide_powers.powers([secrets.randbits(self._wide_bits) for _ in ciphertexts])
        return [each * mask % self._modulus for each, mask in zip(ciphertexts, masks, strict=True)]

    def check(self, ciphertext: int) -> Any:
        """A ciphertext from outside, as an mpz.

        Raises:
            RefusedError: out of range, or not coprime to n.
        """
        if not 0 < ciphertext < self.n_squared or gcd(int(ciphertext), self.n) != 1:
            raise RefusedError("paillier ciphertext: expected a number between 0 and n², coprime to n")
        return gmpy2_module().mpz(ciphertext)

    def _plain(self, message: int) -> Any:
        if 2 * abs(message) >= self.n:
            raise ConfigError("paillier message: expected an absolute value below n / 2")
        return (1 + self._n_mpz * message) % self._modulus

    @cached_property
    def _n_mpz(self) -> Any:
        return gmpy2_module().mpz(self.n)


class PrivateKey:
    """What decrypts, by the Chinese remainder theorem.

    Args:
        p, q: the primes.
        public: the public key that belongs to them.

    Raises:
        ConfigError: primes that do not belong to the key or are not of the required form.
    """

    def __init__(self, p: int, q: int, public: PublicKey) -> None:
        if p * q != public.n or p == q or p % 4 != 3 or q % 4 != 3 or gcd(p - 1, q - 1) != 2:
            raise ConfigError(
                "paillier key: expected two primes of 3 modulo 4, with gcd(p − 1, q − 1) = 2, that give n"
            )
        self.public = public
        gmpy2 = gmpy2_module()
        self._gmpy2 = gmpy2
        self._p, self._q = gmpy2.mpz(p), gmpy2.mpz(q)
        self._p_squared, self._q_squared = self._p**2, self._q**2
        self._p_factor = gmpy2.invert((p - 1) * self._q % p, p)
        self._q_factor = gmpy2.invert((q - 1) * self._p % q, q)
        self._q_inverse = gmpy2.invert(self._q, self._p)

    def decrypt(self, ciphertext: int) -> int:
        """The message, of absolute value below n / 2.

        Raises:
            RefusedError: not a ciphertext.
        """
        c = self.public.check(ciphertext)
        at_p = self._part(c, self._p, self._p_squared, self._p_factor)
        at_q = self._part(c, self._q, self._q_squared, self._q_factor)
        message = int(at_q + self._q * ((at_p - at_q) * self._q_inverse % self._p))
        return message - self.public.n if 2 * message > self.public.n else message

    def _part(self, c: Any, prime: Any, squared: Any, factor: Any) -> Any:
        # (1 + m·n)^(p−1) = 1 + m·(p−1)·q·p mod p², so L of it is m·(p−1)·q mod p.
        power = self._gmpy2.powmod_sec(c % squared, prime - 1, squared)
        return (power - 1) // prime * factor % prime


def generate(bits: int = MIN_BITS, *, short_exponents: bool = False) -> PrivateKey:
    """A fresh key.

    Args:
        bits: of n, even, 2048 to 8192.
        short_exponents: see the module's Guarantee.

    Raises:
        ConfigError: too few or too many bits. MissingExtraError: gmpy2 is not installed.
    """
    if not MIN_BITS <= bits <= MAX_BITS or bits % 2:
        raise ConfigError(f"paillier key: expected an even number of bits from {MIN_BITS} to {MAX_BITS}, found {bits}")
    p = random_prime(bits // 2, lambda each: each % 4 == 3)
    q = random_prime(bits // 2, lambda each: each % 4 == 3 and each != p and gcd(p - 1, each - 1) == 2)
    n = p * q
    while gcd(x := secrets.randbelow(n), n) != 1:
        pass
    h = -x * x % n
    h_n = int(gmpy2_module().powmod_sec(h, n, n * n))
    return PrivateKey(p, q, PublicKey(n, h_n, short_exponents))
