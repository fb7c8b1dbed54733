"""What an enrolled site can send that it should not, through its session and as uploads and downloads."""

import asyncio
import contextlib
import dataclasses
import json
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from hanse.backends.grpc import client, inbox
from hanse.backends.grpc.client import Connection
from hanse.backends.grpc.protocol import CLIENT_OPTIONS, SERVICE, error_of, identity
from hanse.backends.memory import MemoryBlobs
from hanse.core.blobs import CHUNK_BYTES, Manifest, manifest_of
from hanse.core.errors import HanseError, NotFoundError, PolicyError
from hanse.core.ids import TaskId, bundle_scope, model_scope, new_job_id, upload_scope
from hanse.core.proto import hanse_pb2 as pb
from hanse.core.records import BlobRef, Task
from hanse.core.spec import RunSpec
from hanse.trust.envelopes import sign_envelope
from tests.faults.wire_federation import SECRET, Site, Wire, federation, submit, upload
from tests.patience import WAIT_S

pytestmark = pytest.mark.asyncio(loop_scope="module")
CONTENT = random.Random(7).randbytes(CHUNK_BYTES + 1000)
MANIFEST = manifest_of(CONTENT)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Wire]:
    async with federation(tmp_path_factory.mktemp("sessions")) as wire:
        await wire.enrol("site", "evil")
        yield wire


@pytest_asyncio.fixture(loop_scope="module")
async def wire(shared: Wire) -> AsyncIterator[Wire]:
    yield shared
    await shared.check_health()


@dataclasses.dataclass
class Working:
    """A job that both sites take part in; each has been asked something and has not answered."""

    job: str
    healthy: Site
    evil: Site
    task: Task
    evil_task: Task
    wire: Wire

    async def finish(self) -> None:
        """The job ends as if nothing had happened: both replies count, each once."""
        for site, task in ((self.healthy, self.task), (self.evil, self.evil_task)):
            outcome, reason = await site.reply(site.answer(task))
            assert outcome in ("received", "duplicate") or reason == "the job is over", reason
        async with self.wire.session("researcher") as session:
            events = [event async for event in session.watch(self.job)]
        assert events[-1]["status"] == "finished"
        (record,) = [event["record"] for event in events if event["what"] == "round" and event["record"]["number"]]
        assert sorted(record["folded"]) == ["evil", "healthy"]


@pytest_asyncio.fixture(loop_scope="module")
async def working(wire: Wire) -> AsyncIterator[Working]:
    healthy = wire.healthy
    assert healthy is not None
    async with wire.site("evil") as evil, wire.session("researcher") as session:
        spec = RunSpec(rounds=1, quorum=2, min_sites=2, evaluate_every=0)
        job = await submit(session, wire.people["researcher"], spec=spec, sites=("evil", "healthy"))
        for site in (healthy, evil):
            await site.until("propose", job)
            assert (await site.decide(job))[0] == "received"
        first = await asyncio.wait_for(_first([healthy, evil], job), WAIT_S)  # one is asked for parameters
        assert (await first[0].reply(first[0].answer(first[1])))[0] == "received"
        tasks = {site.name: await site.task(job) for site in (healthy, evil)}
        yield Working(job, healthy, evil, tasks["healthy"], tasks["evil"], wire)
        await session.ask("jobs")
        if job in wire.server.jobs.active:
            await session.ask("cancel", job=job)


async def _first(sites: Sequence[Site], job: str) -> tuple[Site, Task]:
    waiting = {asyncio.ensure_future(site.task(job)): site for site in sites}
    done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for each in pending:
        each.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    task = done.pop()
    return waiting[task], task.result()


# ---- envelopes ----


async def test_a_job_goes_on_undisturbed(working: Working) -> None:
    await working.finish()


