"""Join tokens: one string that invites one site or person, once.

It holds the server's address, the SHA-256 of the authority's certificate (so that the first connection is already
to the right server) and a secret. The server keeps a `TokenRecord` with the secret's SHA-256. Redeeming is a pure
function from record to record; the caller makes it happen once with a compare-and-set on the ledger.

    hansejoin1 <base32 of: 2 bytes length · JSON · 32 bytes authority · 32 bytes secret · 4 bytes checksum>

Lower-case base32 (RFC 4648): a double click selects all of it. The checksum finds slips of copying, not attackers.
Not here: protection of the token on its way to the site's owner. Who reads it first can use it first, for this name.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from hanse.core.codec import canonical_json
from hanse.core.errors import CodecError, ConfigError, TrustError
from hanse.core.ids import check_name
from hanse.trust.certificates import PERSON, SERVER, SITE, check_kind, current_ms, fingerprint, load_certificate
from hanse.trust.strict_json import parse_json, read_field, read_hex

PREFIX = "hansejoin1"
SECRET_BYTES = 32
HOUR_MS = 60 * 60 * 1000
_CHECK_BYTES = 4
_MAX_CHARACTERS = 2048


@dataclass(frozen=True, slots=True)
class JoinToken:
    """What the invited one gets. `str()` does not show the secret; `encode()` does."""

    address: str
    federation: str
    kind: str
    name: str
    expires_at_ms: int
    authority_sha256: bytes
    secret: bytes = field(repr=False)

    def encode(self) -> str:
        """The string to hand over. Secret until it is used."""
        body = canonical_json(
            {
                "address": self.address,
                "federation": self.federation,
                "kind": self.kind,
                "name": self.name,
                "expires_at_ms": self.expires_at_ms,
            }
        )
        payload = body + self.authority_sha256 + self.secret
        framed = len(payload).to_bytes(2, "big") + payload
        framed += hashlib.sha256(framed).digest()[:_CHECK_BYTES]
        return PREFIX + base64.b32encode(framed).decode().rstrip("=").lower()

    @classmethod
    def decode(cls, text: str) -> "JoinToken":
        """Read what `encode` wrote; white space from wrapped lines is passed over.

        Raises:
            ConfigError: not a token, cut short, or mistyped; which of them.
        """
        payload = _unframe("".join(text.split()))
        try:
            body = parse_json(payload[:-64], what="join token")
            token = cls(
                address=read_field(body, "address", str, "join token"),
                federation=check_name(read_field(body, "federation", str, "join token"), "federation"),
                kind=check_kind(read_field(body, "kind", str, "join token")),
                name=check_name(read_field(body, "name", str, "join token")),
                expires_at_ms=read_field(body, "expires_at_ms", int, "join token"),
                authority_sha256=payload[-64:-32],
                secret=payload[-32:],
            )
        except CodecError as error:
            raise ConfigError(f"{error}; ask the federation's operator for a new token") from None
        check_address(token.address)
        return token

    def check_authority(self, authority_pem: bytes) -> None:
        """Return if this is the certificate of the authority that the token was made by.

        Raises:
            TrustError: another one: somebody else answers at that address.
        """
        if not hmac.compare_digest(fingerprint(authority_pem), self.authority_sha256):
            raise TrustError(
                f"the server at {self.address} shows another authority than this token expects; "
                f"do not go on: ask the federation's operator"
            )

    def find_authority(self, chain: Iterable[bytes]) -> bytes:
        """The authority among the certificates that a server showed in a TLS handshake not yet verified.

        **Guarantee.** It is the one the token was made by (SHA-256 collision resistance); with it as the only root,
        the next handshake is verified.
        **Reveals.** Nothing; do not send the secret before that next handshake.

        Args:
            chain: PEM or DER, in any order.

        Returns:
            PEM.

        Raises:
            TrustError: it is not among them.
        """
        for content in chain:
            certificate = load_certificate(content)
            if hmac.compare_digest(fingerprint(content), self.authority_sha256):
                return certificate.public_bytes(Encoding.PEM)
        raise TrustError(
            f"the server at {self.address} does not show the authority this token expects; "
            f"do not go on: ask the federation's operator"
        )

    def check_time(self, now_ms: int | None = None) -> None:
        """Return if the token has not expired by this machine's clock. The server decides.

        Raises:
            TrustError: it has.
        """
        _check_expiry(self.kind, self.name, self.expires_at_ms, current_ms() if now_ms is None else now_ms)


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """What the server keeps of a token: nothing with which one could join."""

    secret_sha256: str
    kind: str
    name: str
    expires_at_ms: int
    used_at_ms: int | None = None
    used_for: str | None = None
    """`SigningRequest.digest` of the request that used it up."""

    @property
    def state(self) -> str:
        """`open` or `used`; whether it has expired depends on the time."""
        return "open" if self.used_at_ms is None else "used"

    def to_bytes(self) -> bytes:
        """For the ledger: canonical JSON."""
        return canonical_json(
            {
                "v": 1,
                "secret_sha256": self.secret_sha256,
                "kind": self.kind,
                "name": self.name,
                "expires_at_ms": self.expires_at_ms,
                "used_at_ms": self.used_at_ms,
                "used_for": self.used_for,
            }
        )

    @classmethod
    def from_bytes(cls, content: bytes) -> "TokenRecord":
        """Read what `to_bytes` wrote.

        Raises:
            CodecError: something else.
        """
        body = parse_json(content, what="token record")
        if read_field(body, "v", int, "token record") != 1:
            raise CodecError("token record: expected version 1; it was written by a newer Hanse")
        return cls(
            secret_sha256=read_hex(body.get("secret_sha256"), "secret_sha256", size=32).hex(),
            kind=read_field(body, "kind", str, "token record"),
            name=read_field(body, "name", str, "token record"),
            expires_at_ms=read_field(body, "expires_at_ms", int, "token record"),
            used_at_ms=_optional(body, "used_at_ms", int),
            used_for=_optional(body, "used_for", str),
        )


def make_token(
    *,
    address: str,
    federation: str,
    authority_sha256: bytes,
    kind: str,
    name: str,
    valid_ms: int = 24 * HOUR_MS,
    now_ms: int | None = None,
) -> tuple[JoinToken, TokenRecord]:
    """A new invitation, and what the server keeps of it.

    **Guarantee.** The secret has 256 random bits; its hash, which the server keeps, does not help to join.
    **Reveals.** The token: address, federation, kind, name. The record: kind and name.

    Args:
        address: `host:port` under which the invited one reaches the server.
        federation: its name.
        authority_sha256: `Authority.sha256`.
        kind: `site` or `person`.
        name: the name that will be given.
        valid_ms: how long it may be used, > 0.
        now_ms: the time; None for now.

    Raises:
        ConfigError: an argument that cannot be.
    """
    check_address(address)
    check_name(federation, "federation")
    check_name(name, kind)
    if kind not in (SITE, PERSON) or name == SERVER:
        raise ConfigError(f"expected a token for a site or a person, not named {SERVER}, found {kind} {name}")
    if len(authority_sha256) != 32 or valid_ms <= 0:
        raise ConfigError("expected 32 bytes of authority_sha256 and a positive valid_ms")
    expires_at_ms = (current_ms() if now_ms is None else now_ms) + valid_ms
    secret = secrets.token_bytes(SECRET_BYTES)
    token = JoinToken(address, federation, kind, name, expires_at_ms, authority_sha256, secret)
    return token, TokenRecord(token_key(secret), kind, name, expires_at_ms)


def token_key(secret: bytes) -> str:
    """SHA-256 of the secret in hexadecimal: the name of the token's record in the ledger."""
    return hashlib.sha256(secret).hexdigest()


