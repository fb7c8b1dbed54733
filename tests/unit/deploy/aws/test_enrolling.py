"""Who is let in from the operator's machine, with which roles, and who stays out."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import structlog
from cryptography import x509

from hanse.backends.memory import MemoryLedger
from hanse.core.errors import NotFoundError, TrustError
from hanse.deploy.aws import deploying, enrolling
from hanse.deploy.aws.cloudformation import StackView
from hanse.deploy.aws.settings import Deployment, read
from hanse.server.members import ADMIN, RESEARCHER, Members
from hanse.serverless.keys import unpack
from hanse.serverless.roster import Roster
from hanse.trust.authority import Authority, Issued
from hanse.trust.certificates import current_ms
from hanse.trust.identity import MemberKeys, SigningRequest
from hanse.trust.member_record import MemberRecord, verify_record
from hanse.trust.revocation import read_revocations


class Office:
    """An operator's machine, and the ledger that functions read."""

    account: Any = type("Account", (), {"client": lambda self, service: None})()

    def __init__(self, folder: Path) -> None:
        self.authority = Authority.create("north").save(folder / "authority")
        self.ledger = MemoryLedger()
        self.deployment: Deployment = read({"federation": "north", "aws": {"region": "eu-central-1", "sites": ["s"]}})

    def certified(self, name: str) -> Issued:
        request = SigningRequest.request(MemberKeys.generate(), federation="north", kind="person", name=name)
        return self.authority.issue(request, kind="person", name=name)

    def admit_site(self, name: str) -> Issued:
        request = SigningRequest.request(MemberKeys.generate(), federation="north", kind="site", name=name)
        issued = self.authority.issue(request, kind="site", name=name)
        enrolling.enrol(self.account, self.deployment, "t", self.authority, [(issued, [])], admit=True)
        return issued

    def enrol(self, name: str, *roles: str, admit: bool) -> None:
        members = [(self.certified(name), list(roles))]
        enrolling.enrol(self.account, self.deployment, "t", self.authority, members, admit=admit)

    def revoke(self, name: str, kind: str = "person") -> None:
        async def write() -> None:
            book = Members(self.authority, self.ledger, address="")
            await book.load()
            await book.revoke(kind, name)

        asyncio.run(write())

    def roles(self, name: str) -> tuple[str, ...]:
        roster = Roster(self.ledger, self.authority.certificate_pem, "north")
        return asyncio.run(roster.member("person", name)).roles


@pytest.fixture
def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Office:
    found = Office(tmp_path)
    monkeypatch.setattr(enrolling, "TableLedger", lambda *_: found.ledger)
    return found


def test_a_new_certificate_or_deployment_changes_nobody_s_role(office: Office) -> None:
    office.enrol("admin", ADMIN, RESEARCHER, admit=False)
    office.enrol("bert", RESEARCHER, admit=True)
    office.enrol("admin", RESEARCHER, admit=True)  # after ninety days, by his request
    office.enrol("bert", ADMIN, RESEARCHER, admit=False)  # his folder lies beside the federation's
    assert office.roles("admin") == (ADMIN, RESEARCHER)
    assert office.roles("bert") == (RESEARCHER,)


def test_roles_in_a_row_that_nobody_signed_are_given_to_nobody(office: Office) -> None:
    """Whoever may write the table writes another role beside a record, or takes the signed ones away."""
    office.enrol("bert", RESEARCHER, admit=True)
    for roles in ((RESEARCHER,), None):

        async def forge(roles: tuple[str, ...] | None = roles) -> None:
            content, version = await office.ledger.get("member/person/bert")
            row = json.loads(content)
            record = verify_record(row["record"].encode(), office.authority.certificate_pem)
            row |= {"record": replace(record, roles=roles).sign(office.authority.key).decode(), "roles": [ADMIN]}
            assert await office.ledger.compare_and_set("member/person/bert", json.dumps(row).encode(), version)

        asyncio.run(forge())
        if roles is None:
            with pytest.raises(TrustError, match="are not signed"):
                office.roles("bert")
        office.enrol("bert", RESEARCHER, admit=True)
        assert office.roles("bert") == (RESEARCHER,)


