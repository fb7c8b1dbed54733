"""Signed JSON: a body, what kind of statement it is, and a signature over the body's canonical form.

    {"body":{…},"sig":"<hex>","type":"member-record","v":1}

The bytes are canonical as a whole (one statement, one encoding). Unknown fields of a body are kept and covered by
the signature; an unknown `v` is refused. Used for member records, revocation lists, heads of the audit log and
approvals of bundles.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from hanse.core.codec import canonical_json
from hanse.core.errors import CodecError, TooLargeError, TrustError
from hanse.trust.signing import PrivateKey, PublicKey, sign, verify

VERSION = 1
MAX_BYTES = 64 * 1024

_T = TypeVar("_T")
_HEX = re.compile(r"(?:[0-9a-f]{2})*")


def make_statement(key: PrivateKey, kind: str, body: Mapping[str, Any]) -> bytes:
    """Sign `body` as a statement of `kind`.

    **Guarantee.** As `signing.sign`, with `kind` as the context: a statement of one kind is none of another.
    **Reveals.** The body, to everyone who sees it.
    """
    signature = sign(key, kind, canonical_json(dict(body)))
    return canonical_json({"v": VERSION, "type": kind, "body": dict(body), "sig": signature.hex()})


def read_statement(key: PublicKey, kind: str, content: bytes, *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The body of a statement of `kind` that `key` signed.

    Raises:
        TooLargeError: longer than `max_bytes`. CodecError: not such a statement.
        TrustError: not signed by `key`, or of another kind.
    """
    outer = parse_json(content, what=kind, max_bytes=max_bytes)
    body, signature = outer.get("body"), outer.get("sig")
    if set(outer) != {"v", "type", "body", "sig"} or not isinstance(body, dict) or not isinstance(signature, str):
        raise CodecError(f"{kind}: expected the fields v, type, body and sig")
    if outer["v"] != VERSION or outer["v"] is True:
        raise CodecError(f"{kind}: expected version {VERSION}; update the older of the two programs")
    if outer["type"] != kind:
        raise TrustError(f"expected a statement of type {kind}, found another type")
    verify(key, kind, canonical_json(body), read_hex(signature, "sig"))
    return body


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
