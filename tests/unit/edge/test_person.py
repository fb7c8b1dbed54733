"""The edge's own person stays certified: days are numbers here."""

from pathlib import Path

import pytest

from hanse.backends.memory import MemoryLedger
from hanse.core.errors import PolicyError, TrustError
from hanse.edge.person import check_may_submit, renew_if_due
from hanse.server.init import certify
from hanse.server.members import ADMIN, RESEARCHER, Members
from hanse.trust.authority import Authority
from hanse.trust.membership import Membership


async def test_a_person_is_renewed_in_the_last_third_of_its_time_and_not_afterwards(tmp_path: Path) -> None:
    authority = Authority.create("north").save(tmp_path / "authority")
    members = Members(authority, MemoryLedger(), address="127.0.0.1:7400")
    member, issued = certify(authority, "north", "127.0.0.1:7400", "person", "admin", days=0.5)
    await members.enrol(issued, [ADMIN])
    folder = tmp_path / "admin"
    folder.mkdir()
    member.save(folder)
    first = member.identity

    assert not await renew_if_due(folder, members, first.renew_at_ms - 1)
    assert Membership.load(folder).certificate_pem == member.certificate_pem
    assert await renew_if_due(folder, members, first.renew_at_ms)
    renewed = Membership.load(folder)
    assert renewed.identity.not_after_ms > first.not_after_ms
    assert renewed.keys.signing_public == member.keys.signing_public
    assert members.record("person", "admin")[1] == renewed.signed_record, "what is offered to members is the new record"
    with pytest.raises(TrustError, match="expired"):
        await renew_if_due(folder, members, renewed.identity.not_after_ms)


async def test_a_person_who_was_revoked_submits_nothing_from_above() -> None:
    authority = Authority.create("north")
    members = Members(authority, MemoryLedger(), address="127.0.0.1:7400")
    folders = {}
    for name, roles in {"admin": [ADMIN], "edge": [RESEARCHER], "guest": []}.items():
        folders[name], issued = certify(authority, "north", "127.0.0.1:7400", "person", name)
        await members.enrol(issued, roles)
    check_may_submit(folders["admin"], members)
    check_may_submit(folders["edge"], members)
    with pytest.raises(PolicyError, match="has not got the role"):
        check_may_submit(folders["guest"], members)
    await members.revoke("person", "edge")
    with pytest.raises(PolicyError, match=r"may not submit within the group: .*revoked"):
        check_may_submit(folders["edge"], members)
