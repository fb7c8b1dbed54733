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
from collections.abc import Iterable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from hanse.core.errors import RefusedError
from hanse.crypto.gmp import gmpy2_module

P = 2**255 - 19
A = 486662
POINT_BYTES = 32

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


def multiply(secret: X25519PrivateKey, points: Iterable[bytes]) -> list[bytes]:
    """X25519 of every point: 32 bytes each.

    A point on the twist is multiplied as well: the twist is as strong as the curve, and clamped scalars clear its
    cofactor.

    Raises:
        RefusedError: a point of low order or zero, whose product would not depend on the secret.
    """
    exchange, load = secret.exchange, X25519PublicKey.from_public_bytes
    try:
        return [exchange(load(point)) for point in points]
    except ValueError:
        raise RefusedError("points: expected points of 32 bytes and of large order, found another") from None
