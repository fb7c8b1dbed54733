"""A whole site in a temporary directory, with a real agent, journal and workers, and a link that is no network."""

import asyncio
import contextlib
import json
import textwrap
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hanse.core.arrays import Arrays
from hanse.core.blobs import manifest_of, split
from hanse.core.codec import decode, encode
from hanse.core.errors import ConfigError, HanseError, NotFoundError, StorageError
from hanse.core.ids import TaskId
from hanse.core.records import BlobRef, Envelope, Reply, Task
from hanse.core.spec import RunSpec
from hanse.pipeline.request import JobRequest
from hanse.site.agent import Agent
from hanse.trust.authority import Authority, Issued
from hanse.trust.bundle import Bundle, make_bundle
from hanse.trust.bundle_signature import sign_bundle
from hanse.trust.envelopes import verify_envelope
from hanse.trust.identity import MemberKeys, SigningRequest
from hanse.trust.membership import Membership
from hanse.workers import launcher
from hanse.workers.launcher import Launcher
from tests.nursery import LAUNCHER, forks
from tests.patience import WAIT_S

HEAD = """
import os, sys, time
import numpy as np
from hanse.clients.app import App

app = App(rounds=2)
"""

ADD_ONE = """
@app.train
def train(arrays, config, site):
    return {name: array + 1 for name, array in arrays.items()}, 3, {"loss": 0.5}
"""

FEDERATION, SITE, PERSON, JOB = "lubeck", "hospital-a", "anna", "job1"
OPEN_POLICY = "apps: any\npeople: any\ndatasets: any\n"


@dataclass
class Member:
    keys: MemberKeys
    issued: Issued


class Town:
    """An authority, one site and one person."""

    def __init__(self) -> None:
        self.authority = Authority.create(FEDERATION)
        self.site = self.enrol("site", SITE)
        self.person = self.enrol("person", PERSON)

    def enrol(self, kind: str, name: str, authority: Authority | None = None) -> Member:
        keys = MemberKeys.generate()
        request = SigningRequest.request(keys, federation=FEDERATION, kind=kind, name=name)
        return Member(keys, (authority or self.authority).issue(request, kind=kind, name=name))

    def settle(self, directory: Path, *, policy: str | None = OPEN_POLICY, config: str = "") -> Path:
        """The directory of a site that has joined."""
        directory.mkdir(mode=0o700, exist_ok=True)
        membership = Membership.check(
            self.site.keys,
            certificate_pem=self.site.issued.certificate_pem,
            authority_pem=self.authority.certificate_pem,
            signed_record=self.site.issued.record,
            address="127.0.0.1:1",
        )
        membership.save(directory)
        (directory / "site.yaml").write_text(config)
        if policy is not None:
            (directory / "policy.yaml").write_text(policy)
        return directory

    def proposal(self, bundle: Bundle, /, *, job: str = JOB, **changes: Any) -> dict[str, Any]:
        """What the server sends for a job of the person."""
        manifest = manifest_of(bundle.content)
        signature = sign_bundle(
            self.person.keys.signing,
            bundle_id=bundle.id,
            federation=FEDERATION,
            person=self.person.issued.identity.name,
        )
        body = {
            "v": 1,
            "job": job,
            "name": "test",
            "person": PERSON,
            "app": bundle.id,
            "bundle": {"scope": f"{job}/bundle", "size": manifest.size, "hashes": manifest.hashes.hex()},
            "entry": "app.py",
            "object": "app",
            "spec": RunSpec(rounds=2).to_json(),
            "person_record": self.person.issued.record.decode(),
            "bundle_signature": signature.decode(),
            "submitted_at_ms": 1,
        }
        return body | self.signed(body, bundle, changes) | changes

    def signed(self, body: dict[str, Any], bundle: Bundle, changes: dict[str, Any]) -> dict[str, Any]:
        """The request that the person signed: for what `changes` make of it, where that is a job at all."""
        said = body | {name: value for name, value in changes.items() if name in ("spec", "job", "entry", "object")}
        try:
            spec = RunSpec.from_json(said["spec"])
        except ConfigError:
            spec = RunSpec()
        request = JobRequest(
            said["job"],
            "test",
            FEDERATION,
            PERSON,
            1,
            bundle.id,
            manifest_of(bundle.content),
            body["bundle_signature"],
            said["entry"],
            said["object"],
            spec,
        )
        return {"request": request.to_json(), "signature": request.sign(self.person.keys.signing).hex()}


