"""What people can do to the server through `Ask` and `Watch`, and what they cannot."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from hanse.backends.grpc.protocol import error_of
from hanse.clients.loader import find_app
from hanse.core.errors import (
    ConflictError,
    HanseError,
    NotFoundError,
    PolicyError,
    TooLargeError,
)
from hanse.core.ids import bundle_scope, model_scope, new_job_id
from hanse.core.proto import hanse_pb2 as pb
from hanse.person import jobs
from hanse.person.federation import Session
from hanse.rounds import machine
from hanse.rounds.events import Event, Instruction
from hanse.rounds.run_state import RunState
from tests.faults.wire_federation import (
    SECRET,
    Wire,
    app_bundle,
    federation,
    refused,
    request_for,
    submit,
    upload,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Wire]:
    async with federation(tmp_path_factory.mktemp("people")) as wire:
        yield wire


@pytest_asyncio.fixture(loop_scope="module")
async def wire(shared: Wire) -> AsyncIterator[Wire]:
    yield shared
    await shared.check_health()


async def test_a_whole_job(wire: Wire) -> None:
    await wire.check_job()


# ---- bodies ----

BODIES = [
    b"",
    b"\xff\xfe\x00",
    b"null",
    b"[]",
    b'"op"',
    b"{}",
    b'{"op": null}',
    b'{"op": "sites',
    b'{"op": "__class__"}',
    b'{"op": ["sites"]}',
    b'{"op": "' + b"x" * 100_000 + b'"}',
    b'{"op": "\\ud800"}',
    b"[" * 500_000,
    b'{"op": "jobs", "a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    b'{"op": "result", "job": "x", "after": ' + b"9" * 5000 + b"}",
    b'{"op": "result", "job": "x", "after": NaN}',
    b'{"op": "result", "job": "x", "after": 1e999}',
    b'{"op": "result", "job": "x", "after": "one"}',
    b'{"op": "result", "job": "x", "after": []}',
    b'{"op": "job"}',
    b'{"op": "job", "job": null}',
    b'{"op": "job", "job": "\\ud800"}',
    b'{"op": "job", "job": "\\u0000"}',
    b'{"op": "job", "job": "' + b"x" * 100_000 + b'"}',
    b'{"op": "job", "job": "../../etc/passwd"}',
    b'{"op": "job", "job": ""}',
    b'{"op": "cancel", "job": "unknown"}',
    b'{"op": "cancel"}',
    b'{"op": "resume", "job": "unknown"}',
    b'{"op": "submit"}',
    b'{"op": "submit", "request": null}',
    b'{"op": "submit", "request": []}',
    b'{"op": "submit", "request": {"v": 1}}',
    b'{"op": "submit", "request": {"v": 2}}',
    b'{"op": "submit", "request": {"v": 1, "components": [{}]}}',
    b'{"op": "invite"}',
    b'{"op": "revoke"}',
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body[:40].decode(errors="replace"))
@pytest.mark.parametrize("person", ["researcher", "admin"])
async def test_bodies_that_are_none(wire: Wire, body: bytes, person: str) -> None:
    async with wire.session(person) as session:
        await refused(session, pb.Call(v=1, body=body, content=SECRET.encode(), sig=b"x"))


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "site", "name": "x", "hours": "many"},
        {"kind": "site", "name": "x", "hours": float("nan")},
        {"kind": "site", "name": "x", "hours": float("inf")},
        {"kind": "site", "name": "x", "hours": -1},
        {"kind": "site", "name": "x", "hours": 0},
        {"kind": "site", "name": "x", "hours": 10**300},
        {"kind": "site", "name": "x", "hours": []},
        {"kind": "person", "name": "x", "roles": 7},
        {"kind": "person", "name": "x", "roles": [["admin"]]},
        {"kind": "person", "name": "x", "roles": ["god"]},
        {"kind": "person", "name": "x", "roles": "admin"},
        {"kind": "server", "name": "x"},
        {"kind": "site", "name": "server"},
        {"kind": "site", "name": "../x"},
        {"kind": "site", "name": "x" * 64},
        {"kind": "site", "name": ""},
        {"kind": "site", "name": "healthy"},
        {"kind": "\ud800", "name": "x"},
    ],
    ids=str,
)
async def test_invitations_that_cannot_be(wire: Wire, body: dict[str, Any]) -> None:
    async with wire.session("admin") as session:
        await refused(session, pb.Call(v=1, body=json.dumps({"op": "invite", **body}).encode()))


async def test_a_call_over_the_limits(wire: Wire) -> None:
    async with wire.session("admin") as session:
        with pytest.raises(TooLargeError):
            await session.connection.ask(pb.Call(v=1, body=b" " * (2 << 20) + b'{"op": "sites"}'))
        huge = pb.Call(v=1, body=b'{"op": "sites"}', content=bytes(9 << 20))
        with pytest.raises(HanseError):
            await session.connection.ask(huge)


async def test_an_unknown_version_of_a_call(wire: Wire) -> None:
    async with wire.session("admin") as session:
        with pytest.raises(HanseError, match="version"):
            await session.connection.ask(pb.Call(v=2, body=b'{"op": "sites"}'))


async def test_unknown_fields_are_passed_over(wire: Wire) -> None:
    async with wire.session("admin") as session:
        content = pb.Call(v=1, body=b'{"op": "sites", "colour": "blue"}').SerializeToString()
        call = pb.Call.FromString(content + bytes([0x9A, 0x06, 3]) + b"new")  # field 99, length 3
        assert (await session.connection.ask(call)).body


async def test_watching_what_is_not_there(wire: Wire) -> None:
    async with wire.session("researcher") as session:
        for job in ("unknown", "../x", "", "\x00", "x" * 10_000):
            with pytest.raises(NotFoundError):
                async for _ in session.watch(job):
                    pass


# ---- roles ----


@pytest.mark.parametrize("op", ["invite", "revoke", "people", "audit_head"])
async def test_a_researcher_is_no_admin(wire: Wire, op: str) -> None:
    async with wire.session("researcher") as session:
        with pytest.raises(PolicyError, match="role admin"):
            await session.ask(op, kind="site", name="healthy")


async def test_a_person_without_roles(wire: Wire) -> None:
    await wire.enrol("person", "guest")
    async with wire.session("guest") as session:
        for op in ("jobs", "sites", "submit", "cancel", "result", "invite"):
            with pytest.raises(PolicyError):
                await session.ask(op, job="x")
        with pytest.raises(PolicyError):
            async for _ in session.watch("x"):
                pass
        with pytest.raises(PolicyError):
            await upload(session.connection, bundle_scope(new_job_id()), b"x")


async def test_another_person_s_job(wire: Wire) -> None:
    """A researcher must not end what another has begun; an admin may."""
    await wire.enrol("person", "rival", ("researcher",))
    async with wire.session("researcher") as mine, wire.session("rival") as rival, wire.session("admin") as admin:
        job = await submit(mine, wire.people["researcher"], sites=("absent",))
        with pytest.raises(PolicyError):
            await rival.ask("cancel", job=job)
        assert (await mine.ask("job", job=job))["status"] not in ("cancelled", "failed")
        with pytest.raises(PolicyError):
            await upload(rival.connection, bundle_scope(job), b"something else")
        await admin.ask("cancel", job=job)
        with pytest.raises(PolicyError):  # also when it is over
            await upload(rival.connection, bundle_scope(job), b"something else")
        with pytest.raises(PolicyError):
            await upload(mine.connection, model_scope(job, "main", 0), b"something else")


async def test_an_id_that_was_submitted_before(wire: Wire, tmp_path: Path) -> None:
    source = (
        "import hanse as hs\n\napp = hs.App(initial=[[0.0]])\napp.train(lambda arrays, config, site: (arrays, 1, {}))\n"
    )
    (tmp_path / "again.py").write_text(source)
    app, person = find_app(str(tmp_path / "again.py")), wire.people["researcher"]
    reached: Any = SimpleNamespace(
        membership=person, name=person.identity.federation, connect=lambda: wire.session("researcher")
    )
    job = new_job_id("researcher")
    assert await jobs._submit(app, reached, "", ("absent",), None, job) == job
    with pytest.raises(ConflictError, match=f"job {job} was submitted before"):
        await jobs._submit(app, reached, "", ("absent",), None, job)
    with pytest.raises(PolicyError, match="made for person researcher"):
        await jobs._submit(app, reached, "", ("absent",), None, new_job_id("admin"))
    async with wire.session("researcher") as mine:
        await mine.ask("cancel", job=job)


async def test_another_person_s_job_id(wire: Wire) -> None:
    """It is seen as soon as its app is on its way, and nobody else gets in before its person."""
    await wire.enrol("person", "seer", ("researcher",))
    job, bundle = new_job_id("researcher"), app_bundle()
    request = request_for(wire.people["seer"], bundle, job=job)
    async with wire.session("seer") as seer, wire.session("researcher") as mine:
        with pytest.raises(PolicyError, match="made for person seer"):
            await upload(seer.connection, bundle_scope(job), bundle.content)
        with pytest.raises(PolicyError, match="made for person seer"):
            await seer.ask("submit", sig=request.sign(wire.people["seer"].keys.signing), request=request.to_json())
        assert await submit(mine, wire.people["researcher"], job=job, sites=("absent",)) == job
        await mine.ask("cancel", job=job)


async def test_another_person_s_results(wire: Wire) -> None:
    """Rounds and models are their submitter's and the admins', until the federation says otherwise."""
    await wire.enrol("person", "curious", ("researcher",))
    async with wire.session("researcher") as mine, wire.session("curious") as curious, wire.session("admin") as admin:
        job = await submit(mine, wire.people["researcher"], sites=("healthy",))
        assert wire.healthy is not None
        await wire.healthy.work(job)
        await until_over(mine, job)
        scope = model_scope(job, "main", 1)
        model = (await mine.ask("result", job=job))["rounds"][-1]["model"]
        for session in (mine, admin):
            await session.ask("result", job=job)
            assert await read_model(session, scope, model)
        assert job in {row["job"] for row in (await curious.ask("jobs"))["jobs"]}
        for attempt in (curious.ask("result", job=job), read_model(curious, scope, model), anext(curious.watch(job))):
            with pytest.raises(PolicyError, match="only researcher and admins"):
                await attempt
        wire.server.rights.results = "everyone"
        try:
            assert await read_model(curious, scope, model)
        finally:
            wire.server.rights.results = "owner"


async def test_removing_a_job(wire: Wire) -> None:
    """Only one that is over, by its submitter or an admin; it leaves nothing, and its request is not taken again."""
    await wire.enrol("person", "remover", ("researcher",))
    async with wire.session("researcher") as mine, wire.session("remover") as other:
        job = await submit(mine, wire.people["researcher"], sites=("absent",))
        row = await wire.server._store.ledger.get(f"job/{job}")
        with pytest.raises(ConflictError, match="not over"):
            await mine.ask("remove", job=job)
        await mine.ask("cancel", job=job)
        await until_over(mine, job)
        with pytest.raises(PolicyError, match="admin"):
            await other.ask("remove", job=job)
        await mine.ask("remove", job=job)
        assert job not in {row["job"] for row in (await mine.ask("jobs"))["jobs"]}
        for op in ("job", "result", "remove", "cancel"):
            with pytest.raises(NotFoundError):
                await mine.ask(op, job=job)
        for kind in ("job", "jobend", "run", "reply", "round"):
            assert not await wire.server._store.ledger.query(f"{kind}/{job}")
        assert not list((wire.server.directory / "store").rglob(f"*{job}*"))
        with pytest.raises(PolicyError):
            await upload(mine.connection, bundle_scope(job), b"anything")
        kept = json.loads(row[0])
        call = pb.Call(
            v=1,
            body=json.dumps({"op": "submit", "request": kept["request"]}).encode(),
            sig=bytes.fromhex(kept["signature"]),
        )
        await refused(mine, call)


async def test_whoever_has_seen_the_end_of_a_job_may_remove_it(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while that end is being written."""
    asked, jobs = asyncio.Event(), wire.server.jobs
    keep_end, owner = jobs._keep_end, jobs.owner

    async def keep_late(*end: Any, **more: Any) -> None:
        await asked.wait()
        await keep_end(*end, **more)

    async def owner_asked(job: str) -> str:
        if (found := await owner(job)) and removing:
            asyncio.get_running_loop().call_soon(asked.set)
        return found

    monkeypatch.setattr(jobs, "_keep_end", keep_late)
    monkeypatch.setattr(jobs, "owner", owner_asked)
    removing = False
    async with wire.session("researcher") as mine:
        job = await submit(mine, wire.people["researcher"], sites=("absent",))
        await mine.ask("cancel", job=job)
        await until_over(mine, job)
        removing = True
        await mine.ask("remove", job=job)
        assert job not in {row["job"] for row in (await mine.ask("jobs"))["jobs"]}


