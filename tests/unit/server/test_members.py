"""Enrolment, roles, renewal and revocation, over a ledger in memory and after a restart."""

import asyncio
import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from hanse.backends.memory import MemoryLedger
from hanse.core.errors import ConfigError, ConflictError, NotFoundError, PolicyError, TrustError
from hanse.core.proto import hanse_pb2 as pb
from hanse.server.members import ADMIN, RESEARCHER, REVOCATIONS, Members
from hanse.trust.authority import Authority
from hanse.trust.aws_identity import AwsIdentity, prove
from hanse.trust.certificates import Identity, peer_identity
from hanse.trust.identity import MemberKeys, SigningRequest
from hanse.trust.member_record import verify_record
from hanse.trust.tokens import JoinToken
from tests.patience import WAIT_S

ADDRESS = "127.0.0.1:7401"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create("f").save(tmp_path)


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger()


@pytest.fixture
def members(authority: Authority, ledger: MemoryLedger) -> Members:
    return Members(authority, ledger, address="127.0.0.1:7400")


def request_of(keys: MemberKeys, kind: str, name: str) -> bytes:
    return SigningRequest.request(keys, federation="f", kind=kind, name=name).content


async def join(
    members: Members, name: str, kind: str = "site", roles: tuple[str, ...] = (), keys: MemberKeys | None = None
) -> bytes:
    """Invite and join; the certificate."""
    token = JoinToken.decode(await members.invite(kind, name, roles=roles, address=ADDRESS))
    content = request_of(keys or MemberKeys.generate(), kind, name)
    reply = await members.join(pb.JoinRequest(token_secret=token.secret, kind=kind, name=name, signing_request=content))
    return reply.certificate.encode()


def identity(certificate: bytes) -> Identity:
    return peer_identity(certificate)


async def test_who_has_joined_is_admitted_also_after_a_restart(
    members: Members, authority: Authority, ledger: MemoryLedger
) -> None:
    certificate = await join(members, "a", "person", (RESEARCHER,))
    again = Members(authority, ledger, address="")
    await again.load()
    for each in (members, again):
        caller = each.admit(certificate)
        assert (caller.kind, caller.name) == ("person", "a")
        each.require(caller, RESEARCHER)
        with pytest.raises(PolicyError):
            each.require(caller, ADMIN)
        assert [(m.name, m.roles, m.revoked) for m in each.of_kind("person")] == [("a", (RESEARCHER,), False)]
        assert each.of_kind("site") == []


async def test_an_admin_may_everything_and_a_site_nothing(members: Members) -> None:
    admin = members.admit(await join(members, "a", "person", (ADMIN,)))
    site = members.admit(await join(members, "s"))
    for role in (ADMIN, RESEARCHER):
        members.require(admin, role)
        with pytest.raises(PolicyError):
            members.require(site, role)


async def test_who_is_not_enrolled_is_not_admitted(members: Members, authority: Authority) -> None:
    for kind, name, hosts in (("site", "x", ()), ("person", "x", ()), ("server", "server", ("localhost",))):
        request = SigningRequest.request(MemberKeys.generate(), federation="f", kind=kind, name=name)
        issued = authority.issue(request, kind=kind, name=name, hosts=hosts)
        with pytest.raises(TrustError):
            members.admit(issued.certificate_pem)
    with pytest.raises(TrustError):
        members.admit(b"no certificate")


@pytest.mark.parametrize(
    ("kind", "name", "roles", "hours"),
    [
        ("server", "x", (), 1),
        ("site", "server", (), 1),
        ("site", "A", (), 1),
        ("dog", "x", (), 1),
        ("person", "x", ("god",), 1),
        ("person", "x", (), 0),
        ("person", "x", (), -1),
        ("person", "x", (), float("nan")),
        ("person", "x", (), float("inf")),
    ],
)
async def test_invitations_that_cannot_be(
    members: Members, ledger: MemoryLedger, kind: str, name: str, roles: tuple[str, ...], hours: float
) -> None:
    with pytest.raises(ConfigError):
        await members.invite(kind, name, roles=roles, address=ADDRESS, hours=hours)
    assert await ledger.query("") == []


async def test_a_name_is_invited_twice_and_joins_once(members: Members) -> None:
    tokens = [JoinToken.decode(await members.invite("site", "a", address=ADDRESS)) for _ in range(2)]
    requests = [
        pb.JoinRequest(
            token_secret=t.secret, kind="site", name="a", signing_request=request_of(MemberKeys.generate(), "site", "a")
        )
        for t in tokens
    ]
    results = await asyncio.gather(*(members.join(r) for r in requests), return_exceptions=True)
    assert sorted(type(each).__name__ for each in results) == ["JoinReply", "TrustError"]
    with pytest.raises(ConfigError, match="enrolled already"):
        await members.invite("site", "a", address=ADDRESS)


