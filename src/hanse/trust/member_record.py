"""What the authority says about a member: these three keys belong to this name, until then; and a person's roles.

The record binds the signing and the sealing key to the TLS certificate, so that a reply, a payload and a connection
can be checked to come from the same member. It is public; the private keys never left the member.
"""

from dataclasses import dataclass
from typing import Any

from hanse.core.errors import CodecError, ConfigError, TrustError
from hanse.core.ids import check_name
from hanse.trust.certificates import PERSON, SKEW_MS, Identity, authority_key, check_kind, current_ms
from hanse.trust.sealing import check_sealing_key
from hanse.trust.signing import PrivateKey, load_signing_key
from hanse.trust.statements import make_statement, read_statement
from hanse.trust.strict_json import parse_json, read_field, read_hex

_KIND = "member-record"


@dataclass(frozen=True, slots=True)
class MemberRecord:
    """A member's public keys and names. Times are milliseconds since 1970, UTC."""

    federation: str
    kind: str
    name: str
    serial: str
    """Of the certificate issued with it."""
    tls_key_sha256: str
    """SHA-256 of the TLS public key (SubjectPublicKeyInfo, DER), hexadecimal."""
    signing_key: bytes
    """Ed25519, 32 bytes."""
    sealing_key: bytes
    """X25519, 32 bytes."""
    issued_at_ms: int
    not_after_ms: int
    roles: tuple[str, ...] | None = None
    """A person's; None where the record says nothing of any, as those of sites and those of earlier versions."""

    @property
    def granted(self) -> tuple[str, ...]:
        """The roles that the authority signed.

        Raises:
            TrustError: of a person whose record says nothing of roles: whoever may write the ledger cannot add any.
        """
        if self.roles is None and self.kind == PERSON:
            raise TrustError(
                f"the roles of person {self.name} are not signed, as its record is of an earlier version; "
                "let the federation's operator admit the person again"
            )
        return self.roles or ()

    def sign(self, key: PrivateKey) -> bytes:
        """The record as the authority's statement: ECDSA P-256 over canonical JSON.

        **Guarantee.** `verify_record` takes it from nobody but the holder of the authority's key.
        **Reveals.** Only public keys, names and roles.
        """
        body: dict[str, Any] = {
            "federation": self.federation,
            "kind": self.kind,
            "name": self.name,
            "serial": self.serial,
            "tls_key_sha256": self.tls_key_sha256,
            "signing_key": self.signing_key.hex(),
            "sealing_key": self.sealing_key.hex(),
            "issued_at_ms": self.issued_at_ms,
            "not_after_ms": self.not_after_ms,
        }
        if self.roles is not None:
            body["roles"] = list(self.roles)
        return make_statement(key, _KIND, body)

    def check_peer(self, identity: Identity) -> None:
        """Return if this record was issued together with the certificate of `identity`.

        Raises:
            TrustError: it is another member's, or belongs to an older or newer certificate.
        """
        mine = (self.federation, self.kind, self.name, self.serial)
        if mine != (identity.federation, identity.kind, identity.name, identity.serial):
            raise TrustError(f"the member record does not belong to the certificate of {identity}")


def verify_record(content: bytes, authority_pem: bytes, *, now_ms: int | None = None) -> MemberRecord:
    """Read a record that the authority signed and that holds now. Says nothing on revocation.

    Args:
        content: what `MemberRecord.sign` wrote.
        authority_pem: the federation's authority.
        now_ms: the time to check for; None for now.

    Raises:
        CodecError, TooLargeError: not a record. TrustError: not signed by this authority, or not valid now.
    """
    body = read_statement(authority_key(authority_pem), _KIND, content)
    try:
        record = MemberRecord(
            federation=check_name(read_field(body, "federation", str, _KIND), "federation"),
            kind=check_kind(read_field(body, "kind", str, _KIND)),
            name=check_name(read_field(body, "name", str, _KIND)),
            serial=read_field(body, "serial", str, _KIND),
            tls_key_sha256=read_hex(body.get("tls_key_sha256"), "tls_key_sha256", size=32).hex(),
            signing_key=read_hex(body.get("signing_key"), "signing_key", size=32),
            sealing_key=read_hex(body.get("sealing_key"), "sealing_key", size=32),
            issued_at_ms=read_field(body, "issued_at_ms", int, _KIND),
            not_after_ms=read_field(body, "not_after_ms", int, _KIND),
            roles=_roles(body),
        )
    except ConfigError as error:
        raise CodecError(f"{_KIND}: {error}") from None
    load_signing_key(record.signing_key)
    check_sealing_key(record.sealing_key)
    now_ms = current_ms() if now_ms is None else now_ms
    if not record.issued_at_ms - SKEW_MS <= now_ms < record.not_after_ms:
        raise TrustError(f"the member record of {record.kind} {record.name} does not hold now; it must be renewed")
    return record


def issued_at_ms(content: bytes) -> int:
    """When a record was issued, which nobody has verified: for reading records whose time is over.

    Raises:
        CodecError, TooLargeError: not a record.
    """
    body = parse_json(content, what=_KIND).get("body")
    return read_field(body if isinstance(body, dict) else {}, "issued_at_ms", int, _KIND)


def _roles(body: dict[str, Any]) -> tuple[str, ...] | None:
    if "roles" not in body:
        return None
    return tuple(check_name(str(role), "role") for role in read_field(body, "roles", list, _KIND))
