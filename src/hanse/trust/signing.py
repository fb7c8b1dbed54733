"""Signatures that hold for one purpose only: Ed25519 (RFC 8032) for members, ECDSA P-256 for the authority.

Every signature covers `"hanse/1" 00 context 00 message`, so that what was signed as an envelope can never be
shown as a bundle's approval. Contexts are the constants below; a new use gets a new one.

Not here: which key belongs to whom (`member_record`), and what a message means.
"""

import re
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from hanse.core.errors import TrustError

ENVELOPE = "envelope"
CALL = "call"
SEALED = "sealed"
AUDIT_LINE = "audit-line"

PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey
PublicKey = Ed25519PublicKey | EllipticCurvePublicKey

_CONTEXT = re.compile(r"[a-z][a-z0-9-]{0,31}")
_FIELD_PRIME = 2**255 - 19


def sign(key: PrivateKey, context: str, message: bytes | memoryview) -> bytes:
    """Sign `message` for the purpose `context`.

    **Guarantee.** Nobody without `key` makes a signature that `verify` takes for this context and message
    (EUF-CMA of Ed25519, or of ECDSA over P-256 with SHA-256).
    **Reveals.** The message is not hidden; a guess at it can be checked against the signature.

    Args:
        key: the signer's.
        context: 1 to 32 characters of a-z, 0-9 and '-'.
        message: what is signed; for large content sign its hash.

    Returns:
        64 bytes for Ed25519; at most 72 bytes of DER for ECDSA.
    """
    framed = _frame(context, message)
    return key.sign(framed) if isinstance(key, Ed25519PrivateKey) else key.sign(framed, ECDSA(SHA256()))


def verify(key: PublicKey, context: str, message: bytes | memoryview, signature: bytes) -> None:
    """Return if `signature` is `key`'s over `message` for `context`.

    Raises:
        TrustError: it is not.
    """
    framed = _frame(context, message)
    try:
        if isinstance(key, Ed25519PublicKey):
            key.verify(signature, framed)
        else:
            key.verify(signature, framed, ECDSA(SHA256()))
    except InvalidSignature:
        raise TrustError(f"the signature of this {context} does not hold: altered, or by another key") from None


def _frame(context: str, message: bytes | memoryview) -> bytes:
    if _CONTEXT.fullmatch(context) is None:
        raise ValueError(f"context: expected a-z, 0-9 and '-', at most 32 characters, found {context!r}")
    return b"".join((b"hanse/1\0", context.encode(), b"\0", message))


@lru_cache(maxsize=4096)
def load_signing_key(raw: bytes) -> Ed25519PublicKey:
    """The public key in 32 raw bytes.

    Points of small order are refused: the library takes them, and under such a key one signature fits many
    messages, so that its owner could deny what it signed (Wycheproof and RFC 8032 leave this to the caller).

    Raises:
        TrustError: not 32 bytes, no curve point in canonical form, or of small order.
    """
    if len(raw) != 32:
        raise TrustError(f"expected an Ed25519 public key of 32 bytes, found {len(raw)}")
    y = int.from_bytes(raw, "little") & (2**255 - 1)
    if y >= _FIELD_PRIME or y in _SMALL_ORDER_Y:
        raise TrustError("expected a canonical Ed25519 public key, found one of small order or not canonical")
    return Ed25519PublicKey.from_public_bytes(raw)


_ORDER_8_Y = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
# y-coordinates of the eight points whose order divides 8: (0,1), (0,-1), (±√-1,0) and the four of order 8.
_SMALL_ORDER_Y = frozenset(
    {
        0,
        1,
        _FIELD_PRIME - 1,
        _ORDER_8_Y,
        _FIELD_PRIME - _ORDER_8_Y,
    }
)