def test_who_was_revoked_comes_back_by_the_operator_s_word_and_not_by_deploying(office: Office) -> None:
    office.enrol("admin", ADMIN, RESEARCHER, admit=False)
    office.enrol("eve", ADMIN, RESEARCHER, admit=False)
    office.revoke("eve")
    office.enrol("eve", ADMIN, RESEARCHER, admit=False)
    with pytest.raises(TrustError, match="revoked"):
        office.roles("eve")
    office.enrol("eve", RESEARCHER, admit=True)
    assert office.roles("eve") == (RESEARCHER,)


def test_a_member_that_is_admitted_with_new_keys_leaves_the_old_ones_without_worth(office: Office) -> None:
    """Whoever has the old keys and may write the table puts the old record back, or has taken it away before."""
    for is_gone in (False, True):
        office.enrol("bert", RESEARCHER, admit=True)
        old, _ = asyncio.run(office.ledger.get("member/person/bert"))
        if is_gone:
            asyncio.run(office.ledger.delete("member/person/bert"))
        office.enrol("bert", RESEARCHER, admit=True)
        assert office.roles("bert") == (RESEARCHER,)
        asyncio.run(office.ledger.delete("member/person/bert"))
        assert asyncio.run(office.ledger.create("member/person/bert", old))
        with pytest.raises(TrustError, match="revoked"):
            office.roles("bert")


def test_a_member_that_is_admitted_with_the_keys_it_has_works_with_the_old_certificate_until_it_has_the_new(
    office: Office,
) -> None:
    request = SigningRequest.request(MemberKeys.generate(), federation="north", kind="person", name="bert")
    for _ in range(2):
        issued = office.authority.issue(request, kind="person", name="bert")
        enrolling.enrol(office.account, office.deployment, "t", office.authority, [(issued, [RESEARCHER])], admit=True)
    content, _ = asyncio.run(office.ledger.get("revocations"))
    found = read_revocations(content, office.authority.certificate_pem)
    assert (found.serials, found.names) == (set(), set())


# ---- older records ----


def put(office: Office, key: str, content: bytes | None) -> None:
    asyncio.run(office.ledger.delete(key))
    if content is not None:
        assert asyncio.run(office.ledger.create(key, content))


def row_of(office: Office, key: str) -> bytes:
    return asyncio.run(office.ledger.get(key))[0]


def test_an_older_record_of_the_same_name_and_keys_is_refused_whoever_signed_it(office: Office) -> None:
    """Whoever may write the table has kept a copy from before; all in one millisecond, on a machine that is fast."""
    request = SigningRequest.request(MemberKeys.generate(), federation="north", kind="person", name="bert")
    issued = office.authority.issue(request, kind="person", name="bert", now_ms=current_ms())
    admin = replace(issued, record=replace(_record(office, issued), roles=(ADMIN,)).sign(office.authority.key))
    enrolling.enrol(office.account, office.deployment, "t", office.authority, [(admin, [ADMIN])])
    before = row_of(office, "member/person/bert")
    put(office, "member/person/bert", None)
    # His folder is written anew: the same certificate, other roles.
    enrolling.enrol(office.account, office.deployment, "t", office.authority, [(issued, [RESEARCHER])])
    assert office.roles("bert") == (RESEARCHER,)
    put(office, "member/person/bert", before)
    with pytest.raises(TrustError, match="older than its newest"):
        office.roles("bert")
    # Nor does the operator, who looks roles up there, give them to him again.
    renewed = office.authority.issue(request, kind="person", name="bert")
    enrolling.enrol(office.account, office.deployment, "t", office.authority, [(renewed, [RESEARCHER])], admit=True)
    assert office.roles("bert") == (RESEARCHER,)


def _record(office: Office, issued: Issued) -> MemberRecord:
    return verify_record(issued.record, office.authority.certificate_pem)