async def test_revoking_and_inviting_again(members: Members, authority: Authority, ledger: MemoryLedger) -> None:
    first = await join(members, "a")
    other = await join(members, "b")
    unused = JoinToken.decode(await members.invite("person", "a", address=ADDRESS))
    await members.revoke("site", "a")
    again = Members(authority, ledger, address="")
    await again.load()
    for each in (members, again):
        with pytest.raises(TrustError, match="revoked"):
            each.admit(first)
        each.admit(other)
        assert [(m.name, m.revoked) for m in each.of_kind("site")] == [("a", True), ("b", False)]
    second = await join(members, "a")
    assert members.admit(second).name == "a"
    with pytest.raises(TrustError, match="revoked"):  # the old certificate stays what it was
        members.admit(first)
    content = request_of(MemberKeys.generate(), "person", "a")  # the person of that name is another matter
    await members.join(pb.JoinRequest(token_secret=unused.secret, kind="person", name="a", signing_request=content))


async def test_tokens_of_before_do_not_bring_a_revoked_member_back(members: Members) -> None:
    keys = MemberKeys.generate()
    used, kept = [JoinToken.decode(await members.invite("site", "a", address=ADDRESS)) for _ in range(2)]
    requests = [
        pb.JoinRequest(token_secret=t.secret, kind="site", name="a", signing_request=request_of(keys, "site", "a"))
        for t in (used, kept)
    ]
    await members.join(requests[0])
    await members.revoke("site", "a")
    for request in requests:
        with pytest.raises(TrustError):
            await members.join(request)
    assert [m.revoked for m in members.of_kind("site")] == [True]


async def test_revoking_nobody(members: Members) -> None:
    with pytest.raises(NotFoundError):
        await members.revoke("site", "nobody")


async def test_renewal_keeps_keys_and_roles(members: Members) -> None:
    keys = MemberKeys.generate()
    caller = members.admit(await join(members, "a", "person", (RESEARCHER,), keys))
    reply = await members.renew(caller, pb.RenewRequest(signing_request=request_of(keys, "person", "a")))
    renewed = members.admit(reply.certificate.encode())
    assert renewed.serial != caller.serial
    members.require(renewed, RESEARCHER)
    with pytest.raises(TrustError):
        await members.renew(caller, pb.RenewRequest(signing_request=request_of(MemberKeys.generate(), "person", "a")))
    await members.revoke("person", "a")
    for each in (caller, renewed):
        with pytest.raises(TrustError, match="revoked"):
            await members.renew(each, pb.RenewRequest(signing_request=request_of(keys, "person", "a")))
    with pytest.raises(TrustError):
        members.admit(reply.certificate.encode())


async def test_roles_that_nobody_signed_are_none_until_the_server_signs_them(
    members: Members, authority: Authority, ledger: MemoryLedger
) -> None:
    """A ledger of an earlier version has them beside the record."""
    certificate = await join(members, "a", "person", (ADMIN,))
    content, version = await ledger.get("member/person/a")
    row = json.loads(content)
    record = replace(verify_record(row["record"].encode(), authority.certificate_pem), roles=None)
    row |= {"record": record.sign(authority.key).decode(), "roles": [ADMIN]}
    assert await ledger.compare_and_set("member/person/a", json.dumps(row).encode(), version)
    reader = Members(authority, ledger, address="")
    await reader.load()
    with pytest.raises(TrustError, match="roles of person a are not signed"):
        reader.require(reader.admit(certificate), ADMIN)
    assert reader.of_kind("person")[0].roles == ()
    server = Members(authority, ledger, address="")
    await server.load(sign_roles=True)
    server.require(server.admit(certificate), ADMIN)
    await reader.load()
    reader.require(reader.admit(certificate), ADMIN)


async def test_the_last_admin_stays(members: Members) -> None:
    await join(members, "a", "person", (ADMIN,))
    await join(members, "b", "person", (RESEARCHER,))
    with pytest.raises(ConfigError, match="a is the only admin; add another"):
        await members.revoke("person", "a")
    await members.revoke("person", "b")
    await join(members, "c", "person", (ADMIN,))
    await members.revoke("person", "a")
    with pytest.raises(ConfigError, match="c is the only admin"):
        await members.revoke("person", "c")