async def test_a_reply_that_comes_twice_counts_once(working: Working) -> None:
    envelope = working.evil.envelope(
        "reply", str(working.evil_task.id), working.evil.answer(working.evil_task).pack(), job=working.job
    )
    assert (await working.evil.send(envelope))[0] == "received"
    for _ in range(3):
        assert (await working.evil.send(envelope))[0] == "duplicate"
    changed = working.evil.answer(working.evil_task, num_examples=10**6)
    assert (await working.evil.reply(changed))[0] == "duplicate"
    await working.finish()


async def test_another_site_s_task(working: Working) -> None:
    stolen = dataclasses.replace(working.evil.answer(working.evil_task), task=working.task.id)
    assert await working.evil.reply(stolen) == ("refused", "the task is another site's")
    posing = dataclasses.replace(working.evil.answer(working.evil_task), site="healthy")
    assert (await working.evil.reply(posing))[0] == "refused"
    await working.finish()


@pytest.mark.parametrize(
    "changed",
    [
        {"sender": "healthy"},
        {"sender": "server"},
        {"sender": ""},
        {"federation": "other"},
        {"federation": ""},
        {"recipient": "healthy"},
        {"kind": "task"},
        {"kind": "release"},
        {"kind": ""},
        {"kind": "nonsense"},
        {"kind": SECRET},
        {"body": b"\xff" * 100},
        {"body": b""},
        {"sealed": True, "body": b"sealed"},
    ],
    ids=str,
)
async def test_envelopes_that_do_not_fit(working: Working, changed: dict[str, Any]) -> None:
    envelope = working.evil.envelope("reply", str(working.evil_task.id), working.evil.answer(working.evil_task).pack())
    outcome, _ = await working.evil.send(
        sign_envelope(working.evil.member.keys.signing, dataclasses.replace(envelope, **changed))
    )
    assert outcome == "refused"
    await working.finish()


async def test_signatures_that_do_not_hold(working: Working) -> None:
    evil = working.evil
    envelope = evil.envelope("reply", str(working.evil_task.id), evil.answer(working.evil_task).pack())
    other = sign_envelope(working.healthy.member.keys.signing, envelope)
    body = evil.answer(working.evil_task, num_examples=11).pack()
    for bad in (
        dataclasses.replace(envelope, sig=b""),
        dataclasses.replace(envelope, sig=bytes(64)),
        dataclasses.replace(envelope, body=body),
        dataclasses.replace(envelope, seq=7),
        other,
    ):
        assert (await evil.send(bad))[0] == "refused"
    await working.finish()


async def test_replies_that_make_no_sense(working: Working) -> None:
    evil, task = working.evil, working.evil_task
    for reply in (
        evil.answer(dataclasses.replace(task, id=dataclasses.replace(task.id, ordinal=2**32 - 1))),
        evil.answer(dataclasses.replace(task, id=dataclasses.replace(task.id, round=999))),
        evil.answer(dataclasses.replace(task, id=dataclasses.replace(task.id, phase="evaluate"))),
        evil.answer(dataclasses.replace(task, id=dataclasses.replace(task.id, component="other"))),
        evil.answer(dataclasses.replace(task, id=dataclasses.replace(task.id, job=new_job_id()))),
    ):
        assert (await evil.reply(reply))[0] in ("refused", "duplicate", "late")
    for scope in (upload_scope(task.id, "healthy"), upload_scope(task.id, "evil"), bundle_scope(working.job)):
        reply = evil.answer(task, update=BlobRef(MANIFEST, scope))  # never uploaded, or not its own place
        assert (await evil.reply(reply))[0] == "refused"
    await working.finish()