def redeem(
    record: TokenRecord,
    secret: bytes,
    *,
    kind: str,
    name: str,
    request_digest: str,
    now_ms: int | None = None,
) -> TokenRecord:
    """Use a token for one signing request.

    The caller writes the returned record with a compare-and-set against the version it read, and issues the
    certificate only if that succeeded. A record that comes back unchanged was used for this very request before
    (the answer was lost on its way): issue again, there is nothing to write.

    **Guarantee.** Whatever the caller's races, a token leads to certificates for one signing request only.
    **Reveals.** To who has no valid secret: that it is not valid. Comparison takes the same time for every secret.

    Args:
        record: what the ledger holds under `token_key(secret)`.
        secret: as received.
        kind: as asked for.
        name: as asked for.
        request_digest: `SigningRequest.digest`.
        now_ms: the time; None for now.

    Raises:
        TrustError: wrong secret, other name, expired, or used for another request.
    """
    if not hmac.compare_digest(token_key(secret), record.secret_sha256):
        raise TrustError("this join token is not known here; ask the federation's operator for a new one")
    if (kind, name) != (record.kind, record.name):
        raise TrustError(f"this join token is for {record.kind} {record.name}, not for {kind} {name}")
    now_ms = current_ms() if now_ms is None else now_ms
    _check_expiry(record.kind, record.name, record.expires_at_ms, now_ms)
    if record.used_at_ms is None:
        return replace(record, used_at_ms=now_ms, used_for=request_digest)
    if record.used_for != request_digest:
        raise TrustError(
            f"this join token for {record.kind} {record.name} was used before; ask the operator for a new one, "
            f"and tell them if it was not you: somebody else may have joined under this name"
        )
    return record


