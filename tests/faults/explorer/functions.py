"""The same kind of schedules for the functions of a federation without a server, and for the sites' links.

Everything of `hanse.serverless` and the site's `QueueLink` is real; queues, ledger and bucket are in memory, and time
is the loop's. A function may be killed between any two calls, what it was called with comes again, messages and stream
records are late, repeated and in any order; sites are killed while they train; one may be hostile.
"""

import asyncio
import base64
import itertools
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from hanse.backends.memory import Grants, MemoryBlobs, MemoryInbox, MemoryLedger
from hanse.core.arrays import Arrays
from hanse.core.blobs import Manifest, manifest_of, rechunk
from hanse.core.codec import canonical_json, decode, encode
from hanse.core.errors import HanseError, IntegrityError, NotFoundError, PolicyError, UnavailableError
from hanse.core.ids import SERVER, TaskId, bundle_scope, job_id_of, model_scope, upload_scope
from hanse.core.records import BlobRef, Envelope, Reply, Task
from hanse.core.seams import Delivery, Link, UploadTicket
from hanse.core.spec import RunSpec
from hanse.pipeline.documents import Documents
from hanse.pipeline.request import JobRequest
from hanse.serverless import functions
from hanse.serverless.contract import Input, Instruction
from hanse.serverless.keys import pack, unpack
from hanse.serverless.local import Local
from hanse.serverless.place import Place, SignedInbox
from hanse.serverless.quotas import Quotas
from hanse.serverless.roster import Roster
from hanse.site.over_queues import HIDDEN_S, QueueLink
from hanse.trust.authority import Authority
from hanse.trust.bundle import make_bundle
from hanse.trust.bundle_signature import sign_bundle
from hanse.trust.envelopes import sign_envelope
from hanse.trust.identity import MemberKeys, SigningRequest
from hanse.trust.membership import Membership
from tests.faults.explorer.loop import VirtualLoop
from tests.faults.explorer.site import train, weight_of

T = TypeVar("T")
FEDERATION, PERSON, EVE = "north", "anna", "site-9"
JOB = job_id_of("j1", PERSON)
EPOCH_MS = 1_700_000_000_000
VISIBILITY_S = 30.0
SMALL = Arrays([("w", np.array([1.0, -2.0, 3.5, 0.25, -8.0])), ("b", np.array([1.5, 2.5, -0.75], np.float32))])
LARGE = Arrays([("w", np.linspace(-1, 1, 9000)), ("b", np.arange(300, dtype=np.float32))])
"""Over 64 KiB: it travels by links."""


class Violation(AssertionError):
    """A promise that a schedule broke."""


class FunctionLoop(VirtualLoop):
    """Threads are done at once."""

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":  # type: ignore[override]
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


# ---- members: keys are slow to make, and the same for every schedule ----


@lru_cache
def authority() -> Authority:
    return Authority.create(FEDERATION)


@lru_cache
def member(kind: str, name: str) -> Membership:
    """A member; of the people, adam is an admin and the others are researchers."""
    keys = MemberKeys.generate()
    request = SigningRequest.request(keys, federation=FEDERATION, kind=kind, name=name)
    hosts = ("localhost",) if kind == "server" else ()
    roles = None if kind != "person" else ("admin",) if name == "adam" else ("researcher",)
    issued = authority().issue(request, kind=kind, name=name, hosts=hosts, roles=roles)
    return Membership.check(
        keys,
        certificate_pem=issued.certificate_pem,
        authority_pem=authority().certificate_pem,
        signed_record=issued.record,
        address="none:1",
    )


def signed(name: str, kind: str, id: str, body: bytes, *, by: Membership, job: str = JOB) -> Envelope:
    envelope = Envelope(name, SERVER, id, kind, body, FEDERATION, job, "main")
    return sign_envelope(by.keys.signing, envelope)


# ---- a schedule ----


