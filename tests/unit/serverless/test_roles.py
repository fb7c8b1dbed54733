"""Roles without a server, step by step: what is decided, performed, refused, and left behind."""

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest

from hanse.channels.packets import CHANNEL, INLINE_BYTES, MAX_PACKET_BYTES, Packet
from hanse.channels.protocol import Guarantee, Message, Protocol
from hanse.channels.spec import RoleSpec
from hanse.clients.role_task import Part
from hanse.core.blobs import CHUNK_BYTES, Manifest, manifest_of, rechunk
from hanse.core.codec import canonical_json
from hanse.core.errors import HanseError, NotFoundError, UnavailableError
from hanse.core.ids import TaskId, bundle_scope, channel_scope
from hanse.core.records import Envelope, Reply, Task
from hanse.pipeline.request import JobRequest, run_spec_of
from hanse.rounds.driver.visit import PATIENCE_MS
from hanse.serverless.contract import first_input
from hanse.serverless.intake import take
from hanse.serverless.looking import look
from hanse.serverless.place import Place, SignedInbox
from hanse.trust.bundle import make_bundle
from hanse.trust.bundle_signature import sign_bundle
from tests.faults.explorer.enrolled import FEDERATION, JOB, member, signed
from tests.faults.explorer.function_places import Queues
from tests.unit.serverless.test_intake import a_place

TALK = Protocol(
    "talk",
    ("guest", "host"),
    (Message("m", "guest", "host", "uint8", (None,)),),
    Guarantee("none", 0, 0, 0, ()),
    (),
)
SITES = {"guest": "site-1", "host": "site-2"}
SESSION = f"{JOB}/main/1"


@dataclass
class Town:
    """A federation of two sites in memory, with a clock of the test's own."""

    place: Place
    now: int = 1_700_000_000_000

    def __post_init__(self) -> None:
        self.queues = Queues(now_ms=lambda: self.now)
        self.place = replace(self.place, inbox=SignedInbox(self.queues, self.place.identity), now_ms=lambda: self.now)

    async def say(self, site: str, kind: str, body: bytes, id: str = "x/1") -> list[Any]:
        return await take(self.place, signed(site, kind, id, body, by=member("site", site), job=JOB))

    async def decide(self, site: str, decision: str = "accept", reason: str = "") -> None:
        body = {"v": 1, "job": JOB, "decision": decision, "reason": reason, "at_ms": self.now}
        await self.say(site, "decision", canonical_json(body))

    async def answer(self, site: str, attempt: int = 1, **more: Any) -> list[Any]:
        id = TaskId(JOB, "main", attempt, "role", sorted(SITES.values()).index(site))
        return await self.say(site, "reply", Reply(id, site, **more).pack(), str(id))

    async def look(self, **more: Any) -> Any:
        return (await look(self.place, JOB, first_input(JOB, "main"), **more))[0]

    async def came(self, site: str) -> list[Envelope]:
        found = await self.queues.receive(site, 100, wait_s=0)
        await self.queues.ack([each.receipt for each in found])
        return [each.envelope for each in found]

    async def status(self) -> dict[str, Any]:
        return await self.place.documents.about(JOB)


def submission(spec: RoleSpec, bundle: Manifest, signature: str, app: str) -> Envelope:
    anna = member("person", "anna")
    request = JobRequest(
        JOB, "test", FEDERATION, "anna", 1, app, bundle, signature, "app.py", "app", run_spec_of(spec),
        sites=spec.sites, roles=spec,
    )  # fmt: skip
    body = {"v": 1, "request": request.to_json(), "signature": request.sign(anna.keys.signing).hex()}
    return signed("anna", "submit", "submit/1", canonical_json(body), by=anna)


async def town(**options: Any) -> Town:
    found = Town(await a_place())
    value = {"record": member("site", "site-2").signed_record.decode(), "enrolled_at_ms": 1}
    await found.place.ledger.create("member/site/site-2", json.dumps(value).encode())
    bundle = make_bundle({"app.py": b"app = None\n"}, module="app")
    await found.place.blobs.put(bundle_scope(JOB), manifest_of(bundle.content), rechunk([bundle.content]))
    anna = member("person", "anna")
    signature = sign_bundle(anna.keys.signing, bundle_id=bundle.id, federation=FEDERATION, person="anna").decode()
    asked = submission(RoleSpec(SITES, TALK, **options), manifest_of(bundle.content), signature, bundle.id)
    assert await take(found.place, asked)
    assert await take(found.place, asked), "asking twice is harmless"
    return found


