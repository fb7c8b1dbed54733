"""A proposal is believed only after everything in it was checked."""

import json
from typing import Any

import pytest

from hanse.core.errors import CodecError, HanseError, TrustError
from hanse.core.spec import RunSpec
from hanse.site.proposals import Proposal
from hanse.trust.authority import Authority
from hanse.trust.bundle_signature import sign_bundle
from tests.unit.site.bench import FEDERATION, PERSON, Town, bundle_of

TOWN = Town()
BUNDLE = bundle_of("")


def proposal(**changes: Any) -> Proposal:
    return Proposal.parse(json.dumps(TOWN.proposal(BUNDLE, **changes)).encode())


def verify(asked: Proposal) -> None:
    asked.verify(authority_pem=TOWN.authority.certificate_pem, federation=FEDERATION)


def test_a_good_one() -> None:
    asked = proposal()
    verify(asked)
    assert (asked.app, asked.person, asked.spec.rounds, asked.scope) == (BUNDLE.id, PERSON, 2, "job1/bundle")


@pytest.mark.parametrize(
    "changes",
    [
        {"v": 2},
        {"v": True},
        {"job": "../x"},
        {"job": None},
        {"app": "xyz"},
        {"app": "a" * 63},
        {"bundle": []},
        {"bundle": {"scope": "../../x", "size": 1, "hashes": "00" * 32}},
        {"bundle": {"scope": "j", "size": 1, "hashes": ""}},
        {"bundle": {"scope": "j", "size": -1, "hashes": ""}},
        {"spec": None},
        {"spec": {"rounds": 0}},
        {"spec": {"nope": 0}},
        {"spec": {"stop": 3}},
        {"person": "Anna!"},
        {"person_record": 7},
        {"submitted_at_ms": "now"},
    ],
)
def test_of_another_form(changes: dict[str, Any]) -> None:
    with pytest.raises(CodecError):
        proposal(**changes)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{", b"[" * 100_000, b"3"])
def test_no_json_object(content: bytes) -> None:
    with pytest.raises(CodecError):
        Proposal.parse(content)


def test_what_does_not_hold() -> None:
    other = bundle_of("x = 1\n")
    stranger = Authority.create(FEDERATION)
    foreign = TOWN.enrol("person", PERSON, stranger)
    bert = TOWN.enrol("person", "bert")
    signature = sign_bundle(bert.keys.signing, bundle_id=BUNDLE.id, federation=FEDERATION, person=PERSON)
    for changes in (
        {"app": other.id},  # signed for another app
        {"person": "bert"},  # another's record
        {"person_record": foreign.issued.record.decode()},  # another authority's
        {"person_record": TOWN.site.issued.record.decode(), "person": "hospital-a"},  # a site is no person
        {"person_record": bert.issued.record.decode(), "person": "bert"},  # anna's signature
        {"bundle_signature": signature.decode()},  # bert signs as anna
        {"person_record": "{}"},
        {"bundle_signature": ""},
    ):
        with pytest.raises(HanseError):
            verify(proposal(**changes))
    with pytest.raises(TrustError):
        proposal().verify(authority_pem=TOWN.authority.certificate_pem, federation="bremen")


def test_what_the_server_says_of_a_job_is_what_its_person_signed() -> None:
    """A server that changes the quorum, the strategy or anything else of a signed job is found out."""
    body = TOWN.proposal(BUNDLE)
    for name, changed in (
        ("spec", RunSpec(rounds=99).to_json()),
        ("spec", RunSpec(rounds=2, quorum=1).to_json()),
        ("entry", "other.py"),
        ("object", "other"),
    ):
        with pytest.raises(TrustError, match="another job than the one that its person signed"):
            verify(Proposal.parse(json.dumps(body | {name: changed}).encode()))
    request = body["request"]
    request["components"][0]["spec"]["rounds"] = 99
    forged = body | {"spec": RunSpec(rounds=99).to_json(), "request": request}
    with pytest.raises(TrustError):
        verify(Proposal.parse(json.dumps(forged).encode()))
