"""The identity inside a certificate: written in one place, read back strictly.

The one place is the single URI among the subject alternative names, `hanse://<federation>/<kind>/<name>`. The
common name repeats the name for people who look at certificates, and must agree. TLS has checked the chain before
`peer_identity` is asked; whoever gets a certificate in another way asks `verify_certificate`.

Profile (RFC 5280): X.509 v3, ECDSA P-256 with SHA-256; members are no authorities; the server's certificate serves
TLS servers only, everyone else's TLS clients only, so that no site can pose as the server.
"""

import hashlib
import re
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hanse.core.errors import ConfigError, TrustError
from hanse.core.ids import check_name

SITE: Final = "site"
PERSON: Final = "person"
SERVER: Final = "server"
KINDS: Final = (SITE, PERSON, SERVER)

SKEW_MS: Final = 5 * 60 * 1000
"""How far two clocks may be apart: a certificate is valid from so long before it was made."""

# What `cryptography` raises, from parsing to the last look at an extension, on a certificate that is none.
MALFORMED = (
    ValueError,
    x509.InvalidVersion,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    UnsupportedAlgorithm,
)
_URI = re.compile(r"hanse://([^/]+)/([^/]+)/([^/]+)")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a certificate says its holder is. Times are milliseconds since 1970, UTC."""

    kind: str
    name: str
    federation: str
    serial: str
    """Lower-case hexadecimal, without leading zeros."""
    not_before_ms: int
    not_after_ms: int

    def __str__(self) -> str:
        return f"{self.kind} {self.name} of {self.federation}"

    @property
    def renew_at_ms(self) -> int:
        """When two thirds of the certificate's life are over: time to ask for the next one."""
        return self.not_before_ms + (self.not_after_ms - self.not_before_ms) * 2 // 3

    def check_time(self, now_ms: int | None = None) -> None:
        """Return if the certificate holds at `now_ms`.

        Raises:
            TrustError: it has expired, or is from the future by more than `SKEW_MS`.
        """
        now_ms = current_ms() if now_ms is None else now_ms
        if now_ms >= self.not_after_ms:
            raise TrustError(
                f"the certificate of {self} expired {(now_ms - self.not_after_ms) // 1000} s ago; "
                f"check both clocks, then join again with a new token"
            )
        if now_ms < self.not_before_ms:
            raise TrustError(
                f"the certificate of {self} begins in {(self.not_before_ms - now_ms) // 1000} s; "
                f"the clocks of two machines differ: set them right"
            )


def current_ms() -> int:
    """Now, in milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000


def check_kind(kind: str) -> str:
    """Return `kind` if it is one of `KINDS`.

    Raises:
        ConfigError: it is not.
    """
    if kind not in KINDS:
        raise ConfigError(f"kind: expected one of {', '.join(KINDS)}, found {str(kind)[:80]!r}")
    return kind


def identity_uri(federation: str, kind: str, name: str) -> str:
    """The name that goes into a certificate.

    Raises:
        ConfigError: a part may not be used as a name.
    """
    return f"hanse://{check_name(federation, 'federation')}/{check_kind(kind)}/{check_name(name, kind)}"


def parse_identity_uri(uri: str) -> tuple[str, str, str]:
    """Federation, kind and name.

    Raises:
        TrustError: not exactly what `identity_uri` writes.
    """
    match = _URI.fullmatch(uri)
    if match is None:
        raise TrustError("expected a certificate with a name of the form hanse://federation/kind/name")
    federation, kind, name = match.groups()
    try:
        identity_uri(federation, kind, name)
    except ConfigError as error:
        raise TrustError(f"expected valid names in the certificate: {error}") from None
    return federation, kind, name


def load_certificate(content: bytes | str) -> x509.Certificate:
    """A certificate from PEM (of a chain: the first) or DER.

    Raises:
        TrustError: neither.
    """
    raw = content.encode() if isinstance(content, str) else bytes(content)
    try:
        if raw.lstrip().startswith(b"-----BEGIN"):
            return x509.load_pem_x509_certificate(raw)
        return x509.load_der_x509_certificate(raw)
    except MALFORMED:
        raise TrustError("expected an X.509 certificate in PEM or DER") from None


def fingerprint(content: bytes | str) -> bytes:
    """SHA-256 of the certificate's DER form, 32 bytes."""
    return hashlib.sha256(load_certificate(content).public_bytes(Encoding.DER)).digest()


