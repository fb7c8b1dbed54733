"""What is refused before anything of it is kept."""

import dataclasses
import json
from typing import Any, cast

import pytest
import structlog

from hanse.backends.memory import MemoryInbox, MemoryLedger
from hanse.core.blobs import manifest_of, rechunk
from hanse.core.codec import canonical_json
from hanse.core.errors import NotFoundError, PolicyError, TrustError
from hanse.core.ids import bundle_scope, job_id_of
from hanse.core.records import Envelope
from hanse.core.spec import RunSpec
from hanse.pipeline.documents import Documents
from hanse.pipeline.request import JobRequest
from hanse.rounds import run_state
from hanse.rounds.keeping import run_record
from hanse.serverless import granting, intake
from hanse.serverless.intake import take
from hanse.serverless.keys import pack, unpack
from hanse.serverless.looking import look_and_call
from hanse.serverless.place import Place, SignedInbox
from hanse.serverless.removing import remove
from hanse.serverless.roster import FRESH_S, Roster
from hanse.site.ending import status_in
from hanse.trust.bundle import make_bundle
from hanse.trust.bundle_signature import sign_bundle
from hanse.trust.revocation import RevocationList
from tests.faults.explorer.enrolled import FEDERATION, JOB, authority, member, signed
from tests.faults.explorer.function_places import Bucket, Shelf, Signer

MORE, LONG = job_id_of("j1-more", "anna"), job_id_of("j" * 12, "anna")


class Executions:
    def __init__(self) -> None:
        self.started: list[str] = []

    async def start(self, name: str, input: Any) -> None:
        self.started.append(name)


async def a_place() -> Place:
    ledger, blobs = MemoryLedger(), Bucket()
    identity = unpack(pack(member("server", "server")))
    for kind, name in (("person", "anna"), ("person", "bert"), ("site", "site-1")):
        value = {"record": member(kind, name).signed_record.decode(), "enrolled_at_ms": 1}
        await ledger.create(f"member/{kind}/{name}", json.dumps(value).encode())
    return Place(
        federation=FEDERATION,
        ledger=ledger,
        blobs=blobs,
        inbox=SignedInbox(MemoryInbox(), identity),
        links=Signer(blobs),
        documents=Documents(Shelf()),
        machine=cast(Any, Executions()),
        identity=identity,
        roster=Roster(ledger, identity.authority_pem, FEDERATION),
        now_ms=lambda: 1_700_000_000_000,
    )


async def submit(place: Place, job: str, component: str = "main", sender: str = "anna", **more: str) -> list[Any]:
    return await take(place, await submission(place, job, component, sender, **more))


async def submission(
    place: Place, job: str, component: str = "main", sender: str = "anna", person: str = "anna"
) -> Envelope:
    anna = member("person", person)
    bundle = make_bundle({"app.py": b"app = None\n"}, module="app")
    manifest = manifest_of(bundle.content)
    await place.blobs.put(bundle_scope(job), manifest, rechunk([bundle.content]))
    signature = sign_bundle(anna.keys.signing, bundle_id=bundle.id, federation=FEDERATION, person=person).decode()
    spec = RunSpec(rounds=1, initial="none", evaluate_every=0)
    request = JobRequest(
        job, "test", FEDERATION, person, 1, bundle.id, manifest, signature, "app.py", "app", spec, component
    )
    body = {"v": 1, "request": request.to_json(), "signature": request.sign(anna.keys.signing).hex()}
    return signed(sender, "submit", "submit/1", canonical_json(body), by=member("person", sender))


@pytest.mark.parametrize(("job", "component", "taken"), [(LONG, "c" * 45, True), (LONG, "c" * 46, False)])
async def test_a_job_whose_name_no_execution_can_bear_is_refused(job: str, component: str, taken: bool) -> None:
    place = await a_place()
    assert bool(await submit(place, job, component)) is taken
    assert bool(await place.ledger.query("job/")) is taken
    about = await place.documents.about(job) if not taken else {}
    assert ("shorter names" in about.get("error", "")) is not taken
    assert all(len(name) <= 80 for name in cast(Executions, place.machine).started)
    if taken:  # also when it is resumed, whatever time is named
        for at_ms in (True, 10**40, -1, 1_700_000_000_001):
            body = canonical_json({"v": 1, "job": job, "at_ms": at_ms})
            await take(place, signed("anna", "resume", "resume/1", body, by=member("person", "anna")))
        started = cast(Executions, place.machine).started
        assert len(started) == 5
        assert all(len(name) <= 80 for name in started)
        assert {name.rpartition("-")[2] for name in started} == {"0", "1700000000000", "1700000000001"}


