"""Which certificates and members hold no longer: a signed, versioned record.

A value: revoking makes the next version. The server keeps the current one in memory and asks `is_revoked` on every
call (two look-ups in sets); on disk and on the wire it is the authority's statement. Revoking a name also stops
certificates that nobody recorded; it lasts until `reinstate`.

Where others than who holds the authority's key write the ledger, the list says besides of each member when its newest
record was issued (`newest`): an older one holds no more, though the authority once signed it for the same keys.

Not an X.509 CRL: gRPC's TLS would read that per handshake only, and streams live longer.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hanse.core.errors import CodecError, ConfigError, TrustError
from hanse.core.ids import check_name
from hanse.trust.certificates import Identity, authority_key, check_kind, current_ms
from hanse.trust.member_record import MemberRecord
from hanse.trust.signing import PrivateKey
from hanse.trust.statements import make_statement, read_statement
from hanse.trust.strict_json import read_field

_KIND = "revocation-list"
_MAX_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RevocationList:
    """One version of the list. `names` holds `kind/name`; `newest` that, and milliseconds since 1970."""

    federation: str
    version: int = 0
    issued_at_ms: int = 0
    serials: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    newest: Mapping[str, int] = field(default_factory=dict)

    def is_revoked(self, identity: Identity) -> bool:
        """Whether this certificate, or its holder's name, is revoked. Constant time, no disk."""
        return identity.serial in self.serials or f"{identity.kind}/{identity.name}" in self.names

    def is_superseded(self, record: MemberRecord) -> bool:
        """Whether the authority has issued this member a newer record."""
        return record.issued_at_ms < self.newest.get(f"{record.kind}/{record.name}", 0)

    def supersede(self, record: MemberRecord, *, now_ms: int | None = None) -> "RevocationList":
        """The next version, in which this is its member's newest record; the same if it knows of one as new."""
        member = f"{record.kind}/{record.name}"
        if record.issued_at_ms <= self.newest.get(member, 0):
            return self
        newest = {**self.newest, member: record.issued_at_ms}
        return replace(self._next(self.serials, self.names, now_ms), newest=newest)

    def check(self, identity: Identity, now_ms: int | None = None) -> None:
        """Return if a caller with this certificate may be heard now.

        Raises:
            TrustError: of another federation, revoked, or not valid at `now_ms`.
        """
        if identity.federation != self.federation:
            raise TrustError(f"expected a member of {self.federation}, found one of {identity.federation}")
        if self.is_revoked(identity):
            raise TrustError(f"the certificate of {identity} is revoked; ask the federation's operator")
        identity.check_time(now_ms)

    def revoke(self, identity: Identity, *, now_ms: int | None = None) -> "RevocationList":
        """The next version, without this one certificate; its holder may have others."""
        return self._next(self.serials | {identity.serial}, self.names, now_ms)

    def revoke_name(
        self, kind: str, name: str, *, serials: Iterable[str] = (), now_ms: int | None = None
    ) -> "RevocationList":
        """The next version, without this member.

        Args:
            kind: `site`, `person` or `server`.
            name: the member's.
            serials: of all its certificates that are known, so that they stay revoked after `reinstate`.
            now_ms: the time; None for now.

        Raises:
            ConfigError: no possible member.
        """
        member = f"{check_kind(kind)}/{check_name(name, kind)}"
        return self._next(self.serials | set(serials), self.names | {member}, now_ms)

    def reinstate(self, kind: str, name: str, *, now_ms: int | None = None) -> "RevocationList":
        """The next version, in which this name may be enrolled again. Revoked serials stay revoked."""
        return self._next(self.serials, self.names - {f"{kind}/{name}"}, now_ms)

    def _next(self, serials: frozenset[str], names: frozenset[str], now_ms: int | None) -> "RevocationList":
        now_ms = current_ms() if now_ms is None else now_ms
        return replace(self, version=self.version + 1, issued_at_ms=now_ms, serials=serials, names=names)

    def sign(self, key: PrivateKey) -> bytes:
        """The list as the authority's statement.

        **Guarantee.** `read_revocations` takes it from nobody but the holder of the authority's key.
        **Reveals.** Serials and names of revoked members; everybody's names where it says which records are the newest.
        """
        body: dict[str, Any] = {
            "federation": self.federation,
            "version": self.version,
            "issued_at_ms": self.issued_at_ms,
            "serials": sorted(self.serials),
            "names": sorted(self.names),
        }
        if self.newest:
            body["newest"] = dict(self.newest)
        return make_statement(key, _KIND, body)


def read_revocations(content: bytes, authority_pem: bytes, *, least_version: int = 0) -> RevocationList:
    """Read a list that the authority signed.

    Args:
        content: what `RevocationList.sign` wrote.
        authority_pem: the federation's authority.
        least_version: the newest version seen before; an older one would bring revoked members back.

    Raises:
        CodecError, TooLargeError: not a list. TrustError: not signed by this authority, or older.
    """
    body = read_statement(authority_key(authority_pem), _KIND, content, max_bytes=_MAX_BYTES)
    serials, names = (read_field(body, field, list, _KIND) for field in ("serials", "names"))
    if not all(isinstance(entry, str) for entry in (*serials, *names)):
        raise CodecError(f"{_KIND}: expected serials and names as lists of strings")
    try:
        federation = check_name(read_field(body, "federation", str, _KIND), "federation")
    except ConfigError as error:
        raise CodecError(f"{_KIND}: {error}") from None
    newest = read_field(body, "newest", dict, _KIND) if "newest" in body else {}
    if not all(type(at_ms) is int for at_ms in newest.values()):
        raise CodecError(f"{_KIND}: expected times of the newest records in milliseconds")
    version = read_field(body, "version", int, _KIND)
    if version < least_version:
        raise TrustError(f"expected version {least_version} of the revocation list or a newer one, found {version}")
    issued_at_ms = read_field(body, "issued_at_ms", int, _KIND)
    return RevocationList(federation, version, issued_at_ms, frozenset(serials), frozenset(names), newest)
