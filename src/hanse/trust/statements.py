"""Signed JSON: a body, what kind of statement it is, and a signature over the body's canonical form.

    {"body":{…},"sig":"<hex>","type":"member-record","v":1}

The bytes are canonical as a whole (one statement, one encoding). Unknown fields of a body are kept and covered by
the signature; an unknown `v` is refused. Used for member records, revocation lists, heads of the audit log and
approvals of bundles.
"""

from collections.abc import Mapping
from typing import Any

from hanse.core.codec import canonical_json
from hanse.core.errors import CodecError, TrustError
from hanse.trust.signing import PrivateKey, PublicKey, sign, verify
from hanse.trust.strict_json import MAX_BYTES, parse_json, read_hex

VERSION = 1


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
    if type(outer["v"]) is not int or outer["v"] != VERSION:
        raise CodecError(f"{kind}: expected version {VERSION}; update the older of the two programs")
    if outer["type"] != kind:
        raise TrustError(f"expected a statement of type {kind}, found another type")
    verify(key, kind, canonical_json(body), read_hex(signature, "sig"))
    return body