async def test_a_job_that_is_over_is_offered_to_nobody_again() -> None:
    place = await a_place()
    asked = await submission(place, JOB)
    assert await take(place, asked)
    assert await take(place, asked), "a function may have died before it offered the job"
    await place.inbox.ack([each.receipt for each in await place.inbox.receive("site-1", 10, wait_s=0)])
    await place.ledger.create(f"jobend/{JOB}", b"{}")
    started = cast(Executions, place.machine).started
    started.clear()
    assert await take(place, asked) == []
    assert await place.inbox.receive("site-1", wait_s=0) == []
    assert started == [f"{JOB}-main-0"], "who took it first may have died before starting it, with things left to do"


async def test_a_site_that_came_again_without_its_journal_is_offered_the_job_again() -> None:
    """A machine that was taken away, and another in its place: the proposal was taken by the first."""
    place = await a_place()

    async def ask(site: str, job: str) -> list[tuple[str, str]]:
        body = canonical_json({"v": 1, "job": job})
        assert await take(place, signed(site, "ask", f"ask/{job}", body, by=member("site", site))) == []
        found = await place.inbox.receive(site, 10, wait_s=0)
        await place.inbox.ack([each.receipt for each in found])
        return [(each.envelope.kind, each.envelope.id) for each in found]

    assert await ask("site-1", JOB) == [], "it is not there yet, and will be offered when it is"
    assert await submit(place, JOB)
    proposal = [("propose", f"propose/{JOB}")]
    assert await ask("site-1", JOB) == proposal, "the first copy was replaced, not doubled"
    assert await ask("site-1", JOB) == proposal
    assert await ask("site-1", "nothing") == []
    value = {"record": member("site", "site-2").signed_record.decode(), "enrolled_at_ms": 1}
    await place.ledger.create("member/site/site-2", json.dumps(value).encode())
    assert await ask("site-2", JOB) == [], "a site that was not asked learns nothing"
    await place.ledger.create(f"jobend/{JOB}", b"{}")
    assert await ask("site-1", JOB) == [("end", f"end/{JOB}")]


async def test_a_site_that_goes_is_looked_at() -> None:
    place = await a_place()
    assert await submit(place, JOB)

    async def say(kind: str, **body: Any) -> list[str]:
        content = canonical_json({"v": 1, "at_ms": place.now_ms() - 1, **body})
        return [
            each.kind for each in await take(place, signed("site-1", kind, kind, content, by=member("site", "site-1")))
        ]

    assert await say("decision", job=JOB, decision="accept") == ["decision"]
    place = dataclasses.replace(place, now_ms=lambda: 1_700_000_001_000)
    assert await say("beat", jobs=[JOB]) == []
    place = dataclasses.replace(place, now_ms=lambda: 1_700_000_002_000)
    assert await say("beat", jobs=[JOB], leaves=True) == ["beat"]


async def test_nobody_leaves_a_document_in_another_s_name() -> None:
    place = await a_place()
    assert await submit(place, JOB, sender="bert") == []
    assert await place.documents.jobs() == []


async def test_nobody_takes_another_s_job_id() -> None:
    """Bert has seen it in the bucket, and is faster: nothing is taken, and nothing told in its place."""
    place = await a_place()
    assert await submit(place, JOB, sender="bert", person="bert") == []
    assert await place.ledger.query("job/") == []
    assert await place.documents.jobs() == []
    assert await submit(place, JOB)


@pytest.mark.parametrize("spoilt", [{"size": float("inf")}, {"chunks": [float("inf")]}, {"chunks": {}}, {"hashes": 1}])
async def test_a_question_for_links_that_cannot_be_is_answered(spoilt: dict[str, Any]) -> None:
    place = await a_place()
    asked = {"op": "get", "scope": f"{JOB}/bundle", "size": 1, "hashes": "00" * 32, "chunks": [0], **spoilt}
    body = json.dumps({"v": 1, **asked}).encode()
    assert await take(place, signed("site-1", "want", "want/1", body, by=member("site", "site-1"))) == []
    (answer,) = await place.inbox.receive("site-1", wait_s=0)
    assert json.loads(answer.envelope.body)["kind"] == "CodecError"


async def test_a_sign_of_life_for_another_s_job_tells_nothing_of_it() -> None:
    place = await a_place()
    assert await submit(place, JOB)
    value = {"record": member("site", "site-2").signed_record.decode(), "enrolled_at_ms": 1}
    await place.ledger.create("member/site/site-2", json.dumps(value).encode())
    await place.ledger.create(f"jobend/{JOB}", b"{}")
    for site, told in (("site-1", ["propose", "end"]), ("site-2", [])):
        body = canonical_json({"v": 1, "jobs": [JOB, "j2"]})
        assert await take(place, signed(site, "beat", "beat/1", body, by=member("site", site))) == []
        assert [each.envelope.kind for each in await place.inbox.receive(site, 10, wait_s=0)] == told


