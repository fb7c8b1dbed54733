"""The server's identity where there is no server: one secret, read by the functions, and never the authority's key.

What it can do is sign messages to sites and open what sites send. It cannot let anybody into the federation: the
authority's key stays with the operator.
"""

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hanse.core.codec import canonical_json
from hanse.core.errors import CodecError, ConfigError, TrustError
from hanse.core.ids import SERVER
from hanse.trust.member_record import MemberRecord, verify_record
from hanse.trust.membership import Membership
from hanse.trust.strict_json import parse_json, read_field, read_hex

_WHAT = "server keys"


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """What `unpack` reads.

    Args:
        record: the server's member record, which the authority signed; sites check its signatures with it.
        least_revocations: the version of the revocation list that the operator wrote last. An older one in the ledger
            would bring revoked members back; who can write the ledger cannot write the secret.
    """

    federation: str
    authority_pem: bytes
    record: bytes
    signing: Ed25519PrivateKey = field(repr=False)
    least_revocations: int = 0


def pack(membership: Membership, least_revocations: int = 0) -> str:
    """The secret's text for a server's membership. Secret.

    Raises:
        ConfigError: not a server's.
    """
    if membership.identity.kind != SERVER:
        raise ConfigError(f"{_WHAT}: expected the server's membership, found that of {membership.identity}")
    return canonical_json(
        {
            "v": 1,
            "federation": membership.identity.federation,
            "authority": membership.authority_pem.decode(),
            "record": membership.signed_record.decode(),
            "signing": membership.keys.signing.private_bytes_raw().hex(),
            "least_revocations": least_revocations,
        }
    ).decode()


def unpack(text: str) -> ServerIdentity:
    """Read what `pack` wrote.

    Raises:
        ConfigError: it is something else. TrustError: key and record do not belong together, or do not hold now.
    """
    try:
        body = parse_json(text.encode(), what=_WHAT)
        if read_field(body, "v", int, _WHAT) != 1:
            raise CodecError(f"{_WHAT}: expected version 1")
        authority = read_field(body, "authority", str, _WHAT).encode()
        content = read_field(body, "record", str, _WHAT).encode()
        signing = Ed25519PrivateKey.from_private_bytes(read_hex(body.get("signing"), "signing", size=32))
        federation = read_field(body, "federation", str, _WHAT)
        least = read_field(body, "least_revocations", int, _WHAT)
    except CodecError as error:
        raise ConfigError(f"{_WHAT}: {error}; write the secret again with `hanse deploy aws deploy`") from None
    record = server_record(content, authority, federation)
    if record.signing_key != signing.public_key().public_bytes_raw():
        raise TrustError(f"{_WHAT}: the key is not the one that the authority certified")
    return ServerIdentity(federation, authority, content, signing, least)


def least_of(text: str) -> int:
    """`ServerIdentity.least_revocations` of a secret, whether or not the rest of it holds now; 0 where it says none."""
    try:
        least = parse_json(text.encode(), what=_WHAT).get("least_revocations", 0)
    except CodecError:
        return 0
    return least if type(least) is int and least > 0 else 0


def server_record(content: bytes, authority_pem: bytes, federation: str) -> MemberRecord:
    """A member record that is the server's.

    Raises:
        TrustError, CodecError: it is not, or does not hold now.
    """
    record = verify_record(content, authority_pem)
    if (record.kind, record.federation) != (SERVER, federation):
        raise TrustError(f"expected the record of the server of {federation}, found one of {record.kind} {record.name}")
    return record
