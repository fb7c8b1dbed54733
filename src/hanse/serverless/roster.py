"""Who belongs to the federation, as the ledger says: read-only, and remembered for a minute by a function that is warm.

Members are enrolled and revoked by the operator, who alone holds the authority's key (`hanse.server.members`). So a
revocation takes effect within `FRESH_S`, and at once in a function that starts. A record older than the newest one that
the list says its member was issued is refused: whoever may write the table may have kept copies. A list older than the
newest one seen, or than the one that the operator wrote down beside the keys, is refused, and with it everybody.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from hanse.core.errors import HanseError, NotFoundError, TrustError
from hanse.core.seams import Ledger
from hanse.trust.member_record import MemberRecord, issued_at_ms, verify_record
from hanse.trust.revocation import RevocationList, read_revocations
from hanse.trust.signing import load_signing_key

FRESH_S = 60.0
ADMIN = "admin"
log = structlog.get_logger("hanse.serverless")


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A member that is enrolled and not revoked."""

    record: MemberRecord
    signed_record: bytes

    @property
    def roles(self) -> tuple[str, ...]:
        """A person's, as the authority signed them.

        Raises:
            TrustError: they are not signed.
        """
        return self.record.granted

    @property
    def key(self) -> Ed25519PublicKey:
        """Verifies its signatures."""
        return load_signing_key(self.record.signing_key)


class Roster:
    """The members, each looked up when it is first heard of."""

    def __init__(
        self,
        ledger: Ledger,
        authority_pem: bytes,
        federation: str,
        *,
        least_revocations: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._authority_pem = authority_pem
        self._federation = federation
        self._least_revocations = least_revocations
        self._clock = clock
        self._kept: dict[str, tuple[float, Any]] = {}

    async def member(self, kind: str, name: str) -> Enrolled:
        """A member.

        Raises:
            TrustError: not enrolled, revoked, or its record does not hold now.
        """
        key, revoked = f"member/{kind}/{name}", await self._revoked()
        found: Enrolled = await self._remembered(key, self._read)
        if revoked.is_superseded(found.record):
            found = await self._anew(key, self._read)  # the list may be fresher than what is remembered
        _check(found.record, revoked)
        return found

    async def sites(self) -> list[str]:
        """Every site that is enrolled and not revoked, by name."""
        names: list[str] = await self._remembered("member/site/", self._list)
        revoked = await self._revoked()
        return [name for name in names if f"site/{name}" not in revoked.names]

    async def readers(self, person: str, person_record: bytes) -> dict[str, str]:
        """For whom what is told of a person's job is sealed now: the person and the admins, none of them revoked.

        Args:
            person_record: the person's when the job was submitted, for one whose certificate is over meanwhile.

        Returns:
            Names, and their sealing keys in hexadecimal.
        """
        revoked = await self._revoked()
        everybody: list[Enrolled] = await self._remembered("member/person/", self._read_people)
        if any(revoked.is_superseded(each.record) for each in everybody):
            everybody = await self._anew("member/person/", self._read_people)
        found = [each.record for each in everybody if each.record.name == person or ADMIN in each.roles]
        if all(record.name != person for record in found):
            before = verify_record(person_record, self._authority_pem, now_ms=issued_at_ms(person_record))
            found += [before] if before.name == person else []
        return {record.name: record.sealing_key.hex() for record in found if _holds(record, revoked)}

    async def _revoked(self) -> RevocationList:
        found: RevocationList = await self._remembered("revocations", self._read_revocations)
        return found

    async def _remembered(self, key: str, read: Callable[[str], Any]) -> Any:
        at, value = self._kept.get(key, (-FRESH_S, None))
        if self._clock() - at >= FRESH_S or value is None:
            value = await self._anew(key, read)
        return value

    async def _anew(self, key: str, read: Callable[[str], Any]) -> Any:
        value = await read(key)
        self._kept[key] = self._clock(), value
        return value

    async def _read(self, key: str) -> Enrolled:
        kind, name = key.split("/")[1:]
        try:
            content, _ = await self._ledger.get(key)
        except NotFoundError:
            raise TrustError(f"{kind} {name} is not enrolled; ask the federation's operator") from None
        return self._enrolled(kind, name, content)

    def _enrolled(self, kind: str, name: str, content: bytes) -> Enrolled:
        try:
            signed = json.loads(content)["record"].encode()
        except (
            ValueError,
            RecursionError,
            KeyError,
            TypeError,
            AttributeError,
        ):  # whoever may write the table wrote it
            raise TrustError(
                f"the row of {kind} {name[:80]} is not a member's; let the federation's operator admit it again"
            ) from None
        record = verify_record(signed, self._authority_pem)
        if (record.kind, record.name, record.federation) != (kind, name, self._federation):
            raise TrustError(f"the record of {kind} {name} is another member's")
        return Enrolled(record, signed)

    async def _read_people(self, prefix: str) -> list[Enrolled]:
        """Those whose records hold, with signed roles; a row that is none is refused by name, and the others go on."""
        found: list[Enrolled] = []
        for name, content in await self._rows(prefix):
            try:
                person = self._enrolled("person", name, content)
                person.record.granted  # noqa: B018 - refuses roles that are not signed
            except HanseError as error:
                log.warning("member refused", member=name[:80], reason=str(error))
                continue
            found.append(person)
        return found

    async def _list(self, prefix: str) -> list[str]:
        return [name for name, _ in await self._rows(prefix)]

    async def _rows(self, prefix: str) -> list[tuple[str, bytes]]:
        found: list[tuple[str, bytes]] = []
        after: str | None = None
        while rows := await self._ledger.query(prefix, after):
            after = rows[-1][0]
            found += [(key.removeprefix(prefix), content) for key, content, _ in rows]
        return found

    async def _read_revocations(self, key: str) -> RevocationList:
        try:
            content, _ = await self._ledger.get(key)
        except NotFoundError:
            if self._least_revocations:
                raise TrustError("the list of revoked members is gone; ask the federation's operator") from None
            return RevocationList(self._federation)
        found = read_revocations(content, self._authority_pem, least_version=self._least_revocations)
        self._least_revocations = found.version
        return found


def _check(record: MemberRecord, revoked: RevocationList) -> None:
    who = f"{record.kind} {record.name}"
    if record.serial in revoked.serials or f"{record.kind}/{record.name}" in revoked.names:
        raise TrustError(f"{who} is revoked; ask the federation's operator")
    if revoked.is_superseded(record):
        raise TrustError(
            f"the record of {who} is older than its newest one; let the federation's operator admit it again"
        )


def _holds(record: MemberRecord, revoked: RevocationList) -> bool:
    try:
        _check(record, revoked)
    except TrustError:
        return False
    return True