def test_a_folder_from_before_an_admission_does_not_write_over_it(office: Office) -> None:
    """The operator deploys; the person's folder beside the authority holds the record that it was made with."""
    request = SigningRequest.request(MemberKeys.generate(), federation="north", kind="person", name="bert")
    now = current_ms()
    old = office.authority.issue(request, kind="person", name="bert", now_ms=now - 1000, roles=[ADMIN])
    enrolling.enrol(office.account, office.deployment, "t", office.authority, [(old, [ADMIN])])
    new = office.authority.issue(request, kind="person", name="bert", now_ms=now)
    enrolling.enrol(office.account, office.deployment, "t", office.authority, [(new, [RESEARCHER])], admit=True)
    newer = row_of(office, "member/person/bert")
    _, least = enrolling.enrol(office.account, office.deployment, "t", office.authority, [(old, [ADMIN])])
    assert row_of(office, "member/person/bert") == newer
    assert office.roles("bert") == (ADMIN,), "a new certificate changes nobody's role"
    put(office, "member/person/bert", None)  # what the table has lost comes back from the folder
    enrolling.enrol(office.account, office.deployment, "t", office.authority, [(old, [ADMIN])], least=least)
    assert office.roles("bert") == (ADMIN,)


def test_deploying_again_changes_no_list(office: Office) -> None:
    issued = office.certified("bert")
    found = [
        enrolling.enrol(office.account, office.deployment, "t", office.authority, [(issued, [RESEARCHER])])[1]
        for _ in range(3)
    ]
    assert found == [1, 1, 1]


@pytest.mark.parametrize("kind", ["person", "site"])
def test_who_is_revoked_by_name_stays_out_though_somebody_had_removed_the_row(office: Office, kind: str) -> None:
    office.enrol("adam", ADMIN, admit=False)
    if kind == "site":
        office.admit_site("eve")
    else:
        office.enrol("eve", RESEARCHER, admit=False)
    key = f"member/{kind}/eve"
    before = row_of(office, key)
    put(office, key, None)
    office.revoke("eve", kind)
    put(office, key, before)
    roster = Roster(office.ledger, office.authority.certificate_pem, "north")
    with pytest.raises(TrustError, match="eve is revoked"):
        asyncio.run(roster.member(kind, "eve"))
    with pytest.raises(NotFoundError, match="there is no"):
        office.revoke("nobody", kind)


def test_a_warm_function_hears_a_member_that_is_admitted_anew_at_once(office: Office) -> None:
    """It remembers the record of before, and has read the list since: the member is asked for again, not refused."""
    request = SigningRequest.request(MemberKeys.generate(), federation="north", kind="person", name="bert")

    def admitted(at_ms: int) -> bytes:
        issued = office.authority.issue(request, kind="person", name="bert", now_ms=at_ms, roles=[RESEARCHER])
        enrolling.enrol(office.account, office.deployment, "t", office.authority, [(issued, [RESEARCHER])], admit=True)
        return row_of(office, "member/person/bert")

    now, clock = current_ms(), [0.0]
    first = admitted(now - 1000)
    roster = Roster(office.ledger, office.authority.certificate_pem, "north", clock=lambda: clock[0])
    asyncio.run(roster.sites())  # the list is remembered, and the member a while later
    clock[0] = 30.0
    assert asyncio.run(roster.member("person", "bert")).record.issued_at_ms == now - 1000
    asyncio.run(roster.readers("bert", first))
    admitted(now)
    clock[0] = 61.0
    assert asyncio.run(roster.member("person", "bert")).record.issued_at_ms == now
    assert set(asyncio.run(roster.readers("bert", first))) == {"bert"}


@pytest.mark.parametrize(
    "row", [b"", b"\xff", b"[" * 60_000, b"[]", b"{}", b"null", b'{"record": 1}', b'{"record": "\\ud800"}']
)
def test_a_row_that_is_no_member_s_is_refused_by_name_and_keeps_nobody_from_being_told(
    office: Office, row: bytes
) -> None:
    office.enrol("admin", ADMIN, admit=False)
    office.enrol("bert", RESEARCHER, admit=False)
    asyncio.run(office.ledger.create("member/person/aaa", row))
    roster = Roster(office.ledger, office.authority.certificate_pem, "north")
    with structlog.testing.capture_logs() as lines:
        assert set(asyncio.run(roster.readers("bert", b""))) == {"admin", "bert"}
    assert [line["member"] for line in lines] == ["aaa"]
    with pytest.raises(TrustError, match="the row of person aaa is not a member's"):
        office.roles("aaa")
    office.enrol("aaa", RESEARCHER, admit=True)
    assert office.roles("aaa") == (RESEARCHER,)