@dataclass(frozen=True)
class Case:
    """One schedule: what is run, and what befalls it until `until_s`."""

    seed: int
    sites: int = 3
    rounds: int = 2
    large: bool = False
    watched: bool = False
    hostile: str = ""
    kill: float = 0.0
    repeat: float = 0.0
    late: float = 0.0
    crash: float = 0.0
    slow: float = 0.0
    evaluate_every: int = 0
    batch: int = 10
    until_s: float = 60.0

    def calm(self) -> "Case":
        return replace(self, seed=0, kill=0.0, repeat=0.0, late=0.0, crash=0.0, slow=0.0, watched=False, batch=10)


def draw(seed: int) -> Case:
    rng = random.Random(f"functions {seed}")
    hostile = rng.choice(HOSTILITIES) if seed % 3 == 2 else ""
    return Case(
        seed=seed,
        sites=rng.choice((1, 2, 3, 4)),
        rounds=rng.choice((1, 2, 3)),
        large=rng.random() < 0.25 or hostile == "unuploaded",
        watched=rng.random() < 0.5,
        hostile=hostile,
        kill=rng.choice((0.0, 0.02, 0.1)),
        repeat=rng.choice((0.0, 0.3, 0.6)),
        late=rng.choice((0.0, 0.3)),
        crash=rng.choice((0.0, 0.3)),
        slow=rng.choice((0.0, 0.0, 0.2)),
        evaluate_every=rng.choice((0, 1)),
        batch=rng.choice((1, 2, 10)),
    )


HOSTILITIES = (
    "forged",
    "another's task",
    "another's prefix",
    "hash",
    "shape",
    "nan",
    "pickle",
    "unuploaded",
    "garbage",
)


@dataclass(frozen=True)
class Outcome:
    """How it ended, and what must be as in its calm twin."""

    status: str
    error: str
    model: bytes
    rounds: tuple[tuple[int, tuple[str, ...], tuple[str, ...]], ...]
    killed: int = 0
    refusals: int = 0


def explore(case: Case) -> Outcome:
    """Run one schedule and check it.

    Raises:
        Violation: something that must hold does not.
    """
    found = World(case).play()
    calm = _calm(case.calm())
    if found.status != "finished":
        raise Violation(f"expected the run to finish, found {found.status}: {found.error}")
    if (found.model, found.rounds) != (calm.model, calm.rounds):
        raise Violation(f"expected the bits of an undisturbed run: {calm.rounds}, found {found.rounds}")
    return found


@lru_cache(4096)
def _calm(case: Case) -> Outcome:
    return World(case).play()


class Bucket(MemoryBlobs):
    """Blobs whose chunks others put."""

    async def commit(self, scope: str, manifest: Manifest, content: bytes = b"") -> None:
        if await self.missing(scope, manifest):
            raise IntegrityError("chunks are missing")

    def hold(self, chunks: int) -> None:
        pass

    def reading_ahead(self, order: Sequence[Any], ahead: int) -> nullcontext[None]:
        return nullcontext()


class Signer(Grants):
    """Links that are names of chunks, and used up by nobody else."""

    def fresh(self) -> "Signer":
        return Signer(self._blobs, max_bytes=self._max_bytes)

    async def get(self, who: str, scope: str, id: str, *, only: Sequence[int] | None = None) -> Link:
        link = await super().get(who, scope, id)
        return replace(link, urls=tuple(f"{scope} {id} {n}" for n in only or ()))

    async def put(self, who: str, scope: str, manifest: Manifest, *, only: Sequence[int] | None = None) -> UploadTicket:
        ticket = await super().put(who, scope, manifest)
        missing = tuple(n for n in ticket.missing if n in (only or ()))
        urls = tuple(f"{scope} {manifest.id} {n}" for n in missing)
        return replace(ticket, missing=missing, urls=urls)


