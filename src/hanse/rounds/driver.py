"""The driver: performs what the round machine instructs, over the seams. It holds no rule of its own.

One `Run` drives one component. Events are taken one turn at a time: the machine steps, quick pure work (planning,
small reductions) is done on the spot and its answer stepped at once, then the state is written with ONE
compare-and-set, and only then anything that others can see is performed (tasks are sent, the run ends). A driver
that dies at any moment is replaced by `Run.load`, which performs what is left; a driver whose write loses stops.

Keys in the ledger:

    run/<job>/<component>                          the run record: state, open asks, last checkpoint
    reply/<job>/<component>/<round>/<ordinal>      a received reply: 8 bytes of time, then the reply
    round/<job>/<component>/<round>                a round's record, JSON
"""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from hanse.core.arrays import Arrays
from hanse.core.blobs import INLINE_BYTES, manifest_of
from hanse.core.errors import (
    ConfigError,
    ConflictError,
    HanseError,
    StorageError,
    TaskError,
)
from hanse.core.ids import TaskId, model_scope, upload_scope
from hanse.core.records import BlobRef, Envelope, Reply, Task, Value
from hanse.core.seams import BlobStore, Inbox, Ledger, Links
from hanse.core.seeds import generator, key_of
from hanse.core.spec import RunSpec
from hanse.rounds import machine
from hanse.rounds.clock import Clock
from hanse.rounds.events import (
    BlobKey,
    Cancelled,
    Checkpoint,
    Evaluate,
    Evaluated,
    Event,
    Failed,
    Finish,
    Instruction,
    Plan,
    PlanFailed,
    Planned,
    PlannedTask,
    Reduce,
    Reduced,
    ReduceRefused,
    Release,
    ReplyFailed,
    ReplyReceived,
    Resumed,
    Send,
    SetTimer,
    SitesChanged,
    Started,
    TimerFired,
)
from hanse.rounds.host import Member, PlanRequest, ReduceRequest, StrategyHost, earlier, load_arrays, plain, unplain
from hanse.rounds.machine import PARAMETERS, RunState
from hanse.rounds.record import RoundRecord, mean_metrics, server_metrics, site_metrics
from hanse.rounds.result import Result
from hanse.strategies import Ask

MAX_RECORD_BYTES = 60 * 1024
"""A run record above this becomes a blob, and the ledger holds its name."""
RETRY_MS = 2000
"""How long to wait before the disk is asked again."""

Observer = Callable[[dict[str, Any]], None]
Work = Callable[[], Awaitable[None]]
log = structlog.get_logger("hanse.rounds")