def bundle_of(source: str) -> Bundle:
    """An app."""
    return make_bundle({"app.py": (HEAD + textwrap.dedent(source)).encode()}, module="app")


@dataclass
class Blobs:
    """What the server keeps: blobs to read, and what was uploaded."""

    content: dict[tuple[str, str], bytes] = field(default_factory=dict)
    uploaded: dict[tuple[str, str], bytes] = field(default_factory=dict)
    downloads: int = 0
    uploads: int = 0
    failures: list[HanseError] = field(default_factory=list)
    """Raised by the next transfers, in order."""

    def put(self, scope: str, content: bytes) -> BlobRef:
        ref = BlobRef(manifest_of(content), scope)
        self.content[scope, ref.id] = content
        return ref


class FakeConnection:
    """The blobs' side of a connection."""

    def __init__(self, blobs: Blobs) -> None:
        self.blobs = blobs

    async def download(self, store: Any, scope: str, manifest: Any, *, into: str | None = None) -> None:
        self.blobs.downloads += 1
        if self.blobs.failures:
            raise self.blobs.failures.pop(0)
        content = self.blobs.content.get((scope, manifest.id))
        if content is None:
            raise NotFoundError("no such blob")
        await store.put(into or scope, manifest, split(content))

    async def upload(self, store: Any, scope: str, manifest: Any, *, place: str, task: str = "") -> None:
        self.blobs.uploads += 1
        if self.blobs.failures:
            raise self.blobs.failures.pop(0)
        content = bytes(store.read(scope, manifest.id, 0, manifest.size))
        if manifest_of(content) != manifest:
            raise AssertionError("the file does not hold what the reply says")
        self.blobs.uploaded[place, manifest.id] = content


