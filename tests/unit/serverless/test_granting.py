"""Who may put what: one's own app and initial model, with the request or by links, and nothing in another's place."""

import base64
import dataclasses
import json
from typing import Any, cast

import pytest
import structlog

from hanse.core.blobs import manifest_of
from hanse.core.codec import canonical_json
from hanse.core.errors import NotFoundError
from hanse.core.ids import bundle_scope, job_id_of, model_scope
from hanse.core.records import Envelope
from hanse.core.spec import RunSpec
from hanse.pipeline.request import JobRequest
from hanse.serverless.intake import take
from hanse.serverless.place import Place
from hanse.trust.bundle import make_bundle
from hanse.trust.bundle_signature import sign_bundle
from tests.faults.explorer.enrolled import FEDERATION, JOB, authority, member, signed
from tests.unit.serverless.test_intake import a_place, a_private_place, read_by

ANSWER = "0123456789abcdef" * 2
BUNDLE = make_bundle({"app.py": b"app = None\n"}, module="app")
INITIAL = b"i" * 1000


def request_of(person: str = "anna", job: str = JOB) -> JobRequest:
    anna = member("person", person)
    signature = sign_bundle(anna.keys.signing, bundle_id=BUNDLE.id, federation=FEDERATION, person=person).decode()
    spec = RunSpec(rounds=1, initial="given", evaluate_every=0)
    return JobRequest(
        job, "test", FEDERATION, person, 1, BUNDLE.id, manifest_of(BUNDLE.content), signature, "app.py", "app", spec,
        "main", manifest_of(INITIAL),
    )  # fmt: skip


def submission(enclosed: Any) -> Envelope:
    request, anna = request_of(), member("person", "anna")
    body = {"v": 1, "request": request.to_json(), "signature": request.sign(anna.keys.signing).hex()}
    return signed("anna", "submit", "submit/1", canonical_json({**body, "enclosed": enclosed}), by=anna)


def in_base_64(**contents: bytes) -> dict[str, str]:
    return {name: base64.b64encode(content).decode() for name, content in contents.items()}


def upload(sender: str, scope: str, *, job: str = JOB, content: bytes = INITIAL) -> Envelope:
    manifest = manifest_of(content)
    about = {"scope": scope, "size": manifest.size, "hashes": manifest.hashes.hex()}
    body = canonical_json({"v": 1, "job": job, "id": ANSWER, **about})
    return signed(sender, "upload", "upload/1", body, by=member("person", sender), job=job)


async def answered(place: Place, asked: Envelope) -> dict[str, Any]:
    assert await take(place, asked) == []
    return await read_by(asked.sender, place).answer(JOB, ANSWER)


async def test_what_comes_with_a_request_is_kept_and_checked() -> None:
    place = await a_place()
    assert await take(place, submission(in_base_64(bundle=BUNDLE.content, initial=INITIAL)))
    scope, initial = model_scope(JOB, "main", 0), manifest_of(INITIAL)
    assert bytes(place.blobs.read(scope, initial.id, 0, initial.size)) == INITIAL
    assert await place.blobs.missing(bundle_scope(JOB), manifest_of(BUNDLE.content)) == []


@pytest.mark.parametrize(
    ("enclosed", "reason"),
    [
        (None, "bundle has not been uploaded"),
        (in_base_64(bundle=BUNDLE.content), "initial model has not been uploaded"),
        (in_base_64(bundle=BUNDLE.content, initial=b"x" * 1000), "expected the hash"),
        (in_base_64(bundle=BUNDLE.content, initial=b"x" * 999), "expected a initial of 1000 bytes"),
        ({"bundle": "é"}, "in base 64"),
        ({"bundle": 7}, "in base 64"),
    ],
)
async def test_what_a_request_does_not_name_is_kept_nowhere(enclosed: Any, reason: str) -> None:
    place = await a_place()
    assert await take(place, submission(enclosed)) == []
    assert (await place.documents.about(JOB))["refused"]
    assert await place.ledger.query("job/") == []
    with pytest.raises(NotFoundError):
        await place.blobs.manifest(model_scope(JOB, "main", 0), manifest_of(INITIAL).id)


async def test_a_person_is_given_links_for_a_job_of_its_own_and_reads_them_alone() -> None:
    place = await a_private_place()
    for scope in (bundle_scope(JOB), model_scope(JOB, "main", 0)):
        answer = await answered(place, upload("anna", scope))
        assert (answer["chunks"], len(answer["urls"])) == ([0], 1)
        assert scope in answer["urls"][0]
    raw, _ = await place.documents._objects.get(f"documents/{JOB}/answer/{ANSWER}")
    assert set(json.loads(raw)["sealed"]) == {"anna"}, "a link is a right, and no admin's either"


async def test_nobody_puts_anything_where_another_s_app_is_to_be() -> None:
    """Bert has seen the job's id: he is given no link, and no document lies where Anna looks."""
    place = await a_private_place()
    own = job_id_of("j1", "bert")
    for asked in (upload("bert", bundle_scope(JOB)), upload("bert", bundle_scope(JOB), job=own)):
        with structlog.testing.capture_logs() as lines:
            assert await take(place, asked) == []
        found = cast(Any, place.documents._objects).content
        assert not any(f"/{JOB}/" in key for key in found)
        assert asked.job == own or "made for person bert" in lines[0]["reason"]
    answer = await read_by("bert", place).answer(own, ANSWER)
    assert (answer["kind"], "urls" in answer) == ("PolicyError", False)


@pytest.mark.parametrize(
    "scope",
    [f"{JOB}/main/1/model", f"{JOB}/main/0/up/site-1", f"{JOB}/main/shards", f"{JOB}/main", f"{JOB}/m/0/model/x"],
)
async def test_a_person_puts_nothing_else(scope: str) -> None:
    answer = await answered(await a_private_place(), upload("anna", scope))
    assert (answer["kind"], "urls" in answer) == ("PolicyError", False)


async def test_nothing_is_put_for_a_job_that_was_submitted_nor_by_who_may_not_submit() -> None:
    place = await a_private_place()
    assert await take(place, submission(in_base_64(bundle=BUNDLE.content, initial=INITIAL)))
    assert "was submitted" in (await answered(place, upload("anna", bundle_scope(JOB))))["error"]
    place, anna = await a_private_place(), member("person", "anna")
    row = json.dumps({"record": dataclasses.replace(anna.record, roles=("guest",)).sign(authority().key).decode()})
    _, version = await place.ledger.get("member/person/anna")
    assert await place.ledger.compare_and_set("member/person/anna", row.encode(), version)
    assert await take(place, upload("anna", bundle_scope(JOB))) == []
    assert cast(Any, place.documents._objects).content == {}
