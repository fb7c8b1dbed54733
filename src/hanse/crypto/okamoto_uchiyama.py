"""T. Okamoto, S. Uchiyama, "A New Public-Key Cryptosystem as Secure as Factoring", EUROCRYPT 1998.

n = p²·q of exactly 2048 bits; g of order divisible by p in Z*(p²); h = g^n mod n; a ciphertext of m is g^m · h^r mod n.
Sums are smaller and faster than Paillier's, at a price: **one decrypted message that exceeds p factors n.** So it is
for protocols in which the key holder encrypts, others only add and multiply, and no decrypted value is ever sent back;
and every ciphertext carries the largest absolute value that its message can have, which is checked before every
operation.

Guarantee: semantically secure under the p-subgroup assumption; called 112-bit security. Semi-honest. A party that sends
ciphertexts of more than it declares learns p from what they decrypt to, and from less: whether a decryption is refused
tells on which side of p a chosen message lies, so that one refused run after another gives p bit by bit. A private key
therefore refuses every use after its first refusal; that is kept in memory, so a key is for one run and is not to be
loaded again.
Reveals: the declared bounds.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import gcd
from typing import Any

from hanse.core.errors import ConfigError, RefusedError, TooLargeError
from hanse.crypto.fixed_base import FixedBase
from hanse.crypto.gmp import gmpy2_module
from hanse.crypto.primes import random_prime

MODULUS_BITS = 2048
PRIME_BITS = 683
MESSAGE_BITS = 680
"""Messages have absolute values below 2^680; p has 683 bits."""

_LIMIT = 1 << MESSAGE_BITS
_OFFSET = 1 << MESSAGE_BITS + 1


@dataclass(frozen=True, slots=True)
class Ciphertext:
    """A number modulo n and the largest absolute value that its message can have."""

    value: Any
    bound: int


@dataclass(frozen=True)
class PublicKey:
    """What encrypts and computes.

    Raises:
        RefusedError: not a modulus of exactly 2048 bits, or values that are not a key.
    """

    n: int
    g: int
    h: int

    def __post_init__(self) -> None:
        if self.n.bit_length() != MODULUS_BITS or self.n % 2 == 0:
            raise RefusedError(f"okamoto-uchiyama key: expected an odd modulus of exactly {MODULUS_BITS} bits")
        if not all(1 < each < self.n and gcd(each, self.n) == 1 for each in (self.g, self.h)):
            raise RefusedError("okamoto-uchiyama key: expected g and h between 1 and n, coprime to n")

    @cached_property
    def _back(self) -> Any:
        """g^(−_OFFSET)."""
        gmpy2 = gmpy2_module()
        return gmpy2.powmod(gmpy2.invert(self.g, self._modulus), _OFFSET, self._modulus)

    @cached_property
    def _masks(self) -> FixedBase:
        return FixedBase(self.h, self.n, MODULUS_BITS)

    @cached_property
    def _modulus(self) -> Any:
        return gmpy2_module().mpz(self.n)

    def encrypt(self, message: int, bound: int) -> Ciphertext:
        """A fresh ciphertext.

        Args:
            message: an integer of absolute value at most `bound`.
            bound: declared for the whole column or vector, not for this message: it travels in clear.

        Raises:
            TooLargeError: a message beyond its bound, or a bound beyond 2^680.
        """
        _within(bound)
        if abs(message) > bound:
            raise TooLargeError("okamoto-uchiyama message: expected an absolute value within the declared bound")
        # Neither the sign nor the size of a message is to be seen in the time: every exponent has 681 or 682 bits.
        power = gmpy2_module().powmod_sec(self.g, int(message) + _OFFSET, self._modulus)
        return self.rerandomise(Ciphertext(power * self._back % self._modulus, bound))

    def add(self, a: Ciphertext, b: Ciphertext) -> Ciphertext:
        """A ciphertext of the sum. Not re-randomised.

        Raises:
            TooLargeError: the sum of the bounds is beyond 2^680.
        """
        return Ciphertext(a.value * b.value % self._modulus, _within(a.bound + b.bound))

    def multiply(self, a: Ciphertext, factor: int) -> Ciphertext:
        """A ciphertext of the product with a known factor, which may be secret. Not re-randomised.

        Raises:
            TooLargeError: the product of the bounds is beyond 2^680.
        """
        gmpy2, bound = gmpy2_module(), _within(a.bound * abs(factor))
        value = a.value if factor >= 0 else gmpy2.invert(a.value, self._modulus)
        power = gmpy2.powmod_sec(value, abs(factor), self._modulus) if factor else gmpy2.mpz(1)
        return Ciphertext(power, bound)

    def rerandomise(self, a: Ciphertext) -> Ciphertext:
        """Another ciphertext of the same message, which tells nothing of how `a` was made."""
        (made,) = self.rerandomise_all([a])
        return made

    def rerandomise_all(self, ciphertexts: Sequence[Ciphertext]) -> list[Ciphertext]:
        """`rerandomise` of many, at less cost each."""
        masks = self._masks.powers([secrets.randbits(MODULUS_BITS) for _ in ciphertexts])
        return [
            Ciphertext(each.value * mask % self._modulus, each.bound)
            for each, mask in zip(ciphertexts, masks, strict=True)
        ]

    def check(self, value: int, bound: int) -> Ciphertext:
        """A ciphertext from outside.

        Raises:
            RefusedError: out of range or not coprime to n. TooLargeError: a bound beyond 2^680.
        """
        if not 0 < value < self.n or gcd(int(value), self.n) != 1:
            raise RefusedError("okamoto-uchiyama ciphertext: expected a number between 0 and n, coprime to n")
        return Ciphertext(gmpy2_module().mpz(value), _within(bound))


class PrivateKey:
    """What decrypts, until it has to refuse a message. Keep what it returns at home: see the module's text.

    Raises:
        ConfigError: a prime that does not belong to the key.
    """

    def __init__(self, p: int, public: PublicKey) -> None:
        gmpy2 = gmpy2_module()
        if p.bit_length() != PRIME_BITS or public.n % (p * p):
            raise ConfigError(f"okamoto-uchiyama key: expected a prime of {PRIME_BITS} bits whose square divides n")
        self.public = public
        self._spent = False
        self._gmpy2 = gmpy2
        self._p = gmpy2.mpz(p)
        self._squared = self._p**2
        base = self._logarithm(gmpy2.mpz(public.g))
        if base == 0:
            raise ConfigError("okamoto-uchiyama key: expected g of order divisible by p modulo p²")
        self._base = base  # of g^(p − 1): minus the logarithm of g itself
        self._factor = gmpy2.invert(base, self._p)

    @cached_property
    def _parts(self) -> "_Parts":
        return _Parts(int(self._p), self.public)

    def encrypt(self, message: int, bound: int) -> Ciphertext:
        """See `encrypt_all`."""
        (made,) = self.encrypt_all([message], bound)
        return made

    def encrypt_all(self, messages: Sequence[int], bound: int) -> list[Ciphertext]:
        """The same as `PublicKey.encrypt` of each, ten times as fast and more, by the Chinese remainder theorem.

        Modulo p², g^m is (1 + p)^(m·L) times a power of h, with L the logarithm of g and (1 + p)^k = 1 + k·p; modulo q
        it is a power of h. So a ciphertext is 1 + m·L·p times h^r for a fresh r of 2048 bits, which is drawn once and
        reduced by both primes: the same distribution as that of g^m · h^r.

        Raises:
            TooLargeError: as `PublicKey.encrypt`.
        """
        _within(bound)
        if messages and max(max(messages), -min(messages)) > bound:
            raise TooLargeError("okamoto-uchiyama message: expected an absolute value within the declared bound")
        known = [1 - message * self._base % self._p * self._p for message in messages]
        masked = self._parts.masked(known, [secrets.randbits(MODULUS_BITS) for _ in known])
        return [Ciphertext(each, bound) for each in masked]

    def decrypt(self, ciphertext: Ciphertext) -> int:
        """The message.

        Raises:
            RefusedError: not a ciphertext; a message beyond its bound, which is not told; or this key had to refuse
                one before.
        """
        if self._spent:
            raise RefusedError("okamoto-uchiyama key: it refused a message before and decrypts no more; make another")
        checked = self.public.check(int(ciphertext.value), ciphertext.bound)
        message = int(self._logarithm(checked.value) * self._factor % self._p)
        message = message - int(self._p) if 2 * message > self._p else message
        if abs(message) > checked.bound:
            self._spent = True
            raise RefusedError("okamoto-uchiyama ciphertext: its message is beyond the declared bound")
        return message

    def _logarithm(self, value: Any) -> Any:
        power = self._gmpy2.powmod_sec(value % self._squared, self._p - 1, self._squared)
        return (power - 1) // self._p


class _Parts:
    """What the primes make of powers of h."""

    def __init__(self, p: int, public: PublicKey) -> None:
        gmpy2 = gmpy2_module()
        q = public.n // (p * p)
        self._squared, self._q = gmpy2.mpz(p * p), gmpy2.mpz(q)
        self._orders = p - 1, q - 1
        self._powers = tuple(
            FixedBase(public.h % modulus, modulus, order.bit_length(), window_bits=10)
            for modulus, order in ((p * p, p - 1), (q, q - 1))
        )
        self._inverse = gmpy2.invert(self._squared, self._q)

    def masked(self, known: list[Any], exponents: list[int]) -> list[Any]:
        """For each the number that is known · h^r modulo p², and h^r modulo q."""
        powers = [
            base.powers([r % order for r in exponents]) for base, order in zip(self._powers, self._orders, strict=True)
        ]
        made = []
        for each, at_p, at_q in zip(known, *powers, strict=True):
            first = each * at_p % self._squared
            made.append(first + self._squared * ((at_q - first) * self._inverse % self._q))
        return made


def generate() -> PrivateKey:
    """A fresh key of exactly 2048 bits.

    Raises:
        MissingExtraError: gmpy2 is not installed.
    """
    while True:
        p = random_prime(PRIME_BITS)
        q = random_prime(MODULUS_BITS - 2 * PRIME_BITS)  # shorter than p, so another
        n = p * p * q
        if n.bit_length() == MODULUS_BITS:
            break
    powmod = gmpy2_module().powmod_sec
    while True:
        g = secrets.randbelow(n - 2) + 2
        if gcd(g, n) == 1 and powmod(g % (p * p), p - 1, p * p) != 1:
            return PrivateKey(p, PublicKey(n, g, int(powmod(g, n, n))))


def _within(bound: int) -> int:
    if not 0 <= bound < _LIMIT:
        raise TooLargeError(f"okamoto-uchiyama message: expected a bound below 2^{MESSAGE_BITS}")
    return bound