@dataclass(frozen=True, slots=True)
class Seams:
    """The four seams of one place."""

    ledger: Ledger
    blobs: BlobStore
    inbox: Inbox
    links: Links


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What a task says besides its question. `app`: SHA-256 of the bundle; `bundle`: where the bundle is."""

    federation: str = ""
    app: str = ""
    bundle: BlobRef | None = None


@dataclass(slots=True)
class Moved:
    """Bytes moved in a round."""

    down: int = 0
    up: int = 0


@dataclass(slots=True)
class _Turn:
    """What one turn has gathered until its write."""

    outward: list[Instruction] = field(default_factory=list)
    checkpoints: list[tuple[RoundRecord, Mapping[int, tuple[str, str]]]] = field(default_factory=list)


class Run:
    """One component's run, driven. Make it with `create` or `load`."""

    def __init__(
        self, state: RunState, seams: Seams, host: StrategyHost, clock: Clock, info: RunInfo | None = None
    ) -> None:
        self.state = state
        self.observers: list[Observer] = []
        self.finished: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._seams = seams
        self._host = host
        self._clock = clock
        self._info = info or RunInfo()
        self._version = 0
        self._written = -1
        self._spilled = ""
        self._queue: list[Event] = []
        self._working = False
        self._closed = False
        self._asks: dict[int, Ask] = {}
        self._replies: dict[int, Reply] = {}
        self._taking: set[int] = set()
        self._rows: set[int] = set()
        self._scopes: list[str] = []
        self._refs: dict[BlobKey, BlobRef] = {}
        self._moved = Moved()
        self._fingerprints: dict[str, str] = {}
        self._update_kind = "values"
        self._last: dict[str, Any] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._key = f"{state.job}/{state.component}"
        self._log = log.bind(job=state.job)

    # ---- life ----

    @classmethod
    async def create(
        cls, state: RunState, seams: Seams, host: StrategyHost, clock: Clock, info: RunInfo | None = None
    ) -> "Run":
        """Begin a run.

        Raises:
            ConflictError: there is one already.
        """
        run = cls(state, seams, host, clock, info)
        if not await seams.ledger.create(f"run/{run._key}", run._encode()):
            raise ConflictError(f"job {state.job}: component {state.component} is there already")
        run._version, run._written = 1, state.revision
        return run

    @classmethod
    async def load(
        cls,
        job: str,
        component: str,
        seams: Seams,
        clock: Clock,
        make_host: Callable[[RunSpec], StrategyHost],
        info: RunInfo | None = None,
    ) -> "Run":
        """Take up a run from its record. Call `resume` next.

        Raises:
            NotFoundError: there is none. CodecError: it cannot be read by this version.
        """
        content, version = await seams.ledger.get(f"run/{job}/{component}")
        record = json.loads(content)
        spilled = record.get("spilled")
        if spilled:
            scope, blob, size = spilled
            record = json.loads(bytes(seams.blobs.read(scope, blob, 0, size)))
        state = machine.decode(record["state"])
        run = cls(state, seams, make_host(state.spec), clock, info)
        run._version, run._written = version, state.revision
        run._spilled = spilled[0] if spilled else ""
        run._asks = _decode_asks(record["asks"])
        run._last = record["checkpoint"]
        run._fingerprints = record["fingerprints"]
        run._moved = Moved(*record["moved"])
        run._update_kind = record["update_kind"]
        return run

    async def start(self) -> None:
        """The first event of a new run."""
        await self.post(Started(self._clock.now_ms()))

    async def resume(self, sites: Sequence[str]) -> None:
        """Perform what is left. `sites`: those expected to be there; their leases start afresh."""
        rows = await self._load_replies()
        if self._last is not None:
            await self._keep_record(self._last)
        self._scopes = [
            model_scope(self.state.job, self.state.component, n)
            for n in range(max(0, self.state.round - 3), self.state.round)
        ]
        await self.post(Resumed(rows, tuple(sites), self._clock.now_ms()))

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """Site → numerics fingerprint of its worker, as far as it has answered."""
        return self._fingerprints

    # ---- events ----

    async def post(self, event: Event) -> None:
        """Let something happen. Returns when the run has come to rest, or at once if it is at work already."""
        self._queue.append(event)
        if self._working:
            return
        self._working = True
        try:
            while self._queue and not self.finished.done():
                await self._turn()
        finally:
            self._working = False

    async def sites_changed(self, sites: Sequence[str], undecided: int = 0) -> None:
        """The sites that hold a lease and accepted the job."""
        await self.post(SitesChanged(tuple(sorted(sites)), self._clock.now_ms(), undecided))

    async def cancel(self, by: str) -> None:
        """End the run."""
        await self.post(Cancelled(by, self._clock.now_ms()))

    async def take(self, reply: Reply) -> tuple[str, str]:
        """Receive a reply: durable when this returns. Call `settle` afterwards to let it count.

        Returns:
            `received`, `duplicate` or `refused`, and the reason of a refusal.

        Raises:
            StorageError: the disk refuses; the site keeps the reply and sends it again.
        """
        ordinal = reply.task.ordinal
        expected = machine.expects(self.state, ordinal)
        slot = self.state.open.get(ordinal) or self.state.released.get(ordinal)
        if expected == "settled" or slot is None or ordinal in self._taking:
            return "duplicate", ""
        if reply.site != slot.site or reply.task != self.state.task_id(ordinal, slot):
            return "refused", "the task is another site's"
        update = reply.update
        if update is not None and update.content is None:
            if update.scope != upload_scope(reply.task, reply.site):
                return "refused", "the update lies outside the site's own scope"
            if await self._seams.blobs.missing(update.scope, update.manifest):
                return "refused", "the update has not been uploaded"
        self._taking.add(ordinal)
        try:
            reply = await self._keep_update(reply)
            now = self._clock.now_ms()
            row = f"{self._row_prefix(slot.round)}{ordinal:010d}"
            if not await self._seams.ledger.create(row, now.to_bytes(8, "big") + reply.pack()):
                return "duplicate", ""
        finally:
            self._taking.discard(ordinal)
        self._rows.add(slot.round)
        self._remember(reply)
        self._queue.append(_reply_event(reply, now))
        return "received", ""

    async def settle(self) -> None:
        """Let what was taken count."""
        if self._queue and not self._working:
            event = self._queue.pop()
            await self.post(event)

    # ---- results ----

    async def result(self) -> Result:
        """The result so far; the arrays are those of the last model."""
        records = await round_records(self._seams.ledger, self.state.job, self.state.component)
        model = self.state.model
        sites = {site for record in records for site in (*record.folded, *record.late, *record.failed)}
        return Result(
            self.state.status,
            Arrays() if model is None else await load_arrays(self._seams.blobs, model),
            rounds=tuple(records),
            job=self.state.job,
            error=self.state.error,
            sites=tuple(sorted(sites)),
            fingerprints=dict(self._fingerprints),
        )

    # ---- a turn ----

    async def _turn(self) -> None:
        turn = _Turn()
        events, self._queue = self._queue, []
        for event in events:
            await self._take_event(event, turn)
        if self.state.revision != self._written:
            await self._write()
        for record, fates in turn.checkpoints:
            await self._keep_checkpoint(record, fates)
        for instruction in turn.outward:
            await self._perform(instruction)

    async def _take_event(self, event: Event, turn: _Turn) -> None:
        """Step, and step again with the answers of whatever can be done on the spot."""
        pending = [event]
        while pending:
            self.state, instructions = machine.step(self.state, pending.pop(0))
            for instruction in instructions:
                if isinstance(instruction, Plan):
                    pending.append(await self._plan(instruction))
                elif isinstance(instruction, Checkpoint):
                    turn.checkpoints.append(self._record_of(instruction))
                elif isinstance(instruction, Reduce) and self._is_small(instruction):
                    answer = await self._reduce(instruction)
                    if answer is not None:
                        pending.append(answer)
                else:
                    turn.outward.append(instruction)

    async def _perform(self, instruction: Instruction) -> None:
        match instruction:
            case Send():
                await self._send(instruction)
            case SetTimer(id, at_ms):
                self._clock.call_at(at_ms, lambda: self._spawn(lambda: self.post(TimerFired(id, self._clock.now_ms()))))
            case Reduce():
                self._spawn(lambda: self._reduce_and_post(instruction))
            case Evaluate():
                self._spawn(lambda: self._evaluate(instruction))
            case Release(tasks):
                await self._release(tasks)
            case Finish(status, error):
                self._tell("finished", status=status, error=error)
                if not self.finished.done():
                    self.finished.set_result(status)

    def _spawn(self, work: Work, *, also_after_end: bool = False) -> None:
        if self._closed or (self.finished.done() and not also_after_end):
            return
        task = asyncio.ensure_future(self._guarded(work))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _guarded(self, work: Work) -> None:
        try:
            await work()
        except asyncio.CancelledError:
            raise
        except ConflictError as error:
            self._stop(error)
        except Exception as error:  # the top of a task: end the run by name, never silently
            self._log.exception("run stopped by an internal error")
            self._stop(error)

    def _stop(self, error: Exception) -> None:
        """Another shell has taken over, or this one cannot go on: the record stays as it is."""
        if not self.finished.done():
            self.finished.set_exception(error)

    async def close(self) -> None:
        """Stop driving; the record stays and can be loaded. What is being cleaned up is let finish."""
        self._closed = True
        if not self.finished.done():
            for task in list(self._background):
                task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        if not self.finished.done():
            self.finished.cancel()

    # ---- planning and sending ----

    async def _plan(self, instruction: Plan) -> Event:
        now = self._clock.now_ms()
        where = (instruction.round, instruction.phase_index)
        sites = instruction.only or instruction.sites
        extends = bool(instruction.only)
        if instruction.round == 0:
            return self._plan_parameters(sites, extends, now)
        previous = earlier([self._replies[o] for o in instruction.previous if o in self._replies])
        try:
            answer = await self._host.plan(PlanRequest(*where, sites, instruction.busy, previous, extends))
        except ConfigError as error:
            return PlanFailed(*where, str(error), now)
        except TaskError as error:
            return PlanFailed(*where, f"the app's server side: {error}", now, final=True)
        plan, close = answer.plan, answer.plan.close
        self._update_kind = answer.update_kind
        self._expect(plan.asks)
        self._tell("phase", round=instruction.round, phase=answer.phases[instruction.phase_index], asked=len(plan.asks))
        return Planned(
            *where,
            num_phases=len(answer.phases),
            phase=answer.phases[instruction.phase_index],
            tasks=tuple(PlannedTask(ask.site, ask.call) for ask in plan.asks),
            count=close.count,
            quorum=close.quorum,
            grace_s=close.grace_s,
            deadline_s=close.deadline_s,
            keep_in_flight=close.keep_in_flight,
            folds=answer.folds,
            order=answer.order,
            late=answer.late,
            now_ms=now,
            extends=extends,
        )

    def _plan_parameters(self, sites: Sequence[str], extends: bool, now: int) -> Event:
        """Round 0: one site says what the model looks like at first."""
        if not sites:
            return PlanFailed(0, 0, "no site is there to be asked for the initial model", now)
        key = key_of(self.state.spec.seed, purpose="initial")
        site = sites[int(generator(key).integers(len(sites)))]
        self._expect([Ask(site, PARAMETERS, with_model=False)])
        deadline = self.state.spec.deadline_s
        task = (PlannedTask(site, PARAMETERS),)
        return Planned(0, 0, 1, PARAMETERS, task, 1, 1, 0.0, deadline, now, extends=extends)

    def _expect(self, asks: Sequence[Ask]) -> None:
        """The machine issues ordinals in the order of the asks."""
        for offset, ask in enumerate(asks):
            self._asks[self.state.next_ordinal + offset] = ask

    async def _send(self, instruction: Send) -> None:
        task_id, site = instruction.task, instruction.site
        slot, ask = self.state.open.get(task_id.ordinal), self._asks.get(task_id.ordinal)
        if slot is None or ask is None or slot.answer:
            return
        model = await self._ref(slot.model) if ask.with_model and slot.model is not None else None
        spec = self.state.spec
        task = Task(
            id=task_id,
            site=site,
            call=ask.call,
            app=self._info.app,
            attempt=slot.attempt,
            config=ask.config,
            model=model,
            update_kind=self._update_kind,
            seed=spec.seed,
            allow_nonfinite=spec.allow_nonfinite,
            payload=ask.payload,
            bundle=self._info.bundle,
        )
        read = [(ref.scope, ref.id) for ref in (model, self._info.bundle) if ref is not None and ref.content is None]
        self._seams.links.grant(site, read=read, write=[upload_scope(task_id, site)])
        if model is not None:
            self._moved.down += model.manifest.size
        envelope = Envelope(
            sender="server",
            recipient=site,
            id=str(task_id),
            kind="task",
            body=task.pack(),
            federation=self._info.federation,
            job=self.state.job,
            component=self.state.component,
            deadline_s=max(0.0, (instruction.deadline_ms - self._clock.now_ms()) / 1000),
        )
        await self._seams.inbox.send(site, envelope)

    async def _release(self, tasks: Sequence[tuple[TaskId, str]]) -> None:
        for task_id, site in tasks:
            envelope = Envelope(
                sender="server",
                recipient=site,
                id=str(task_id),
                kind="release",
                federation=self._info.federation,
                job=self.state.job,
                component=self.state.component,
            )
            await self._seams.inbox.send(site, envelope, durable=False)

    async def _ref(self, key: BlobKey) -> BlobRef:
        """How a model travels: inside its message while it is small."""
        ref = self._refs.get(key)
        if ref is None:
            manifest = await self._seams.blobs.manifest(*key)
            content = None
            if manifest.size <= INLINE_BYTES:
                content = bytes(self._seams.blobs.read(*key, 0, manifest.size))
            ref = BlobRef(manifest, key[0], content)
            self._refs = {kept: r for kept, r in self._refs.items() if kept in self._needed()}
            self._refs[key] = ref
        return ref

    def _needed(self) -> set[BlobKey]:
        slots = (*self.state.open.values(), *self.state.carried.values())
        keys = {slot.model for slot in slots if slot.model is not None} | set(self.state.state)
        return keys | ({self.state.model} if self.state.model is not None else set())

    # ---- replies ----

    async def _keep_update(self, reply: Reply) -> Reply:
        """An inline update that would make the row too long is kept as a blob."""
        update = reply.update
        if update is None or update.content is None or len(update.content) + 4096 < INLINE_BYTES:
            return reply
        scope = upload_scope(reply.task, reply.site)
        await self._seams.blobs.put(scope, update.manifest, [(0, update.content)])
        return replace(reply, update=BlobRef(update.manifest, scope))

    def _remember(self, reply: Reply) -> None:
        self._replies[reply.task.ordinal] = reply
        if reply.fingerprint:
            self._fingerprints[reply.site] = reply.fingerprint
        if reply.update is not None:
            self._moved.up += reply.update.manifest.size
        self._tell(
            "reply",
            round=reply.task.round,
            phase=reply.task.phase,
            site=reply.site,
            error=reply.error,
            metrics={name: value for name, value in reply.metrics.items() if not isinstance(value, bytes)},
            num_examples=reply.num_examples,
            seconds=reply.seconds,
        )

    async def _load_replies(self) -> tuple[tuple[int, str], ...]:
        """Rows that exist, in order of receipt."""
        found: list[tuple[int, int, str]] = []
        after: str | None = None
        while rows := await self._seams.ledger.query(f"reply/{self._key}/", after):
            after = rows[-1][0]
            for _, value, _ in rows:
                reply = Reply.unpack(value[8:])
                self._replies[reply.task.ordinal] = reply
                self._rows.add(reply.task.round)
                reason = "" if reply.ok else _reason(reply)
                found.append((int.from_bytes(value[:8], "big"), reply.task.ordinal, reason))
        return tuple((ordinal, reason) for _, ordinal, reason in sorted(found))

    def _row_prefix(self, round_: int) -> str:
        return f"reply/{self._key}/{round_:08d}/"

    # ---- reducing and evaluating ----

    def _is_small(self, instruction: Reduce) -> bool:
        return all(
            (update := self._replies[folded.task.ordinal].update) is None or update.content is not None
            for folded in instruction.folded
        )

    async def _reduce(self, instruction: Reduce) -> Event | None:
        """The answer; None when the disk refuses and it is tried again."""
        where = (instruction.round, instruction.phase_index)
        members = tuple(
            Member(folded.task.ordinal, self._replies[folded.task.ordinal], folded.position, folded.staleness)
            for folded in instruction.folded
        )
        scope = model_scope(self.state.job, self.state.component, instruction.round)
        request = ReduceRequest(
            instruction.round,
            instruction.phase,
            instruction.kind,
            members,
            instruction.size,
            instruction.model,
            instruction.state,
            scope,
        )
        try:
            answer = await self._host.reduce(request)
        except StorageError as error:
            self._log.error("cannot write the model; trying again", reason=str(error))
            self._later(lambda: self._reduce_and_post(instruction))
            return None
        except HanseError as error:
            return Failed(f"round {instruction.round}, phase {instruction.phase}: {error}", self._clock.now_ms())
        if answer.refused:
            return ReduceRefused(*where, answer.refused, self._clock.now_ms())
        if answer.model is not None and answer.model[0] not in self._scopes:
            self._scopes.append(answer.model[0])
        metrics = mean_metrics(instruction.phase, [(m.reply.num_examples, m.reply.metrics) for m in members])
        return Reduced(*where, answer.model, answer.state, metrics, self._clock.now_ms())

    async def _reduce_and_post(self, instruction: Reduce) -> None:
        event = await self._reduce(instruction)
        if event is not None:
            await self.post(event)

    async def _evaluate(self, instruction: Evaluate) -> None:
        try:
            metrics = server_metrics(await self._host.evaluate(instruction.model, instruction.round))
        except HanseError as error:
            await self.post(
                Failed(f"round {instruction.round}, evaluation at the server: {error}", self._clock.now_ms())
            )
            return
        await self.post(Evaluated(instruction.round, metrics, self._clock.now_ms()))

    def _later(self, work: Work) -> None:
        self._clock.call_at(self._clock.now_ms() + RETRY_MS, lambda: self._spawn(work))

    # ---- writing ----

    async def _write(self) -> None:
        """The step's one write. A full disk is waited for; a lost compare-and-set ends this driver.

        Raises:
            ConflictError: another shell has written.
        """
        while True:
            revision = self.state.revision
            try:
                content, spilled = await self._spill(self._encode())
                if not await self._seams.ledger.compare_and_set(f"run/{self._key}", content, self._version):
                    raise ConflictError(f"job {self.state.job}: another server has taken over")
                break
            except StorageError as error:
                self._log.error("cannot write the run record; trying again", reason=str(error))
                await self._pause()
        self._version += 1
        self._written = revision
        if self._spilled and self._spilled != spilled:
            await self._forget([self._spilled])
        self._spilled = spilled

    async def _pause(self) -> None:
        ready = asyncio.Event()
        self._clock.call_at(self._clock.now_ms() + RETRY_MS, ready.set)
        await ready.wait()

    async def _spill(self, content: bytes) -> tuple[bytes, str]:
        if len(content) <= MAX_RECORD_BYTES:
            return content, ""
        scope = f"{self._key}/record/{self.state.revision}"
        manifest = manifest_of(content)
        view = memoryview(content)
        chunks = [(i, view[slice(*manifest.span(i))]) for i in range(manifest.num_chunks)]
        await self._seams.blobs.put(scope, manifest, chunks)
        return json.dumps({"spilled": [scope, manifest.id, manifest.size]}).encode(), scope

    def _encode(self) -> bytes:
        self._asks = {ordinal: ask for ordinal, ask in self._asks.items() if ordinal in self.state.open}
        return json.dumps(
            {
                "state": machine.encode(self.state),
                "asks": _encode_asks(self._asks),
                "checkpoint": self._last,
                "fingerprints": self._fingerprints,
                "update_kind": self._update_kind,
                "moved": [self._moved.down, self._moved.up],
            },
            separators=(",", ":"),
        ).encode()

    # ---- checkpoints ----

    def _record_of(self, checkpoint: Checkpoint) -> tuple[RoundRecord, Mapping[int, tuple[str, str]]]:
        """The round's record for people, from the machine's checkpoint and the replies' metrics."""
        by_site: dict[str, dict[str, Value]] = {}
        positions: list[tuple[int, str]] = []
        for ordinal, (site, fate) in checkpoint.fates.items():
            reply = self._replies.get(ordinal)
            if fate != "folded" or reply is None:
                continue
            if reply.update is not None or not positions:
                positions.append((ordinal, site))
            found = by_site.setdefault(site, {})
            found.update(site_metrics(reply.task.phase, reply.metrics))
            if reply.num_examples:
                found[f"{reply.task.phase}_examples"] = reply.num_examples
        record = RoundRecord(
            number=checkpoint.round,
            folded=tuple(dict.fromkeys(site for _, site in positions)),
            late=tuple(dict.fromkeys(site for site, fate in checkpoint.fates.values() if fate == "late")),
            failed=dict(checkpoint.failed),
            metrics=dict(checkpoint.metrics),
            by_site=by_site,
            seconds_by_phase=dict(checkpoint.seconds),
            bytes={"down": self._moved.down, "up": self._moved.up},
            model=checkpoint.model[1] if checkpoint.model is not None else "",
        )
        self._moved = Moved()
        self._last = {**record.to_json(), "fates": [[o, site, fate] for o, (site, fate) in checkpoint.fates.items()]}
        return record, checkpoint.fates

    async def _keep_checkpoint(self, record: RoundRecord, fates: Mapping[int, tuple[str, str]]) -> None:
        """After the write that holds it: give the record its own row, then let go of what is settled."""
        if self._last is not None:
            await self._keep_record(self._last if self._last["number"] == record.number else record.to_json())
        self._tell("round", record=record.to_json())
        for ordinal in fates:
            self._replies.pop(ordinal, None)
        self._spawn_cleaning(record.number)

    async def _keep_record(self, record: dict[str, Any]) -> None:
        key = f"round/{self._key}/{record['number']:08d}"
        content, _ = await self._fit(record)
        if await self._seams.ledger.create(key, content):
            return
        _, version = await self._seams.ledger.get(key)
        await self._seams.ledger.compare_and_set(key, content, version)

    async def _fit(self, record: dict[str, Any]) -> tuple[bytes, bool]:
        """A round of very many sites loses the details by site rather than its row."""
        content = json.dumps(record, separators=(",", ":")).encode()
        if len(content) <= MAX_RECORD_BYTES:
            return content, False
        scope = f"{self._key}/rounds/{record['number']}"
        manifest = manifest_of(content)
        view = memoryview(content)
        chunks = [(i, view[slice(*manifest.span(i))]) for i in range(manifest.num_chunks)]
        await self._seams.blobs.put(scope, manifest, chunks)
        short = {**record, "by_site": {}, "fates": [], "whole": [scope, manifest.id, manifest.size]}
        return json.dumps(short, separators=(",", ":")).encode(), True

    def _spawn_cleaning(self, round_: int) -> None:
        if self.state.spec.keep_updates:
            return
        kept = {slot.round for slot in (*self.state.open.values(), *self.state.carried.values())}
        rounds = [n for n in self._rows if n <= round_ and n not in kept]
        self._rows.difference_update(rounds)
        needed = {scope for scope, _ in self._needed()}
        old = [scope for scope in self._scopes[:-2] if scope not in needed]
        self._scopes = [scope for scope in self._scopes if scope not in old]
        if rounds or old:
            self._spawn(lambda: self._clean(rounds, old), also_after_end=True)

    async def _clean(self, rounds: Sequence[int], scopes: Sequence[str]) -> None:
        for round_ in rounds:
            await self._seams.ledger.delete(self._row_prefix(round_))
        await self._forget([*(f"{self._key}/{round_}/up" for round_ in rounds), *scopes])

    async def _forget(self, scopes: Sequence[str]) -> None:
        for scope in scopes:
            try:
                await self._seams.blobs.delete_scope(scope)
            except StorageError as error:
                self._log.warning("cannot delete what is no longer needed", scope=scope, reason=str(error))

    def _tell(self, what: str, **facts: Any) -> None:
        for observer in self.observers:
            observer({"what": what, "job": self.state.job, **facts})


