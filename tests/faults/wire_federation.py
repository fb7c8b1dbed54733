"""A federation for the wire's attackers: the real server in this process, on loopback, over mutual TLS.

Nothing is mocked but the launcher of workers, which these tests never need: built-in strategies run in the server.
`Wire.check_health` is asked after every attack: a person, a site that was there all the time, and the log.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import structlog
from structlog.testing import LogCapture

from hanse.backends.grpc.client import Connection, Credentials
from hanse.backends.grpc.link import Link
from hanse.backends.memory import MemoryBlobs
from hanse.core.arrays import Arrays
from hanse.core.blobs import Manifest, manifest_of, rechunk
from hanse.core.codec import encode_parts
from hanse.core.errors import HanseError, UnavailableError
from hanse.core.ids import SERVER, bundle_scope, new_job_id
from hanse.core.proto import hanse_pb2 as pb
from hanse.core.records import BlobRef, Envelope, Reply, Task
from hanse.core.spec import RunSpec
from hanse.person.federation import Federation, Session
from hanse.pipeline.request import JobRequest
from hanse.server.config import ServerConfig
from hanse.server.init import init_federation
from hanse.server.server import Server
from hanse.trust.authority import Authority, Issued
from hanse.trust.bundle import Bundle, make_bundle
from hanse.trust.bundle_signature import sign_bundle
from hanse.trust.envelopes import sign_envelope
from hanse.trust.identity import MemberKeys, SigningRequest
from hanse.trust.member_record import verify_record
from hanse.trust.membership import Membership
from hanse.workers.launcher import Launcher
from tests.patience import WAIT_S

FEDERATION = "wire"
SECRET = "patient-4711-has-7.25"
"""Put wherever an attacker may write; must never appear in a log."""
SOURCE = b"import hanse as hs\n\napp = hs.App(hs.FedAvg(), rounds=1)\n"


class _NoLauncher:
    """No worker is needed here."""

    def stop(self) -> None: ...


@dataclass
class Wire:
    """A running federation. Members are enrolled without the network; joining has tests of its own."""

    server: Server
    logs: LogCapture
    records: list[logging.LogRecord]
    people: dict[str, Membership] = field(default_factory=dict)
    sites: dict[str, Membership] = field(default_factory=dict)
    healthy: "Site | None" = None
    expected_traces: int = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    @property
    def authority(self) -> Authority:
        return self.server.members.authority

    async def enrol(self, kind: str, name: str, roles: tuple[str, ...] = ()) -> Membership:
        membership, issued = certify(self.authority, kind, name, self.address)
        await self.server.members.enrol(issued, roles)
        (self.sites if kind == "site" else self.people)[name] = membership
        return membership

    def connect(self, member: Membership) -> Connection:
        return Connection(self.address, credentials_of(member))

    def session(self, person: str) -> Session:
        return Session(Federation(FEDERATION, self.address, self.people[person]))

    @asynccontextmanager
    async def site(self, name: str) -> "AsyncIterator[Site]":
        async with Site.open(self, name) as site:
            yield site

    # ---- afterwards ----

    async def check_health(self) -> None:
        """People and sites are served, nothing was raised where nobody expected it, no secret is in a log."""
        async with self.session("researcher") as session:
            sites = (await session.ask("sites"))["sites"]
            assert {"site": "healthy", "state": "there"}.items() <= next(
                s for s in sites if s["site"] == "healthy"
            ).items()
        assert self.healthy is not None
        await self.healthy.heartbeat()
        text = repr(self.logs.entries) + repr([record.getMessage() for record in self.records])
        assert SECRET not in text
        traces = [entry for entry in self.logs.entries if entry.get("exc_info")]
        raised = [record for record in self.records if record.levelno >= logging.ERROR]
        assert len(traces) + len(raised) == self.expected_traces, (
            traces,
            [r.getMessage() + str(r.exc_info) for r in raised],
        )

    async def check_job(self) -> None:
        """A whole job of one round with the healthy site, from bundle to result."""
        assert self.healthy is not None
        async with self.session("researcher") as session:
            job = await submit(session, self.people["researcher"], sites=("healthy",))
            await self.healthy.work(job)
            status = ""
            async for event in session.watch(job):
                if event["what"] == "finished":
                    status = event["status"]
            assert status == "finished"


class Site:
    """A site's end of the wire, which does what it is told: signs, sends, and keeps what comes."""

    def __init__(self, wire: Wire, name: str) -> None:
        self.wire, self.name, self.member = wire, name, wire.sites[name]
        self.came: asyncio.Queue[Envelope] = asyncio.Queue()
        self.outcomes: asyncio.Queue[tuple[str, str, str]] = asyncio.Queue()
        self.link = Link(
            lambda: wire.connect(self.member),
            deliver=self._deliver,
            accepted=lambda id, outcome, reason: self.outcomes.put_nowait((id, outcome, reason)),
        )

    @classmethod
    @asynccontextmanager
    async def open(cls, wire: Wire, name: str) -> "AsyncIterator[Site]":
        site = cls(wire, name)
        running = asyncio.ensure_future(site.link.run())
        try:
            await asyncio.wait_for(site.link.connected.wait(), WAIT_S)
            yield site
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def _deliver(self, envelope: Envelope, count: int) -> None:
        self.came.put_nowait(envelope)
        self.link.done(envelope.kind, envelope.id)

    def envelope(self, kind: str, id: str, body: bytes, **changed: Any) -> Envelope:
        """A message to the server, signed."""
        values = {"sender": self.name, "recipient": SERVER, "id": id, "kind": kind, "body": body}
        return sign_envelope(self.member.keys.signing, Envelope(**{**values, "federation": FEDERATION, **changed}))

    async def send(self, envelope: Envelope) -> tuple[str, str]:
        """Send one message; outcome and reason."""
        self.link.send(envelope)
        while True:
            id, outcome, reason = await asyncio.wait_for(self.outcomes.get(), WAIT_S)
            if id == envelope.id:
                return outcome, reason

    async def reply(self, reply: Reply) -> tuple[str, str]:
        return await self.send(self.envelope("reply", str(reply.task), reply.pack(), job=reply.task.job))

    async def decide(self, job: str, decision: str = "accept") -> tuple[str, str]:
        body = json.dumps({"v": 1, "job": job, "decision": decision}).encode()
        return await self.send(self.envelope("decision", f"decision/{job}", body, job=job))

    async def until(self, kind: str, job: str = "") -> Envelope:
        """The next message of a kind."""
        while True:
            envelope = await asyncio.wait_for(self.came.get(), WAIT_S)
            if envelope.kind == kind and (not job or envelope.job == job):
                return envelope

    async def task(self, job: str) -> Task:
        return Task.unpack((await self.until("task", job)).body)

    async def heartbeat(self) -> None:
        """A message goes up and its answer comes down."""
        outcome = await self.send(self.envelope("nonsense", "heartbeat", b""))
        assert outcome[0] == "refused"

    def answer(self, task: Task, **changed: Any) -> Reply:
        """What a client that has learnt 1.0 answers."""
        content = b"".join(encode_parts(Arrays({"w": np.ones(3, np.float32)})))
        values: dict[str, Any] = {
            "num_examples": 10,
            "metrics": {"loss": 0.5},
            "update": BlobRef(manifest_of(content), "", content),
            "base": task.model.id if task.model is not None else "",
        }
        return Reply(task.id, self.name, **{**values, **changed})

    async def work(self, job: str) -> None:
        """Accept a job and do all that it asks, until it ends."""
        await self.until("propose", job)
        assert (await self.decide(job))[0] == "received"
        while (envelope := await asyncio.wait_for(self.came.get(), WAIT_S)).kind != "end":
            if envelope.kind == "task" and envelope.job == job:
                outcome = await self.reply(self.answer(Task.unpack(envelope.body)))
                assert outcome[0] == "received", outcome


