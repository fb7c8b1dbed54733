"""Signed JSON: one encoding, nothing repeated, nothing altered."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from hanse.core.errors import CodecError, HanseError, TrustError
from hanse.trust.statements import make_statement, read_statement

KEY = Ed25519PrivateKey.generate()
BODY = {"name": "a", "n": 3, "list": [1, "é"], "future": {"unknown": True}}
STATEMENT = make_statement(KEY, "test", BODY)


def test_round_trip_keeps_unknown_fields() -> None:
    assert read_statement(KEY.public_key(), "test", STATEMENT) == BODY


@given(st.integers(min_value=0, max_value=len(STATEMENT) * 8 - 1))
def test_no_bit_can_be_flipped(bit: int) -> None:
    changed = bytearray(STATEMENT)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(HanseError):
        read_statement(KEY.public_key(), "test", bytes(changed))


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(HanseError):
        read_statement(KEY.public_key(), "test", content)


def test_another_kind_key_or_version_is_refused() -> None:
    with pytest.raises(TrustError, match="type"):
        read_statement(KEY.public_key(), "other", STATEMENT)
    renamed = STATEMENT.replace(b'"type":"test"', b'"type":"other"')
    with pytest.raises(TrustError, match="signature"):
        read_statement(KEY.public_key(), "other", renamed)
    with pytest.raises(TrustError, match="signature"):
        read_statement(Ed25519PrivateKey.generate().public_key(), "test", STATEMENT)
    for version in (b"2", b"true", b"1.0", b'"1"'):
        with pytest.raises(CodecError, match="version 1"):
            read_statement(KEY.public_key(), "test", STATEMENT.replace(b'"v":1', b'"v":' + version))