async def running(**options: Any) -> Town:
    found = await town(**options)
    for site in SITES.values():
        await found.decide(site)
    await found.look()
    for site in SITES.values():
        await found.came(site)
    return found


async def test_all_accept_before_any_is_asked_and_all_answers_finish_it() -> None:
    here = await town()
    await here.decide("site-1")
    assert (await here.look())["kind"] == "Wait"
    assert [each.kind for each in await here.came("site-1")] == ["propose", "propose"]
    await here.decide("site-2")
    await here.look()
    (asked,) = await here.came("site-1")
    part = Part.unpack(Task.unpack(asked.body).payload)
    assert (part.session, part.role, part.sites) == (SESSION, "guest", SITES)
    assert part.records["host"] == member("site", "site-2").signed_record.decode()
    await here.answer("site-1", metrics={"common": 7.0}, fingerprint="cpu")
    await here.answer("site-1", metrics={"common": 8.0})  # a copy that says something else
    assert (await here.look())["kind"] == "Wait"
    await here.answer("site-2", metrics={"common": 7.0})
    instruction = await here.look()
    assert (instruction["kind"], instruction["status"]) == ("Finish", "finished")
    (record,) = await here.place.documents.rounds(JOB)
    assert record["metrics"] == {"guest_common": 7.0, "host_common": 7.0}
    about = await here.status()
    assert (about["status"], about["fingerprints"], about["protocol"]) == ("finished", {"site-1": "cpu"}, "talk")
    assert [each.kind for each in await here.came("site-1")] == ["release", "end"]
    assert await here.place.ledger.query("reply/") == []
    assert await here.look() == {**instruction}


async def test_a_refusal_and_a_program_s_failure_end_it_by_name() -> None:
    here = await town()
    await here.decide("site-1")
    await here.decide("site-2", "refuse", "not with us")
    assert (await here.look())["error"] == "host site-2 has refused the job: not with us"
    here = await running()
    await here.answer("site-2", error_kind="program", error="no column age")
    instruction = await here.look()
    assert (instruction["status"], instruction["error"]) == ("failed", "host site-2: no column age")


async def test_a_broken_session_begins_anew_and_leaves_nothing() -> None:
    here = await running(retries=1)
    scope = channel_scope(SESSION, "guest", "host", 0)
    await here.place.blobs.put(scope, manifest_of(b"x" * 9), rechunk([b"x" * 9]))
    await here.answer("site-1", error_kind="lost", error="host was lost")
    instruction = await here.look()
    assert instruction["until_ms"] == here.now + 2000
    here.now += 2000
    await here.look()
    assert await here.place.blobs.missing(scope, manifest_of(b"x" * 9)) == [0]
    kinds = {each.kind: each.id for each in await here.came("site-2")}
    assert kinds == {"release": f"{JOB}/main/1/role/1", "task": f"{JOB}/main/2/role/1"}
    await here.answer("site-2")  # of the session before
    await here.answer("site-1", 2, error_kind="killed", error="killed")
    await here.look()
    here.now += 2000
    assert (await here.look())["error"] == "2 sessions broke; the last: guest site-1: killed"


async def test_a_site_that_says_nothing_is_lost_and_awaited() -> None:
    here = await running(away_s=60)
    here.now += 100_000
    await here.say("site-1", "beat", canonical_json({"v": 1, "jobs": [JOB], "at_ms": here.now}))
    await here.look()
    here.now += 30_000
    await here.look()
    assert "host site-2 was lost" in (await here.status())["error"]
    here.now += 2000
    await here.look()
    assert (await here.status())["status"] == "paused"
    here.now += 60_000
    assert "has been away for 60 s" in (await here.look())["error"]


class Dying(Queues):
    """Refuses what goes to one site."""

    refused = "site-2"
    error: HanseError = UnavailableError("the function was killed")

    async def send(self, to: str, envelope: Envelope, *, durable: bool = True) -> None:
        if to == self.refused:
            raise self.error
        await super().send(to, envelope, durable=durable)


