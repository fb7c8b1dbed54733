"""Revocation: versions, names and serials, and lists that must not be taken."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.core.errors import CodecError, ConfigError, HanseError, TrustError
from hanse.trust.authority import Authority
from hanse.trust.member_record import verify_record
from hanse.trust.revocation import RevocationList, read_revocations
from hanse.trust.statements import make_statement
from tests.unit.trust.conftest import NOW_MS, Member, enrol

EMPTY = RevocationList("lubeck")


def test_a_serial_stops_one_certificate(authority: Authority, site: Member) -> None:
    renewed = enrol(authority, "site", "hospital-a").issued.identity
    revoked = EMPTY.revoke(site.issued.identity, now_ms=NOW_MS)
    assert revoked.is_revoked(site.issued.identity)
    assert not revoked.is_revoked(renewed)
    assert not EMPTY.is_revoked(site.issued.identity)
    assert (EMPTY.version, revoked.version) == (0, 1)


def test_a_name_stops_every_certificate_of_that_member_only(authority: Authority, site: Member, person: Member) -> None:
    revoked = EMPTY.revoke_name("site", "hospital-a", serials=[site.issued.identity.serial])
    namesake = enrol(authority, "person", "hospital-a").issued.identity
    assert revoked.is_revoked(enrol(authority, "site", "hospital-a").issued.identity)
    assert not revoked.is_revoked(namesake)
    assert not revoked.is_revoked(person.issued.identity)
    back = revoked.reinstate("site", "hospital-a")
    assert back.is_revoked(site.issued.identity)
    assert not back.is_revoked(enrol(authority, "site", "hospital-a").issued.identity)
    assert back.version == 2


def test_a_record_is_superseded_by_a_newer_one_of_its_member_only(authority: Authority, site: Member) -> None:
    record = verify_record(site.issued.record, authority.certificate_pem, now_ms=NOW_MS)
    later = replace(record, issued_at_ms=record.issued_at_ms + 1)
    known = EMPTY.supersede(record).supersede(later)
    assert (known.version, known.is_superseded(record), known.is_superseded(later)) == (2, True, False)
    assert known.supersede(record) is known, "who comes with an older one changes nothing"
    assert not known.is_superseded(replace(record, kind="person"))
    assert not EMPTY.is_superseded(record)
    back = known.revoke_name("site", record.name, serials=[record.serial]).reinstate("site", record.name)
    assert back.is_superseded(record), "revoking and admitting forgets nothing"


def test_a_call_is_heard_or_says_why_not(site: Member) -> None:
    identity = site.issued.identity
    EMPTY.check(identity, NOW_MS)
    with pytest.raises(TrustError, match="revoked"):
        EMPTY.revoke(identity).check(identity, NOW_MS)
    with pytest.raises(TrustError, match="member of lubeck"):
        EMPTY.check(replace(identity, federation="other"), NOW_MS)
    with pytest.raises(TrustError, match="expired"):
        EMPTY.check(identity, identity.not_after_ms)


@given(
    serials=st.frozensets(st.from_regex("[1-9a-f][0-9a-f]{0,39}", fullmatch=True), max_size=5),
    names=st.frozensets(st.sampled_from(["site/a", "person/b", "site/c"])),
    version=st.integers(0, 2**40),
    newest=st.dictionaries(st.sampled_from(["site/a", "person/b"]), st.integers(0, 2**50)),
)
def test_round_trip(
    authority: Authority, serials: frozenset[str], names: frozenset[str], version: int, newest: dict[str, int]
) -> None:
    made = RevocationList("lubeck", version, NOW_MS, serials, names, newest)
    content = made.sign(authority.key)
    assert read_revocations(content, authority.certificate_pem, least_version=version) == made
    with pytest.raises(TrustError, match="newer"):
        read_revocations(content, authority.certificate_pem, least_version=version + 1)


@pytest.fixture(scope="session")
def signed_list(authority: Authority) -> bytes:
    return EMPTY.revoke_name("site", "a", now_ms=NOW_MS).sign(authority.key)


@given(data=st.data())
def test_no_bit_can_be_flipped(authority: Authority, signed_list: bytes, data: st.DataObject) -> None:
    content = bytearray(signed_list)
    bit = data.draw(st.integers(0, len(content) * 8 - 1))
    content[bit // 8] ^= 1 << bit % 8
    with pytest.raises(HanseError):
        read_revocations(bytes(content), authority.certificate_pem)


def test_foreign_lists_and_other_statements_are_refused(authority: Authority, site: Member) -> None:
    with pytest.raises(TrustError):
        read_revocations(EMPTY.sign(Authority.create("lubeck").key), authority.certificate_pem)
    with pytest.raises(TrustError, match="type"):
        read_revocations(site.issued.record, authority.certificate_pem)


@pytest.mark.parametrize(
    "change",
    [
        {"serials": [1]},
        {"names": "a"},
        {"federation": "A"},
        {"version": "1"},
        {"newest": []},
        {"newest": {"site/a": "1"}},
    ],
)
def test_malformed_lists_are_refused(authority: Authority, change: dict[str, object]) -> None:
    body = json.loads(EMPTY.sign(authority.key))["body"] | change
    with pytest.raises(CodecError):
        read_revocations(make_statement(authority.key, "revocation-list", body), authority.certificate_pem)


def test_names_that_cannot_be_are_refused() -> None:
    for kind, name in (("admin", "a"), ("site", "A")):
        with pytest.raises(ConfigError):
            EMPTY.revoke_name(kind, name)
