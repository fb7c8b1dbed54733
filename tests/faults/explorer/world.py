"""The world of one schedule: driver lives, sites, an unsure network; and what must hold at the end of it."""

import asyncio
import gc
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from hanse.backends.memory import MemoryBlobs, MemoryInbox, MemoryLedger
from hanse.core.arrays import Arrays
from hanse.core.blobs import manifest_of, rechunk
from hanse.core.codec import decode, encode
from hanse.core.errors import ConflictError, NotFoundError, StorageError, UnavailableError
from hanse.core.ids import TaskId, model_scope
from hanse.core.records import Envelope, Metrics, Reply
from hanse.core.spec import RunSpec
from hanse.rounds import machine, run_state
from hanse.rounds.driver import leftovers
from hanse.rounds.driver.run import Run
from hanse.rounds.hosts.host import PlanAnswer, PlanRequest, ReduceAnswer, ReduceRequest, StrategyHost
from hanse.rounds.hosts.local import LocalHost
from hanse.strategies.strategy import FoldInput
from tests.faults.explorer import oracle
from tests.faults.explorer.case import INITIAL, Case
from tests.faults.explorer.loop import Stalled, VirtualLoop
from tests.faults.explorer.shell import EPOCH_MS, Shell
from tests.faults.explorer.site import Site

T = TypeVar("T")
JOB, COMPONENT = "j", "main"
KEY = f"{JOB}/{COMPONENT}"


class Violation(AssertionError):
    """A promise that a schedule broke."""


@dataclass(frozen=True)
class Outcome:
    """How a schedule ended: compared with that of its calm twin."""

    status: str
    error: str
    model: bytes
    rounds: tuple[tuple[int, str, tuple[str, ...]], ...]
    folded: int = 0
    late: int = 0
    refused: int = 0
    failed: int = 0
    lives: int = 0
    taken_over: int = 0


@contextmanager
def unswept() -> Iterator[Callable[[], object]]:
    """While many schedules are run: every one leaves a world of cycles, and looking for them takes long.

    Yields what looks for them, and for nothing else; to be called now and then.
    """
    gc.collect()
    gc.freeze()  # what the tests have collected and imported is no garbage
    gc.disable()
    try:
        yield gc.collect
    finally:
        gc.enable()
        gc.unfreeze()


def explore(case: Case) -> Outcome:
    """Run one schedule and check it.

    Raises:
        Violation: something that must hold does not.
    """
    outcome = World(case).play()
    if case.exact:
        calm = undisturbed(case.calm())
        if outcome.status != "finished":
            raise Violation(f"expected the run to finish, found {outcome.status}: {outcome.error}")
        if (outcome.model, outcome.rounds) != (calm.model, calm.rounds):
            raise Violation("the final bits differ from the undisturbed run's")
    return outcome


@lru_cache(4096)
def undisturbed_of(key: str) -> Outcome:
    return World(_CALM[key]).play()


_CALM: dict[str, Case] = {}


def undisturbed(case: Case) -> Outcome:
    """The calm run of a case; computed once."""
    key = repr(case)
    _CALM[key] = case
    return undisturbed_of(key)