class Sts:
    """Answers as STS would, for whoever is set."""

    arn = "arn:aws:sts::111111111111:assumed-role/FL-execution/SageMaker"

    def __call__(self, address: str, headers: object, body: bytes) -> tuple[int, bytes]:
        return 200, f"<R><Arn>{self.arn}</Arn></R>".encode()


async def join_by_identity(
    members: Members, name: str, keys: MemberKeys, *, bound_to: MemberKeys | None = None
) -> bytes:
    content = request_of(keys, "site", name)
    signed = content if bound_to is None else request_of(bound_to, "site", name)
    bound = f"f/{members.authority.sha256.hex()}/{name}/{SigningRequest.parse(signed).digest}".encode()
    proof = prove("AKID", "secret", "", region="eu-central-1", bound=bound)
    request = pb.JoinRequest(token_secret=proof.encode(), kind="site", name=name, signing_request=content)
    return (await members.join(request)).certificate.encode()


async def test_an_allowed_aws_identity_joins_and_its_replacement_takes_its_place(
    authority: Authority, ledger: MemoryLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    sts = Sts()
    monkeypatch.setattr("hanse.server.members.post", sts)
    allowed = {"north": AwsIdentity("111111111111", "FL-execution")}
    members = Members(authority, ledger, address=ADDRESS, identities=allowed)
    first = await join_by_identity(members, "north", MemberKeys.generate())
    assert members.admit(first).name == "north"
    with pytest.raises(TrustError, match="another federation, site or key"):
        await join_by_identity(members, "north", MemberKeys.generate(), bound_to=MemberKeys.generate())
    with pytest.raises(TrustError, match="no AWS identity may join"):
        await join_by_identity(members, "south", MemberKeys.generate())
    assert members.admit(first).name == "north", "what was refused has changed nothing"

    replacement = await join_by_identity(members, "north", MemberKeys.generate())
    assert members.admit(replacement).name == "north"
    with pytest.raises(TrustError):
        members.admit(first)

    for other in ("222222222222:assumed-role/FL-execution/x", "111111111111:assumed-role/Other/x"):
        sts.arn = f"arn:aws:sts::{other}"
        with pytest.raises(TrustError, match="expected role FL-execution of account 111111111111"):
            await join_by_identity(members, "north", MemberKeys.generate())
    sts.arn = Sts.arn
    await members.revoke("site", "north")
    with pytest.raises(TrustError, match="is revoked"):
        await join_by_identity(members, "north", MemberKeys.generate())


async def test_while_sts_is_asked_others_are_served_and_revoking_counts(
    authority: Authority, ledger: MemoryLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answer = threading.Event(), threading.Event()

    def slow(address: str, headers: object, body: bytes) -> tuple[int, bytes]:
        asked.set()
        assert answer.wait(WAIT_S)
        return Sts()(address, headers, body)

    monkeypatch.setattr("hanse.server.members.post", slow)
    allowed = {"north": AwsIdentity("111111111111", "FL-execution")}
    members = Members(authority, ledger, address=ADDRESS, identities=allowed)
    await join(members, "north")
    joining = asyncio.ensure_future(join_by_identity(members, "north", MemberKeys.generate()))
    await asyncio.to_thread(asked.wait, WAIT_S)
    try:
        async with asyncio.timeout(WAIT_S):
            await join(members, "bergen")
            await members.revoke("site", "north")
    finally:
        answer.set()
    with pytest.raises(TrustError, match="is revoked"):
        await joining


async def test_of_two_operators_at_once_none_undoes_what_the_other_has_revoked(
    members: Members, authority: Authority, ledger: MemoryLedger
) -> None:
    certificates = {name: await join(members, name) for name in ("a", "b")}
    other = Members(authority, ledger, address=ADDRESS)
    await other.load()
    await other.revoke("site", "a")
    with pytest.raises(ConflictError, match="do it again"):
        await members.revoke("site", "b")
    await members.load()
    await members.revoke("site", "b")
    found = Members(authority, ledger, address=ADDRESS)
    await found.load()
    for certificate in certificates.values():
        with pytest.raises(TrustError, match="revoked"):
            found.admit(certificate)


async def test_a_list_that_nobody_signed_is_written_over(
    members: Members, authority: Authority, ledger: MemoryLedger
) -> None:
    certificate = await join(members, "a")
    await ledger.create(REVOCATIONS, b"not a list")
    await members.revoke("site", "a")
    found = Members(authority, ledger, address=ADDRESS)
    await found.load()
    with pytest.raises(TrustError, match="revoked"):
        found.admit(certificate)