async def test_a_removed_job_is_gone_with_all_that_is_its_own_and_cannot_come_again() -> None:
    place = await a_place()
    asked = await submission(place, JOB)
    assert await take(place, asked)
    assert await submit(place, MORE)
    await place.documents.put_about(JOB, {"status": "finished"})
    await place.documents.put_round(JOB, {"number": 1})
    await take(
        place, signed("anna", "remove", "remove/1", canonical_json({"v": 1, "job": JOB}), by=member("person", "anna"))
    )
    assert await place.ledger.query(f"job/{JOB}", limit=9), "it is at work"
    await place.ledger.create(f"jobend/{JOB}", b"{}")
    await take(
        place, signed("bert", "remove", "remove/2", canonical_json({"v": 1, "job": JOB}), by=member("person", "bert"))
    )
    assert await place.documents.jobs() == [JOB]
    await take(
        place, signed("anna", "remove", "remove/3", canonical_json({"v": 1, "job": JOB}), by=member("person", "anna"))
    )
    assert await place.documents.jobs() == []
    left = [key for key, _, _ in await place.ledger.query("") if f"/{JOB}" in key or MORE in key]
    assert {key for key in left if MORE not in key} == {f"jobgone/{JOB}"}
    assert any(MORE in key for key in left)
    with pytest.raises(NotFoundError):
        await place.blobs.manifest(bundle_scope(JOB), manifest_of(b"x").id)
    assert await take(place, asked) == [], "a copy of its request is not taken"
    assert {key for key, _, _ in await place.ledger.query("job/")} == {f"job/{MORE}"}


@pytest.mark.parametrize("kind", ["decision", "cancel", "resume"])
async def test_what_comes_after_a_removal_is_refused_by_functions_that_know_the_job(kind: str) -> None:
    place = await a_place()
    await submit(place, JOB)
    warm = dataclasses.replace(place, rows=dict(place.rows))
    site, anna = member("site", "site-1"), member("person", "anna")
    body = canonical_json({"v": 1, "job": JOB, "decision": "accept", "reason": "", "at_ms": 5})
    late = signed(
        *(("site-1", kind, "x/1", body) if kind == "decision" else ("anna", kind, "x/1", body)),
        by=site if kind == "decision" else anna,
    )
    await take(warm, signed("anna", "cancel", "cancel/0", body, by=anna))
    await place.ledger.create(f"jobend/{JOB}", b"{}")
    await take(place, signed("anna", "remove", "remove/1", canonical_json({"v": 1, "job": JOB}), by=anna))
    await place.inbox.ack([each.receipt for each in await place.inbox.receive("site-1", 10, wait_s=0)])
    before = {key for key, _, _ in await place.ledger.query("")}
    started = list(cast(Executions, place.machine).started)
    assert await take(warm, late) == []
    assert {key for key, _, _ in await place.ledger.query("")} == before
    told = [each.envelope for each in await place.inbox.receive("site-1", 10, wait_s=0)]
    assert [each.kind for each in told] == (["end"] if kind == "decision" else []), "sites are not asked once more"
    assert cast(Executions, place.machine).started == started


async def test_a_site_that_missed_the_end_of_a_removed_job_is_told() -> None:
    place = await a_place()
    await submit(place, JOB)
    warm = dataclasses.replace(place, rows=dict(place.rows))
    await place.ledger.create(f"jobend/{JOB}", b"{}")
    await remove(place, JOB, "anna")
    await place.inbox.ack([each.receipt for each in await place.inbox.receive("site-1", 10, wait_s=0)])
    for here in (place, warm):
        body = canonical_json({"v": 1, "jobs": [JOB, "j2"], "at_ms": 5})
        assert await take(here, signed("site-1", "beat", "beat/1", body, by=member("site", "site-1"))) == []
        (told,) = await place.inbox.receive("site-1", 10, wait_s=0)
        assert (told.envelope.kind, told.envelope.id) == ("end", f"end/{JOB}")
        # What roles kept of a job that was finished stays: how this one ended is not known any more.
        assert status_in(told.envelope.body) == ""
        await place.inbox.ack([told.receipt])


# ---- roles of people ----