@pytest.mark.parametrize("record", ["whole", "unreadable"])
async def test_a_job_whose_driver_broke_is_ended_and_removed(
    wire: Wire, record: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an error that nobody foresaw, and again whenever it is taken up: it is its submitter's to end all the same."""
    ledger, healthy = wire.server._store.ledger, wire.healthy
    assert healthy is not None
    async with wire.session("researcher") as mine:
        job = await submit(mine, wire.people["researcher"], sites=("healthy",))
        await healthy.until("propose", job)
        step = machine.step

        def broken(state: RunState, event: Event) -> tuple[RunState, list[Instruction]]:
            if state.job == job:
                raise RuntimeError("nobody foresaw this")
            return step(state, event)

        monkeypatch.setattr(machine, "step", broken)
        wire.expected_traces += 2  # the turn, and the job
        assert (await healthy.decide(job))[0] == "received"
        await until_stopped(mine, job)
        if record == "unreadable":
            _, version = await ledger.get(f"run/{job}/main")
            assert await ledger.compare_and_set(f"run/{job}/main", b"{}", version)
        wire.expected_traces += 2  # the turn, and the job; or taking it up, and asking for its result
        await mine.ask("resume", job=job)
        assert "cancel" in (await until_stopped(mine, job))["error"]
        with pytest.raises(ConflictError, match="not over"):
            await mine.ask("remove", job=job)
        await mine.ask("cancel", job=job)
        assert (await healthy.until("end", job)).job == job
        assert (await mine.ask("job", job=job))["status"] == "cancelled"
        if record == "whole":
            assert (await mine.ask("result", job=job))["status"] == "cancelled"
        await mine.ask("resume", job=job)  # it is over
        assert job not in wire.server.jobs.active
        await mine.ask("remove", job=job)
        assert not await ledger.query(f"run/{job}")


async def until_stopped(session: Session, job: str) -> dict[str, Any]:
    """Nobody drives the job any more."""
    async for _ in session.watch(job):
        pass
    about: dict[str, Any] = await session.ask("job", job=job)
    assert about["status"] == "stopped"
    return about


async def until_over(session: Session, job: str) -> None:
    async for event in session.watch(job):
        if event["what"] == "finished":
            return


async def read_model(session: Session, scope: str, id: str) -> bool:
    call = session.connection._download(pb.DownloadRequest(scope=scope, id=id))
    try:
        return await call.read() is not grpc.aio.EOF
    except grpc.RpcError as error:
        raise error_of(error) from None


async def test_a_job_is_not_over_because_the_server_stops(tmp_path: Path) -> None:
    """Who asks in that moment was told that it had finished, with the status `stopped`."""
    async with federation(tmp_path) as wire, wire.session("researcher") as session:
        assert wire.healthy is not None
        job = await submit(session, wire.people["researcher"], sites=("healthy",))
        await wire.healthy.until("propose", job)
        await wire.healthy.decide(job)
        task = await wire.healthy.task(job)
        await wire.server.jobs.close()
        assert (await wire.server.jobs.reading.describe(job))["status"] == "running"
        outcome, _ = await wire.healthy.reply(wire.healthy.answer(task))
        assert outcome == "later"