def key_fingerprint(key: EllipticCurvePublicKey) -> bytes:
    """SHA-256 of a public key's SubjectPublicKeyInfo in DER, 32 bytes."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


@lru_cache(maxsize=4096)
def peer_identity(content: bytes | str) -> Identity:
    """Who the holder of a certificate is. The chain is TLS's business; the time is `Identity.check_time`'s.

    The last 4096 answers are kept, so that asking per call costs a dictionary look-up.

    Args:
        content: PEM or DER, as from gRPC's `x509_pem_cert`.

    Raises:
        TrustError: not a member's certificate in the one form the authority issues.
    """
    certificate = load_certificate(content)
    try:
        return _read_identity(certificate)
    except MALFORMED:
        raise TrustError("expected a certificate as a Hanse authority issues it, found another kind") from None


def _read_identity(certificate: x509.Certificate) -> Identity:
    extensions = certificate.extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise TrustError(f"expected exactly one URI in the certificate's names, found {len(uris)}")
    federation, kind, name = parse_identity_uri(uris[0])
    if kind != SERVER and len(list(names)) != 1:
        raise TrustError(f"expected no further name in the certificate of a {kind}")
    common_names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if [attribute.value for attribute in common_names] != [name]:
        raise TrustError("expected the certificate's common name to repeat the name in its URI")
    if extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
        raise TrustError("expected a member's certificate, found an authority's")
    usages = list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    if usages != [usage_of(kind)]:
        raise TrustError(f"expected the key usage of a {kind} in its certificate")
    p256_key(certificate)
    return Identity(
        kind=kind,
        name=name,
        federation=federation,
        serial=f"{certificate.serial_number:x}",
        not_before_ms=int(certificate.not_valid_before_utc.timestamp()) * 1000,
        not_after_ms=int(certificate.not_valid_after_utc.timestamp()) * 1000,
    )


def usage_of(kind: str) -> x509.ObjectIdentifier:
    """The one extended key usage of a member of this kind."""
    return ExtendedKeyUsageOID.SERVER_AUTH if kind == SERVER else ExtendedKeyUsageOID.CLIENT_AUTH


def p256_key(holder: x509.Certificate | x509.CertificateSigningRequest) -> EllipticCurvePublicKey:
    """The public key inside.

    Raises:
        TrustError: not on the curve P-256.
    """
    try:
        key = holder.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise TrustError("expected a TLS key on the curve P-256, found another; make new keys with Hanse")
    return key


@lru_cache(maxsize=64)
def authority_key(authority_pem: bytes) -> EllipticCurvePublicKey:
    """The public key of an authority, to check what it signed.

    Raises:
        TrustError: not the certificate of an authority, signed by itself.
    """
    certificate = load_certificate(authority_pem)
    try:
        is_authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        certificate.verify_directly_issued_by(certificate)
    except (*MALFORMED, TypeError, InvalidSignature):
        is_authority = False
    if not is_authority:
        raise TrustError("expected a federation's authority certificate, found another kind")
    return p256_key(certificate)


def verify_certificate(content: bytes | str, authority_pem: bytes, *, now_ms: int | None = None) -> Identity:
    """Who holds a certificate that did not come through a TLS handshake.

    **Guarantee.** The authority issued it (its ECDSA P-256 signature), and it holds now. Says nothing on revocation.

    Raises:
        TrustError: another authority's, not of the expected form, or not valid now.
    """
    authority_key(authority_pem)
    identity = peer_identity(content)
    try:
        load_certificate(content).verify_directly_issued_by(load_certificate(authority_pem))
    except (*MALFORMED, TypeError, InvalidSignature):
        raise TrustError(f"the certificate of {identity} was not issued by this federation's authority") from None
    identity.check_time(now_ms)
    return identity
