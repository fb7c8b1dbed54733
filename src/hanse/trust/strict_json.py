"""JSON from outside, read strictly: one value has one encoding, and every field is of exactly its type.

Canonical form is `hanse.core.codec.canonical_json`'s. Not a schema language: the records here have few fields, and
each says what it expects where it reads them. Loads no cryptography, so that a worker can unpack a bundle without.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from hanse.core.codec import canonical_json
from hanse.core.errors import CodecError, TooLargeError

MAX_BYTES = 64 * 1024

_T = TypeVar("_T")
_HEX = re.compile(r"(?:[0-9a-f]{2})*")


def parse_json(content: bytes, *, what: str, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """One JSON object in canonical form: no repeated keys, no NaN, no second way to write the same value.

    Raises:
        TooLargeError: longer than `max_bytes`. CodecError: anything else.
    """
    if len(content) > max_bytes:
        raise TooLargeError(f"{what}: expected at most {max_bytes} bytes, found {len(content)}")
    try:
        value = json.loads(content)
        canonical = canonical_json(value)
    except (ValueError, RecursionError):
        raise CodecError(f"{what}: expected canonical JSON") from None
    if canonical != content or not isinstance(value, dict):
        raise CodecError(f"{what}: expected one JSON object in canonical form")
    return value


def read_hex(text: object, what: str, *, size: int | None = None) -> bytes:
    """Bytes from lower-case hexadecimal digits.

    Raises:
        CodecError: not that, or not `size` bytes.
    """
    if not isinstance(text, str) or _HEX.fullmatch(text) is None or (size is not None and len(text) != 2 * size):
        expected = "an even number of" if size is None else str(2 * size)
        raise CodecError(f"{what}: expected {expected} lower-case hexadecimal digits")
    return bytes.fromhex(text)


def read_field(body: Mapping[str, Any], name: str, kind: type[_T], what: str) -> _T:
    """`body[name]`, of exactly the type `kind` (a bool is no int).

    Raises:
        CodecError: missing or of another type.
    """
    value = body.get(name)
    if type(value) is not kind:
        raise CodecError(f"{what}: expected {name} as {kind.__name__}, found {type(value).__name__}")
    return value