async def test_a_decision_about_a_job_that_was_not_offered(wire: Wire) -> None:
    """A job for other sites: who says yes unasked is not let in."""
    assert wire.healthy is not None
    async with wire.site("evil") as evil, wire.session("researcher") as session:
        job = await submit(session, wire.people["researcher"], sites=("healthy",))
        assert (await evil.decide(job))[0] == "refused"
        assert "evil" not in wire.server.jobs.active[job].accepted()
        assert (await evil.decide("unknown"))[0] == "late"
        body = json.dumps({"job": job, "decision": "sudo"}).encode()
        assert (await wire.healthy.send(wire.healthy.envelope("decision", f"decision/{job}", body)))[0] == "refused"
        await wire.healthy.work(job)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"job": NaN}',
        b'{"job": "\\ud800"}',
        b'{"job": {}, "decision": []}',
    ],
    ids=lambda body: body[:20].decode(errors="replace"),
)
async def test_decisions_that_are_none(wire: Wire, body: bytes) -> None:
    async with wire.site("evil") as evil:
        assert (await evil.send(evil.envelope("decision", "decision/x", body)))[0] in ("refused", "late")


async def test_a_replayed_decision_changes_nothing(working: Working) -> None:
    for _ in range(3):
        assert (await working.evil.decide(working.job))[0] == "received"
    await working.finish()


# ---- frames ----


async def frames(wire: Wire, *contents: bytes) -> tuple[list[pb.ServerFrame], grpc.StatusCode, str]:
    """Send raw frames of the site `evil`; what came back, and how it ended."""
    connection = wire.connect(wire.sites["evil"])
    call = connection._channel.stream_stream(f"/{SERVICE}/Session", identity, pb.ServerFrame.FromString)()
    came: list[pb.ServerFrame] = []
    try:
        for content in contents:
            await call.write(content)
        await call.done_writing()
        while (frame := await asyncio.wait_for(call.read(), WAIT_S)) is not grpc.aio.EOF:
            came.append(frame)
    except (grpc.RpcError, asyncio.InvalidStateError):
        pass
    code, details = await call.code(), await call.details()
    await connection.close()
    return came, code, details or ""


def hello(**changed: Any) -> bytes:
    return pb.SiteFrame(hello=pb.Hello(**{"v": 1, **changed})).SerializeToString()


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"\xff\xff\xff",
        SECRET.encode(),
        hello(v=2),
        hello(v=0),
        pb.SiteFrame(heartbeat=pb.Heartbeat(n=1)).SerializeToString(),
        hello()[:-1],
    ],
    ids=repr,
)
async def test_who_does_not_say_hello_is_not_let_in(wire: Wire, first: bytes) -> None:
    came, code, details = await frames(wire, first)
    assert (came, code) == ([], grpc.StatusCode.FAILED_PRECONDITION)
    assert "version 1" in details


async def test_a_new_site_s_unknown_fields_and_kinds_are_passed_over(wire: Wire) -> None:
    unknown = bytes([0x9A, 0x06, 3]) + b"new"  # field 99
    beat = pb.SiteFrame(heartbeat=pb.Heartbeat(n=5)).SerializeToString()
    came, code, _ = await frames(wire, hello() + unknown, unknown, b"", beat + unknown)
    assert code == grpc.StatusCode.OK
    assert [frame.WhichOneof("kind") for frame in came] == ["welcome", "heartbeat"]


@pytest.mark.parametrize(
    "frame",
    [
        b"\xff\xff\xff\xff",
        pb.SiteFrame(envelope=pb.Envelope(v=2)).SerializeToString(),
        pb.SiteFrame(envelope=pb.Envelope(v=0)).SerializeToString(),
        pb.SiteFrame(envelope=pb.Envelope(v=1, kind="x" * 100)).SerializeToString(),
        pb.SiteFrame(envelope=pb.Envelope(v=1, id="x" * 1000)).SerializeToString(),
        pb.SiteFrame(envelope=pb.Envelope(v=1, deadline_s=float("nan"))).SerializeToString(),
        pb.SiteFrame(envelope=pb.Envelope(v=1, body=bytes(7 << 20))).SerializeToString(),
    ],
    ids=lambda frame: repr(frame[:12]),
)
async def test_frames_that_are_none_end_the_session(wire: Wire, frame: bytes) -> None:
    came, code, details = await frames(wire, hello(), frame)
    assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OK), details
    assert all(each.WhichOneof("kind") in ("welcome", "accepted") for each in came)
    assert all(each.accepted.outcome == "refused" for each in came if each.HasField("accepted"))


