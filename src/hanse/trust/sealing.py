"""Payloads from one site to another that the server relays and cannot read.

Ephemeral-static X25519 (RFC 7748), HKDF-SHA256 (RFC 5869), AES-256-GCM (NIST SP 800-38D): the shape of HPKE's base
mode (RFC 9180), not its encoding. AES rather than ChaCha20: twice as fast where the processor has AES, which every
server of today has. The key is fresh for every message, so the nonce may be all zero.

    1 byte version · 1 byte signed or not · 32 bytes ephemeral key · [64 bytes signature] · ciphertext and tag

Not here: forward secrecy towards the recipient (who later steals its sealing key opens old messages), and protection
against replay, which is the channel's: `seq` is bound in, and the receiver takes each once.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hanse.core.errors import CodecError, TooLargeError, TrustError
from hanse.trust.signing import SEALED, load_signing_key, sign, verify

MAX_BYTES = 1 << 30
"""Longest payload; larger arrays are blobs, sealed chunk by chunk."""

_VERSION = 1
_NONCE = bytes(12)
_TAG_BYTES = 16


@dataclass(frozen=True, slots=True)
class SealContext:
    """Where a payload belongs. Both sides give their own; a payload moved elsewhere does not open."""

    federation: str
    job: str
    component: str
    sender: str
    recipient: str
    name: str
    """The message's name on its channel."""
    seq: int
    """Its place among the messages of this sender and name, 0 to 2^64 - 1."""

    def encode(self) -> bytes:
        """Every field with its length before it, so that no two contexts look alike."""
        return b"".join(self._parts())

    def _parts(self) -> Iterator[bytes]:
        for text in (self.federation, self.job, self.component, self.sender, self.recipient, self.name):
            raw = text.encode()
            yield len(raw).to_bytes(4, "big") + raw
        yield self.seq.to_bytes(8, "big")


def seal(
    payload: bytes | memoryview,
    *,
    recipient_key: bytes,
    context: SealContext,
    signing_key: Ed25519PrivateKey | None,
) -> bytes:
    """Encrypt `payload` for the holder of `recipient_key`, and sign it as its sender.

    **Guarantee.** Only the holder of the recipient's private key reads it or notices nothing when it was changed
    (IND-CCA2 under gap Diffie-Hellman on Curve25519, HKDF as a random oracle; malicious server and network).
    With `signing_key`, the recipient knows the sender, and the sender cannot put its name on another's message:
    the name it was sealed under is part of what must match.
    **Reveals.** To the server: length, sender and recipient, that there was a message.

    Args:
        payload: at most `MAX_BYTES`.
        recipient_key: X25519, 32 bytes, from the recipient's verified member record.
        context: where it belongs.
        signing_key: the sender's; None for an anonymous payload.

    Returns:
        The sealed payload, 50 bytes longer than `payload`, 114 with a signature.

    Raises:
        TooLargeError: over `MAX_BYTES`. TrustError: a recipient key of small order.
    """
    if len(payload) > MAX_BYTES:
        raise TooLargeError(f"sealed payload: expected at most {MAX_BYTES} bytes, found {len(payload)}")
    ephemeral = X25519PrivateKey.generate()
    ephemeral_public = ephemeral.public_key().public_bytes_raw()
    bound = context.encode()
    key = _derive(_exchange(ephemeral, recipient_key), ephemeral_public, recipient_key, bound)
    ciphertext = AESGCM(key).encrypt(_NONCE, payload, bound)
    if signing_key is None:
        return b"".join((bytes((_VERSION, 0)), ephemeral_public, ciphertext))
    signature = sign(signing_key, SEALED, _signed(bound, ephemeral_public, recipient_key, ciphertext))
    return b"".join((bytes((_VERSION, 1)), ephemeral_public, signature, ciphertext))


def open_sealed(
    sealed: bytes | memoryview,
    *,
    key: X25519PrivateKey,
    context: SealContext,
    sender_key: bytes | None,
) -> bytes:
    """Decrypt what `seal` made for this recipient and this context.

    **Guarantee.** As `seal`. With `sender_key` given, a payload that is not signed by it is refused; with None,
    anyone may have made it.
    **Reveals.** Whether it opened, to who sees the error; not why.

    Args:
        sealed: what came.
        key: the recipient's.
        context: where the recipient expects it.
        sender_key: Ed25519, 32 bytes, from the sender's verified member record, or None to take anonymous ones.

    Raises:
        CodecError: not a sealed payload. TooLargeError: too long.
        TrustError: altered, for another recipient or context, or not from this sender.
    """
    view = memoryview(sealed)
    signed = len(view) > 1 and view[1] == 1
    start = 98 if signed else 34
    if len(view) < start + _TAG_BYTES or view[0] != _VERSION or view[1] > 1:
        raise CodecError(f"expected a sealed payload of version {_VERSION}, found other bytes or a part of one")
    if len(view) > MAX_BYTES + start + _TAG_BYTES:
        raise TooLargeError(f"sealed payload: expected at most {MAX_BYTES} bytes, found {len(view)}")
    bound, ephemeral_public, ciphertext = context.encode(), bytes(view[2:34]), view[start:]
    recipient_key = key.public_key().public_bytes_raw()
    if sender_key is not None:
        if not signed:
            raise TrustError("expected a sealed payload with its sender's signature, found an anonymous one")
        digest = _signed(bound, ephemeral_public, recipient_key, ciphertext)
        verify(load_signing_key(sender_key), SEALED, digest, bytes(view[34:98]))
    secret = _derive(_exchange(key, ephemeral_public), ephemeral_public, recipient_key, bound)
    try:
        return AESGCM(secret).decrypt(_NONCE, ciphertext, bound)
    except InvalidTag:
        raise TrustError("a sealed payload does not open: altered, or meant for another recipient or place") from None


def check_sealing_key(raw: bytes) -> None:
    """Return if `raw` may be a recipient's key.

    Raises:
        TrustError: not 32 bytes, or a point of small order, with which no secret is shared (RFC 7748, 6.1).
    """
    _exchange(X25519PrivateKey.generate(), raw)


def _exchange(key: X25519PrivateKey, public: bytes) -> bytes:
    try:
        return key.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise TrustError("expected an X25519 public key of 32 bytes, not of small order") from None


def _derive(shared: bytes, ephemeral_public: bytes, recipient_public: bytes, bound: bytes) -> bytes:
    info = b"hanse/1\0seal\0" + ephemeral_public + recipient_public + bound
    return HKDF(SHA256(), length=32, salt=None, info=info).derive(shared)


def _signed(bound: bytes, ephemeral: bytes, recipient: bytes, ciphertext: bytes | memoryview) -> bytes:
    digest = hashlib.sha256(ciphertext).digest()
    return b"".join((len(bound).to_bytes(8, "big"), bound, ephemeral, recipient, digest))