class Queues(MemoryInbox):
    """Queues replace nothing, as this process's inbox does: what is sent twice, or forged, comes beside the other."""

    _copies = 0

    async def send(self, to: str, envelope: Envelope, *, durable: bool = True) -> None:
        self._copies += 1
        await super().send(to, replace(envelope, id=f"{envelope.id}#{self._copies}"), durable=durable)

    async def receive(self, who: str, max: int = 1, wait_s: float = 20.0) -> list[Delivery]:
        found = await super().receive(who, max, wait_s)
        return [replace(d, envelope=replace(d.envelope, id=d.envelope.id.rpartition("#")[0])) for d in found]


class Shelf:
    """Objects of the bucket."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}

    async def get(self, key: str) -> tuple[bytes, str]:
        if key not in self.content:
            raise NotFoundError(key)
        return self.content[key], ""

    async def put(self, key: str, content: bytes) -> None:
        self.content[key] = content

    async def list(self, folder: str, after: str = "") -> AsyncIterator[Any]:
        for key in sorted(self.content):
            if key.startswith(folder + "/") and key > after:
                yield type("Found", (), {"key": key})

    async def delete(self, *keys: str) -> None:
        for key in keys:
            self.content.pop(key, None)


class Invocation:
    """One function's life. What is killed never runs on: its call hangs for ever."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.gone: asyncio.Future[None] = world.loop.create_future()

    def wrap(self, target: Any) -> Any:
        return _Wrapped(self, target)

    async def call(self, work: Callable[..., Awaitable[T]], *args: Any, **more: Any) -> T:
        await self._gate()
        dice = self.world.rng.random() if self.world.disturbed else 1.0
        kill = self.world.case.kill
        if dice < kill / 2:
            self._die()
            await self._gate()
        result = await work(*args, **more)
        if kill / 2 <= dice < kill:
            self._die()
            await self._gate()
        return result

    def _die(self) -> None:
        self.world.killed += 1
        self.gone.set_result(None)

    async def _gate(self) -> None:
        if self.gone.done():
            await self.world.loop.create_future()


class _Wrapped:
    """A seam whose every call may be the last."""

    def __init__(self, invocation: Invocation, target: Any) -> None:
        self._invocation = invocation
        self._target = target

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not asyncio.iscoroutinefunction(found):
            return found

        async def call(*args: Any, **more: Any) -> Any:
            return await self._invocation.call(found, *args, **more)

        return call


