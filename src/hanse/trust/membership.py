"""What a member keeps in its directory: its keys, and what the authority gave it for them.

    keys/{tls,signing,sealing}.key     private, mode 0600, made here
    membership.json                    certificate, authority, signed record, the server's address; public

The second is one file, so that a renewal replaces all of it in one step.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hanse.core.codec import canonical_json
from hanse.core.errors import CodecError, ConfigError, TrustError
from hanse.trust.certificates import Identity, key_fingerprint, load_certificate, p256_key, verify_certificate
from hanse.trust.identity import MemberKeys, SigningRequest
from hanse.trust.member_record import MemberRecord, verify_record
from hanse.trust.private_files import read_file, write_file
from hanse.trust.strict_json import parse_json, read_field

_FILE = "membership.json"
_KEYS = "keys"


class Renewed(Protocol):
    """What the authority answers to a member that asks for a new certificate."""

    certificate: str
    member_record: bytes
    address: str


@dataclass(frozen=True, slots=True)
class Membership:
    """A member that was let in. Make it with `check`, which verifies that everything belongs together."""

    keys: MemberKeys
    identity: Identity
    record: MemberRecord
    certificate_pem: bytes
    authority_pem: bytes
    signed_record: bytes
    address: str

    @classmethod
    def check(
        cls,
        keys: MemberKeys,
        *,
        certificate_pem: bytes,
        authority_pem: bytes,
        signed_record: bytes,
        address: str,
        now_ms: int | None = None,
    ) -> "Membership":
        """What came back for a signing request, if it is for these keys and from this authority.

        **Guarantee.** Certificate and record are the authority's, hold now, name the same member, and hold
        these keys. That the authority is the right one is `JoinToken.check_authority`'s to say.
        **Reveals.** Nothing.

        Raises:
            TrustError, CodecError: something does not fit.
        """
        identity = verify_certificate(certificate_pem, authority_pem, now_ms=now_ms)
        record = verify_record(signed_record, authority_pem, now_ms=now_ms)
        record.check_peer(identity)
        certified = key_fingerprint(p256_key(load_certificate(certificate_pem))).hex()
        mine = key_fingerprint(keys.tls.public_key()).hex()
        if certified != mine or record.tls_key_sha256 != mine:
            raise TrustError(f"the certificate of {identity} is for other TLS keys than the ones here; join again")
        if (record.signing_key, record.sealing_key) != (keys.signing_public, keys.sealing_public):
            raise TrustError(f"the member record of {identity} holds other keys than the ones here; join again")
        return cls(keys, identity, record, certificate_pem, authority_pem, signed_record, address)

    async def renewed(self, ask: Callable[[bytes], Awaitable[Renewed]], *, now_ms: int | None = None) -> "Membership":
        """This member with a new certificate for the same keys. It is not saved yet.

        Args:
            ask: sends a signing request to the authority.

        Raises:
            TrustError: what came back is not for this member and these keys. HanseError: what `ask` raises.
        """
        me = self.identity
        request = SigningRequest.request(self.keys, federation=me.federation, kind=me.kind, name=me.name)
        reply = await ask(request.content)
        renewed = Membership.check(
            self.keys,
            certificate_pem=reply.certificate.encode(),
            authority_pem=self.authority_pem,
            signed_record=reply.member_record,
            address=reply.address or self.address,
            now_ms=now_ms,
        )
        found = renewed.identity
        if (found.kind, found.name, found.federation) != (me.kind, me.name, me.federation):
            raise TrustError(f"expected a new certificate for {me}, found one for {found}")
        return renewed

    def save(self, directory: Path) -> None:
        """Write `membership.json` into the directory that holds the keys. Keys are written only if not there yet.

        Raises:
            StorageError: the disk refuses.
        """
        if not (directory / _KEYS).exists():
            self.keys.save(directory / _KEYS)
        content = canonical_json(
            {
                "v": 1,
                "certificate": self.certificate_pem.decode(),
                "authority": self.authority_pem.decode(),
                "record": self.signed_record.decode(),
                "address": self.address,
            }
        )
        write_file(directory / _FILE, content, mode=0o644)

    @classmethod
    def load(cls, directory: Path, *, kind: str = "", now_ms: int | None = None) -> "Membership":
        """Read and check what `save` wrote.

        Args:
            kind: whose folder it is to be: a site's, a person's; empty for anybody's.

        Raises:
            ConfigError: files are missing or damaged, or another kind of member's. TrustError: the certificate has
                expired, or files do not belong together.
        """
        path = directory / _FILE
        if not path.exists():
            raise ConfigError(f"expected {path}, found none: this member has not joined a federation yet")
        try:
            body = parse_json(read_file(path), what=_FILE, max_bytes=1 << 20)
            if read_field(body, "v", int, _FILE) != 1:
                raise CodecError(f"{_FILE}: expected version 1; update Hanse")
            certificate, authority, record, address = (
                read_field(body, name, str, _FILE) for name in ("certificate", "authority", "record", "address")
            )
        except CodecError as error:
            raise ConfigError(f"{path}: {error}") from None
        found = cls.check(
            MemberKeys.load(directory / _KEYS),
            certificate_pem=certificate.encode(),
            authority_pem=authority.encode(),
            signed_record=record.encode(),
            address=address,
            now_ms=now_ms,
        )
        if kind and found.identity.kind != kind:
            me = found.identity
            raise ConfigError(f"{directory}: expected the folder of a {kind}, found that of {me.kind} {me.name}")
        return found


def member_keys(directory: Path) -> MemberKeys:
    """The keys of the member whose directory this is, made now if there are none."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return MemberKeys.load_or_create(directory / _KEYS)