@pytest.fixture
def careless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that does not keep to the limits itself."""
    options = [(name, -1 if name == "grpc.max_send_message_length" else value) for name, value in CLIENT_OPTIONS]
    monkeypatch.setattr(client, "CLIENT_OPTIONS", options)


@pytest.mark.usefixtures("careless")
async def test_a_frame_over_the_limit(wire: Wire) -> None:
    _, code, _ = await frames(wire, hello(), bytes(9 << 20))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_reports_and_receipts_that_mean_nothing(wire: Wire) -> None:
    came, code, _ = await frames(
        wire,
        hello(holding=["x" * 1000] * 1000, facts={"k" * 1000: "v" * 1000}),
        *(
            pb.SiteFrame(report=pb.TaskReport(task=task, stage=SECRET)).SerializeToString()
            for task in ("", "x", "a/b/1/c/1")
        ),
        *(
            pb.SiteFrame(done=receipt).SerializeToString()
            for receipt in ("", "x", ":", "task:", "task:" + "x" * 10_000)
        ),
    )
    assert (len(came), code) == (1, grpc.StatusCode.OK)


async def test_a_site_that_sends_and_does_not_read(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server keeps for it is bounded: the session ends."""
    monkeypatch.setattr(inbox, "MAX_UNREAD", 100)
    connection = wire.connect(wire.sites["evil"])
    call = connection.open_session()
    await call.write(pb.SiteFrame(hello=pb.Hello(v=1)))
    await call.read()
    outgoing = wire.server._inbox.session("evil")
    assert outgoing is not None
    for _ in range(400):
        outgoing.put(pb.ServerFrame(accepted=pb.Accepted(reason="x" * 100_000)))
    async with asyncio.timeout(WAIT_S):
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):  # while it is written to
            while not outgoing.closed:
                await call.write(pb.SiteFrame(heartbeat=pb.Heartbeat(n=1)))
    assert "does not read" in outgoing.closed
    await connection.close()


async def test_a_second_session_of_a_site_takes_the_place_of_the_first(wire: Wire) -> None:
    async with wire.site("evil") as first:
        came, code, _ = await frames(wire, hello())
        assert (len(came), code) == (1, grpc.StatusCode.OK)
        await asyncio.wait_for(first.link.connected.wait(), WAIT_S)
        await first.heartbeat()


# ---- uploads ----


async def offer(wire: Wire, name: str, offered: bytes, *pieces: bytes, end: bool = True) -> tuple[grpc.StatusCode, str]:
    """A raw upload; how it ended."""
    connection = wire.connect(wire.sites[name])
    call = connection._upload()
    try:
        await call.write(offered)
        if pieces:
            await call.read()
        for piece in pieces:
            await call.write(piece)
        if end:
            await call.done_writing()
        while await asyncio.wait_for(call.read(), WAIT_S) is not grpc.aio.EOF:
            pass
    except (grpc.RpcError, asyncio.InvalidStateError):
        pass
    result = await call.code(), await call.details() or ""
    await connection.close()
    return result


def offer_of(scope: str, manifest: Manifest = MANIFEST) -> bytes:
    return pb.UploadOffer(
        scope=scope, manifest=pb.Manifest(size=manifest.size, hashes=manifest.hashes)
    ).SerializeToString()


def parts(content: bytes, size: int = 1 << 20) -> Iterator[bytes]:
    return (content[start : start + size] for start in range(0, len(content), size))


async def test_an_upload_where_it_belongs(working: Working) -> None:
    place = upload_scope(working.evil_task.id, "evil")
    code, _ = await offer(working.wire, "evil", offer_of(place), *parts(CONTENT))
    assert code == grpc.StatusCode.OK


