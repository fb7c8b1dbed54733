"""Signed envelopes: a member's word for one message, its names and its body.

Signed is the BLAKE3 of `Envelope.signed_bytes()`, not the bytes themselves: an inline update is 64 KiB, and Ed25519
reads its message twice with a slow hash. What the body means, and whether it may come now, is the receiver's matter.
"""

from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from hanse.core.blobs import content_hash
from hanse.core.records import Envelope
from hanse.trust.signing import ENVELOPE, sign, verify


def sign_envelope(key: Ed25519PrivateKey, envelope: Envelope) -> Envelope:
    """The envelope with its sender's signature.

    **Guarantee.** `verify_envelope` takes no envelope that differs in anything but `deadline_s` (EUF-CMA of Ed25519,
    collision resistance of BLAKE3).
    **Reveals.** Nothing beyond the envelope.

    Args:
        key: the sender's signing key.
        envelope: `sig` and `deadline_s` are not covered.
    """
    return replace(envelope, sig=sign(key, ENVELOPE, content_hash(envelope.signed_bytes())))


def verify_envelope(public_key: Ed25519PublicKey, envelope: Envelope) -> None:
    """Return if the holder of this key signed this envelope.

    Args:
        public_key: the sender's, from its member record (`load_signing_key`).
        envelope: as received.

    Raises:
        TrustError: altered, by another key, or not signed.
    """
    verify(public_key, ENVELOPE, content_hash(envelope.signed_bytes()), envelope.sig)