def check_address(address: str) -> str:
    """Return `address` if it is `host:port` (an IPv6 host in brackets).

    Raises:
        ConfigError: it is not.
    """
    host, colon, port = address.rpartition(":")
    usable = host.isascii() and host.isprintable() and not any(mark in host for mark in " /@")
    bare_colon = ":" in host and not (host.startswith("[") and host.endswith("]"))
    valid_port = port.isascii() and port.isdecimal() and 0 < int(port) < 65536 if len(port) <= 5 else False
    if not (colon and host and usable and valid_port and len(host) <= 255) or bare_colon:
        raise ConfigError(f"address: expected host:port, found {address[:80]!r}")
    return address


def _check_expiry(kind: str, name: str, expires_at_ms: int, now_ms: int) -> None:
    if now_ms >= expires_at_ms:
        raise TrustError(
            f"the join token for {kind} {name} expired {(now_ms - expires_at_ms) // 1000} s ago; "
            f"ask the federation's operator for a new one"
        )


def _unframe(text: str) -> bytes:
    if not text.lower().startswith(PREFIX):
        raise ConfigError(f"join token: expected text that begins with {PREFIX}, found {len(text)} other characters")
    digits = text[len(PREFIX) :].upper()
    if len(digits) > _MAX_CHARACTERS:
        raise ConfigError(f"join token: expected at most {_MAX_CHARACTERS} characters, found {len(digits)}")
    declared = _declared_digits(digits)
    if len(digits) != declared:
        raise ConfigError(
            f"join token: expected {declared + len(PREFIX)} characters, found {len(text)}: "
            f"it was {'cut short' if len(digits) < declared else 'run together with something else'}; copy it again"
        )
    framed = _base32(digits)
    body, check = framed[:-_CHECK_BYTES], framed[-_CHECK_BYTES:]
    again = base64.b32encode(framed).decode().rstrip("=")
    if hashlib.sha256(body).digest()[:_CHECK_BYTES] != check or again != digits:
        raise ConfigError("join token: a character was changed on the way; copy it again instead of typing it")
    return body[2:]


def _declared_digits(digits: str) -> int:
    if len(digits) < 8:
        raise ConfigError("join token: it was cut short right after its beginning; copy it again")
    size = 2 + int.from_bytes(_base32(digits[:8])[:2], "big") + _CHECK_BYTES
    if size < 64 + 2 + _CHECK_BYTES:
        raise ConfigError("join token: a character near its beginning was changed; copy it again")
    return -(-size * 8 // 5)


def _base32(digits: str) -> bytes:
    try:
        return base64.b32decode(digits + "=" * (-len(digits) % 8))
    except ValueError:
        raise ConfigError("join token: expected only letters and the digits 2 to 7; copy it again") from None


def _optional(body: dict[str, Any], name: str, kind: type) -> Any:
    return None if body.get(name) is None else read_field(body, name, kind, "token record")