def certify(
    authority: Authority, kind: str, name: str, address: str, *, federation: str = FEDERATION, **times: Any
) -> tuple[Membership, Issued]:
    keys = MemberKeys.generate()
    request = SigningRequest.request(keys, federation=federation, kind=kind, name=name)
    issued = authority.issue(request, kind=kind, name=name, **times)
    membership = Membership(
        keys=keys,
        identity=issued.identity,
        record=verify_record(issued.record, authority.certificate_pem, now_ms=issued.identity.not_after_ms - 1),
        certificate_pem=issued.certificate_pem,
        authority_pem=authority.certificate_pem,
        signed_record=issued.record,
        address=address,
    )
    return membership, issued


def credentials_of(member: Membership) -> Credentials:
    return Credentials(member.certificate_pem, member.keys.tls_pem(), member.authority_pem)


def app_bundle(files: Mapping[str, bytes] | None = None, **changed: Any) -> Bundle:
    return make_bundle(files or {"app.py": SOURCE}, module="app", **changed)


def request_for(member: Membership, app: Bundle, /, **changed: Any) -> JobRequest:
    """A job request that holds, but for what is changed."""
    name = member.identity.name
    values: dict[str, Any] = {
        "job": new_job_id(name),
        "name": "app",
        "federation": FEDERATION,
        "person": name,
        "submitted_at_ms": 1,
        "app": app.id,
        "bundle": manifest_of(app.content),
        "bundle_signature": sign_bundle(
            member.keys.signing, bundle_id=app.id, federation=FEDERATION, person=name
        ).decode(),
        "entry": "app.py",
        "object": "app",
        "spec": RunSpec(rounds=1, quorum=1, evaluate_every=0),
    }
    return JobRequest(**{**values, **changed})