async def test_uploads_elsewhere(working: Working) -> None:
    task, job = working.evil_task.id, working.job
    for place in (
        upload_scope(task, "healthy"),
        model_scope(job, "main", 0),
        model_scope(job, "main", 1),
        bundle_scope(job),
        upload_scope(task, "evil") + "/more",
        upload_scope(dataclasses.replace(task, round=7), "evil"),
        "../" + upload_scope(task, "evil"),
        "/etc",
        "",
        "x" * 5000,
    ):
        code, _ = await offer(working.wire, "evil", offer_of(place))
        assert code == grpc.StatusCode.PERMISSION_DENIED, place
    await working.finish()


async def test_uploads_that_break_their_promise(working: Working) -> None:
    place = upload_scope(working.evil_task.id, "evil")
    wire = working.wire
    wrong = bytearray(CONTENT)
    wrong[5] ^= 1
    assert (await offer(wire, "evil", offer_of(place), *parts(bytes(wrong))))[0] == grpc.StatusCode.DATA_LOSS
    code, details = await offer(wire, "evil", offer_of(place), *parts(CONTENT[:-500]))
    assert (code, "ended before" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    code, details = await offer(wire, "evil", offer_of(place), *parts(CONTENT[CHUNK_BYTES:] + b"more"))
    assert (code, "at most" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    code, details = await offer(wire, "evil", offer_of(place), *[b""] * 1025)
    assert (code, "at most" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    update = BlobRef(MANIFEST, place)
    assert (await working.evil.reply(working.evil.answer(working.evil_task, update=update)))[0] == "refused"
    await working.finish()


@pytest.mark.parametrize(
    "message",
    [
        pb.Manifest(size=1 << 63, hashes=b""),
        pb.Manifest(size=1 << 40, hashes=bytes(32)),
        pb.Manifest(size=(1 << 40) + 1, hashes=bytes(64)),
        pb.Manifest(size=10, hashes=b""),
        pb.Manifest(size=10, hashes=bytes(31)),
        pb.Manifest(size=0, hashes=bytes(32)),
        pb.Manifest(size=10, hashes=bytes(1 << 20)),
    ],
    ids=lambda message: f"{message.size} bytes, {len(message.hashes)} of hashes",
)
async def test_manifests_that_lie(working: Working, message: pb.Manifest) -> None:
    place = upload_scope(working.evil_task.id, "evil")
    lie = pb.UploadOffer(scope=place, manifest=message).SerializeToString()
    assert (await offer(working.wire, "evil", lie))[0] == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_terabyte_is_promised_and_not_sent(working: Working) -> None:
    """Nothing is set aside for what has only been promised."""
    place = upload_scope(working.evil_task.id, "evil")
    huge = Manifest(1 << 37, bytes(32 * (1 << 14)))
    code, _ = await offer(working.wire, "evil", offer_of(place, huge), b"x" * 1000)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    await working.finish()


@pytest.mark.parametrize("offered", [b"", b"\xff" * 100, SECRET.encode(), bytes(1 << 20)], ids=len)
async def test_offers_that_are_none(wire: Wire, offered: bytes) -> None:
    code, _ = await offer(wire, "evil", offered)
    assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED)


@pytest.mark.usefixtures("careless")
async def test_an_upload_over_the_message_limit(working: Working) -> None:
    place = upload_scope(working.evil_task.id, "evil")
    code, _ = await offer(working.wire, "evil", offer_of(place), bytes(9 << 20))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    await working.finish()


# ---- downloads ----


async def fetch(connection: Connection, scope: str, id: str, chunks: Sequence[int] = ()) -> int:
    """Download; bytes that came after the manifest."""
    call = connection._download(pb.DownloadRequest(scope=scope, id=id, chunks=chunks))
    count = -1
    try:
        while (piece := await asyncio.wait_for(call.read(), WAIT_S)) is not grpc.aio.EOF:
            count += 1 if count < 0 else len(piece)
    except grpc.RpcError:
        pass
    if await call.code() != grpc.StatusCode.OK:
        raise error_of(client._Ended(await call.code(), await call.details()))
    return count


async def test_a_model_of_a_job_it_has_no_part_in(wire: Wire) -> None:
    assert wire.healthy is not None
    async with wire.session("researcher") as session:
        job = await submit(session, wire.people["researcher"], sites=("healthy",))
        await wire.healthy.work(job)
    (model,) = [
        (scope, id) for scope, id in wire.server._store.links._read["healthy"] | {("", "")} if scope.startswith(job)
    ] or [(model_scope(job, "main", 1), "0" * 64)]
    connection = wire.connect(wire.sites["evil"])
    try:
        for scope, id in (
            model,
            (bundle_scope(job), MANIFEST.id),
            (upload_scope(TaskId(job, "main", 1, "train", 0), "healthy"), MANIFEST.id),
        ):
            with pytest.raises(PolicyError):
                await fetch(connection, scope, id)
    finally:
        await connection.close()


async def test_what_was_never_granted(working: Working) -> None:
    wire, job = working.wire, working.job
    connection = wire.connect(wire.sites["evil"])
    try:
        for scope, id in (
            (upload_scope(working.task.id, "healthy"), MANIFEST.id),
            (model_scope(job, "main", 0), MANIFEST.id),
            ("../../authority", "authority.key"),
            ("", ""),
            ("x" * 9000, "y" * 9000),
        ):
            with pytest.raises(PolicyError):
                await fetch(connection, scope, id)
        async with wire.session("researcher") as session:
            for scope in (bundle_scope(job), upload_scope(working.task.id, "healthy"), "authority"):
                with pytest.raises(PolicyError):
                    await session.connection.download(MemoryBlobs(), scope, MANIFEST)
            with pytest.raises(HanseError):
                await session.connection.download(MemoryBlobs(), "../x/model", MANIFEST)
            with pytest.raises(NotFoundError):
                await session.connection.download(MemoryBlobs(), "x/main/0/model", MANIFEST)
    finally:
        await connection.close()
    await working.finish()


async def test_chunks_that_are_not_there_or_asked_for_a_million_times(wire: Wire) -> None:
    """A short request must not make a long answer."""
    scope = "somewhere/main/1/model"
    wire.server._store.links.grant("evil", read=[(scope, MANIFEST.id)])
    await wire.server._store.blobs.put(scope, MANIFEST, [(0, CONTENT[:CHUNK_BYTES]), (1, CONTENT[CHUNK_BYTES:])])
    connection = wire.connect(wire.sites["evil"])
    try:
        assert await fetch(connection, scope, MANIFEST.id) == len(CONTENT)
        assert await fetch(connection, scope, MANIFEST.id, [1]) == 1000
        for chunks in ([2], [0, 2**32 - 1], [0] * 1_000_000, [0, 0], list(range(1_000_000))):
            with pytest.raises(HanseError, match="at most once"):
                await fetch(connection, scope, MANIFEST.id, chunks)
    finally:
        await connection.close()


async def test_people_upload_bundles_within_limits(wire: Wire) -> None:
    async with wire.session("researcher") as session:
        call = session.connection._upload()
        size = 1 << 30
        hashes = bytes(32 * (size // CHUNK_BYTES))
        manifest = pb.Manifest(size=size, hashes=hashes)
        await call.write(
            pb.UploadOffer(scope=bundle_scope(new_job_id("researcher")), manifest=manifest).SerializeToString()
        )
        with pytest.raises(grpc.RpcError):
            await call.read()
        assert await call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        for scope in ("x/y/z", "", "../bundle", "a/bundle/b"):
            with pytest.raises(HanseError):
                await upload(session.connection, scope, b"x")
