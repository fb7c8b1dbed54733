"""Who belongs to the federation: tokens, enrolment, renewal, revocation. Records live in the ledger.

token/<sha256 of the secret>     a TokenRecord
member/<kind>/<name>             {record, enrolled_at_ms}: the newest member record, which the authority signed
revocations                      the signed list, cached in memory: the check on each call touches no disk
"""

import asyncio
import contextlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from hanse.core.errors import CodecError, ConfigError, ConflictError, HanseError, NotFoundError, PolicyError, TrustError
from hanse.core.ids import check_name
from hanse.core.proto import hanse_pb2 as pb
from hanse.core.seams import Ledger
from hanse.server.sts import post
from hanse.trust.authority import Authority, Issued
from hanse.trust.aws_identity import MARK, AwsIdentity, Proof, verify
from hanse.trust.certificates import Identity, peer_identity
from hanse.trust.identity import SigningRequest
from hanse.trust.member_record import MemberRecord, issued_at_ms, verify_record
from hanse.trust.revocation import RevocationList, read_revocations
from hanse.trust.signing import load_signing_key
from hanse.trust.tokens import TokenRecord, make_token, redeem, token_key

ADMIN, RESEARCHER = "admin", "researcher"
ROLES = (ADMIN, RESEARCHER)
REVOCATIONS = "revocations"


@dataclass(frozen=True, slots=True)
class Member:
    """A member as enrolled."""

    kind: str
    name: str
    roles: tuple[str, ...]
    enrolled_at_ms: int
    not_after_ms: int
    revoked: bool