async def test_what_was_decided_and_not_performed_is_performed_by_who_comes_later() -> None:
    here = await town()
    for site in SITES.values():
        await here.decide(site)
        await here.came(site)
    queues = here.queues
    dying = replace(here.place, inbox=SignedInbox(Dying(now_ms=lambda: here.now), here.place.identity))
    with pytest.raises(UnavailableError):
        await look(dying, JOB, first_input(JOB, "main"))
    instruction = await here.look()  # who wrote it may still be at work
    assert await here.came("site-2") == []
    assert instruction["until_ms"] <= here.now + PATIENCE_MS
    here.now += PATIENCE_MS
    await here.look()
    assert [each.id for each in await here.came("site-2")] == [f"{JOB}/main/1/role/1"]
    here.now += 10 * PATIENCE_MS
    await here.look()
    assert await queues.receive("site-2", wait_s=0) == []


async def test_whoever_decides_more_performs_what_was_left() -> None:
    here = await town()
    for site in SITES.values():
        await here.decide(site)
        await here.came(site)
    dying = replace(here.place, inbox=SignedInbox(Dying(now_ms=lambda: here.now), here.place.identity))
    with pytest.raises(UnavailableError):
        await look(dying, JOB, first_input(JOB, "main"))
    await here.answer("site-1")  # which was asked
    await here.look()
    here.now += PATIENCE_MS
    await here.look()
    assert [each.id for each in await here.came("site-2")] == [f"{JOB}/main/1/role/1"]


async def test_a_person_ends_it() -> None:
    here = await running()
    assert (await here.look(cancelled_by="person anna"))["status"] == "cancelled"
    assert [each.kind for each in await here.came("site-2")] == ["release", "end"]


async def test_a_site_that_left_the_federation_after_it_accepted_ends_it_by_name() -> None:
    here = await town()
    for site in SITES.values():
        await here.decide(site)
    await here.place.ledger.delete_keys(["member/site/site-2"])
    here.place.roster._kept.clear()
    instruction = await here.look()
    assert (instruction["kind"], instruction["status"]) == ("Finish", "failed")
    assert "site-2 is not enrolled" in instruction["error"]
    here = await town()
    for site in SITES.values():
        await here.decide(site)
    gone = Dying(now_ms=lambda: here.now)
    gone.error = NotFoundError("there is no such queue")
    here.place = replace(here.place, inbox=SignedInbox(gone, here.place.identity))
    assert (await here.look())["error"] == "there is no such queue"


# ---- packets ----


def packet(**more: Any) -> Packet:
    return Packet(**{"session": SESSION, "sender": "guest", "recipient": "host", "seq": 0, "ack": 0, **more})


async def test_a_packet_is_passed_on_as_it_is() -> None:
    here = await running()
    await here.say("site-1", CHANNEL, packet(content=b"\1\0\0\0x", ack=3).pack())
    (passed,) = await here.came("site-2")
    assert (passed.kind, passed.sender) == (CHANNEL, "server")
    assert Packet.unpack(passed.body) == packet(content=b"\1\0\0\0x", ack=3)
    assert await here.came("site-1") == []


async def test_a_packet_costs_one_read_and_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    here = await running()
    await here.say("site-1", CHANNEL, packet(content=b"\1\0\0\0x").pack())  # the function is warm
    calls: list[str] = []
    for seam in ("ledger", "blobs", "queues"):
        target = here.queues if seam == "queues" else getattr(here.place, seam)
        for name in ("get", "create", "query", "compare_and_set", "missing", "delete_scope", "send"):
            if (real := getattr(target, name, None)) is not None:

                async def counted(*args: Any, _real: Any = real, _name: str = f"{seam} {name}", **more: Any) -> Any:
                    calls.append(_name)
                    return await _real(*args, **more)

                monkeypatch.setattr(target, name, counted)
    await here.say("site-1", CHANNEL, packet(seq=1, content=b"\1\0\0\0x").pack())
    assert calls == ["ledger get", "queues send"]


