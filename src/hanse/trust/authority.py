"""The federation's certificate authority: it says which keys belong to which member, and for how long.

One P-256 key that signs itself (RFC 5280, path length 0), kept in a directory of the federation's operator:

    authority.pem      its certificate, public; the join tokens hold its SHA-256
    authority.key      its private key, mode 0600
    issued.jsonl       one line a certificate, appended and synced before the certificate is handed out

Not here: who may join (`tokens`), and what holds no longer (`revocation`).
"""

import ipaddress
import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from hanse.core.codec import canonical_json
from hanse.core.errors import ConfigError, ConflictError, StorageError, TrustError
from hanse.core.ids import check_name
from hanse.trust.certificates import (
    MALFORMED,
    SERVER,
    SKEW_MS,
    Identity,
    authority_key,
    current_ms,
    fingerprint,
    identity_uri,
    load_certificate,
    peer_identity,
    usage_of,
)
from hanse.trust.identity import SigningRequest
from hanse.trust.member_record import MemberRecord
from hanse.trust.private_files import read_file, read_private_file, write_file

DAY_MS = 24 * 60 * 60 * 1000
MEMBER_DAYS = 30
AUTHORITY_DAYS = 3650


@dataclass(frozen=True, slots=True)
class Issued:
    """What a member gets."""

    identity: Identity
    certificate_pem: bytes
    record: bytes
    """The signed `MemberRecord`."""


@dataclass(frozen=True, slots=True)
class Authority:
    """Issues certificates and member records; see `create`, `save`, `load`. Its key is neither printed nor pickled."""

    federation: str
    certificate_pem: bytes = field(repr=False)
    key: EllipticCurvePrivateKey = field(repr=False, compare=False)
    journal: Path | None = None
    """Where issued serials are recorded; None for an authority that lives in memory only (tests)."""

    @classmethod
    def create(cls, federation: str, *, days: int = AUTHORITY_DAYS, now_ms: int | None = None) -> "Authority":
        """A new authority with a new key.

        Args:
            federation: its name, which becomes part of every identity.
            days: how long its own certificate holds.
            now_ms: the time to begin with; None for now.

        Raises:
            ConfigError: a name that may not be used.
        """
        key = generate_private_key(SECP256R1())
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Hanse federation"),
                x509.NameAttribute(NameOID.COMMON_NAME, check_name(federation, "federation")),
            ]
        )
        start = (current_ms() if now_ms is None else now_ms) - SKEW_MS
        certificate = (
            _builder(name, key.public_key(), issuer=name, start_ms=start, end_ms=start + days * DAY_MS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(authority=True), critical=True)
            .sign(key, SHA256())
        )
        return cls(federation, certificate.public_bytes(Encoding.PEM), key)

    def save(self, directory: Path) -> "Authority":
        """Write certificate and key into `directory`, which is made if need be.

        Returns:
            The authority as `load` would give it: it records what it issues there.

        Raises:
            ConflictError: there is an authority already. StorageError: the disk refuses.
        """
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make {directory}: {error.strerror}") from error
        for path in (directory / "authority.key", directory / "authority.pem"):
            if path.exists():
                raise ConflictError(f"{path} exists already; expected a directory without an authority")
        pem = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_file(directory / "authority.key", pem)
        write_file(directory / "authority.pem", self.certificate_pem, mode=0o644)
        return Authority(self.federation, self.certificate_pem, self.key, directory / "issued.jsonl")

    @classmethod
    def load(cls, directory: Path) -> "Authority":
        """Read what `save` wrote.

        Raises:
            ConfigError: files are missing, readable by others, or do not belong together.
        """
        certificate_pem = read_file(directory / "authority.pem")
        try:
            key = load_pem_private_key(read_private_file(directory / "authority.key"), password=None)
            public = authority_key(certificate_pem)
        except (*MALFORMED, TypeError, TrustError):
            raise ConfigError(f"{directory}: expected authority.pem and authority.key as Hanse wrote them") from None
        if not isinstance(key, EllipticCurvePrivateKey) or key.public_key() != public:
            raise ConfigError(f"{directory}: authority.key does not belong to authority.pem")
        return cls(federation_of(certificate_pem), certificate_pem, key, directory / "issued.jsonl")

    @property
    def sha256(self) -> bytes:
        """SHA-256 of the certificate, 32 bytes, as join tokens hold it."""
        return fingerprint(self.certificate_pem)

    def issue(
        self,
        request: SigningRequest,
        *,
        kind: str,
        name: str,
        hosts: Sequence[str] = (),
        days: float = MEMBER_DAYS,
        now_ms: int | None = None,
        roles: Sequence[str] | None = None,
    ) -> Issued:
        """A certificate and a member record for a checked request.

        **Guarantee.** Given only for the kind and name that the caller grants, and to who holds the TLS and the
        signing key named (`SigningRequest.parse` has checked both signatures).
        **Reveals.** Public keys and names; the serial is random.

        Args:
            request: from `SigningRequest.parse`.
            kind: what was granted, by a token or by the operator; the request must ask for just that.
            name: likewise.
            hosts: names and addresses under which a server is reached; at least one for a server, else none.
            days: how long it holds, at most as long as the authority itself.
            now_ms: the time to begin with; None for now.
            roles: of a person; None where they are signed when it is enrolled.

        Raises:
            TrustError: the request asks for something else than was granted.
            ConfigError: `hosts` or `days` cannot be. StorageError: the serial cannot be recorded.
        """
        if (request.federation, request.kind, request.name) != (self.federation, kind, name):
            raise TrustError(
                f"expected a request for {kind} {name} of {self.federation}, "
                f"found one for {request.kind} {request.name} of {request.federation}"
            )
        now_ms = current_ms() if now_ms is None else now_ms
        end_ms = min(now_ms + int(days * DAY_MS), self._not_after_ms())
        if end_ms <= now_ms:
            raise ConfigError(f"days: expected a time before the authority's own end, found {days}")
        certificate = self._certify(request, hosts, now_ms - SKEW_MS, end_ms)
        certificate_pem = certificate.public_bytes(Encoding.PEM)
        identity = peer_identity(certificate_pem)
        record = MemberRecord(
            federation=self.federation,
            kind=kind,
            name=name,
            serial=identity.serial,
            tls_key_sha256=request.tls_key_sha256,
            signing_key=request.signing_key,
            sealing_key=request.sealing_key,
            issued_at_ms=now_ms,
            not_after_ms=identity.not_after_ms,
            roles=None if roles is None else tuple(roles),
        )
        if self.journal is not None:
            _record(self.journal, identity)
        return Issued(identity, certificate_pem, record.sign(self.key))

    def renew(
        self,
        request: SigningRequest,
        *,
        record: MemberRecord,
        hosts: Sequence[str] = (),
        days: float = MEMBER_DAYS,
        now_ms: int | None = None,
    ) -> Issued:
        """The next certificate and record of a member, for the keys it has.

        The caller has heard the request over a connection of that member, and has asked the revocation list.

        **Guarantee.** No key changes: who stole one key cannot have the others replaced. New keys need a new token.
        **Reveals.** As `issue`.

        Args:
            request: from `SigningRequest.parse`.
            record: the member's current one, from `verify_record`.
            hosts: as `issue`.
            days: as `issue`.
            now_ms: as `issue`.

        Raises:
            TrustError: the request is another member's, or for other keys. ConfigError, StorageError: as `issue`.
        """
        asked = (request.tls_key_sha256, request.signing_key, request.sealing_key)
        if asked != (record.tls_key_sha256, record.signing_key, record.sealing_key):
            raise TrustError(
                f"expected a renewal for the keys of {record.kind} {record.name}, found other keys; "
                f"new keys need a new join token"
            )
        return self.issue(request, kind=record.kind, name=record.name, hosts=hosts, days=days, now_ms=now_ms)

    def revoked_certificates(self, serials: Collection[str], now_ms: int | None = None) -> bytes:
        """An X.509 revocation list (PEM), for who reads no list of ours: it holds as long as the authority itself."""
        at = _time(current_ms() if now_ms is None else now_ms)
        issuer = load_certificate(self.certificate_pem).subject
        builder = x509.CertificateRevocationListBuilder().issuer_name(issuer).last_update(at)
        builder = builder.next_update(_time(self._not_after_ms()))
        for serial in sorted(serials):
            entry = x509.RevokedCertificateBuilder().serial_number(int(serial, 16)).revocation_date(at).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self.key, SHA256()).public_bytes(Encoding.PEM)

    def issued(self) -> list[Identity]:
        """Every certificate this authority recorded, in the order of issue."""
        return [] if self.journal is None else _read_journal(self.journal)

    def _certify(self, request: SigningRequest, hosts: Sequence[str], start_ms: int, end_ms: int) -> x509.Certificate:
        if bool(hosts) != (request.kind == SERVER):
            raise ConfigError(f"hosts: expected some for a server and none for others, found {len(hosts)}")
        uri = identity_uri(request.federation, request.kind, request.name)
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)]
        names.extend(_host_name(host) for host in dict.fromkeys(hosts))
        authority = load_certificate(self.certificate_pem)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, request.name)])
        return (
            _builder(subject, request.tls_key, issuer=authority.subject, start_ms=start_ms, end_ms=end_ms)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage_of(request.kind)]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, SHA256())
        )

    def _not_after_ms(self) -> int:
        return int(load_certificate(self.certificate_pem).not_valid_after_utc.timestamp()) * 1000

    def __reduce__(self) -> NoReturn:
        raise TypeError("an authority's key is not copied or pickled")


