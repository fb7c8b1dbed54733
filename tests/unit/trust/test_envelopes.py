"""Signatures of envelopes: any change is noticed, except to the time that is left."""

from dataclasses import fields, replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hanse.core.errors import TrustError
from hanse.core.records import Envelope
from hanse.trust.envelopes import sign_envelope, verify_envelope
from hanse.trust.signing import sign

KEY = Ed25519PrivateKey.generate()
PLAIN = Envelope("a", "server", "j/c/1/train/0", "reply", b"body", "lubeck", "j", "c", seq=3, deadline_s=5.0)
CHANGES = {"seq": 4, "sealed": True, "sig": b"x" * 64, "body": b"bodx", "v": 2}


def test_round_trip() -> None:
    signed = sign_envelope(KEY, PLAIN)
    verify_envelope(KEY.public_key(), signed)
    verify_envelope(KEY.public_key(), Envelope.unpack(signed.pack()))
    verify_envelope(KEY.public_key(), replace(signed, deadline_s=1.0))  # changes when it is sent again


@pytest.mark.parametrize("name", [each.name for each in fields(Envelope) if each.name != "deadline_s"])
def test_any_other_change_is_noticed(name: str) -> None:
    signed = sign_envelope(KEY, PLAIN)
    with pytest.raises(TrustError):
        verify_envelope(KEY.public_key(), replace(signed, **{name: CHANGES.get(name, "other")}))  # type: ignore[arg-type]


def test_another_key_or_purpose_or_none() -> None:
    with pytest.raises(TrustError):
        verify_envelope(Ed25519PrivateKey.generate().public_key(), sign_envelope(KEY, PLAIN))
    with pytest.raises(TrustError):
        verify_envelope(KEY.public_key(), PLAIN)
    with pytest.raises(TrustError):
        verify_envelope(KEY.public_key(), replace(PLAIN, sig=sign(KEY, "envelope", PLAIN.signed_bytes())))