@pytest.mark.parametrize(
    ("site", "spoilt"),
    [
        ("site-2", {}),
        ("site-1", {"sender": "host", "recipient": "guest"}),
        ("site-1", {"recipient": "guest"}),
        ("site-1", {"recipient": "arbiter"}),
        ("site-1", {"session": f"{JOB}/main/2"}),
        ("site-1", {"session": f"{JOB}/main/0"}),
        ("site-1", {"session": "j2/main/1"}),
        ("site-1", {"session": "x"}),
    ],
)
async def test_nobody_speaks_for_another_or_in_another_session(site: str, spoilt: dict[str, Any]) -> None:
    here = await running()
    assert await here.say(site, CHANNEL, packet(**spoilt).pack()) == []
    assert await here.came("site-1") == await here.came("site-2") == []


async def test_nothing_is_passed_on_before_and_after_the_session() -> None:
    here = await town()
    for site in SITES.values():
        await here.came(site)
    await here.say("site-1", CHANNEL, packet().pack())
    assert await here.came("site-2") == []
    here = await running()
    await here.look(cancelled_by="person anna")
    await here.came("site-2")
    await here.say("site-1", CHANNEL, packet().pack())
    assert await here.came("site-2") == []


async def test_a_blob_comes_with_its_link_and_goes_when_it_was_read() -> None:
    here = await running()
    content = b"y" * (INLINE_BYTES + 1)
    manifest, scope = manifest_of(content), channel_scope(SESSION, "guest", "host", 0)
    await here.say("site-1", CHANNEL, packet(blob=manifest).pack())
    (passed,) = await here.came("site-2")
    assert Packet.unpack(passed.body).links == ()  # it is not there
    await here.place.blobs.put(scope, manifest, rechunk([content]))
    forged = (("https://elsewhere/", ()),)
    await here.say("site-1", CHANNEL, packet(blob=manifest, links=forged).pack())
    (passed,) = await here.came("site-2")
    assert Packet.unpack(passed.body).links == ((f"{scope} {manifest.id} 0", ()),)
    read = packet(sender="host", recipient="guest", seq=None, ack=1, dropped=(0,))
    await here.say("site-2", CHANNEL, read.pack())
    assert await here.place.blobs.missing(scope, manifest) == [0]


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        (channel_scope(SESSION, "guest", "host", 4), True),
        (channel_scope(SESSION, "host", "guest", 4), False),
        (channel_scope(SESSION, "guest", "arbiter", 4), False),
        (channel_scope(f"{JOB}/main/2", "guest", "host", 4), False),
        (f"{SESSION}/channel/guest/host/04", False),
        (f"{SESSION}/channel/guest/host", False),
        (f"{SESSION}/channel/guest/host/4/more", False),
        (f"{SESSION}/channel", False),
    ],
)
async def test_a_site_puts_its_own_packets_only(scope: str, allowed: bool) -> None:
    here = await running()
    manifest = manifest_of(b"z" * 70_000)
    asked = {"op": "put", "scope": scope, "size": manifest.size, "hashes": manifest.hashes.hex(), "chunks": [0]}
    await here.say("site-1", "want", canonical_json({"v": 1, **asked}))
    (answer,) = await here.came("site-1")
    assert ("urls" in json.loads(answer.body)) is allowed


async def test_a_site_puts_no_more_than_a_packet_holds() -> None:
    here = await running()
    asked = {"op": "put", "scope": channel_scope(SESSION, "guest", "host", 4), "chunks": [0, 1]}
    for size, allowed in ((MAX_PACKET_BYTES, True), (MAX_PACKET_BYTES + 1, False)):
        hashes = "00" * 32 * -(-size // CHUNK_BYTES)
        await here.say("site-1", "want", canonical_json({"v": 1, "size": size, "hashes": hashes, **asked}))
        (answer,) = await here.came("site-1")
        assert ("urls" in json.loads(answer.body)) is allowed


async def test_roles_of_sites_that_are_not_here_are_refused() -> None:
    place = await a_place()
    bundle = make_bundle({"app.py": b"app = None\n"}, module="app")
    await place.blobs.put(bundle_scope(JOB), manifest_of(bundle.content), rechunk([bundle.content]))
    anna = member("person", "anna")
    signature = sign_bundle(anna.keys.signing, bundle_id=bundle.id, federation=FEDERATION, person="anna").decode()
    asked = submission(RoleSpec(SITES, TALK), manifest_of(bundle.content), signature, bundle.id)
    assert await take(place, asked) == []
    assert "found site-2" in (await place.documents.about(JOB))["error"]
