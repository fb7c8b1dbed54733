"""Signed JSON: one encoding, nothing repeated, nothing altered."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from hanse.core.errors import CodecError, HanseError, TooLargeError, TrustError
from hanse.trust.statements import make_statement, parse_json, read_field, read_hex, read_statement

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
    with pytest.raises(CodecError, match="version 1"):
        read_statement(KEY.public_key(), "test", STATEMENT.replace(b'"v":1', b'"v":2'))


@pytest.mark.parametrize(
    "content",
    [
        b'{"a":1,"a":2}',
        b'{"a": 1}',
        b'{"b":1,"a":2}',
        b'{"a":NaN}',
        b'{"a":1e999}',
        b'{"a":"\\u00e9"}',
        b'{"a":"\\ud800"}',
        b"[1]",
        b"",
        b"\xff",
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'{"a":' + b"9" * 5000 + b"}",
    ],
)
def test_json_has_one_form(content: bytes) -> None:
    with pytest.raises(CodecError):
        parse_json(content, what="test")


def test_size_is_checked_before_parsing() -> None:
    with pytest.raises(TooLargeError, match="65536"):
        parse_json(b"x" * 65537, what="test")


@pytest.mark.parametrize("text", ["AB", "a", "ab ", " ab", "ab\n", "zz", 5, None, "é0"])
def test_hex_has_one_form(text: object) -> None:
    with pytest.raises(CodecError):
        read_hex(text, "field")


def test_a_bool_is_no_int() -> None:
    with pytest.raises(CodecError, match="found bool"):
        read_field({"n": True}, "n", int, "test")
