"""JSON from outside: one form, exact types, a size."""

import subprocess
import sys

import pytest

from hanse.core.errors import CodecError, TooLargeError
from hanse.trust.strict_json import parse_json, read_field, read_hex


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


def test_unpacking_a_bundle_loads_no_cryptography() -> None:
    script = "import sys, hanse.trust.bundle; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
