"""The same kind of schedules for the functions of a federation without a server, and for the sites' links.

Everything of `hanse.serverless` and the site's `QueueLink` is real; queues, ledger and bucket are in memory, and time
is the loop's. A function may be killed between any two calls, what it was called with comes again, messages and stream
records are late, repeated and in any order; sites are killed while they train; one may be hostile.
"""

import asyncio
import base64
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from hanse.backends.memory import MemoryLedger
from hanse.core.arrays import Arrays
from hanse.core.blobs import manifest_of, rechunk
from hanse.core.codec import canonical_json, encode
from hanse.core.errors import NotFoundError, UnavailableError
from hanse.core.ids import SERVER, bundle_scope, model_scope
from hanse.core.spec import RunSpec
from hanse.pipeline.documents import Documents
from hanse.pipeline.request import JobRequest
from hanse.serverless import functions
from hanse.serverless.keys import pack, unpack
from hanse.serverless.local import Local
from hanse.serverless.place import Place, SignedInbox
from hanse.serverless.quotas import Quotas
from hanse.serverless.roster import Roster
from hanse.site.over_queues import HIDDEN_S
from hanse.trust.bundle import make_bundle
from hanse.trust.bundle_signature import sign_bundle
from tests.faults.explorer.enrolled import EVE, FEDERATION, JOB, PERSON, member, signed
from tests.faults.explorer.function_cases import LARGE, SMALL, Case, Outcome, Violation
from tests.faults.explorer.function_places import Bucket, Invocation, Queues, Shelf, Signer, Told, Unsure
from tests.faults.explorer.function_sites import Site
from tests.faults.explorer.loop import VirtualLoop

EPOCH_MS = 1_700_000_000_000
VISIBILITY_S = 30.0


class FunctionLoop(VirtualLoop):
    """Threads are done at once."""

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":  # type: ignore[override]
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


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
            ledger=Told(self),
            blobs=self.blobs,
            inbox=SignedInbox(Unsure(self), identity),
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
