"""Joining by hand: a request out, an admission back, and everything that may have been changed on the way."""

import json
from pathlib import Path
from typing import Any

import pytest

from hanse.core.codec import canonical_json
from hanse.core.errors import ConfigError, TrustError
from hanse.server.init import certify
from hanse.site.config import AwsAccess, read_config
from hanse.site.join import join_by_hand
from hanse.site.over_queues import SERVER_RECORD
from hanse.trust.admission import request as make_request
from hanse.trust.authority import Authority
from hanse.trust.identity import SigningRequest
from hanse.trust.membership import Membership

REACH = {"region": "eu-central-1", "role": "arn:aws:iam::111122223333:role/x", "external_id": "0123456789012345"}


class Operator:
    """Who answers requests, without a cloud."""

    def __init__(self, name: str = "north") -> None:
        self.authority = Authority.create(name)
        self.server, _ = certify(self.authority, name, "", "server", "server", hosts=("x.invalid",))

    def admit(self, request: Path, days: float = 30, **changed: Any) -> dict[str, Any]:
        wanted = SigningRequest.parse(request.read_bytes())
        issued = self.authority.issue(wanted, kind=wanted.kind, name=wanted.name, days=days)
        return {
            "v": 1,
            "certificate": issued.certificate_pem.decode(),
            "authority": self.authority.certificate_pem.decode(),
            "record": issued.record.decode(),
            "server_record": self.server.signed_record.decode(),
            "aws": REACH,
        } | changed


def asked(directory: Path, federation: str, name: str) -> Path:
    return make_request(directory, federation, name, kind="site")


def written(path: Path, body: dict[str, Any]) -> Path:
    path.write_bytes(canonical_json(body))
    return path


def test_a_site_joins_and_knows_its_way(tmp_path: Path) -> None:
    operator, site = Operator(), tmp_path / "luebeck"
    request = asked(site, "north", "luebeck")
    assert request.name == "luebeck-request.json"
    assert b"PRIVATE" not in request.read_bytes()
    joined = join_by_hand(site, written(tmp_path / "a.json", operator.admit(request)))
    assert str(joined.identity) == "site luebeck of north"
    assert str(Membership.load(site).identity) == "site luebeck of north"
    assert read_config(site / "site.yaml").aws == AwsAccess(**REACH)
    assert (site / SERVER_RECORD).read_bytes() == operator.server.signed_record
    assert "site.join" in (site / "audit.jsonl").read_text()


def test_the_same_request_renews_and_leaves_what_the_owner_wrote(tmp_path: Path) -> None:
    operator, site = Operator(), tmp_path / "luebeck"
    request = asked(site, "north", "luebeck")
    first = join_by_hand(site, written(tmp_path / "a.json", operator.admit(request)))
    (site / "site.yaml").write_text("name: luebeck\n")
    again = asked(site, "north", "luebeck")
    second = join_by_hand(site, written(tmp_path / "b.json", operator.admit(again)))
    assert second.identity.serial != first.identity.serial
    assert second.record.signing_key == first.record.signing_key
    assert (site / "site.yaml").read_text() == "name: luebeck\n"


def test_an_expired_site_can_be_renewed(tmp_path: Path) -> None:
    operator, site = Operator(), tmp_path / "luebeck"
    request = asked(site, "north", "luebeck")
    join_by_hand(site, written(tmp_path / "a.json", operator.admit(request)))
    body = json.loads((site / "membership.json").read_bytes())
    body["certificate"] = "expired"  # whatever it is, the authority is what counts
    (site / "membership.json").write_bytes(canonical_json(body))
    join_by_hand(site, written(tmp_path / "b.json", operator.admit(request)))


def test_another_authority_cannot_take_a_site_over(tmp_path: Path) -> None:
    site = tmp_path / "luebeck"
    request = asked(site, "north", "luebeck")
    join_by_hand(site, written(tmp_path / "a.json", Operator().admit(request)))
    before = (site / "membership.json").read_bytes()
    with pytest.raises(TrustError, match="another authority"):
        join_by_hand(site, written(tmp_path / "b.json", Operator().admit(request)))
    assert (site / "membership.json").read_bytes() == before


def test_what_was_changed_on_the_way_is_refused(tmp_path: Path) -> None:
    operator, site = Operator(), tmp_path / "luebeck"
    request = asked(site, "north", "luebeck")
    foreign = operator.admit(asked(tmp_path / "bergen", "north", "bergen"))
    own = operator.admit(request)
    cases = [
        (foreign, TrustError),  # another site's admission
        (own | {"record": foreign["record"]}, TrustError),
        (own | {"server_record": own["record"]}, TrustError),  # a site's record instead of the server's
        (own | {"server_record": Operator().server.signed_record.decode()}, TrustError),
        (own | {"authority": Operator().authority.certificate_pem.decode()}, TrustError),
        (own | {"v": 2}, ConfigError),
        (own | {"aws": {"endpoint": "http://evil"}}, ConfigError),
        (own | {"aws": REACH | {"command": "x"}}, ConfigError),
        ({"v": 1}, ConfigError),
    ]
    for number, (body, kind) in enumerate(cases):
        with pytest.raises(kind):
            join_by_hand(site, written(tmp_path / "x.json", body))
        assert not (site / "membership.json").exists(), number
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(ConfigError, match="admission"):
        join_by_hand(site, tmp_path / "x.json")


def test_a_person_joins_the_same_way_and_can_be_told_from_a_site(tmp_path: Path) -> None:
    from hanse.person.by_hand import join_by_hand as join_person
    from hanse.person.federation import Federation

    operator, anna = Operator(), tmp_path / "anna"
    request = make_request(anna, "north", "anna", kind="person")
    reach = {"region": "eu-central-1", "bucket": "hanse-north"}
    body = operator.admit(request, aws=reach)
    with pytest.raises(ConfigError, match="expected the admission of a site"):
        join_by_hand(anna, written(tmp_path / "x.json", body | {"aws": {"region": "eu-central-1"}}))
    _, path = join_person(anna, written(tmp_path / "x.json", body))
    found = Federation.load(path)
    assert found.aws is not None
    assert (found.name, found.aws.bucket, found.aws.endpoint) == ("north", "hanse-north", "")