def federation_of(authority_pem: bytes) -> str:
    """The federation's name in its authority's certificate.

    Raises:
        TrustError: not an authority's certificate, or without a usable name.
    """
    authority_key(authority_pem)
    names = load_certificate(authority_pem).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    try:
        (attribute,) = names
        return check_name(str(attribute.value), "federation")
    except (ValueError, ConfigError):
        raise TrustError("expected an authority's certificate with the federation's name in it") from None


def _builder(
    subject: x509.Name, key: EllipticCurvePublicKey, *, issuer: x509.Name, start_ms: int, end_ms: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(start_ms))
        .not_valid_after(_time(end_ms))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    # The authority also signs records and revocation lists, hence digital_signature for both.
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not host or not host.isascii() or any(mark in host for mark in ":/ *"):
        raise ConfigError(f"hosts: expected a host name or an IP address without a port, found {host!r}")
    return x509.DNSName(host)


def _time(ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=ms // 1000)


def _record(journal: Path, identity: Identity) -> None:
    line = canonical_json(
        {
            "kind": identity.kind,
            "name": identity.name,
            "federation": identity.federation,
            "serial": identity.serial,
            "not_before_ms": identity.not_before_ms,
            "not_after_ms": identity.not_after_ms,
        }
    )
    try:
        handle = os.open(journal, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(handle).st_size
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            os.write(handle, (b"\n" if torn else b"") + line + b"\n")
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise StorageError(f"cannot record a certificate in {journal}: {error.strerror}") from error


def _read_journal(journal: Path) -> list[Identity]:
    if not journal.exists():
        return []
    issued = []
    for line in journal.read_bytes().splitlines():
        try:
            issued.append(Identity(**json.loads(line)))
        except (ValueError, TypeError):
            continue  # torn by a crash: its certificate was never handed out
    return issued