class FakeLink:
    """Stands in for `backends.grpc.link.Link`: keeps what was sent, and accepts it when told to."""

    def __init__(self, connect: Any, *, deliver: Any, accepted: Any, holding: Any, facts: Any, software: str) -> None:
        self.deliver, self.accepted, self.holding, self.facts = deliver, accepted, holding, facts
        self.connected = asyncio.Event()
        self.connected.set()
        self.connection: Any = None
        self.last_error = ""
        self.sent: list[Envelope] = []
        self.told_done: list[tuple[str, str]] = []
        self.reports: list[tuple[str, str]] = []
        self.asked: list[str] | None = None
        """Where not None, the link is one through which a job can be asked for."""
        self.left = False
        self.failure: Exception | None = None
        self.changed = asyncio.Event()
        self.started, self.ends = asyncio.Event(), asyncio.Event()

    def send(self, envelope: Envelope) -> None:
        self.sent.append(envelope)
        self.changed.set()

    def done(self, kind: str, id: str) -> None:
        self.told_done.append((kind, id))
        self.changed.set()

    def report(self, task: str, stage: str) -> None:
        self.reports.append((task, stage))

    def ask(self, job: str) -> bool:
        if self.asked is None:
            return False
        self.asked.append(job)
        self.changed.set()
        return True

    async def leave(self) -> None:
        self.left = True

    async def run(self) -> None:
        self.started.set()
        await self.ends.wait()
        if self.failure is not None:
            raise self.failure

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Wait for something that `send` or `done` brings about."""
        async with asyncio.timeout(WAIT_S):
            while not (found := condition()):
                self.changed.clear()
                await self.changed.wait()
            return found


@dataclass
class Bench:
    """One agent at work."""

    town: Town
    agent: Agent
    link: FakeLink
    blobs: Blobs
    directory: Path
    main: "asyncio.Task[None]"
    bundle: Bundle

    async def propose(self, bundle: Bundle | None = None, *, job: str = JOB, **changes: Any) -> dict[str, Any]:
        """Send a proposal and wait for the decision."""
        bundle = bundle or self.bundle
        self.bundle = bundle
        self.blobs.put(f"{job}/bundle", bundle.content)
        before = len(self.link.sent)
        await self.say(
            "propose", f"propose/{job}", json.dumps(self.town.proposal(bundle, job=job, **changes)).encode(), job
        )
        return await self.decision(job, before)

    async def decision(self, job: str = JOB, before: int = 0) -> dict[str, Any]:
        def found() -> Any:
            return [e for e in self.link.sent[before:] if (e.kind, e.job) == ("decision", job)]

        envelope = (await self.link.until(found))[-1]
        verify_envelope(self.town.site.keys.signing.public_key(), envelope)
        assert envelope.id == f"decision/{job}"
        body = json.loads(envelope.body)
        assert isinstance(body, dict)
        return body

    async def say(self, kind: str, id: str, body: bytes = b"", job: str = JOB, **fields: Any) -> None:
        """A message of the server."""
        fields = {"sender": "server", "recipient": SITE, "federation": FEDERATION, **fields}
        await self.link.deliver(Envelope(id=id, kind=kind, body=body, job=job, component="main", **fields), 1)

    async def task(self, model: Arrays | None = None, *, ordinal: int = 0, job: str = JOB, **fields: Any) -> Task:
        """Send a task."""
        ref = None
        if model is not None:
            content = encode(model)
            ref = (
                BlobRef.inline(content)
                if len(content) <= 65536
                else self.blobs.put(f"{job}/main/{ordinal}/model", content)
            )
        call = fields.pop("call", "train")
        deadline_s = fields.pop("deadline_s", 0.0)
        task = Task(
            TaskId(job, "main", 1, call, ordinal),
            SITE,
            call,
            **{"model": ref, "app": self.bundle.id, "seed": 1, **fields},
        )
        await self.say("task", str(task.id), task.pack(), job, deadline_s=deadline_s)
        return task

    def replies(self, task: Task) -> list[Reply]:
        """Every copy of the reply to a task."""
        return [Reply.unpack(e.body) for e in self.link.sent if (e.kind, e.id) == ("reply", str(task.id))]

    async def reply(self, task: Task) -> Reply:
        """The reply to a task, with its signature checked."""
        await self.link.until(lambda: self.replies(task))
        envelope = next(e for e in self.link.sent if (e.kind, e.id) == ("reply", str(task.id)))
        verify_envelope(self.town.site.keys.signing.public_key(), envelope)
        return self.replies(task)[0]

    def arrays(self, reply: Reply) -> Arrays:
        """The update of a reply, as the server has it."""
        assert reply.update is not None, reply.error
        content = reply.update.content
        if content is None:
            content = self.blobs.uploaded[reply.update.scope, reply.update.id]
        return decode(content)

    def audit(self) -> list[dict[str, Any]]:
        """The audit log's lines."""
        return [json.loads(line) for line in (self.directory / "audit.jsonl").read_text().splitlines()]


@contextlib.asynccontextmanager
async def bench(
    town: Town, directory: Path, *, source: str = ADD_ONE, blobs: Blobs | None = None
) -> AsyncIterator[Bench]:
    """Start an agent in `directory`, as `Town.settle` has made it; stop it at the end."""
    links: list[FakeLink] = []

    def open_link(connect: Any, **options: Any) -> Any:
        links.append(FakeLink(connect, **options))
        return links[-1]

    with forks(launcher, LAUNCHER):
        agent = Agent(directory, launcher=Launcher.start(), open_link=open_link)
    blobs = blobs or Blobs()
    links[0].connection = FakeConnection(blobs)
    main = asyncio.ensure_future(agent.run())
    await asyncio.wait_for(links[0].started.wait(), WAIT_S)
    try:
        yield Bench(town, agent, links[0], blobs, directory, main, bundle_of(source))
    finally:
        agent.stop()
        with contextlib.suppress(HanseError):
            await asyncio.wait_for(main, WAIT_S)


def small_model() -> Arrays:
    """A model that travels inline."""
    weights: np.typing.NDArray[np.float32] = np.arange(6, dtype=np.float32).reshape(2, 3)
    return Arrays([("w", weights), ("b", np.zeros(2))])


def large_model(megabytes: float = 10.0) -> Arrays:
    """A model that travels as a blob, of two chunks."""
    return Arrays({"w": np.random.default_rng(0).standard_normal(int(megabytes * 250_000), dtype=np.float32)})


def refuse(*_: Any, **__: Any) -> None:
    """In place of what a full disk refuses."""
    raise StorageError("no room")


async def until_file(path: Path) -> None:
    """Another process makes it."""
    async with asyncio.timeout(WAIT_S):
        while not path.exists():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.01)