class World:
    """Everything of one schedule."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.rng = random.Random(f"world {case.seed}")
        random.seed(case.seed)  # back-off
        self.loop = FunctionLoop()  # type: ignore[abstract]
        self.ledger, self.blobs, self.shelf = MemoryLedger(), Bucket(), Shelf()
        self.inbox = Queues(visibility_s=VISIBILITY_S, now_ms=self.now_ms)
        self.killed = 0
        self.refusals: Counter[str] = Counter()
        self.links: dict[str, Site] = {}
        self.invocations = 0
        self.warm: list[Quotas] = []
        """What functions that live on remember; one that is killed takes its own with it."""
        self.problems: list[str] = []
        names = [f"site-{n}" for n in range(case.sites)]
        self.sites = [*names, EVE] if case.hostile else names
        identity = unpack(pack(member("server", "server")))
        signer = Signer(self.blobs)
        self.place = Place(
            federation=FEDERATION,
            ledger=_Told(self),
            blobs=self.blobs,
            inbox=SignedInbox(_Unsure(self), identity),
            links=signer,
            documents=Documents(self.shelf),
            machine=None,  # type: ignore[arg-type]  # `Local` puts itself there
            identity=identity,
            roster=Roster(self.ledger, identity.authority_pem, FEDERATION, clock=self.loop.time),
            now_ms=self.now_ms,
            watched=case.watched,
        )
        self.local = Local(self.place, batch=case.batch, invoke=self.invoke)

    @property
    def disturbed(self) -> bool:
        return self.loop.time() < self.case.until_s

    def happens(self, rate: float) -> bool:
        return rate > 0 and self.disturbed and self.rng.random() < rate

    def now_ms(self) -> int:
        return EPOCH_MS + round(self.loop.time() * 1000)

    # ---- functions ----

    async def invoke(self, name: str, event: Mapping[str, Any]) -> Mapping[str, Any]:
        """One function's life.

        Raises:
            UnavailableError: it was killed, or failed.
        """
        self.invocations += 1
        life = Invocation(self)
        place = replace(
            self.local.place,
            ledger=life.wrap(self.place.ledger),
            blobs=life.wrap(self.blobs),
            inbox=life.wrap(self.place.inbox),
            links=Signer(self.blobs),
            documents=life.wrap(self.place.documents),
            machine=life.wrap(self.local),
            quotas=(quotas := self.warm.pop() if self.warm else Quotas()),
            rows={},
        )
        task = self.loop.create_task(self._run(name, place, event))
        first: list[asyncio.Future[Any]] = [task, life.gone]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise UnavailableError(f"{name} was killed")
        self.warm.append(quotas)
        return task.result()

    async def _run(self, name: str, place: Place, event: Mapping[str, Any]) -> Mapping[str, Any]:
        function = getattr(functions, name)
        found: Mapping[str, Any] = await function(place, event)
        return found

    async def stream(self, key: str) -> None:
        """A row of the table has appeared."""
        for _ in range(self.rng.choice((2, 10)) if self.happens(self.case.repeat) else 1):
            self.loop.create_task(self._stream_record(key))

    async def _stream_record(self, key: str) -> None:
        await asyncio.sleep(self.rng.random() * (5.0 if self.happens(self.case.late) else 0.1))
        encoded = base64.b64encode(key.encode()).decode()
        record = {"eventName": "INSERT", "dynamodb": {"Keys": {"k": {"B": encoded}}, "SequenceNumber": "1"}}
        while True:
            try:
                answer = await self.invoke("step", {"Records": [record]})
                if not answer["batchItemFailures"]:
                    return
            except UnavailableError:
                pass
            await asyncio.sleep(1.0)

    # ---- play ----

    def play(self) -> Outcome:
        return self.loop.run(self._play(), until_s=10_000.0)

    async def _play(self) -> Outcome:
        await self._enrol()
        self.local.start_collecting()
        for name in self.sites:
            self.links[name] = self.make_site(name)
            self.links[name].start()
        await self._submit()
        while not await self._is_over():  # noqa: ASYNC110 - a row tells it, and nobody else
            await asyncio.sleep(5.0)
        await asyncio.sleep(HIDDEN_S + VISIBILITY_S)  # copies that a site had hidden when it crashed come again
        return await self._outcome()

    def make_site(self, name: str) -> "Site":
        return Site(self, name)

    def make_job(self) -> tuple[RunSpec, Arrays | None]:
        """What is trained, and from what."""
        spec = RunSpec(
            rounds=self.case.rounds,
            initial="given",
            evaluate_every=self.case.evaluate_every,
            quorum=self.case.sites,
            min_sites=len(self.sites),
            deadline_s=300.0,
        )
        return spec, LARGE if self.case.large else SMALL

    async def _enrol(self) -> None:
        for kind, names in (("site", self.sites), ("person", [PERSON])):
            for name in names:
                value = {"record": member(kind, name).signed_record.decode(), "enrolled_at_ms": 1}
                await self.ledger.create(f"member/{kind}/{name}", json.dumps(value).encode())

    async def _submit(self) -> None:
        anna = member("person", PERSON)
        bundle = make_bundle({"app.py": b"app = None\n"}, module="app")
        manifest = manifest_of(bundle.content)
        await self.blobs.put(bundle_scope(JOB), manifest, rechunk([bundle.content]))
        spec, arrays = self.make_job()
        initial = None
        if arrays is not None:
            content = encode(arrays)
            initial = manifest_of(content)
            await self.blobs.put(model_scope(JOB, "main", 0), initial, rechunk([content]))
        signature = sign_bundle(anna.keys.signing, bundle_id=bundle.id, federation=FEDERATION, person=PERSON)
        request = JobRequest(
            JOB, "test", FEDERATION, PERSON, 1, bundle.id, manifest, signature.decode(), "app.py", "app", spec,
            initial=initial,
        )  # fmt: skip
        body = {"v": 1, "request": request.to_json(), "signature": request.sign(anna.keys.signing).hex()}
        envelope = signed(PERSON, "submit", "submit/1", canonical_json(body), by=anna)
        for _ in range(2 if self.happens(self.case.repeat) else 1):
            await self.inbox.send(SERVER, envelope)

    async def _is_over(self) -> bool:
        try:
            await self.ledger.get(f"jobend/{JOB}")
        except NotFoundError:
            return False
        return True

    async def _outcome(self) -> Outcome:
        about = await self.place.documents.about(JOB)
        rounds = await self.place.documents.rounds(JOB)
        self._check(about, rounds)
        model = b""
        if about["model"]:
            scope, id = about["model"]
            model = bytes(self.blobs.read(scope, id, 0, (await self.blobs.manifest(scope, id)).size))
        told = tuple((r["number"], tuple(r["folded"]), tuple(sorted(r["failed"]))) for r in rounds)
        return Outcome(about["status"], about["error"], model, told, self.killed, sum(self.refusals.values()))

    def _check(self, about: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]]) -> None:
        problems = self.problems
        if [r["number"] for r in rounds] != list(range(1, len(rounds) + 1)):
            problems.append(f"rounds that people read: {[r['number'] for r in rounds]}")
        running = [name for name, task in self.local.executions.items() if not task.done()]
        if running:
            problems.append(f"executions that have not ended: {running}")
        for name, task in self.local.executions.items():
            if task.done() and task.exception() is not None:
                problems.append(f"execution {name}: {task.exception()!r}")
        for site in self.links.values():
            twice = [task for task, count in site.counted.items() if count > 1]
            if twice:
                problems.append(f"{site.name} answered twice and differently: {twice}")
            if site.active:
                problems.append(f"{site.name} was not told the end")
            if site.link is not None and site.link._held:
                problems.append(f"{site.name} holds {list(site.link._held)}")
        left = {who for who, box in self.inbox._boxes.items() if box.messages}
        if left:
            problems.append(f"messages left for {sorted(left)}")
        problems += [f"unheard: {error}" for error in self.loop.errors]
        if self.case.hostile not in ("forged", "another's task", "another's prefix"):  # whose own updates are right
            problems += [f"round {r['number']} folded what is wrong" for r in rounds if EVE in r["folded"]]
        if problems:
            raise Violation("; ".join(problems)[:1500])


class _Told:
    """The ledger, whose stream tells of new rows."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world.ledger, name)

    async def create(self, key: str, value: bytes) -> bool:
        created = await self._world.ledger.create(key, value)
        if created and self._world.case.watched and key.startswith(("reply/", "decision/")):
            await self._world.stream(key)
        return created


