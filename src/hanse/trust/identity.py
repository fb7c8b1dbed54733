"""A member's own keys, made where the member is, and the request that asks the authority to vouch for them.

Three keys: ECDSA P-256 for TLS, Ed25519 for signing, X25519 for sealing. Private halves are written to the member's
directory and nowhere else; what travels is a `SigningRequest`.
"""

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from hanse.core.codec import canonical_json
from hanse.core.errors import CodecError, ConfigError, ConflictError, StorageError, TrustError
from hanse.trust.certificates import MALFORMED, identity_uri, key_fingerprint, p256_key, parse_identity_uri
from hanse.trust.private_files import read_private_file, sync_directory, write_file
from hanse.trust.sealing import check_sealing_key
from hanse.trust.signing import load_signing_key, sign, verify
from hanse.trust.strict_json import parse_json, read_field, read_hex

_REQUEST = "signing-request"
_REQUEST_TLS = "signing-request-tls"
_MAX_REQUEST_BYTES = 16 * 1024
_AnyKey = EllipticCurvePrivateKey | Ed25519PrivateKey | X25519PrivateKey


@dataclass(frozen=True, slots=True)
class MemberKeys:
    """The three private keys of a site, a person or the server. Neither printed nor pickled."""

    tls: EllipticCurvePrivateKey = field(repr=False)
    signing: Ed25519PrivateKey = field(repr=False)
    sealing: X25519PrivateKey = field(repr=False)

    @classmethod
    def generate(cls) -> "MemberKeys":
        """Fresh keys from the operating system's random source."""
        return cls(generate_private_key(SECP256R1()), Ed25519PrivateKey.generate(), X25519PrivateKey.generate())

    @property
    def signing_public(self) -> bytes:
        """Ed25519 public key, 32 bytes."""
        return self.signing.public_key().public_bytes_raw()

    @property
    def sealing_public(self) -> bytes:
        """X25519 public key, 32 bytes."""
        return self.sealing.public_key().public_bytes_raw()

    def tls_pem(self) -> bytes:
        """The TLS key as unencrypted PKCS#8 PEM, as gRPC wants it. Secret."""
        return _pem(self.tls)

    def save(self, directory: Path) -> None:
        """Write the keys as `tls.key`, `signing.key` and `sealing.key`, mode 0600, all of them or none.

        Args:
            directory: must not exist yet; its parent must. It gets mode 0700.

        Raises:
            ConflictError: it exists: keys are never written over. StorageError: the disk refuses.
        """
        if directory.exists():
            raise ConflictError(f"{directory} exists already; keys are never overwritten, expected a new place")
        try:
            draft = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
            try:
                for name, key in (("tls", self.tls), ("signing", self.signing), ("sealing", self.sealing)):
                    write_file(draft / f"{name}.key", _pem(key))
                os.rename(draft, directory)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
            sync_directory(directory.parent)
        except OSError as error:
            raise StorageError(f"cannot write keys to {directory}: {error.strerror}") from error

    @classmethod
    def load(cls, directory: Path) -> "MemberKeys":
        """Read what `save` wrote.

        Raises:
            ConfigError: a file is missing, readable by others, or not the expected key.
        """
        tls, signing, sealing = (_load_key(directory / f"{name}.key") for name in ("tls", "signing", "sealing"))
        if not isinstance(tls, EllipticCurvePrivateKey) or not isinstance(tls.curve, SECP256R1):
            raise ConfigError(f"{directory / 'tls.key'}: expected a key on the curve P-256, found another")
        if not isinstance(signing, Ed25519PrivateKey):
            raise ConfigError(f"{directory / 'signing.key'}: expected an Ed25519 key, found another")
        if not isinstance(sealing, X25519PrivateKey):
            raise ConfigError(f"{directory / 'sealing.key'}: expected an X25519 key, found another")
        return cls(tls, signing, sealing)

    @classmethod
    def load_or_create(cls, directory: Path) -> "MemberKeys":
        """The keys in `directory`, made now if it does not exist."""
        if not directory.exists():
            cls.generate().save(directory)
        return cls.load(directory)

    def __reduce__(self) -> NoReturn:
        raise TypeError("private keys are not copied or pickled")


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """What a member sends to the authority. Made by `request`, read by `parse`, which checks it all."""

    federation: str
    kind: str
    name: str
    tls_key: EllipticCurvePublicKey = field(repr=False)
    signing_key: bytes
    sealing_key: bytes
    content: bytes = field(repr=False)
    """The bytes that travel."""

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes that travel, in hexadecimal; a join token is used up for this request only."""
        return hashlib.sha256(self.content).hexdigest()

    @classmethod
    def request(cls, keys: MemberKeys, *, federation: str, kind: str, name: str) -> "SigningRequest":
        """Ask for a certificate and a record for `keys`.

        **Guarantee.** The TLS key and the signing key each sign the request with all three public keys in it, so
        nobody combines one member's key with another's. The sealing key cannot sign: a member could name
        another's, and would then be sent payloads that it cannot open.
        **Reveals.** Three public keys and the wanted name.

        Raises:
            ConfigError: a name that may not be used.
        """
        uri = identity_uri(federation, kind, name)
        csr = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
            .sign(keys.tls, SHA256())
            .public_bytes(Encoding.PEM)
        )
        body = {
            "v": 1,
            "csr": csr.decode(),
            "signing_key": keys.signing_public.hex(),
            "sealing_key": keys.sealing_public.hex(),
        }
        signed = canonical_json(body)
        body["sig"] = sign(keys.signing, _REQUEST, signed).hex()
        body["tls_sig"] = sign(keys.tls, _REQUEST_TLS, signed).hex()
        return cls.parse(canonical_json(body))

    @classmethod
    def parse(cls, content: bytes) -> "SigningRequest":
        """Read and check a request: possession of the TLS and the signing key, names, curves.

        Whether this name may be given is the token's and the authority's decision.

        Raises:
            CodecError: not of the expected form. TooLargeError: over 16 KiB.
            TrustError: a signature does not hold, or a key is of a kind not taken.
        """
        body = parse_json(content, what=_REQUEST, max_bytes=_MAX_REQUEST_BYTES)
        if read_field(body, "v", int, _REQUEST) != 1:
            raise CodecError(f"{_REQUEST}: expected version 1; update the older of the two programs")
        signature = read_hex(body.pop("sig", None), "sig", size=64)
        tls_signature = read_hex(body.pop("tls_sig", None), "tls_sig")
        signing_key = read_hex(body.get("signing_key"), "signing_key", size=32)
        sealing_key = read_hex(body.get("sealing_key"), "sealing_key", size=32)
        csr = _load_csr(read_field(body, "csr", str, _REQUEST))
        signed = canonical_json(body)
        verify(load_signing_key(signing_key), _REQUEST, signed, signature)
        verify(p256_key(csr), _REQUEST_TLS, signed, tls_signature)
        check_sealing_key(sealing_key)
        federation, kind, name = _names_in(csr)
        return cls(federation, kind, name, p256_key(csr), signing_key, sealing_key, bytes(content))

    @property
    def tls_key_sha256(self) -> str:
        """SHA-256 of the TLS public key, in hexadecimal."""
        return key_fingerprint(self.tls_key).hex()


def _load_csr(text: str) -> x509.CertificateSigningRequest:
    try:
        csr = x509.load_pem_x509_csr(text.encode())
    except MALFORMED:
        raise CodecError(f"{_REQUEST}: expected csr as a certificate signing request in PEM") from None
    p256_key(csr)
    try:
        valid = csr.is_signature_valid
    except MALFORMED:
        valid = False
    if not valid:
        raise TrustError("the certificate signing request is not signed by the key inside it")
    return csr


def _names_in(csr: x509.CertificateSigningRequest) -> tuple[str, str, str]:
    try:
        names = list(csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except MALFORMED:
        names = []
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        raise TrustError("expected exactly one name, a URI, in the certificate signing request")
    return parse_identity_uri(names[0].value)


def _pem(key: _AnyKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load_key(path: Path) -> PrivateKeyTypes:
    content = read_private_file(path)
    try:
        return load_pem_private_key(content, password=None)
    except (*MALFORMED, TypeError):
        raise ConfigError(f"{path}: expected an unencrypted private key in PEM") from None
