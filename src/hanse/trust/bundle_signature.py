"""A person's word for a bundle: this app, by me, for this federation.

Kept beside the bundle and not in it, so that one bundle has one id whoever submits it. The site checks it against
the person's member record, and its policy decides whether that person may run this app.
"""

from hanse.core.errors import ConfigError, TrustError
from hanse.trust.certificates import PERSON, current_ms
from hanse.trust.member_record import MemberRecord
from hanse.trust.signing import PrivateKey, load_signing_key
from hanse.trust.statements import make_statement, read_statement
from hanse.trust.strict_json import read_field

_KIND = "bundle-signature"


def sign_bundle(key: PrivateKey, *, bundle_id: str, federation: str, person: str, now_ms: int | None = None) -> bytes:
    """Sign a bundle's id.

    **Guarantee.** The holder of `key` signed exactly this content, for this federation.
    **Reveals.** The id, the person's name, the time.

    Args:
        key: the person's signing key.
        bundle_id: `Bundle.id`.
        federation: where it is submitted.
        person: the person's name.
        now_ms: the time; None for now.
    """
    signed_at_ms = current_ms() if now_ms is None else now_ms
    body = {"bundle": bundle_id, "federation": federation, "person": person, "signed_at_ms": signed_at_ms}
    return make_statement(key, _KIND, body)


def verify_bundle_signature(content: bytes, *, bundle_id: str, record: MemberRecord) -> int:
    """Check that the person of a verified member record signed this bundle.

    Args:
        content: what `sign_bundle` wrote.
        bundle_id: the id computed from the received bundle, never one that was told.
        record: from `verify_record`.

    Returns:
        When it was signed by the person's clock: milliseconds since 1970, UTC.

    Raises:
        TrustError: another bundle, person, key or federation. CodecError: not a signature.
        ConfigError: the record is not a person's.
    """
    if record.kind != PERSON:
        raise ConfigError(f"expected the member record of a person, found one of a {record.kind}")
    body = read_statement(load_signing_key(record.signing_key), _KIND, content)
    expected = {"bundle": bundle_id, "federation": record.federation, "person": record.name}
    for name, value in expected.items():
        if read_field(body, name, str, _KIND) != value:
            raise TrustError(f"the signature is for another {name} than this one")
    return read_field(body, "signed_at_ms", int, _KIND)