async def test_a_role_counts_only_if_the_authority_signed_it() -> None:
    """Who may write the table can write `roles` beside a record, or put back one from before they were signed."""
    place = await a_place()
    await submit(place, JOB)
    bert = member("person", "bert")
    cancel = signed("bert", "cancel", "cancel/1", canonical_json({"v": 1, "job": JOB}), by=bert, job=JOB)
    unsigned = dataclasses.replace(bert.record, roles=None).sign(authority().key)
    for record, reason in ((bert.signed_record, "has not got the role admin"), (unsigned, "are not signed")):
        row = {"record": record.decode(), "roles": ["admin"], "enrolled_at_ms": 1}
        _, version = await place.ledger.get("member/person/bert")
        assert await place.ledger.compare_and_set("member/person/bert", json.dumps(row).encode(), version)
        place.roster._kept.clear()
        with structlog.testing.capture_logs() as lines:
            assert await take(place, cancel) == []
        assert reason in lines[0]["reason"]


# ---- results that are their owner's ----


async def a_private_place() -> Place:
    place = dataclasses.replace(await a_place(), private=True)
    place.documents._federation = FEDERATION
    value = {"record": member("person", "adam").signed_record.decode(), "enrolled_at_ms": 1}
    await place.ledger.create("member/person/adam", json.dumps(value).encode())
    return place


def read_by(name: str, place: Place) -> Documents:
    reader = (name, member("person", name).keys.sealing)
    return Documents(place.documents._objects, FEDERATION, reader=reader)


async def test_who_submitted_a_job_and_admins_read_of_it_and_nobody_else() -> None:
    place = await a_private_place()
    news = await submit(place, JOB)
    await look_and_call(place, news[0].job, surely=True)
    for name in ("anna", "adam"):
        assert (await read_by(name, place).about(JOB))["person"] == "anna"
    with pytest.raises(PolicyError, match="another person's"):
        await read_by("bert", place).about(JOB)
    bert = Documents(place.documents._objects, FEDERATION, reader=("anna", member("person", "bert").keys.sealing))
    with pytest.raises(TrustError):
        await bert.about(JOB)
    raw, _ = await place.documents._objects.get(f"documents/{JOB}/about")
    assert b"anna" in raw
    assert b"status" not in raw
    moved = cast(Any, place.documents._objects)
    moved.content["documents/j2/about"] = raw  # a document of one job is none of another's
    with pytest.raises(TrustError):
        await read_by("anna", place).about("j2")


async def test_who_reads_is_who_is_an_admin_when_it_is_told() -> None:
    """Not an admin who was revoked since it was submitted, nor one whose roles nobody signed; a later one is."""
    place, now = await a_private_place(), [0.0]
    place.roster._clock = lambda: now[0]
    news = await submit(place, JOB)

    async def told(revoked: RevocationList | None = None) -> set[str]:
        if revoked is not None:
            await place.ledger.delete("revocations")
            await place.ledger.create("revocations", revoked.sign(authority().key))
        now[0] += FRESH_S
        await look_and_call(place, news[0].job, cancelled_by="person anna")
        about = cast(Any, place.documents._objects).content.pop(f"documents/{JOB}/about")
        return set(json.loads(about)["sealed"])

    unsigned = dataclasses.replace(member("person", "bert").record, roles=None).sign(authority().key)
    for name, record in (("bert", unsigned), ("eva", member("person", "eva").signed_record)):
        await place.ledger.delete(f"member/person/{name}")
        row = {"record": record.decode(), "roles": ["admin"], "enrolled_at_ms": 1}
        await place.ledger.create(f"member/person/{name}", json.dumps(row).encode())
    assert await told() == {"anna", "adam"}
    later = dataclasses.replace(member("person", "eva").record, roles=("admin",)).sign(authority().key)
    await place.ledger.delete("member/person/eva")
    await place.ledger.create("member/person/eva", json.dumps({"record": later.decode()}).encode())
    assert await told() == {"anna", "adam", "eva"}
    assert await told(RevocationList(FEDERATION).revoke_name("person", "adam")) == {"anna", "eva"}
    await place.ledger.delete("member/person/anna")  # as it is with one whose certificate is over
    assert await told() == {"anna", "eva"}
    assert await told(RevocationList(FEDERATION).revoke_name("person", "anna")) == {"adam", "eva"}