def test_a_record_under_another_s_name_does_not_stand_in_for_the_newer_one(office: Office) -> None:
    """Whoever may write the table keeps a copy of who was an admin once."""
    office.enrol("admin", ADMIN, admit=False)
    office.enrol("bert", ADMIN, admit=False)
    old, _ = asyncio.run(office.ledger.get("member/person/bert"))
    asyncio.run(office.ledger.delete("member/person/bert"))
    office.enrol("bert", RESEARCHER, admit=False)
    assert asyncio.run(office.ledger.create("member/person/zzz", old))
    office.enrol("bert", RESEARCHER, admit=False)
    assert office.roles("bert") == (RESEARCHER,)


def test_an_older_list_of_the_revoked_brings_nobody_back(office: Office) -> None:
    office.enrol("eve", RESEARCHER, admit=False)
    office.enrol("bob", RESEARCHER, admit=False)
    office.revoke("bob")
    before, _ = asyncio.run(office.ledger.get("revocations"))
    office.revoke("eve")
    _, least = enrolling.enrol(office.account, office.deployment, "t", office.authority, [])
    assert least == 4
    asyncio.run(office.ledger.delete("revocations"))
    gone = Roster(office.ledger, office.authority.certificate_pem, "north", least_revocations=least)
    with pytest.raises(TrustError, match="is gone"):
        asyncio.run(gone.member("person", "eve"))
    asyncio.run(office.ledger.create("revocations", before))
    with pytest.raises(TrustError, match="expected version 4"):
        asyncio.run(gone.member("person", "eve"))
    assert office.roles("eve") == (RESEARCHER,)  # as a function that knows of no newer list would say


@pytest.mark.parametrize("is_gone", [True, False])
def test_nothing_is_written_on_top_of_an_older_list(office: Office, is_gone: bool) -> None:
    office.enrol("bob", RESEARCHER, admit=False)
    office.enrol("eve", RESEARCHER, admit=False)
    office.revoke("bob")
    before, _ = asyncio.run(office.ledger.get("revocations"))
    office.revoke("eve")
    asyncio.run(office.ledger.delete("revocations"))
    if not is_gone:
        asyncio.run(office.ledger.create("revocations", before))
    found = [(office.certified("bob"), [RESEARCHER])]
    with pytest.raises(TrustError, match=r"expected version 4 .* restore the table"):
        enrolling.enrol(office.account, office.deployment, "t", office.authority, found, admit=True, least=4)
    with pytest.raises(TrustError, match=r"expected version 4 .* restore the table"):
        enrolling.revoked_certificates(office.account, office.deployment, "t", office.authority, "", least=4)


def test_who_is_in_and_until_when(office: Office) -> None:
    office.enrol("adam", ADMIN, RESEARCHER, admit=False)
    office.enrol("eve", RESEARCHER, admit=False)
    office.revoke("eve")
    issued = {name: office.admit_site(name) for name in ("s", "left", "lost", "out")}
    office.revoke("out", "site")
    put(office, "member/site/lost", row_of(office, "member/site/s"))  # somebody has written another's record there
    book = asyncio.run(enrolling.book_of(office.account, office.deployment, "t", office.authority, 0))
    now, end = current_ms(), issued["s"].identity.not_after_ms
    found = {(each["kind"], each["name"]): each for each in enrolling.listed(book, ["s", "lost", "new"], now)}
    assert {key: each["state"] for key, each in found.items()} == {
        ("site", "left"): "not in federation.yaml",
        ("site", "lost"): "not admitted",
        ("site", "new"): "not admitted",
        ("site", "out"): "revoked",
        ("site", "s"): "enrolled",
        ("person", "adam"): "enrolled",
        ("person", "eve"): "revoked",
    }
    assert found["person", "adam"]["roles"] == [ADMIN, RESEARCHER]
    assert (found["site", "s"]["until_ms"], found["site", "new"]["until_ms"]) == (end, 0)
    assert {each["state"] for each in enrolling.listed(book, ["s"], end) if each["name"] in "s"} == {"expired"}


class Secrets:
    """AWS's, with one secret in it."""

    exceptions = type("Exceptions", (), {"ResourceNotFoundException": KeyError})

    def __init__(self, text: str | None) -> None:
        self.text = text

    def get_secret_value(self, SecretId: str) -> dict[str, str]:
        if self.text is None:
            raise KeyError
        return {"SecretString": self.text}


