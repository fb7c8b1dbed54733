"""The same schedules for functions that keep nothing: collectors, visits and one timer, each killed anywhere.

A site's reply goes into the server's inbox. A collector makes a row of it; the row appears in a stream, at least once
and late; every record of the stream makes a visit; a timer visits when the last visit said so. What an invocation has
not finished when it is killed is begun again by whoever called it.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from hanse.core.blobs import manifest_of, rechunk
from hanse.core.codec import encode
from hanse.core.errors import StorageError, UnavailableError
from hanse.core.ids import model_scope
from hanse.core.records import Envelope, Reply, Task
from hanse.core.spec import RunSpec
from hanse.rounds import machine
from hanse.rounds.driver.visit import Outcome as Visited
from hanse.rounds.driver.visit import begin, collect, visit
from tests.faults.explorer.case import INITIAL, Case
from tests.faults.explorer.shell import EPOCH_MS, Shell
from tests.faults.explorer.site import Site
from tests.faults.explorer.world import COMPONENT, JOB, Outcome, Violation, Watched, World, undisturbed

T = TypeVar("T")
SETTLED_S = 15.0
"""A reply whose row is so old when the run ends must have its fate: no visit takes longer from reading to writing."""


def explore_visits(case: Case) -> Outcome:
    """Run one schedule and check it, as `world.explore` does.

    Raises:
        Violation: something that must hold does not.
    """
    outcome = VisitWorld(case).play()
    if case.exact:
        calm = undisturbed(case.calm())
        if outcome.status != "finished":
            raise Violation(f"expected the run to finish, found {outcome.status}: {outcome.error}")
        if (outcome.model, outcome.rounds) != (calm.model, calm.rounds):
            raise Violation("the final bits differ from those of a server that nothing disturbs")
    return outcome


class VisitWorld(World):
    """Everything of one schedule without a server."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.invocations = 0
        self.visits: Counter[str] = Counter()
        self.row_times: dict[int, float] = {}
        self.upload_times: dict[str, float] = {}
        self.puts: Counter[str] = Counter()
        self.ended_s = 0.0
        self.wake = asyncio.Event()

    # ---- what the shells report ----

    def row_created(self, shell: Shell, key: str) -> None:
        if not key.startswith("reply/"):
            return
        ordinal = int(key.rpartition("/")[2])
        # A collector that read the record before the reply was settled may write its row once more: no harm.
        self.made.add(ordinal)
        self.row_times[ordinal] = self.loop.time()
        self.spawn(self._stream())

    def blob_put(self, shell: Shell, scope: str) -> None:
        self.puts[scope] += 1

    def row_unsure(self, key: str) -> None:
        """The collector runs again."""

    def run_written(self, shell: Shell, value: bytes) -> None:
        if self.over and b'{"performed":true' not in value[:20]:
            self.problems.append("a run that was over was written again")
        shell.life = self.last_writer = 0
        super().run_written(shell, value)
        if self.over and not self.ended_s:
            self.ended_s = self.loop.time()

    # ---- invocations ----

    async def invoke(self, work: Callable[[Shell], Awaitable[T]]) -> T | None:
        """One function's life; None if it was killed, or failed as functions do when a disk is full."""
        self.invocations += 1
        shell = Shell(self)
        shell.is_up = True
        task = self.spawn(self._guarded(work(shell)))
        first: list[asyncio.Future[Any]] = [task, shell.gone]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None

    async def _guarded(self, work: Awaitable[T]) -> T | None:
        try:
            return await work
        except (StorageError, UnavailableError):
            return None

    async def insist(self, work: Callable[[Shell], Awaitable[T]]) -> T:
        """Again until it is done, as a queue, a stream and a state machine do."""
        while True:
            found = await self.invoke(work)
            if found is not None:
                return found
            await asyncio.sleep(1.0)

    async def look(self, shell: Shell, cancelled_by: str = "") -> Visited:
        found = await visit(
            JOB, COMPONENT, shell.seams(), shell.now_ms, lambda spec: Watched(self, shell, spec),
            sites=self._up(), cancelled_by=cancelled_by,
        )  # fmt: skip
        self.visits[found.status] += 1
        return found

    async def _stream(self) -> None:
        for _ in range(2 if self.happens(self.faults.repeat) else 1):
            await asyncio.sleep(self.rng.random() * self.rng.choice((0.1, 0.1, 3.0)))
            await self.insist(self.look)

    async def _collect(self) -> None:
        while True:
            for delivery in await self.inbox.receive("server", 3, 30.0):
                self.spawn(self._collect_one(delivery.receipt, delivery.envelope))

    async def _collect_one(self, receipt: str, envelope: Envelope) -> None:
        reply = Reply.unpack(envelope.body)
        found = await self.invoke(lambda shell: collect(JOB, COMPONENT, shell.seams(), shell.now_ms, reply))
        if found is not None:
            await self.inbox.ack([receipt])

    async def _presence(self) -> None:
        """Whoever notices that a site has come or gone visits."""
        self.spawn(self.insist(self.look))

    async def _cancel(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await self.insist(lambda shell: self.look(shell, "ada"))

    # ---- play ----

    async def _play(self) -> Outcome:
        spec = self.case.spec
        for name in self.case.sites:
            self.sites[name] = site = QueueSite(self, name)
            self.spawn(site.live())
        model = None
        if spec.initial == "given":
            content = encode(INITIAL)
            manifest = manifest_of(content)
            await self.blobs.put(model_scope(JOB, COMPONENT, 0), manifest, rechunk([content]))
            model = (model_scope(JOB, COMPONENT, 0), manifest.id)
        await self.insist(lambda shell: self._begin_run(shell, spec, model))
        self.spawn(self._collect())
        for site in self.sites.values():
            if self.faults.flap:
                self.spawn(self._flap(site))
        if self.faults.cancel:
            self.spawn(self._cancel(self.rng.random() * 30))
        while (found := await self.insist(self.look)).wake_ms is not None:
            left_s = (found.wake_ms - EPOCH_MS) / 1000 - self.loop.time()
            await asyncio.sleep(min(max(left_s, 0.05), 30.0))
        await asyncio.sleep(60)
        late = {o for o, at in self.row_times.items() if at > self.ended_s - SETTLED_S}
        self.rows = self.made - late
        self.strays = {key for key in self.ledger._rows if key.startswith("reply/") and int(key[-10:]) in late}
        self.strays |= {scope for scope, at in self.upload_times.items() if at > self.ended_s - SETTLED_S}
        # A visit that was overtaken may put a model once more, after it was cleaned up; a lifecycle rule takes it.
        self.strays |= {scope for scope, count in self.puts.items() if scope.endswith("/model") and count > 1}
        return self._check(found.status)

    async def _begin_run(self, shell: Shell, spec: RunSpec, model: tuple[str, str] | None) -> bool:
        state = machine.begin(JOB, COMPONENT, spec, model)
        await begin(state, shell.seams(), shell.now_ms)
        return True  # also if there is one: a function that was killed had come so far


class QueueSite(Site):
    """A site that answers through the server's inbox and uploads as a link lets it."""

    async def answer(self, task: Task) -> None:
        world, name = self.world, str(task.id)
        if name not in self.journal:
            reply = self.compute(task)
            self.trainings[name] = self.trainings.get(name, 0) + 1
            self.journal[name] = reply
        reply = self.journal[name]
        await self.back.wait()
        if reply.update is not None and reply.update.scope:
            ref = reply.update
            await world.blobs.put(ref.scope, ref.manifest, rechunk([world.contents[ref.id]]))
            assert isinstance(world, VisitWorld)
            world.upload_times[ref.scope] = world.loop.time()
        envelope = Envelope(self.name, "server", name, "reply", reply.pack())
        for _ in range(2 if world.happens(world.faults.repeat) else 1):
            await world.inbox.send("server", envelope)
