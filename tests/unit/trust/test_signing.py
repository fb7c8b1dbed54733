"""Signatures: round trips, contexts, alterations, and public keys that must not be taken."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from hanse.core.errors import TrustError
from hanse.trust.signing import PrivateKey, load_signing_key, sign, verify

P = 2**255 - 19
D = -121665 * pow(121666, P - 2, P) % P
ED = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEYS: list[PrivateKey] = [ED, generate_private_key(SECP256R1())]


@pytest.mark.parametrize("key", KEYS)
@given(message=st.binary(max_size=200), flip=st.integers(min_value=0))
def test_holds_for_its_message_and_no_other(key: PrivateKey, message: bytes, flip: int) -> None:
    signature = sign(key, "envelope", message)
    verify(key.public_key(), "envelope", message, signature)
    with pytest.raises(TrustError):
        verify(key.public_key(), "envelope", message + b"\0", signature)
    with pytest.raises(TrustError):
        verify(key.public_key(), "call", message, signature)
    changed = bytearray(signature)
    changed[flip // 8 % len(signature)] ^= 1 << flip % 8
    with pytest.raises(TrustError):
        verify(key.public_key(), "envelope", message, bytes(changed))


@pytest.mark.parametrize("signature", [b"", bytes(64), bytes(63), bytes(100)])
@pytest.mark.parametrize("key", KEYS)
def test_refuses_malformed_signatures(key: PrivateKey, signature: bytes) -> None:
    with pytest.raises(TrustError):
        verify(key.public_key(), "envelope", b"", signature)


def test_context_and_message_cannot_be_shifted_into_each_other() -> None:
    signature = sign(ED, "a", b"b\0message")
    with pytest.raises(TrustError):
        verify(ED.public_key(), "a-b", b"message", signature)


@pytest.mark.parametrize("context", ["", "A", "a b", "a\0b", "1", "x" * 33])
def test_refuses_a_context_that_could_be_ambiguous(context: str) -> None:
    with pytest.raises(ValueError, match="context"):
        sign(ED, context, b"")


def test_ed25519_with_s_plus_the_group_order_is_refused() -> None:
    """Malleability (Wycheproof 'SignatureMalleability'): S + L satisfies the same equation."""
    order = 2**252 + 27742317777372353535851937790883648493
    signature = sign(ED, "envelope", b"x")
    moved = (int.from_bytes(signature[32:], "little") + order).to_bytes(32, "little")
    with pytest.raises(TrustError):
        verify(ED.public_key(), "envelope", b"x", signature[:32] + moved)


def _double(point: tuple[int, int]) -> tuple[int, int]:
    x, y = point
    product = D * x * x % P * y % P * y % P
    return (
        2 * x * y * pow(1 + product, P - 2, P) % P,
        (y * y + x * x) * pow(1 - product, P - 2, P) % P,
    )


def _x_of(y: int) -> int | None:
    return _root((y * y - 1) * pow(D * y * y + 1, P - 2, P) % P)


def _root(square: int) -> int | None:
    root = pow(square, (P + 3) // 8, P)
    if root * root % P != square % P:
        root = root * pow(2, (P - 1) // 4, P) % P
    return root if root * root % P == square % P else None


def _small_order_ys() -> set[int]:
    """Every y of a point whose order divides 8, on -x² + y² = 1 + d·x²·y².

    Orders 1 and 2 are (0, ±1), order 4 is (±√-1, 0). Doubling a point of order 8 gives y = 0, so y² + x² = 0; put
    into the curve's equation, 2y² = 1 - d·y⁴, and y² = (-1 ± √(1 + d)) / d.
    """
    found = {1, P - 1, 0}
    root = _root(1 + D)
    assert root is not None
    for candidate in (root, P - root):
        y = _root((candidate - 1) * pow(D, P - 2, P) % P)
        if y is not None:
            found |= {y, P - y}
    return found


def test_every_point_of_small_order_is_refused_and_is_one() -> None:
    ys = _small_order_ys()
    assert len(ys) == 5
    for y in ys:
        x = _x_of(y)
        assert x is not None
        point = (x, y)
        for _ in range(3):
            point = _double(point)
        assert point == (0, 1)
        for sign_bit in (0, 1):
            with pytest.raises(TrustError, match="small order"):
                load_signing_key((y | sign_bit << 255).to_bytes(32, "little"))


@pytest.mark.parametrize("y", [P, P + 1, 2**255 - 1])
def test_refuses_public_keys_that_are_not_canonical(y: int) -> None:
    with pytest.raises(TrustError):
        load_signing_key(y.to_bytes(32, "little"))


def test_under_a_small_order_key_the_library_would_take_anything() -> None:
    """Why the check exists: should this fail one day, the check may go."""
    identity = (1).to_bytes(32, "little")
    verify(Ed25519PublicKey.from_public_bytes(identity), "envelope", b"never signed", identity + bytes(32))


@pytest.mark.parametrize("size", [0, 31, 33])
def test_refuses_keys_of_other_sizes(size: int) -> None:
    with pytest.raises(TrustError, match="32 bytes"):
        load_signing_key(bytes(size))
