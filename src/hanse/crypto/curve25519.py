"""Identifiers to points of curve25519, and X25519 over many points.

Encoding: A. Faz-Hernandez et al., "Hashing to Elliptic Curves", RFC 9380 (2023), suite
curve25519_XMD:SHA-512_ELL2_NU_ (Elligator 2: Bernstein, Hamburg, Krasnova, Lange, CCS 2013). Multiplication: A.
Langley, M. Hamburg, S. Turner, "Elliptic Curves for Security", RFC 7748 (2016), by way of `cryptography`.

Only the u-coordinate is computed, and the cofactor is left in: X25519's scalars are multiples of 8 and clear it. The
field arithmetic of the encoding is not constant-time; it works on a party's own identifiers, at that party.

Guarantee: `encode` has no known discrete logarithm to any base and always gives a point of the curve, never of its
twist. It is the nonuniform encoding: an image holds half of the curve's points, uniformly. For Diffie–Hellman
intersection that is enough, see docs/decisions.
"""

import hashlib
import secrets
from collections.abc import Iterable
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from hanse.core.errors import RefusedError
from hanse.crypto.gmp import EIGHTS, gmpy2_module, ladder_of

P = 2**255 - 19
A = 486662
POINT_BYTES = 32
ORDER = 2**252 + 27742317777372353535851937790883648493
"""Of the curve's large subgroup, a prime; the curve has 8 times as many points (RFC 7748, section 4.1)."""

_FIELD_BYTES = 48  # L of RFC 9380 for a 255-bit field at 128 bits of security
_SHA512_BLOCK = 128


class Encoder:
    """Byte strings to points, under one domain separation tag.

    Args:
        tag: 16 to 255 bytes that name the protocol, RFC 9380 section 3.1.

    Raises:
        MissingExtraError: gmpy2 is not installed. ValueError: a tag that is too short or too long.
    """

    def __init__(self, tag: bytes) -> None:
        if not 16 <= len(tag) <= 255:
            raise ValueError(f"expected a tag of 16 to 255 bytes, found {len(tag)}")
        gmpy2 = gmpy2_module()
        self._mpz, self._invert, self._jacobi = gmpy2.mpz, gmpy2.invert, gmpy2.jacobi
        self._p = gmpy2.mpz(P)
        tail = tag + bytes([len(tag)])
        self._before_second = b"\x01" + tail
        self._after_message = _FIELD_BYTES.to_bytes(2, "big") + b"\0" + tail
        self._padded = hashlib.sha512(bytes(_SHA512_BLOCK))

    def field_element(self, message: bytes) -> Any:
        """hash_to_field with count 1 (section 5.2): an mpz in [0, p)."""
        first = self._padded.copy()
        first.update(message)
        first.update(self._after_message)
        second = hashlib.sha512(first.digest() + self._before_second).digest()
        return self._mpz(int.from_bytes(second[:_FIELD_BYTES], "big")) % self._p

    def map(self, u: Any) -> Any:
        """map_to_curve_elligator2 (section 6.7.1), the u-coordinate alone: an mpz in [0, p)."""
        p = self._p
        t = 2 * u * u % p
        if t == p - 1:
            t = self._mpz(0)
        x = -A * self._invert(1 + t, p) % p
        g = x * (x * (x + A) + 1) % p
        return x if self._jacobi(g, p) != -1 else (-x - A) % p

    def __call__(self, message: bytes) -> bytes:
        """The point of `message`: 32 bytes, little-endian, as X25519 takes them."""
        return int(self.map(self.field_element(message))).to_bytes(POINT_BYTES, "little")


def new_secret() -> X25519PrivateKey:
    """A fresh secret scalar from the operating system's random source."""
    return X25519PrivateKey.generate()


def multiply(secret: X25519PrivateKey, points: Iterable[bytes], *, of: int = 0) -> list[bytes]:
    """X25519 of every point: 32 bytes each. Of many, eight at a time (`ladder`) where the processor can.

    Args:
        of: how many there will be with later calls, if that is known.

    A point on the twist is multiplied as well: the twist is as strong as the curve, and clamped scalars clear its
    cofactor.

    Raises:
        RefusedError: a point of low order or zero, whose product would not depend on the secret.
    """
    points = list(points)
    eight = ladder_of(max(of, len(points))) if len(points) >= EIGHTS else None
    try:
        if eight is None:
            exchange, load = secret.exchange, X25519PublicKey.from_public_bytes
            return [exchange(load(point)) for point in points]
        if set(map(len, points)) != {POINT_BYTES}:
            raise ValueError
        made = eight(secret.private_bytes_raw(), np.frombuffer(b"".join(points), np.uint8).reshape(-1, POINT_BYTES))
        if not made.any(axis=1).all():
            raise ValueError
    except ValueError:
        raise RefusedError("points: expected points of 32 bytes and of large order, found another") from None
    raw = made.tobytes()
    return [raw[at : at + POINT_BYTES] for at in range(0, len(raw), POINT_BYTES)]


class Blinding:
    """One-time factors on points, which whoever raises the points to a secret does not see through.

    A blinded point is 8·r times the point, r uniform in [1, ORDER): a uniform element of the large subgroup, whatever
    the point was. `remove` gives what the other side's secret, a multiple of 8 as all of X25519's, makes of the point
    itself. The multiplications here are not constant-time; each factor is used once.

    Args:
        points: of the curve.

    Raises:
        MissingExtraError: gmpy2 is not installed.
    """

    def __init__(self, points: Iterable[bytes]) -> None:
        gmpy2 = gmpy2_module()
        self._mpz, self._invert = gmpy2.mpz, gmpy2.invert
        self._p, self._order = gmpy2.mpz(P), gmpy2.mpz(ORDER)
        self._factors: list[Any] = []
        self.points: list[bytes] = []
        for point in points:
            factor = 8 * (1 + secrets.randbelow(ORDER - 1))
            self._factors.append(factor)
            self.points.append(self.times(factor, point))

    def remove(self, answers: Iterable[bytes]) -> list[bytes]:
        """The answers without the factors, in the order of the points; 32 bytes each.

        Raises:
            RefusedError: an answer of low order, which does not depend on the point.
        """
        factors, self._factors = self._factors, []
        return [
            self.times(int(self._invert(factor, self._order)), answer)
            for factor, answer in zip(factors, answers, strict=True)
        ]

    def times(self, scalar: int, point: bytes) -> bytes:
        """`scalar` times a point, for any scalar: the Montgomery ladder of RFC 7748, section 5.

        Raises:
            RefusedError: the product is the neutral element.
        """
        p = self._p
        x1 = self._mpz(int.from_bytes(point, "little") & ((1 << 255) - 1)) % p
        x2, z2, x3, z3 = self._mpz(1), self._mpz(0), x1, self._mpz(1)
        a24 = (A - 2) // 4
        for bit in bin(scalar)[2:]:
            if bit == "1":
                x2, z2, x3, z3 = x3, z3, x2, z2
            total, difference = x2 + z2, x2 - z2
            aa, bb = total * total % p, difference * difference % p
            da, cb = (x3 - z3) * total % p, (x3 + z3) * difference % p
            e = aa - bb
            x3, z3 = (da + cb) ** 2 % p, x1 * ((da - cb) ** 2 % p) % p
            x2, z2 = aa * bb % p, e * (aa + a24 * e) % p
            if bit == "1":
                x2, z2, x3, z3 = x3, z3, x2, z2
        if z2 % p == 0:
            raise RefusedError("points: expected points of 32 bytes and of large order, found another")
        return int(x2 * self._invert(z2, p) % p).to_bytes(POINT_BYTES, "little")