@pytest.mark.parametrize(
    ("text", "least"),
    [('{"least_revocations":7,"v":1}', 7), (None, 0), ("", 0), ("{}", 0), ('{"least_revocations":"7"}', 0)],
)
def test_which_list_is_the_newest_is_read_beside_the_keys(text: str | None, least: int) -> None:
    account: Any = type("Account", (), {"client": lambda self, service: Secrets(text)})()
    assert enrolling.least_known(account, "arn") == least


def test_a_warm_function_remembers_the_newest_list(office: Office) -> None:
    office.enrol("eve", RESEARCHER, admit=False)
    office.revoke("eve")
    now = [0.0]
    roster = Roster(office.ledger, office.authority.certificate_pem, "north", clock=lambda: now[0])
    with pytest.raises(TrustError, match="revoked"):
        asyncio.run(roster.member("person", "eve"))
    asyncio.run(office.ledger.delete("revocations"))
    now[0] = 61.0
    with pytest.raises(TrustError, match="is gone"):
        asyncio.run(roster.member("person", "eve"))


def test_aws_is_told_which_certificates_of_sites_hold_no_more(office: Office) -> None:
    sites = ["luebeck", {"name": "riga", "access": "certificate"}]
    office.deployment = read({"federation": "north", "aws": {"region": "eu-central-1", "sites": sites}})
    first = {name: office.admit_site(name) for name in ("luebeck", "riga")}

    def told(before: str = "") -> str:
        return enrolling.revoked_certificates(office.account, office.deployment, "t", office.authority, before)

    assert told() == ""
    for name in first:
        office.revoke(name, "site")
    found = x509.load_pem_x509_crl(told().encode())
    assert [f"{entry.serial_number:x}" for entry in found] == [first["riga"].identity.serial]
    authority = x509.load_pem_x509_certificate(office.authority.certificate_pem)
    assert found.is_signature_valid(authority.public_key())
    assert found.issuer == authority.subject
    assert told(same := told()) == same
    again = office.admit_site("riga")  # let in again, with another certificate
    renewed = x509.load_pem_x509_crl(told().encode())
    assert [f"{entry.serial_number:x}" for entry in renewed] == [first["riga"].identity.serial]
    assert again.identity.serial != first["riga"].identity.serial


class Emulated:
    """An account in which something else has made the stack; its one secret is empty, or what was written."""

    endpoint = ""

    def __init__(self) -> None:
        self.secret: str | None = None
        self.exceptions = type("Exceptions", (), {"ResourceNotFoundException": KeyError})

    def id(self) -> str:
        return "123456789012"

    def client(self, service: str) -> "Emulated":
        return self

    def get_secret_value(self, SecretId: str) -> dict[str, str]:
        if self.secret is None:
            raise KeyError
        return {"SecretString": self.secret}

    def put_secret_value(self, SecretId: str, SecretString: str) -> None:
        self.secret = SecretString


def test_a_stack_that_something_else_made_is_given_keys_and_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, account, folder = MemoryLedger(), Emulated(), tmp_path / "north"
    deployment = read({"federation": "north", "aws": {"region": "eu-central-1", "sites": ["s"]}})
    deploying.init(folder / "federation.yaml", deployment, "x")
    outputs = {"SecretArn": "arn", "TableName": "t", "BucketName": "b"}
    monkeypatch.setattr(enrolling, "TableLedger", lambda *_: ledger)
    found: list[StackView | None] = [None, *[StackView("CREATE_COMPLETE", outputs, {})] * 2]
    monkeypatch.setattr(deploying.cloudformation, "look_at", lambda *_: found.pop(0))
    with pytest.raises(NotFoundError, match=r"hanse-north: expected a stack of this name, made from server\.template"):
        deploying.hand_over(cast(Any, account), deployment, folder, print)
    for _ in range(2):
        done = deploying.hand_over(cast(Any, account), deployment, folder, print)
        assert (done.bucket, done.changes) == ("b", [])
        identity = unpack(str(account.secret))
        assert (identity.federation, identity.least_revocations) == ("north", 1)
        roster = Roster(ledger, identity.authority_pem, "north", least_revocations=1)
        assert asyncio.run(roster.member("person", "admin")).roles == (ADMIN, RESEARCHER)
        assert 'bucket: "b"' in (folder / "admin" / "federation.yaml").read_text()