class World:
    """Everything of one schedule."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.faults = case.faults
        leftovers.ROUNDS_TO_CLEAN = 8 if case.seed % 4 == 3 else 1
        self.rng = random.Random(f"world {case.seed}")
        self.loop = VirtualLoop()  # type: ignore[abstract]  # no sockets, files or processes
        self.ledger = MemoryLedger()
        self.blobs = MemoryBlobs()
        self.inbox = MemoryInbox(visibility_s=8.0, now_ms=lambda: EPOCH_MS + round(self.loop.time() * 1000))
        self.contents: dict[str, bytes] = {}
        self.num_uploads = 0
        self.shell: Shell = None  # type: ignore[assignment]
        self.run: Run | None = None
        self.lives = 0
        self.taken_over = 0
        self.sites: dict[str, Site] = {}
        self.sent: dict[int, tuple[TaskId, str]] = {}
        self.acked: dict[int, str] = {}
        self.acked_in: dict[int, int] = {}
        self.rows: set[int] = set()
        self.made: set[int] = set()
        self.strays: set[str] = set()
        self.first: dict[tuple[int, str], int] = {}
        self.last_writer = 0
        self.over = False
        self.reductions: dict[tuple[int, str], list[tuple[ReduceRequest, ReduceAnswer, dict[int, Arrays]]]] = (
            defaultdict(list)
        )
        self.problems: list[str] = []
        self._left = Counter(kill=case.faults.kills, pause=case.faults.pauses, disk=case.faults.disks)

    # ---- chance ----

    def happens(self, rate: float) -> bool:
        return rate > 0 and self.loop.time() < self.faults.until_s and self.rng.random() < rate

    def draw_fault(self) -> tuple[str, bool]:
        """What befalls a seam call, and whether after its effect."""
        faults = self.faults
        if self.loop.time() >= faults.until_s:
            return "", False
        dice = self.rng.random()
        for kind in ("kill", "pause", "disk", "slow"):
            rate = getattr(faults, kind)
            if dice < rate:
                if kind != "slow":
                    if self._left[kind] <= 0:
                        return "", False
                    self._left[kind] -= 1
                return kind, self.rng.random() < 0.5
            dice -= rate
        return "", False

    def spawn(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        return self.loop.create_task(work)

    # ---- what the shells report ----

    def row_created(self, shell: Shell, key: str) -> None:
        if not key.startswith("reply/"):
            return
        ordinal = int(key.rpartition("/")[2])
        self.made.add(ordinal)
        if shell.life < self.last_writer:
            self.strays.add(key)  # of a driver that was taken over, which acknowledges nothing
        elif not self.over:
            self.rows.add(ordinal)

    def blob_put(self, shell: Shell, scope: str) -> None:
        if shell.life < self.last_writer:
            self.strays.add(scope)  # no harm: nothing names it

    def row_unsure(self, key: str) -> None:
        """The driver could not know that it has received this."""
        if key.startswith("reply/"):
            self.rows.discard(int(key.rpartition("/")[2]))

    def run_written(self, shell: Shell, value: bytes) -> None:
        if b'"stage":"over"' in value and self.run is not None:
            # Their rows came while the run ended: their sites are told so by this driver, or by no one.
            self.rows -= self.run.turns.receiving.taking.keys() - self.run.driving.standing.replies.keys()
        if shell.life < self.last_writer:
            self.problems.append("a driver that was taken over has written the run record")
        self.last_writer = shell.life
        if b'"stage":"open"' in value or b'"spilled"' in value:
            for ordinal, _, _, round_, phase, *_ in self._record(value)["state"]["open"]:
                self.first[round_, phase] = min(ordinal, self.first.get((round_, phase), ordinal))
        self.over = b'"status":"running"' not in value and b'"status":"waiting"' not in value

    def task_sent(self, shell: Shell, envelope: Envelope) -> None:
        if envelope.kind == "task":
            task = TaskId.parse(envelope.id)
            if self.acked_in.get(task.ordinal, shell.life) < shell.life:
                self.problems.append(f"task {task.ordinal} was acknowledged and, after a restart, asked anew")
            known = self.sent.setdefault(task.ordinal, (task, envelope.recipient))
            if known != (task, envelope.recipient):
                self.problems.append(f"ordinal {task.ordinal} was given to two tasks")

    # ---- play ----

    def play(self) -> Outcome:
        try:
            return self.loop.run(self._play(), until_s=40_000.0)
        except Stalled as stalled:
            state = self.run.state if self.run is not None else None
            where = f"stage {state.stage}, round {state.round}" if state is not None else "no driver"
            raise Violation(f"no progress and no named failure: {stalled} ({where})") from None

    async def _play(self) -> Outcome:
        for name in self.case.sites:
            self.sites[name] = site = Site(self, name)
            self.spawn(site.live())
            if self.faults.flap:
                self.spawn(self._flap(site))
        model = None
        if self.case.spec.initial == "given":
            content = encode(INITIAL)
            manifest = manifest_of(content)
            await self.blobs.put(model_scope(JOB, COMPONENT, 0), manifest, rechunk([content]))
            model = (model_scope(JOB, COMPONENT, 0), manifest.id)
        if self.faults.cancel:
            self.spawn(self._cancel(self.rng.random() * 30))
        while (status := await self._live(model)) is None:
            self.run = None
            await asyncio.sleep(self.rng.random() * 2)
        await asyncio.sleep(60)  # what the old life does after its pause
        return self._check(status)

    async def _live(self, model: tuple[str, str] | None) -> str | None:
        """One life of the driver: its end, or None when another has to take over."""
        self.lives += 1
        shell = self.shell = Shell(self)
        work = self.spawn(self._drive(shell, model))
        first: list[asyncio.Future[Any]] = [work, shell.gone]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        if shell.gone.result() == "killed":
            self.inbox.reopen()
        return None

    async def _drive(self, shell: Shell, model: tuple[str, str] | None) -> str | None:
        while True:
            try:
                run = await self._begin(shell, model)
                break
            except StorageError:
                await asyncio.sleep(1.0)
            except ConflictError:  # the one before came back for a moment
                if shell.gone.done():
                    return None
        shell.is_up = True
        if shell is self.shell:
            self.run = run
        await run.sites_changed(self._up())
        try:
            status = await run.finished
        except Exception as error:
            if not shell.gone.done():
                raise Violation(f"the only driver has stopped: {error!r}") from error
            self.taken_over += 1
            return None
        await run.close()
        return status

    async def _begin(self, shell: Shell, model: tuple[str, str] | None) -> Run:
        def make_host(spec: RunSpec) -> "Watched":
            return Watched(self, shell, spec)

        seams = shell.seams()
        try:
            run = await Run.load(JOB, COMPONENT, seams, shell, make_host)
        except NotFoundError:
            state = machine.begin(JOB, COMPONENT, self.case.spec, model)
            run = await Run.create(state, seams, make_host(self.case.spec), shell)
            await run.start()
            return run
        asked = {slot.site for slot in run.state.open.values()}
        await run.resume(sorted(asked | set(self._up())))
        if run.state.stage == "waiting":
            await run.start()
        return run

    def _up(self) -> tuple[str, ...]:
        return tuple(name for name, site in self.sites.items() if site.up)

    async def _flap(self, site: Site) -> None:
        while self.loop.time() < self.faults.until_s:
            await asyncio.sleep(self.rng.random() * 20)
            if not self.happens(self.faults.flap):
                continue
            site.up = False
            site.back.clear()
            await asyncio.sleep(self.rng.random())
            await self._presence()
            await asyncio.sleep(self.rng.choice((0.1, 5.0, 40.0)))
            site.up = True
            site.back.set()
            await self._presence()

    async def _presence(self) -> None:
        if self.run is not None and not self.run.finished.done():
            self.spawn(self.run.sites_changed(self._up()))

    async def _cancel(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        if self.run is not None:
            self.spawn(self.run.cancel("ada"))

    async def serve(self, shell: Shell, run: Run, reply: Reply) -> str:
        """The server's side of a reply's call."""
        try:
            answer, _ = await run.take(reply)
        except (StorageError, UnavailableError):
            self.rows.discard(reply.task.ordinal)
            return "again"
        ordinal = reply.task.ordinal
        if answer == "received":
            told = f"by life {shell.life} at {self.loop.time():g} s"
            if ordinal in self.acked:
                self.problems.append(f"task {ordinal} was acknowledged twice, {self.acked[ordinal]} and {told}")
            self.acked[ordinal] = told
            self.acked_in[ordinal] = shell.life
        elif run.state.over and ordinal not in self.acked:
            self.rows.discard(ordinal)  # it came too late to be received
        await run.settle()
        return answer

    # ---- checks ----

    def _check(self, status: str) -> Outcome:
        records = self._records()
        for check in (self._check_fates, self._check_rounds, self._check_reductions, self._check_trainings):
            check(status, records)
        self._check_cleaned(status, records)
        for error in self.loop.errors:
            self.problems.append(f"an error nobody took: {error.get('message')} {error.get('exception')!r}")
        if self.problems:
            raise Violation("; ".join(self.problems[:6]))
        content, _ = self.ledger._rows[f"run/{KEY}"]
        state = self._state(content)
        model = b"" if state.model is None else bytes(self._blob(state.model))
        # Who was asked for the initial model may differ: all sites have the same.
        rounds = tuple((r["number"], r["model"], tuple(r["folded"])) for r in records if r["number"])
        kinds = Counter(fate.partition(":")[0] for r in records for _, _, fate in r["fates"])
        counted = (kinds["folded"], kinds["late"], kinds["refused"], kinds["failed"])
        return Outcome(status, state.error, model, rounds, *counted, self.lives, self.taken_over)

    def _state(self, content: bytes) -> run_state.RunState:
        return run_state.decode(self._record(content)["state"])

    def _record(self, content: bytes) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(content)
        if "spilled" in record:
            scope, blob, size = record["spilled"]
            record = json.loads(bytes(self.blobs.read(scope, blob, 0, size)))
        return record

    def _blob(self, key: tuple[str, str]) -> memoryview:
        return self.blobs._complete(*key).content

    def _records(self) -> list[dict[str, Any]]:
        rows = sorted((key, value) for key, (value, _) in self.ledger._rows.items() if key.startswith(f"round/{KEY}/"))
        return [json.loads(value) for _, value in rows]

    def _check_fates(self, status: str, records: list[dict[str, Any]]) -> None:
        named: Counter[int] = Counter(ordinal for record in records for ordinal, _, _ in record["fates"])
        self.problems += [f"the fate of task {o} is told {n} times" for o, n in named.items() if n > 1]
        lost = (set(self.acked) | self.rows) - set(named)
        self.problems += [f"the reply to task {o} was received and has no fate" for o in sorted(lost)]
        made_up = set(named) - self.made
        self.problems += [f"task {o} has a fate but no reply" for o in sorted(made_up)]
        for record in records:
            for ordinal, site, _ in record["fates"]:
                if self.sent.get(ordinal, (None, ""))[1] != site:
                    self.problems.append(f"the fate of task {ordinal} names another site")

    def _check_rounds(self, status: str, records: list[dict[str, Any]]) -> None:
        numbers = [record["number"] for record in records]
        first = 1 if self.case.spec.initial == "given" else 0
        if numbers != list(range(first, first + len(numbers))):
            self.problems.append(f"expected a record for each round, found {numbers}")
        if status == "finished" and self.case.spec.stop is None and numbers[-1:] != [self.case.spec.rounds]:
            self.problems.append(f"expected {self.case.spec.rounds} rounds, found {numbers}")
        if status == "failed":
            state = self._state(self.ledger._rows[f"run/{KEY}"][0])
            if not state.error:
                self.problems.append("the run failed without a cause")

    def _check_reductions(self, status: str, records: list[dict[str, Any]]) -> None:
        """One close a phase: what was folded by name is what was reduced, once, in canonical order."""
        models = {record["number"]: record["model"] for record in records}
        for record in records:
            by_phase: dict[str, list[int]] = defaultdict(list)
            for ordinal, _, fate in record["fates"]:
                if fate == "folded":
                    by_phase[self._phase(ordinal)].append(ordinal)
            number = record["number"]
            before = models.get(number - 1, "")
            adopted = [
                item
                for (round_, _), items in self.reductions.items()
                if round_ == number
                for item in items
                if item[1].model is not None and item[1].model[1] == record["model"]
            ]
            folding = [ordinals for phase, ordinals in by_phase.items() if phase in ("train", "parameters")]
            if record["model"] == before or not folding:
                continue
            if not any([m.ordinal for m in item[0].members] == folding[0] for item in adopted):
                self.problems.append(f"round {number}: no reduction of {folding[0]} made its model")
                continue
            for request, answer, updates in adopted:
                self._check_reduction(request, answer, updates)

    def _phase(self, ordinal: int) -> str:
        return self.sent[ordinal][0].phase

    def _check_reduction(self, request: ReduceRequest, answer: ReduceAnswer, updates: dict[int, Arrays]) -> None:
        positions = [member.position for member in request.members]
        if request.kind != "fold" or self.case.strategy not in ("fedavg", "two-phase", "carrying"):
            return
        if self.case.strategy != "carrying":
            first = self.first.get((request.round, request.phase), -1)
            if positions != [member.ordinal - first for member in request.members]:
                self.problems.append(f"round {request.round}: positions {positions} are not those of the plan")
        inputs = [FoldInput(m.reply.site, m.reply.num_examples, m.staleness, m.reply.metrics) for m in request.members]
        weights = self.case.make_strategy().weigh(inputs)
        members = [(m.position, w, updates[m.ordinal]) for m, w in zip(request.members, weights, strict=True)]
        assert answer.model is not None
        if manifest_of(encode(oracle.mean(members))).id != answer.model[1]:
            self.problems.append(f"round {request.round}: the model is not the mean in canonical order")

    def _check_trainings(self, status: str, records: list[dict[str, Any]]) -> None:
        for site in self.sites.values():
            self.problems += [f"{task} was trained {n} times" for task, n in site.trainings.items() if n > 1]

    def _check_cleaned(self, status: str, records: list[dict[str, Any]]) -> None:
        if self.case.spec.keep_updates:
            return
        rows = [key for key in self.ledger._rows if key.startswith("reply/") and key not in self.strays]
        if rows:
            self.problems.append(f"rows are left: {rows[:3]}")
        scopes = sorted(set(self.blobs._scopes) - self.strays)
        uploads = [scope for scope in scopes if "/up/" in scope]
        if uploads:
            self.problems.append(f"uploads are left: {uploads[:3]}")
        models = [scope for scope in scopes if scope.endswith("/model")]
        if len(models) > 2:
            self.problems.append(f"expected the last two checkpoints, found {models}")


class Watched:
    """The strategy's host of one life; what it reduces is written down."""

    def __init__(self, world: World, shell: Shell, spec: RunSpec) -> None:
        self._world, self._blobs = world, shell.seams().blobs
        self._real: StrategyHost = LocalHost(
            world.case.make_strategy(), spec, self._blobs, threads=1, evaluate=lambda arrays, round_: {"x": 1.0}
        )

    async def plan(self, request: PlanRequest) -> PlanAnswer:
        return await self._real.plan(request)

    async def reduce(self, request: ReduceRequest) -> ReduceAnswer:
        updates = {m.ordinal: self._arrays(m.reply) for m in request.members} if request.kind == "fold" else {}
        answer = await self._real.reduce(request)
        if answer.model is not None:
            self._world.reductions[request.round, request.phase].append((request, answer, updates))
        return answer

    async def evaluate(self, model: tuple[str, str], round_: int) -> Metrics:
        return await self._real.evaluate(model, round_)

    def _arrays(self, reply: Reply) -> Arrays:
        update = reply.update
        if update is None:
            return Arrays()
        if update.content is not None:
            return decode(update.content)
        try:
            return decode(self._blobs.read(update.scope, update.id, 0, update.manifest.size))
        except NotFoundError:
            return Arrays()
