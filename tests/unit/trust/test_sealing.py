"""Sealed payloads: only the recipient, only in their place, only unaltered."""

import hashlib
import hmac
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from hanse.core.errors import CodecError, HanseError, TooLargeError, TrustError
from hanse.trust import sealing
from hanse.trust.identity import MemberKeys
from hanse.trust.sealing import SealContext, check_sealing_key, open_sealed, seal
from hanse.trust.signing import SEALED as SEALED_CONTEXT
from hanse.trust.signing import sign

ANNA, BEN, EVE = (MemberKeys.generate() for _ in range(3))
PLACE = SealContext("lubeck", "job1", "train", "a", "b", "shares", 7)
PAYLOAD = b"shares of something"

# Points of order 1, 2, 4 and 8 on Curve25519 and its twist, from RFC 7748 and https://cr.yp.to/ecdh.html#validate
LOW_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


def sealed_by_anna(payload: bytes = PAYLOAD, place: SealContext = PLACE) -> bytes:
    return seal(payload, recipient_key=BEN.sealing_public, context=place, signing_key=ANNA.signing)


def opened_by_ben(sealed: bytes, place: SealContext = PLACE, *, anonymous: bool = False) -> bytes:
    sender_key = None if anonymous else ANNA.signing_public
    return open_sealed(sealed, key=BEN.sealing, context=place, sender_key=sender_key)


@given(st.binary(max_size=2000))
def test_round_trip(payload: bytes) -> None:
    sealed = sealed_by_anna(payload)
    assert len(sealed) == len(payload) + 114
    assert opened_by_ben(sealed) == payload
    anonymous = seal(memoryview(payload), recipient_key=BEN.sealing_public, context=PLACE, signing_key=None)
    assert len(anonymous) == len(payload) + 50
    assert opened_by_ben(anonymous, anonymous=True) == payload


def test_equal_payloads_look_different() -> None:
    assert sealed_by_anna()[34:] != sealed_by_anna()[34:]
    assert PAYLOAD not in sealed_by_anna()


SEALED = sealed_by_anna()
ANONYMOUS = seal(PAYLOAD, recipient_key=BEN.sealing_public, context=PLACE, signing_key=None)


@given(st.integers(0, len(SEALED) * 8 - 1))
def test_no_bit_can_be_flipped(bit: int) -> None:
    changed = bytearray(SEALED)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(HanseError):
        opened_by_ben(bytes(changed))


@given(st.integers(0, len(ANONYMOUS) * 8 - 1))
def test_no_bit_of_an_anonymous_one_can_be_flipped(bit: int) -> None:
    changed = bytearray(ANONYMOUS)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(HanseError):
        opened_by_ben(bytes(changed), anonymous=True)


@given(st.integers(0, len(SEALED) - 1))
def test_none_of_it_can_be_cut_off(length: int) -> None:
    with pytest.raises(HanseError):
        opened_by_ben(SEALED[:length])
    with pytest.raises(HanseError):
        opened_by_ben(SEALED + b"\0" * (length + 1))


@given(st.binary(max_size=300))
def test_random_bytes_do_not_open(content: bytes) -> None:
    with pytest.raises(HanseError):
        opened_by_ben(content, anonymous=True)
    with pytest.raises(HanseError):
        opened_by_ben(b"\x01\x01" + content)


@pytest.mark.parametrize(
    "change",
    [
        {"federation": "other"},
        {"job": "job2"},
        {"component": "other"},
        {"sender": "c"},
        {"recipient": "c"},
        {"name": "other"},
        {"seq": 8},
        {"job": "job1t", "component": "rain"},
    ],
)
@pytest.mark.parametrize("anonymous", [False, True])
def test_it_opens_in_its_place_only(change: dict[str, object], anonymous: bool) -> None:
    place = replace(PLACE, **change)  # type: ignore[arg-type]
    with pytest.raises(TrustError, match="does not open" if anonymous else "signature"):
        opened_by_ben(ANONYMOUS if anonymous else SEALED, place, anonymous=anonymous)