@pytest.mark.parametrize("told", [True, False])
async def test_the_last_model_is_given_to_the_sites_of_the_job_where_it_is_theirs(told: bool) -> None:
    place = dataclasses.replace(await a_place(), models_to_sites=told)
    news = await submit(place, JOB)
    row = await intake.row_of(place, JOB)
    record, version, _ = await run_record(place.ledger, place.blobs, JOB, "main")
    manifest, scope = manifest_of(b"m" * 100_000), f"{JOB}/main/1/model"
    await place.blobs.put(scope, manifest, rechunk([b"m" * 100_000]))
    state = dataclasses.replace(
        run_state.decode(record["state"]), status="finished", round=1, model=(scope, manifest.id)
    )
    content = json.dumps({**record, "state": run_state.encode(state)}).encode()
    assert await place.ledger.compare_and_set(f"run/{JOB}/main", content, version)
    ask = {"v": 1, "op": "get", "scope": scope, "size": manifest.size, "hashes": manifest.hashes.hex(), "chunks": [0]}
    await look_and_call(place, news[0].job, surely=True)
    ends = [each.envelope for each in await place.inbox.receive("site-1", 10, wait_s=0) if each.envelope.kind == "end"]
    assert ("model" in json.loads(ends[0].body)) is told
    await take(place, signed("site-1", "want", "want/1", canonical_json(ask), by=member("site", "site-1")))
    answers = [each.envelope for each in await place.inbox.receive("site-1", 10, wait_s=0)]
    assert ("urls" in json.loads(answers[-1].body)) is told
    assert row["asked"] == ["site-1"]
    await place.inbox.ack([each.receipt for each in await place.inbox.receive("site-1", 10, wait_s=0)])
    beat = canonical_json({"v": 1, "jobs": [JOB], "at_ms": place.now_ms()})
    await take(place, signed("site-1", "beat", "beat/1", beat, by=member("site", "site-1")))
    (again,) = [
        each.envelope for each in await place.inbox.receive("site-1", 10, wait_s=0) if each.envelope.kind == "end"
    ]
    assert again.body == ends[0].body, "in the same words, since queues may bring it before the first"


async def test_a_function_that_is_warm_keeps_no_right_on_a_blob() -> None:
    place = await a_place()
    await submit(place, JOB)
    request = JobRequest.from_json((await intake.row_of(place, JOB))["request"])
    asked = {"op": "get", "scope": bundle_scope(JOB), "size": request.bundle.size, "chunks": [0]}
    body = canonical_json({"v": 1, **asked, "hashes": request.bundle.hashes.hex()})
    await take(place, signed("site-1", "want", "want/1", body, by=member("site", "site-1")))
    answers = [each.envelope for each in await place.inbox.receive("site-1", 10, wait_s=0)]
    assert json.loads(next(each.body for each in answers if each.kind == "links"))["urls"]
    links = cast(Signer, place.links)
    assert not any([*links._read.values(), *links._write.values()])


async def test_a_refusal_is_told_to_whom_it_concerns() -> None:
    place = await a_private_place()
    assert not await submit(place, LONG, "c" * 46)
    assert "shorter names" in (await read_by("anna", place).about(LONG))["error"]
    with pytest.raises(PolicyError):
        await read_by("bert", place).about(LONG)


@pytest.mark.parametrize("size", [1000, 100_000])
async def test_links_to_a_model_are_given_to_who_may_read_it(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    place = await a_private_place()
    await submit(place, JOB)
    content, id = bytes(range(250)) * (size // 250), "ab" * 16
    manifest = manifest_of(content)
    await place.blobs.put(f"{JOB}/main/1/model", manifest, rechunk([content]))
    state = dataclasses.replace(
        await granting.state_of(place, await intake.row_of(place, JOB)), model=(f"{JOB}/main/1/model", manifest.id)
    )

    async def with_model(*_: Any) -> Any:
        return state

    monkeypatch.setattr(granting, "state_of", with_model)
    ask = canonical_json({"v": 1, "job": JOB, "id": id})
    await take(place, signed("bert", "fetch", "fetch/1", ask, by=member("person", "bert")))
    with pytest.raises(NotFoundError):
        await place.documents.answer(JOB, id)
    for spoilt in ("../about", "AB" * 16, ""):
        body = canonical_json({"v": 1, "job": JOB, "id": spoilt})
        await take(place, signed("anna", "fetch", "fetch/2", body, by=member("person", "anna")))
    assert not any("answer" in key for key in cast(Any, place.documents._objects).content)
    await take(place, signed("anna", "fetch", "fetch/3", ask, by=member("person", "anna")))
    answer = await read_by("anna", place).answer(JOB, id)
    assert bytes.fromhex(answer["hashes"]) == manifest.hashes
    assert ("content" in answer, len(answer["urls"])) == ((True, 0) if size == 1000 else (False, 1))
    with pytest.raises(PolicyError):
        await read_by("adam", place).answer(JOB, id)