async def round_records(ledger: Ledger, job: str, component: str, after: int = 0) -> list[RoundRecord]:
    """A run's rounds after number `after`, in order."""
    records: list[RoundRecord] = []
    last = f"round/{job}/{component}/{after:08d}"
    while rows := await ledger.query(f"round/{job}/{component}/", last):
        last = rows[-1][0]
        records.extend(RoundRecord.from_json(json.loads(value)) for _, value, _ in rows)
    return records


def _reply_event(reply: Reply, now_ms: int) -> Event:
    ordinal = reply.task.ordinal
    return ReplyReceived(ordinal, now_ms) if reply.ok else ReplyFailed(ordinal, _reason(reply), now_ms)


def _reason(reply: Reply) -> str:
    return f"{reply.error_kind}: {reply.error}" if reply.error else reply.error_kind


def _encode_asks(asks: Mapping[int, Ask]) -> list[Any]:
    configs: dict[str, int] = {}
    rows = [
        [
            ordinal,
            ask.site,
            ask.call,
            configs.setdefault(json.dumps(plain(ask.config), separators=(",", ":")), len(configs)),
            base64.b64encode(ask.payload).decode(),
            ask.with_model,
        ]
        for ordinal, ask in asks.items()
    ]
    return [[json.loads(config) for config in configs], rows]


def _decode_asks(value: Any) -> dict[int, Ask]:
    configs, rows = value
    return {
        ordinal: Ask(site, call, unplain(configs[config]), base64.b64decode(payload), with_model)
        for ordinal, site, call, config, payload, with_model in rows
    }