class Members:
    """Enrolment and revocation. `load` first.

    Args:
        identities: the AWS identity that may join as a site.
        sts: another address of STS than its own.
    """

    def __init__(
        self,
        authority: Authority,
        ledger: Ledger,
        *,
        address: str,
        identities: Mapping[str, AwsIdentity] | None = None,
        sts: str = "",
    ) -> None:
        self.authority = authority
        self._identities = identities or {}
        self._sts = sts
        self._ledger = ledger
        self._address = address
        self._revoked = RevocationList(authority.federation)
        self._records: dict[tuple[str, str], tuple[MemberRecord, bytes]] = {}
        self._changing = asyncio.Lock()

    async def load(self, *, least_revocations: int = 0, sign_roles: bool = False, others_write: bool = False) -> None:
        """Read the records of members and the revocation list.

        Args:
            least_revocations: the newest version of the list that is known; 0 for none.
            sign_roles: whether roles that an earlier version wrote beside a record, and nobody signed, are signed now:
                for a ledger that lies beside the authority's key, and is written by whoever holds that.
            others_write: whether others may write the ledger, too. A row that is not the newest record of the member
                that it is called after counts for nobody then, so that it keeps nobody else from being admitted or
                revoked.

        Raises:
            TrustError: the list is an older one, or gone.
        """
        try:
            content, _ = await self._ledger.get(REVOCATIONS)
        except NotFoundError:
            if least_revocations:
                raise TrustError(
                    f"expected version {least_revocations} of the revocation list or a newer one, found none"
                ) from None
        else:
            self._revoked = read_revocations(content, self.authority.certificate_pem, least_version=least_revocations)
        after: str | None = None
        while rows := await self._ledger.query("member/", after):
            after = rows[-1][0]
            for key, value, version in rows:
                try:
                    row = json.loads(value)
                    record, content = self._read(row)
                    if others_write and key != f"member/{record.kind}/{record.name}":
                        raise TrustError("the record is another member's")
                    if others_write and self._revoked.is_superseded(record):
                        raise TrustError("the record is an older one")
                except (HanseError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
                    if not others_write:
                        raise
                    continue
                self._records[(record.kind, record.name)] = record, content
                if sign_roles and record.kind == "person" and record.roles is None:
                    signed = replace(record, roles=tuple(row["roles"])).sign(self.authority.key)
                    row = {"record": signed.decode(), "enrolled_at_ms": row["enrolled_at_ms"]}
                    if await self._ledger.compare_and_set(key, json.dumps(row).encode(), version):
                        self._remember(row)

    # ---- who calls ----

    def admit(self, certificate: bytes) -> Identity:
        """Who this is, now.

        Raises:
            TrustError: foreign, expired, revoked, or not enrolled.
        """
        identity = _identity(certificate)
        self._revoked.check(identity, _now())
        if (identity.kind, identity.name) not in self._records:
            raise TrustError(f"{identity.kind} {identity.name} is not enrolled; ask the federation's operator")
        return identity

    def record(self, kind: str, name: str) -> tuple[MemberRecord, bytes]:
        """A member's keys, and the signed record.

        Raises:
            NotFoundError: there is no such member.
        """
        found = self._records.get((kind, name))
        if found is None:
            raise NotFoundError(f"there is no {kind} {name} in federation {self.authority.federation}")
        return found

    def signing_key(self, kind: str, name: str) -> Ed25519PublicKey:
        """The key that verifies a member's signatures."""
        return _signing_key(self.record(kind, name)[0].signing_key)

    def require(self, caller: Identity, role: str) -> None:
        """Check a person's role.

        Raises:
            PolicyError: it has not got it. TrustError: its roles are not signed.
        """
        roles = self._records[("person", caller.name)][0].granted if caller.kind == "person" else ()
        if role not in roles and ADMIN not in roles:
            raise PolicyError(f"{caller.kind} {caller.name} has not got the role {role}")

    def of_kind(self, kind: str) -> Sequence[Member]:
        """Every member of a kind, by name."""
        found = []
        for (its_kind, name), (record, _) in sorted(self._records.items()):
            if its_kind == kind:
                revoked = f"{kind}/{name}" in self._revoked.names or record.serial in self._revoked.serials
                found.append(Member(kind, name, record.roles or (), record.issued_at_ms, record.not_after_ms, revoked))
        return found

    # ---- enrolment ----

    async def invite(self, kind: str, name: str, *, roles: Sequence[str] = (), address: str, hours: float = 24) -> str:
        """A one-time join token.

        Raises:
            ConfigError: a name or role that cannot be, or a member of that name that is not revoked.
        """
        check_name(name, kind)
        unknown = [role for role in roles if role not in ROLES]
        if unknown:
            raise ConfigError(f"role: expected {' or '.join(ROLES)}, found {str(unknown[0])[:40]!r}")
        if not 0 < hours < math.inf:
            raise ConfigError(f"hours: expected a number above 0, found {hours}")
        if self._is_enrolled(kind, name):
            raise ConfigError(f"{kind} {name} is enrolled already; revoke it first, or choose another name")
        token, record = make_token(
            address=address,
            federation=self.authority.federation,
            authority_sha256=self.authority.sha256,
            kind=kind,
            name=name,
            valid_ms=int(hours * 3600_000),
        )
        await self._ledger.create(f"token/{record.secret_sha256}", record.to_bytes())
        await self._put(f"roles/{kind}/{name}", json.dumps(list(roles)).encode())
        return token.encode()

    async def join(self, request: pb.JoinRequest) -> pb.JoinReply:
        """Use a token for a signing request.

        Raises:
            TrustError: the token does not hold, or the request is not what it is for.
        """
        signing = SigningRequest.parse(request.signing_request)
        if request.token_secret.startswith(MARK):
            await self._prove_identity(request, signing)  # STS takes its time, and others renew meanwhile
            async with self._changing:
                return await self._join_by_identity(request, signing)
        async with self._changing:
            return await self._join_by_token(request, signing)

    async def _join_by_token(self, request: pb.JoinRequest, signing: SigningRequest) -> pb.JoinReply:
        key = f"token/{token_key(request.token_secret)}"
        try:
            content, version = await self._ledger.get(key)
        except NotFoundError:
            raise TrustError("this join token is not known here; ask the federation's operator for a new one") from None
        before = TokenRecord.from_bytes(content)
        after = redeem(
            before, request.token_secret, kind=request.kind, name=request.name, request_digest=signing.digest
        )
        if after != before:
            if self._is_enrolled(request.kind, request.name):
                raise TrustError(
                    f"{request.kind} {request.name} is enrolled already, with another token; "
                    f"tell the federation's operator if it was not you"
                )
            if not await self._ledger.compare_and_set(key, after.to_bytes(), version):
                raise TrustError("this join token is being used by another request at this moment")
        issued = self.authority.issue(signing, kind=request.kind, name=request.name)
        roles = json.loads(await self._get(f"roles/{request.kind}/{request.name}", b"[]"))
        if f"{request.kind}/{request.name}" in self._revoked.names:
            await self._replace_revocations(self._revoked.reinstate(request.kind, request.name))
        return self._reply(await self.enrol(issued, roles))

    async def _prove_identity(self, request: pb.JoinRequest, signing: SigningRequest) -> None:
        """Return if STS says that this is the account and role that the operator allows under this name."""
        expected = self._identities.get(request.name) if request.kind == "site" else None
        if expected is None:
            raise TrustError(f"site {request.name}: no AWS identity may join under this name; see server.yaml")
        self._check_not_revoked(request.name)
        authority = self.authority.sha256.hex()
        bound = f"{self.authority.federation}/{authority}/{request.name}/{signing.digest}".encode()
        found = await asyncio.to_thread(verify, Proof.decode(request.token_secret), bound, post, endpoint=self._sts)
        if found != expected:
            raise TrustError(
                f"site {request.name}: expected role {expected.role} of account {expected.account}, "
                f"found role {found.role} of account {found.account}"
            )

    def _check_not_revoked(self, site: str) -> None:
        if f"site/{site}" in self._revoked.names:
            raise TrustError(f"site {site} is revoked; ask the federation's operator")

    async def _join_by_identity(self, request: pb.JoinRequest, signing: SigningRequest) -> pb.JoinReply:
        """A site whose AWS identity is proven.

        Whoever the operator allows may come again with new keys, as a machine that replaces another does; the keys
        before then count no more.
        """
        self._check_not_revoked(request.name)  # it may have been revoked while STS was asked
        if ("site", request.name) in self._records:
            record, _ = self.record("site", request.name)
            if record.signing_key != signing.signing_key:
                serials = [i.serial for i in self.authority.issued() if (i.kind, i.name) == ("site", request.name)]
                revoked = self._revoked.revoke_name("site", request.name, serials=serials)
                await self._replace_revocations(revoked.reinstate("site", request.name))
        issued = self.authority.issue(signing, kind="site", name=request.name)
        return self._reply(await self.enrol(issued))

    async def enrol(self, issued: Issued, roles: Sequence[str] = (), *, others_write: bool = False) -> Issued:
        """Write down a member that the authority has certified, a person with these roles.

        Args:
            others_write: whether others may write the ledger, too. The list then says that every other record of this
                member is an older one.

        Returns:
            The same with the record that was written: the authority has signed the roles into it.
        """
        identity = issued.identity
        record = verify_record(issued.record, self.authority.certificate_pem, now_ms=issued_at_ms(issued.record))
        wanted = replace(record, roles=tuple(roles)) if identity.kind == "person" else record
        newest = self._revoked.newest.get(f"{identity.kind}/{identity.name}", 0) if others_write else 0
        if wanted.issued_at_ms < newest + (wanted != record):
            wanted = replace(wanted, issued_at_ms=newest + 1)
        if wanted != record:
            issued = replace(issued, record=wanted.sign(self.authority.key))
        value = {"record": issued.record.decode(), "enrolled_at_ms": _now()}
        await self._put(f"member/{identity.kind}/{identity.name}", json.dumps(value).encode())
        self._remember(value)
        if others_write and (revoked := self._revoked.supersede(wanted)) is not self._revoked:
            await self._replace_revocations(revoked)  # after the row: until then the one before holds
        return issued

    async def name_newest(self) -> None:
        """Have the list name the records that are there as the newest: also of members whom a version before enrolled.

        For a ledger that others may write; see `enrol`.
        """
        revoked = self._revoked
        for record, _ in self._records.values():
            revoked = revoked.supersede(record)
        if revoked is not self._revoked:
            await self._replace_revocations(revoked)

    async def readmit(self, issued: Issued) -> None:
        """Let a member be enrolled that the operator admits now, whether or not its name was revoked.

        Where it comes with other keys than those on record, or nothing is on record, all its certificates of before are
        revoked for good: whoever has the old keys, and may write the ledger, does not bring the old record back.

        Raises:
            CodecError, TrustError: what was issued does not hold.
        """
        kind, name = issued.identity.kind, issued.identity.name
        record = verify_record(issued.record, self.authority.certificate_pem)
        async with self._changing:
            before, _ = self._records.get((kind, name), (None, b""))
            serials = set() if before is None else {before.serial}
            serials |= {each.serial for each in self.authority.issued() if (each.kind, each.name) == (kind, name)}
            serials -= {record.serial} | self._revoked.serials
            if before is not None and _keys(before) == _keys(record):
                serials.clear()
            if serials or f"{kind}/{name}" in self._revoked.names:
                revoked = self._revoked.revoke_name(kind, name, serials=serials)
                await self._replace_revocations(revoked.reinstate(kind, name))

    async def renew(self, caller: Identity, request: pb.RenewRequest) -> pb.JoinReply:
        """A new certificate for the same member and the same keys.

        Raises:
            TrustError: another's request, or for other keys; or the caller was revoked meanwhile.
        """
        signing = SigningRequest.parse(request.signing_request)
        async with self._changing:
            self._revoked.check(caller, _now())
            record, _ = self.record(caller.kind, caller.name)
            issued = self.authority.renew(signing, record=record)
            return self._reply(await self.enrol(issued, record.granted))

    @property
    def revocations(self) -> RevocationList:
        """The list as it is."""
        return self._revoked

    async def revoke(self, kind: str, name: str) -> None:
        """Let nobody of this name in any more, nor with a token that was made for it before.

        Raises:
            NotFoundError: there is no such member. ConfigError: it is the last admin; nobody could invite another.
        """
        async with self._changing:
            serials = [i.serial for i in self.authority.issued() if (i.kind, i.name) == (kind, name)]
            if not serials:  # of one whose row somebody has removed the authority knows all the same
                self.record(kind, name)
            admins = {m.name for m in self.of_kind("person") if ADMIN in m.roles and not m.revoked}
            if kind == "person" and admins == {name}:
                raise ConfigError(f"{name} is the only admin; add another with `hanse person add --role admin` first")
            await self._replace_revocations(self._revoked.revoke_name(kind, name, serials=serials))
            await self._forget_tokens(kind, name)

    async def _forget_tokens(self, kind: str, name: str) -> None:
        """Used ones as well: a used token answers its own request again, should the answer have been lost."""
        after: str | None = None
        while rows := await self._ledger.query("token/", after):
            after = rows[-1][0]
            for key, value, _ in rows:
                record = TokenRecord.from_bytes(value)
                if (record.kind, record.name) == (kind, name):
                    await self._ledger.delete(key)

    def _is_enrolled(self, kind: str, name: str) -> bool:
        return (kind, name) in self._records and f"{kind}/{name}" not in self._revoked.names

    async def _replace_revocations(self, revoked: RevocationList) -> None:
        """Write the list that follows the one known here.

        Raises:
            ConflictError: another operator has written one meanwhile, which this one must not undo.
        """
        content = revoked.sign(self.authority.key)
        while not await self._ledger.create(REVOCATIONS, content):
            found, version = await self._ledger.get(REVOCATIONS)
            with contextlib.suppress(CodecError, TrustError):  # what is no list of the authority's is written over
                if read_revocations(found, self.authority.certificate_pem).version > self._revoked.version:
                    raise ConflictError("somebody else has admitted or revoked members at this moment; do it again")
            if await self._ledger.compare_and_set(REVOCATIONS, content, version):
                break
        self._revoked = revoked

    def _reply(self, issued: Issued) -> pb.JoinReply:
        return pb.JoinReply(
            certificate=issued.certificate_pem.decode(),
            authority=self.authority.certificate_pem.decode(),
            member_record=issued.record,
            address=self._address,
            federation=self.authority.federation,
        )

    def _read(self, value: dict[str, Any]) -> tuple[MemberRecord, bytes]:
        content = value["record"].encode()
        return verify_record(content, self.authority.certificate_pem, now_ms=issued_at_ms(content)), content

    def _remember(self, value: dict[str, Any]) -> None:
        record, content = self._read(value)
        self._records[(record.kind, record.name)] = (record, content)

    async def _get(self, key: str, default: bytes) -> bytes:
        try:
            return (await self._ledger.get(key))[0]
        except NotFoundError:
            return default

    async def _put(self, key: str, value: bytes) -> None:
        while not await self._ledger.create(key, value):
            _, version = await self._ledger.get(key)
            if await self._ledger.compare_and_set(key, value, version):
                return


def _keys(record: MemberRecord) -> tuple[str, bytes, bytes]:
    return record.tls_key_sha256, record.signing_key, record.sealing_key


def _now() -> int:
    return time.time_ns() // 1_000_000


@lru_cache(maxsize=4096)
def _identity(certificate: bytes) -> Identity:
    return peer_identity(certificate)


@lru_cache(maxsize=4096)
def _signing_key(raw: bytes) -> Ed25519PublicKey:
    return load_signing_key(raw)


def directory_of(root: Path) -> Path:
    """Where the authority lives in a server's directory."""
    return root / "authority"