class _Unsure:
    """Queues: late, repeated, in any order."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world.inbox, name)

    async def send(self, to: str, envelope: Envelope, *, durable: bool = True) -> None:
        world = self._world
        for _ in range(2 if world.happens(world.case.repeat) else 1):
            if world.happens(world.case.late):
                world.loop.create_task(self._later(to, envelope, world.rng.random() * 5))
            else:
                await world.inbox.send(to, envelope)

    async def _later(self, to: str, envelope: Envelope, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await self._world.inbox.send(to, envelope)


# ---- sites ----


class Site:
    """A site: a real link, and in place of the agent the little that a schedule needs. Its journal survives crashes."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.member = member("site", name)
        self.journal: dict[str, Reply] = {}
        self.decided = ""
        self.active = False
        self.counted: Counter[str] = Counter()
        self.link: QueueLink | None = None
        self._life: list[asyncio.Task[Any]] = []
        self._busy: set[str] = set()

    def start(self) -> None:
        link = self.link = QueueLink(
            lambda: self.member,
            deliver=self.deliver,
            accepted=lambda id, outcome, reason: None,
            holding=list,
            facts=dict,
            software="test",
            inbox=_Unsure(self.world),
            fetch=self,
            server_record=member("server", "server").signed_record,
        )
        self._life = [self.world.loop.create_task(link.run())]
        if self.decided:
            self._decide()

    def crash(self) -> None:
        """What was in memory is lost; messages come again."""
        for task in self._life:
            task.cancel()
        self._busy.clear()
        self.world.loop.call_later(self.world.rng.random() * 20, self.start)

    def spawn(self, work: Any) -> None:
        self._life.append(self.world.loop.create_task(work))

    async def deliver(self, envelope: Envelope, count: int) -> None:
        assert self.link is not None
        match envelope.kind:
            case "propose":
                self.decided = "accept"
                self.active = True
                self._decide()
                self.link.done("propose", envelope.id)
            case "task":
                task = Task.unpack(envelope.body)
                if not self.active:
                    self.link.done("task", envelope.id)  # a copy that came after the end
                elif str(task.id) not in self._busy:
                    self._busy.add(str(task.id))
                    self.spawn(self._work(task))
            case "release":
                self.link.done("release", envelope.id)
            case "end":
                self.active, self.decided = False, ""
                self.link.done("end", envelope.id)

    def _decide(self) -> None:
        body = canonical_json({"v": 1, "job": JOB, "decision": "accept", "reason": ""})
        assert self.link is not None
        self.link.send(signed(self.name, "decision", f"decision/{JOB}", body, by=self.member))

    async def _work(self, task: Task) -> None:
        world, name = self.world, str(task.id)
        # The longest outlast the time for which a message is hidden: it comes again, and finds its task at work.
        await asyncio.sleep(world.rng.random() * (100 if world.happens(world.case.slow) else 2))
        if world.happens(world.case.crash):
            self.crash()
            return
        if name not in self.journal:
            try:
                reply, content = await self._answer(task)
            except HanseError as error:
                world.refusals[type(error).__name__] += 1
                reply, content = Reply.failed(task.id, self.name, "lost", str(error)), b""
            self.journal[name] = reply
            self.counted[name] += 1
            if self.name == EVE and world.case.hostile:
                await self._misbehave(task, content)
        self._busy.discard(name)
        assert self.link is not None
        self.link.send(signed(self.name, "reply", name, self.journal[name].pack(), by=self.member))

    async def _answer(self, task: Task) -> tuple[Reply, bytes]:
        model = await self._model(task)
        if task.call == "evaluate":
            return Reply(task.id, self.name, num_examples=weight_of(self.name), metrics={"loss": 0.5}), b""
        arrays = self._large(task, model) if self.world.case.large else train(self.name, task, model)
        hostile = self.world.case.hostile if self.name == EVE else ""
        content = encode(_spoilt(arrays, hostile))
        if hostile in ("garbage", "pickle"):
            content = (b"\x80\x04\x95" if hostile == "pickle" else b"x") + content[3:]
        told = content[::-1] if hostile == "hash" else content
        ref = BlobRef(manifest_of(told), upload_scope(task.id, self.name), None if len(content) > 65536 else content)
        if ref.content is None and hostile != "hash":
            await self._upload(ref, content, hostile)
        return (
            Reply(
                task.id,
                self.name,
                num_examples=weight_of(self.name),
                update=ref,
                update_kind=task.update_kind,
                base="" if task.model is None else task.model.id,
            ),
            content,
        )

    def _large(self, task: Task, model: Arrays) -> Arrays:
        shift = 2.0 ** (task.id.round % 3) * weight_of(self.name) / 7
        return Arrays([("w", model["w"] * 0.5 + shift), ("b", model["b"] + np.float32(shift))])

    async def _model(self, task: Task) -> Arrays:
        ref = task.model
        assert ref is not None
        if ref.content is not None:
            return decode(ref.content)
        store = MemoryBlobs()
        assert self.link is not None
        while await store.missing(ref.scope, ref.manifest):
            try:
                await self.link.connection.download(store, ref.scope, ref.manifest)
            except UnavailableError:
                await asyncio.sleep(1.0)
        return decode(store.read(ref.scope, ref.id, 0, ref.manifest.size))

    async def _upload(self, ref: BlobRef, content: bytes, hostile: str) -> None:
        if hostile == "unuploaded":
            return
        store = MemoryBlobs()
        await store.put(ref.scope, ref.manifest, rechunk([content]))
        assert self.link is not None
        while True:
            try:
                return await self.link.connection.upload(store, ref.scope, ref.manifest, place=ref.scope)
            except UnavailableError:
                await asyncio.sleep(1.0)

    async def _misbehave(self, task: Task, content: bytes) -> None:
        """Beside its own answer."""
        world = self.world
        ordinals = range(max(0, task.id.ordinal - 4), task.id.ordinal + 5)
        victims = [TaskId(task.id.job, task.id.component, task.id.round, task.id.phase, n) for n in ordinals]
        match world.case.hostile:
            case "forged":
                for victim, name in itertools.product(victims, world.sites[:-1]):
                    poison = Reply(victim, name, num_examples=10**6, metrics={"loss": -1.0}).pack()
                    by_eve = signed(name, "reply", str(victim), poison, by=self.member)
                    await world.inbox.send(SERVER, by_eve)
                    await world.inbox.send(SERVER, replace(by_eve, sig=b""))
                ended = Envelope(SERVER, "site-0", f"end/{JOB}", "end", b"{}", FEDERATION, JOB)
                await world.inbox.send("site-0", sign_envelope(self.member.keys.signing, ended))
            case "another's task":
                for victim in victims:
                    if victim != task.id:
                        mine = Reply(victim, EVE, num_examples=10**6).pack()
                        await world.inbox.send(SERVER, signed(EVE, "reply", str(victim), mine, by=self.member))
            case "another's prefix":
                assert self.link is not None
                other = manifest_of(b"x" * 70000)
                for op, scope in (("put", upload_scope(task.id, "site-0")), ("get", upload_scope(task.id, "site-0"))):
                    question = {"op": op, "scope": scope, "size": other.size, "hashes": other.hashes.hex()}
                    for _ in range(100):
                        try:
                            await self.link._ask({**question, "chunks": [0]})
                        except UnavailableError:
                            continue
                        except PolicyError:
                            world.refusals["PolicyError"] += 1
                            break
                        world.problems.append("a link into another site's scope")
                        break
            case _:
                return

    # ---- `Fetch` ----

    async def get(self, url: str, headers: Sequence[tuple[str, str]], max_bytes: int) -> bytes:
        scope, id, index = url.split(" ")
        manifest = await self.world.blobs.manifest(scope, id)
        return bytes(self.world.blobs.read(scope, id, *manifest.span(int(index))))

    async def put(self, url: str, headers: Sequence[tuple[str, str]], content: bytes) -> None:
        scope, _, _ = url.split(" ")
        manifest = manifest_of(content)
        await self.world.blobs.put(scope, manifest, rechunk([content]))


def _spoilt(arrays: Arrays, hostile: str) -> Arrays:
    if hostile == "shape":
        return Arrays([("w", arrays["w"][:-1]), ("b", arrays["b"])])
    if hostile == "nan":
        wide = arrays["w"].copy()
        wide[0] = np.nan
        return Arrays([("w", wide), ("b", arrays["b"])])
    return arrays


__all__ = ["Case", "Delivery", "Input", "Instruction", "Outcome", "Violation", "World", "draw", "explore"]
