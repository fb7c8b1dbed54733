"""What a member keeps: all of it fits together, or it is refused."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from hanse.core.codec import canonical_json
from hanse.core.errors import ConfigError, TrustError
from hanse.core.proto import hanse_pb2 as pb
from hanse.trust.authority import Authority
from hanse.trust.identity import MemberKeys, SigningRequest
from hanse.trust.membership import Membership, Renewed, member_keys
from tests.unit.trust.conftest import NOW_MS, Member, enrol


def check(authority: Authority, member: Member, **changes: Any) -> Membership:
    arguments: dict[str, Any] = {
        "certificate_pem": member.issued.certificate_pem,
        "authority_pem": authority.certificate_pem,
        "signed_record": member.issued.record,
        "address": "127.0.0.1:9000",
        "now_ms": NOW_MS,
    }
    keys = changes.pop("keys", member.keys)
    return Membership.check(keys, **(arguments | changes))


def asking(
    authority: Authority, now_ms: int, keys: MemberKeys | None = None, *, address: str = "", **other: str
) -> Callable[[bytes], Awaitable[Renewed]]:
    """The authority, asked for new certificates; with `keys`, for them and for what `other` names."""

    async def ask(content: bytes) -> Renewed:
        who = {"kind": "site", "name": "hospital-a"} | other
        request = (
            SigningRequest.parse(content)
            if keys is None
            else SigningRequest.request(keys, federation="lubeck", kind=who["kind"], name=who["name"])
        )
        issued = authority.issue(request, kind=who["kind"], name=who["name"], now_ms=now_ms)
        return pb.JoinReply(certificate=issued.certificate_pem.decode(), member_record=issued.record, address=address)

    return ask


def test_round_trip_through_a_directory(authority: Authority, site: Member, tmp_path: Path) -> None:
    membership = check(authority, site)
    membership.save(tmp_path)
    loaded = Membership.load(tmp_path, now_ms=NOW_MS)
    assert (loaded.identity, loaded.record) == (membership.identity, membership.record)
    assert loaded.address == "127.0.0.1:9000"
    assert loaded.keys.tls_pem() == site.keys.tls_pem()
    assert b"PRIVATE" not in (tmp_path / "membership.json").read_bytes()


def test_a_renewal_replaces_the_certificate_and_keeps_the_keys(
    authority: Authority, site: Member, tmp_path: Path
) -> None:
    check(authority, site).save(tmp_path)
    later = site.issued.identity.renew_at_ms
    old = Membership.load(tmp_path, now_ms=later)
    ask = asking(authority, later, address="127.0.0.1:9001")
    asyncio.run(old.renewed(ask, now_ms=later)).save(tmp_path)
    loaded = Membership.load(tmp_path, now_ms=later)
    assert loaded.identity.not_before_ms > old.identity.not_before_ms
    assert loaded.identity.serial != old.identity.serial
    assert (loaded.record.signing_key, loaded.address) == (old.record.signing_key, "127.0.0.1:9001")
    assert asyncio.run(old.renewed(asking(authority, later), now_ms=later)).address == old.address


@pytest.mark.parametrize("other", [{"name": "hospital-b"}, {"kind": "person"}])
def test_a_renewal_for_somebody_else_is_refused(authority: Authority, site: Member, other: dict[str, str]) -> None:
    """With these very keys: an authority's mistake, which nothing else would notice."""
    later = site.issued.identity.renew_at_ms
    with pytest.raises(TrustError, match="expected a new certificate for site hospital-a of lubeck"):
        asyncio.run(check(authority, site).renewed(asking(authority, later, site.keys, **other), now_ms=later))


def test_what_does_not_belong_together_is_refused(authority: Authority, site: Member, person: Member) -> None:
    foreign_authority = Authority.create("lubeck", now_ms=NOW_MS)
    foreign = enrol(foreign_authority, "site", "hospital-a")
    again = enrol(authority, "site", "hospital-a")
    request = SigningRequest.request(site.keys, federation="lubeck", kind="site", name="hospital-a")
    second = authority.issue(request, kind="site", name="hospital-a", now_ms=NOW_MS)
    for changes in (
        {"signed_record": second.record},
        {"keys": MemberKeys(person.keys.tls, site.keys.signing, site.keys.sealing)},
        {"authority_pem": foreign_authority.certificate_pem},
        {"certificate_pem": foreign.issued.certificate_pem},
        {"signed_record": foreign.issued.record},
        {"signed_record": person.issued.record},
        {"signed_record": again.issued.record},
        {"certificate_pem": again.issued.certificate_pem, "signed_record": again.issued.record},
        {"keys": MemberKeys(site.keys.tls, person.keys.signing, site.keys.sealing)},
        {"keys": MemberKeys(site.keys.tls, site.keys.signing, person.keys.sealing)},
        {"now_ms": site.issued.identity.not_after_ms},
    ):
        with pytest.raises(TrustError):
            check(authority, site, **changes)


def test_missing_and_damaged_files_are_named(authority: Authority, site: Member, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has not joined"):
        Membership.load(tmp_path)
    check(authority, site).save(tmp_path)
    path = tmp_path / "membership.json"
    good = path.read_bytes()
    for content in (b"", good[:-5], canonical_json(json.loads(good) | {"v": 2}), b"{}"):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"membership\.json"):
            Membership.load(tmp_path, now_ms=NOW_MS)


def test_keys_are_made_once(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "site"
    first = member_keys(directory)
    assert member_keys(directory).signing_public == first.signing_public