async def upload(connection: Connection, scope: str, content: bytes) -> Manifest:
    """Send content to a place at the server."""
    store, manifest = MemoryBlobs(), manifest_of(content)
    await store.put("here", manifest, rechunk([content]))
    await connection.upload(store, "here", manifest, place=scope)
    return manifest


async def submit(session: Session, person: Membership, **changed: Any) -> str:
    """Upload the app and submit a job."""
    bundle = app_bundle()
    request = request_for(person, bundle, **changed)
    await upload(session.connection, bundle_scope(request.job), bundle.content)
    await session.ask("submit", sig=request.sign(person.keys.signing), request=request.to_json())
    return request.job


class _Records(logging.Handler):
    def __init__(self, records: list[logging.LogRecord]) -> None:
        super().__init__()
        self._records = records

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(record)


@asynccontextmanager
async def federation(directory: Path) -> AsyncIterator[Wire]:
    """A federation with an admin, a researcher, a site `healthy` that is connected and one that never is, `absent`.

    All is checked at the end.
    """
    config = ServerConfig(FEDERATION, port=0, enrolment_port=0, http_port=None, durability="process")
    made = await asyncio.to_thread(init_federation, directory / "f", config, person="admin")
    before = structlog.get_config()
    logs = LogCapture()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, logs], cache_logger_on_first_use=False)
    records: list[logging.LogRecord] = []
    handler = _Records(records)
    logging.getLogger().addHandler(handler)
    server = Server(directory / "f", cast(Launcher, _NoLauncher()))
    try:
        await server.start()
        wire = Wire(server, logs, records)
        wire.people["admin"] = Membership.load(made.person_directory)
        await wire.enrol("person", "researcher", ("researcher",))
        for site in ("healthy", "absent"):
            await wire.enrol("site", site)
        async with Site.open(wire, "healthy") as healthy:
            wire.healthy = healthy
            yield wire
            await wire.check_health()
    finally:
        await server.stop()
        logging.getLogger().removeHandler(handler)
        structlog.configure(**before)


async def refused(session: Session, call: pb.Call) -> HanseError:
    """The server's answer, which must be a refusal that is neither a crash nor a broken connection."""
    with pytest.raises(HanseError) as caught:
        await session.connection.ask(call, timeout_s=WAIT_S)
    assert not isinstance(caught.value, UnavailableError), caught.value
    assert "server has failed" not in str(caught.value)
    assert len(str(caught.value)) < 1500
    return caught.value