def test_the_signature_covers_the_ciphertext_too() -> None:
    """Or else the recipient, who knows the key, could show a payload of its own as the sender's."""
    changed = SEALED[:-1] + bytes([SEALED[-1] ^ 1])
    with pytest.raises(TrustError, match="signature"):
        opened_by_ben(changed)


def test_only_the_recipient_opens_it() -> None:
    with pytest.raises(TrustError):
        open_sealed(SEALED, key=EVE.sealing, context=PLACE, sender_key=ANNA.signing_public)
    with pytest.raises(TrustError, match="does not open"):
        open_sealed(ANONYMOUS, key=EVE.sealing, context=PLACE, sender_key=None)


def test_the_sender_is_who_signed() -> None:
    with pytest.raises(TrustError, match="signature"):
        open_sealed(SEALED, key=BEN.sealing, context=PLACE, sender_key=EVE.signing_public)
    with pytest.raises(TrustError, match="anonymous"):
        opened_by_ben(ANONYMOUS)
    stripped = bytes((1, 0)) + SEALED[2:34] + SEALED[98:]
    with pytest.raises(TrustError, match="anonymous"):
        opened_by_ben(stripped)
    assert opened_by_ben(SEALED, anonymous=True) == PAYLOAD


def test_nobody_puts_their_name_on_anothers_payload() -> None:
    """Eve takes off Anna's signature and signs the ciphertext herself: Ben expects it from Eve, and it stays shut."""
    eves_place = replace(PLACE, sender="eve")
    digest = sealing._signed(eves_place.encode(), SEALED[2:34], BEN.sealing_public, SEALED[98:])
    forged = SEALED[:34] + sign(EVE.signing, SEALED_CONTEXT, digest) + SEALED[98:]
    with pytest.raises(TrustError, match="does not open"):
        open_sealed(forged, key=BEN.sealing, context=eves_place, sender_key=EVE.signing_public)


@pytest.mark.parametrize("point", LOW_ORDER)
def test_points_of_low_order_share_no_secret(point: str) -> None:
    raw = bytes.fromhex(point)
    with pytest.raises(TrustError, match="small order"):
        check_sealing_key(raw)
    with pytest.raises(TrustError, match="small order"):
        seal(PAYLOAD, recipient_key=raw, context=PLACE, signing_key=None)
    with pytest.raises(TrustError, match="small order"):
        opened_by_ben(bytes((1, 0)) + raw + ANONYMOUS[34:], anonymous=True)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_recipient_keys_have_32_bytes(size: int) -> None:
    with pytest.raises(TrustError, match="32 bytes"):
        seal(PAYLOAD, recipient_key=bytes(range(size)), context=PLACE, signing_key=None)


def test_versions_and_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CodecError, match="version 1"):
        opened_by_ben(b"\x02" + SEALED[1:])
    monkeypatch.setattr(sealing, "MAX_BYTES", 10)
    with pytest.raises(TooLargeError):
        sealed_by_anna(bytes(11))
    with pytest.raises(TooLargeError):
        opened_by_ben(SEALED)


def test_the_key_is_derived_as_written() -> None:
    """A slow reference: RFC 5869's HKDF with hmac, over the exchange of RFC 7748."""
    shared = BEN.sealing.exchange(X25519PublicKey.from_public_bytes(ANONYMOUS[2:34]))
    fields = [b"lubeck", b"job1", b"train", b"a", b"b", b"shares"]
    bound = b"".join(len(field).to_bytes(4, "big") + field for field in fields) + (7).to_bytes(8, "big")
    extracted = hmac.digest(bytes(32), shared, hashlib.sha256)
    info = b"hanse/1\0seal\0" + ANONYMOUS[2:34] + BEN.sealing_public + bound
    key = hmac.digest(extracted, info + b"\x01", hashlib.sha256)
    assert AESGCM(key).decrypt(bytes(12), ANONYMOUS[34:], bound) == PAYLOAD
