"""The driver: performs what the round machine instructs, over the seams. It holds no rule of its own.

One `Run` drives one component. Events are taken one turn at a time: the machine steps, quick pure work (planning,
small reductions) is done on the spot and its answer stepped at once, then the state is written with ONE
compare-and-set, and only then anything that others can see is performed (tasks are sent, the run ends). A driver
that dies at any moment is replaced by `Run.load`, which performs what is left; a driver whose write loses stops.

Resuming writes before it reads the replies, and a reply is acknowledged only if the record still bears this driver's
mark after the reply's row exists: so a driver that was taken over acknowledges nothing that its successor has not seen.

What is written where says `keeping`; what may go again, `leftovers`.
"""

import asyncio
import json
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog

from hanse.core.arrays import Arrays
from hanse.core.errors import (
    ConfigError,
    ConflictError,
    HanseError,
    NotFoundError,
    RefusedError,
    StorageError,
    TaskError,
    UnavailableError,
)
from hanse.core.ids import TaskId, model_scope, upload_scope
from hanse.core.records import Reply
from hanse.core.seams import BlobStore, Inbox, Ledger, Links
from hanse.core.spec import RunSpec
from hanse.rounds import machine, run_state
from hanse.rounds.clock import Alarms, Clock
from hanse.rounds.events import (
    Answer,
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
    Reduce,
    Reduced,
    ReduceRefused,
    Release,
    Replied,
    Resumed,
    Send,
    SetTimer,
    SitesChanged,
    Started,
    TimerFired,
)
from hanse.rounds.host import Member, PlanRequest, ReduceRequest, StrategyHost, earlier, load_arrays
from hanse.rounds.keeping import Keeping, decode_asks, encode_asks, round_records, run_record
from hanse.rounds.leftovers import Due, Leftovers
from hanse.rounds.outgoing import ModelRefs, RunInfo, release_envelope, task_envelope, task_of
from hanse.rounds.performing import planned, planned_parameters, record_of
from hanse.rounds.record import RoundRecord, mean_metrics, server_metrics
from hanse.rounds.result import Result
from hanse.rounds.run_state import RunState
from hanse.strategies import Ask

RETRY_MS = 2000
"""How long to wait before the disk is asked again."""

Observer = Callable[[dict[str, Any]], None]
Work = Callable[[], Awaitable[None]]
T = TypeVar("T")
log = structlog.get_logger("hanse.rounds")


@dataclass(frozen=True, slots=True)
class Seams:
    """The four seams of one place.

    Args:
        private: nobody else can reach them and sending never waits (simulation, the embedded server): nothing is
            gained by sending side by side, and nobody can take over.
        overlap: writes wait for a disk, so a small reply counts while its row is on its way; the run record still
            comes after the row, and so does the acknowledgement.
        unhurried: the same ledger for records that may wait a little for others to be committed with. It promises
            order: what is written through it, or made as a small blob, is durable no later than a write to `ledger`
            that was begun after it, and where it fails, that write is refused. So the run record need not wait for
            what it stands on. None where there is no such promise.
    """

    ledger: Ledger
    blobs: BlobStore
    inbox: Inbox
    links: Links
    private: bool = False
    overlap: bool = False
    unhurried: Ledger | None = None


@dataclass(slots=True)
class Moved:
    """Bytes moved in a round, and what compression saved of those from the sites."""

    down: int = 0
    up: int = 0
    saved: int = 0

    def to_json(self, compressed: bool) -> dict[str, int]:
        """As `RoundRecord.bytes`."""
        moved = {"down": self.down, "up": self.up}
        return {**moved, "saved": self.saved} if compressed else moved


@dataclass(slots=True)
class _Turn:
    """What one turn has gathered until its write."""

    outward: list[Instruction] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    finish: Finish | None = None


class Run:
    """One component's run, driven. Make it with `create` or `load`."""

    _expected: tuple[type[Exception], ...] = (ConflictError,)
    """What ends the driving and is no fault of the program."""

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
        self._mark = f'{{"driver":"{secrets.token_hex(8)}"'.encode()
        self._version = 0
        self._written = -1
        self._spilled = ""
        self._queue: deque[Event] = deque()
        self._received: list[Answer] = []
        self._unhurried = seams.unhurried or seams.ledger
        self._on_their_way: dict[str, asyncio.Future[None]] = {}
        self._put_off = 0
        self._look: asyncio.Task[None] | None = None
        self._working = False
        self._resumed = asyncio.Event()
        self._closed = False
        self._asks: dict[int, Ask] = {}
        self._replies: dict[int, Reply] = {}
        self._receipt = 0
        self._taking: dict[int, asyncio.Future[None]] = {}
        self._left = Leftovers([] if state.model is None else [state.model[0]])
        self._models = ModelRefs(seams.blobs)
        self._moved = Moved()
        self._fingerprints: dict[str, str] = {}
        self._update_kind = "values"
        self._unkept: list[dict[str, Any]] = []
        self._alarms = Alarms(clock, self._due, lambda: self.finished.done())
        self._background: set[asyncio.Task[None]] = set()
        self._cleaners: set[asyncio.Task[None]] = set()
        self._key = f"{state.job}/{state.component}"
        self._keeping = Keeping(self._unhurried, seams.blobs, self._key)
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
        content, run._spilled = await run._keeping.spill(run._encode(), run._mark, state.revision)
        key = run._keeping.run_key
        if not await seams.ledger.create(key, content) and (await seams.ledger.get(key))[0] != content:
            raise ConflictError(f"job {state.job}: component {state.component} is there already")
        run._version, run._written = 1, state.revision
        run._resumed.set()
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
        record, version, spilled = await run_record(seams.ledger, seams.blobs, job, component)
        state = run_state.decode(record["state"])
        run = cls(state, seams, make_host(state.spec), clock, info)
        run._version, run._written = version, state.revision
        run._spilled = spilled
        run._asks = decode_asks(record["asks"])
        run._unkept = record["checkpoints"]
        run._left.models = record["models"]
        run._left.uploads = {round_: set() for round_ in record["uploads"]}
        run._fingerprints = record["fingerprints"]
        run._moved = Moved(*record["moved"])
        run._models.sizes = dict(record.get("sizes", {}))
        run._update_kind = record["update_kind"]
        run._loaded(record)
        return run

    def _loaded(self, record: Mapping[str, Any]) -> None:
        """What else a record says."""

    async def start(self) -> None:
        """The first event of a new run."""
        await self.post(Started(self._clock.now_ms()))

    async def resume(self, sites: Sequence[str]) -> None:
        """Perform what is left. `sites`: those expected to be there; their leases start afresh.

        Raises:
            ConflictError: another shell has taken the run up meanwhile.
        """
        try:
            rows = await self._take_up()
        except BaseException as error:
            self._stop(error if isinstance(error, Exception) else UnavailableError("resuming was interrupted"))
            if not self.finished.cancelled():
                self.finished.exception()  # it is raised here, too: nobody need await it
            raise
        finally:
            self._resumed.set()
        self._queue.appendleft(Resumed(rows, tuple(sites), self._clock.now_ms()))
        await self._work()

    async def _take_up(self) -> tuple[Answer, ...]:
        await self._write()  # the mark: whoever drove before can neither write nor acknowledge any more
        rows = await self._patiently("read the replies", self._load_replies)
        for record in self._unkept:
            await self._patiently("keep a round's record", self._keeping.round_row, record)
        self._unkept = []
        state = self.state
        slots = (*state.open.values(), *state.closing.values(), *state.carried.values(), *state.released.values())
        self._left.may_upload(state.round)
        for slot in slots:
            self._left.may_upload(slot.round, [slot.site])
        return rows

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """Site → numerics fingerprint of its worker, as far as it has answered."""
        return self._fingerprints

    # ---- events ----

    async def post(self, event: Event) -> None:
        """Let something happen. Returns when the run has come to rest, or at once if it is at work already.

        Raises nothing: what ends the driving is the exception of `finished`.
        """
        self._queue.append(event)
        await self._work()

    async def _work(self) -> None:
        if self._working or not self._resumed.is_set():
            return
        self._working = True
        try:
            while (self._queue or self._received) and not self._closed and not self.finished.done():
                await self._turn()
        except asyncio.CancelledError:
            self._stop(UnavailableError("the driver was interrupted in the middle of a turn"))
            raise
        except self._expected as error:
            self._stop(error)
        except Exception as error:  # the top of a turn: end the driving by name, never silently
            self._log.exception("run stopped by an internal error")
            self._stop(error)
        finally:
            self._working = False

    async def sites_changed(
        self, sites: Sequence[str], undecided: int = 0, unwilling: Mapping[str, str] | None = None
    ) -> None:
        """The sites that hold a lease and accepted the job; see `SitesChanged`."""
        said = tuple(sorted((unwilling or {}).items()))
        await self.post(SitesChanged(tuple(sorted(sites)), self._clock.now_ms(), undecided, said))

    async def cancel(self, by: str) -> None:
        """End the run."""
        await self.post(Cancelled(by, self._clock.now_ms()))

    async def take(self, reply: Reply, packed: bytes | None = None) -> tuple[str, str]:
        """Receive a reply: durable when this returns. Call `settle` afterwards to let it count.

        Args:
            packed: the reply as it came, if it need not be packed again.

        Returns:
            `received`, `duplicate` or `refused`, and the reason of a refusal.

        Raises:
            StorageError: the disk refuses; UnavailableError: this driver is no longer in charge. The site keeps the
            reply and sends it again.
        """
        await self._resumed.wait()
        ordinal = reply.task.ordinal
        while ordinal in self._taking:
            await asyncio.wait([self._taking[ordinal]])
        self._check_in_charge()
        slot = self.state.open.get(ordinal) or self.state.released.get(ordinal)
        if machine.expects(self.state, ordinal) == "settled" or slot is None or ordinal in self._replies:
            return "duplicate", ""
        if reply.site != slot.site or reply.task != self.state.task_id(ordinal, slot):
            return "refused", "the task is another site's"
        done = self._taking[ordinal] = asyncio.get_running_loop().create_future()
        try:
            return await self._take(reply, packed)
        finally:
            del self._taking[ordinal]
            done.set_result(None)

    async def _take(self, reply: Reply, packed: bytes | None) -> tuple[str, str]:
        ordinal, update, ledger = reply.task.ordinal, reply.update, self._seams.ledger
        if update is not None and update.content is None:
            if update.scope != upload_scope(reply.task, reply.site):
                return "refused", "the update lies outside the site's own scope"
            if await self._seams.blobs.missing(update.scope, update.manifest):
                return "refused", "the update has not been uploaded"
        receipt = self._receipt = max(self._clock.now_ms() * 1000, self._receipt + 1)
        reply, content = await self._keeping.reply_row(reply, receipt, packed)
        row = self._keeping.reply_key(self.state.round, ordinal)
        self._left.replied(ordinal, self.state.round)
        if self._seams.overlap and (reply.update is None or reply.update.content is not None):
            return await self._take_early(reply, receipt, row, content)
        try:
            if not await ledger.create(row, content):
                # Written before by a driver that could not acknowledge it.
                content, _ = await ledger.get(row)
                receipt, reply = self._keeping.read_reply(content)
            # A successor would have left its own mark before it read the rows.
            if not self._seams.private:
                await self._check_not_taken_over()
        except NotFoundError as error:  # a successor has deleted the row
            self._left.settled([ordinal])
            raise UnavailableError(str(error)) from None
        except BaseException:
            self._left.settled([ordinal])
            raise
        self._check_in_charge()
        if self.state.over:
            return "duplicate", ""
        self._remember(reply)
        self._received.append(_answer(reply, receipt))
        return "received", ""

    async def _take_early(self, reply: Reply, receipt: int, row: str, content: bytes) -> tuple[str, str]:
        """Let the reply count while its row is being written: closing and reducing share the disk's time with it.

        Nothing that is durable or visible comes of it before the row is there: `_write` waits for it.
        """
        self._remember(reply)
        self._received.append(_answer(reply, receipt))
        if not self._working and len(self._received) == 1:
            self._spawn(self._work)
        # One that is there already was written before by a driver that could not acknowledge it.
        await self._on_its_way(row, "keep a reply", self._unhurried.create, row, content)
        if not self._seams.private:
            await self._check_not_taken_over()
        self._check_in_charge()
        return "received", ""

    async def _on_its_way(self, key: str, what: str, call: Callable[..., Awaitable[T]], *args: Any) -> None:
        """Write what the next run record stands on."""
        there = self._on_their_way.setdefault(key, asyncio.get_running_loop().create_future())
        try:
            await self._patiently(what, call, *args)
        finally:
            del self._on_their_way[key]
            there.set_result(None)

    def _keep_round(self, content: dict[str, Any]) -> None:
        """Give a round's record its row. The next run record, which leaves it out, comes after it."""
        key = f"round {content['number']}"
        self._on_their_way[key] = asyncio.get_running_loop().create_future()
        self._put_off += 1  # until its row is begun

        async def keep() -> None:
            try:
                row = await self._patiently("keep a round's record", self._keeping.round_content, content)
            except BaseException:
                self._on_their_way.pop(key).set_result(None)
                raise
            finally:
                self._put_off -= 1
            create = self._keeping.create_round_row
            await self._on_its_way(key, "keep a round's record", create, content["number"], row)

        if self._spawn(keep) is None:  # this driver is over, and nothing will run
            self._put_off -= 1
            self._on_their_way.pop(key).set_result(None)

    async def _check_not_taken_over(self) -> None:
        """Look at the run record once more, after the row is there. Replies that came together share one look."""
        if self._look is None:
            self._look = asyncio.ensure_future(self._look_at_record())
        await asyncio.shield(self._look)

    async def _look_at_record(self) -> None:
        await asyncio.sleep(0)  # lets every reply of the same commit join
        self._look = None
        record, _ = await self._seams.ledger.get(self._keeping.run_key)
        if not record.startswith(self._mark):
            self._stop(ConflictError(f"job {self.state.job}: another server has taken over"))

    def _check_in_charge(self) -> None:
        has_stopped = self.finished.done() and (self.finished.cancelled() or self.finished.exception() is not None)
        if has_stopped or (self._closed and not self.state.over):
            raise UnavailableError(f"job {self.state.job}: not driven here now; try again")

    async def settle(self) -> None:
        """Let what was taken count."""
        await self._work()

    # ---- results ----

    async def result(self) -> Result:
        """The result so far; the arrays are those of the last model."""
        records = await round_records(self._seams.ledger, self.state.job, self.state.component, blobs=self._seams.blobs)
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
        await self._step_all(turn)
        kept = [self._record_of(checkpoint) for checkpoint in turn.checkpoints]
        self._unkept = [record for _, record in kept]
        if self.state.revision != self._written:
            await self._write()
        await self._perform_all(turn.outward)
        for (record, content), checkpoint in zip(kept, turn.checkpoints, strict=True):
            self._keep_round(content)
            self._settle(record, content, checkpoint.fates)
        self._unkept = []
        if turn.finish is not None:
            await self._finish(turn.finish)

    async def _step_all(self, turn: _Turn) -> None:
        """Step, and step again with the answers of whatever can be done on the spot.

        Replies go first, whatever else there is: one that was acknowledged must not find the run over. Answers go
        before other events: one that comes while a phase is planned must find it planned, or starved.
        """
        answers: deque[Event] = deque()
        while event := self._next(answers):
            self.state, instructions = machine.step(self.state, event)
            for instruction in instructions:
                if isinstance(instruction, Plan):
                    answers.append(await self._plan(instruction))
                elif isinstance(instruction, Checkpoint):
                    turn.checkpoints.append(instruction)
                elif isinstance(instruction, Reduce) and self._is_small(instruction):
                    answer = await self._reduce(instruction)
                    if answer is not None:
                        answers.append(answer)
                elif isinstance(instruction, Finish):
                    turn.finish = instruction
                else:
                    turn.outward.append(instruction)

    def _next(self, answers: deque[Event]) -> Event | None:
        if self._received:
            replies, self._received = tuple(self._received), []
            return Replied(replies, self._clock.now_ms())
        queue = answers or self._queue
        return queue.popleft() if queue else None

    async def _perform_all(self, instructions: Sequence[Instruction]) -> None:
        """Tasks go out side by side, so that a ledger can commit them together."""
        sends = [] if self._seams.private else [i for i in instructions if isinstance(i, Send)]
        if len(sends) > 1:
            await asyncio.gather(*(self._perform(instruction) for instruction in sends))
            instructions = [instruction for instruction in instructions if not isinstance(instruction, Send)]
        for instruction in instructions:
            await self._perform(instruction)

    async def _perform(self, instruction: Instruction) -> None:
        """Do it; later, if the disk refuses now."""
        try:
            match instruction:
                case Send():
                    await self._send(instruction)
                case SetTimer(id, at_ms):
                    self._alarms.set(id, at_ms)
                case Reduce():
                    self._spawn(lambda: self._reduce_and_post(instruction))
                case Evaluate():
                    self._spawn(lambda: self._evaluate(instruction))
                case Release(tasks):
                    await self._release(tasks)
        except (StorageError, UnavailableError) as error:
            what = f"perform {type(instruction).__name__}"
            self._later(what, error, lambda: self._perform(instruction))

    async def _finish(self, finish: Finish) -> None:
        """The last: nothing is left behind but records and models."""
        while self._taking or self._on_their_way:
            await asyncio.wait([*self._taking.values(), *self._on_their_way.values()])
        if self._cleaners:
            await asyncio.wait(list(self._cleaners))
        if not self.state.spec.keep_updates:
            here = model_scope(self.state.job, self.state.component, self.state.round)
            await self._clean(self._left.due_at_the_end(self.state, self._needed_scopes(), here))
        self._tell("finished", status=finish.status, error=finish.error)
        if not self.finished.done():
            self.finished.set_result(finish.status)

    # ---- time ----

    def _due(self, timers: Sequence[str]) -> None:
        now_ms = self._clock.now_ms()
        self._queue.extend(TimerFired(id, now_ms) for id in timers)
        self._spawn(self._work)

    def _later(self, what: str, why: Exception, work: Work) -> None:
        self._log.error(f"cannot {what}; trying again", reason=str(why))

        def again() -> None:
            self._spawn(work)

        self._clock.call_at(self._clock.now_ms() + RETRY_MS, again)

    async def _patiently(self, what: str, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Wait until the disk takes it: nothing else may happen before."""
        while True:
            try:
                return await call(*args)
            except (StorageError, UnavailableError) as error:
                self._log.error(f"cannot {what}; trying again", reason=str(error))
                ready = asyncio.Event()
                self._clock.call_at(self._clock.now_ms() + RETRY_MS, ready.set)
                self._put_off += 1  # as long as it is not under way again
                try:
                    await ready.wait()
                finally:
                    self._put_off -= 1

    # ---- in the background ----

    def _spawn(self, work: Work) -> "asyncio.Task[None] | None":
        if self._closed or self.finished.done():
            return None
        task = asyncio.ensure_future(self._guarded(work))
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _guarded(self, work: Work) -> None:
        try:
            await work()
        except asyncio.CancelledError:
            raise
        except self._expected as error:
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
        extends = instruction.extends
        if instruction.round == 0:
            return self._plan_parameters(sites, extends, now)
        previous = earlier([self._replies[o] for o in instruction.previous if o in self._replies])
        try:
            request = PlanRequest(
                *where,
                sites,
                instruction.busy,
                previous,
                bool(instruction.only),
                instruction.refills,
                instruction.asked,
                self.state.memory,
            )
            answer = await self._patiently("plan", self._host.plan, request)
        except ConfigError as error:
            return PlanFailed(*where, str(error), now)
        except (TaskError, RefusedError) as error:
            return PlanFailed(*where, f"the app's server side: {error}", now, final=True)
        self._update_kind = answer.update_kind
        self._expect(answer.plan.asks)
        event = planned(instruction, answer, now)
        self._tell("phase", round=instruction.round, phase=event.phase, asked=len(event.tasks))
        return event

    def _plan_parameters(self, sites: Sequence[str], extends: bool, now: int) -> Event:
        if not sites:
            return PlanFailed(0, 0, "no site is there to be asked for the initial model", now)
        ask, event = planned_parameters(self.state.spec, sites, extends, now)
        self._expect([ask])
        return event

    def _expect(self, asks: Sequence[Ask]) -> None:
        """The machine issues ordinals in the order of the asks."""
        for offset, ask in enumerate(asks):
            self._asks[self.state.next_ordinal + offset] = ask

    async def _send(self, instruction: Send) -> None:
        task_id, site = instruction.task, instruction.site
        slot, ask = self.state.open.get(task_id.ordinal), self._asks.get(task_id.ordinal)
        if slot is None or ask is None or slot.answer:
            return
        model = None
        if ask.with_model and slot.model is not None:
            model = await self._models.ref(slot.model, self._needed)
        task = task_of(self._info, self.state.spec, task_id, slot, ask, model, self._update_kind)
        read = [(ref.scope, ref.id) for ref in (model, task.bundle) if ref is not None and ref.content is None]
        self._seams.links.grant(site, read=read, write=[upload_scope(task_id, site)])
        self._left.may_upload(task_id.round, [site])
        if model is not None:
            self._moved.down += model.manifest.size
            if model.content is None:
                self._left.readers.setdefault(model.scope, set()).add(site)
        left_s = max(0.0, (instruction.deadline_ms - self._clock.now_ms()) / 1000)
        await self._seams.inbox.send(site, task_envelope(self._info, task, left_s))

    async def _release(self, tasks: Sequence[tuple[TaskId, str]]) -> None:
        for task_id, site in tasks:
            await self._seams.inbox.send(site, release_envelope(self._info, task_id, site), durable=False)

    def _needed(self) -> set[BlobKey]:
        slots = (*self.state.open.values(), *self.state.carried.values())
        keys = {slot.model for slot in slots if slot.model is not None} | set(self.state.state)
        return keys | ({self.state.model} if self.state.model is not None else set())

    # ---- replies ----

    def _remember(self, reply: Reply) -> None:
        self._replies[reply.task.ordinal] = reply
        if reply.fingerprint:
            self._fingerprints[reply.site] = reply.fingerprint
        if reply.update is not None:
            self._moved.up += reply.update.manifest.size
            self._moved.saved += self._saved(reply.base, reply.update.manifest.size)
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

    def _saved(self, base: str, sent: int) -> int:
        """An update that is not compressed is as long as its model."""
        size = self._models.sizes.get(base) if self.state.spec.compression else None
        return 0 if size is None else size - sent

    async def _load_replies(self) -> tuple[Answer, ...]:
        """Rows that exist and matter."""
        state = self.state
        wanted = {*state.open, *state.closing, *state.carried, *state.released, *state.previous, *state.fates}
        found: list[Answer] = []
        async for round_, ordinal, row in self._keeping.reply_rows():
            self._left.rows.add(round_)
            self._row_seen(round_, ordinal)
            if ordinal not in wanted:
                continue
            receipt, reply = self._keeping.read_reply(row)
            self._receipt = max(self._receipt, receipt)
            self._replies[ordinal] = reply
            self._left.replied(ordinal, round_)
            found.append(_answer(reply, receipt))
        return tuple(found)

    def _row_seen(self, round_: int, ordinal: int) -> None:
        """There is a row."""

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
            Member(
                folded.task.ordinal,
                self._replies[folded.task.ordinal],
                folded.position,
                folded.staleness,
                folded.seconds,
                folded.group,
            )
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
            self.state.memory,
        )
        try:
            answer = await self._host.reduce(request)
        except (StorageError, UnavailableError) as error:
            self._later("write the model", error, lambda: self._reduce_and_post(instruction))
            return None
        except HanseError as error:
            return Failed(f"round {instruction.round}, phase {instruction.phase}: {error}", self._clock.now_ms())
        if answer.refused:
            return ReduceRefused(*where, answer.refused, self._clock.now_ms())
        if answer.model is not None:
            self._left.made(answer.model[0])
        metrics = mean_metrics(instruction.phase, [(m.reply.num_examples, m.reply.metrics) for m in members])
        return Reduced(*where, answer.model, answer.state, metrics, self._clock.now_ms(), answer.memory)

    async def _reduce_and_post(self, instruction: Reduce) -> None:
        if [folded.task.ordinal for folded in instruction.folded] != list(self.state.closing):
            return  # it was put off, and the run has ended meanwhile
        event = await self._reduce(instruction)
        if event is not None:
            await self.post(event)

    async def _evaluate(self, instruction: Evaluate) -> None:
        try:
            metrics = server_metrics(await self._host.evaluate(instruction.model, instruction.round))
        except (StorageError, UnavailableError) as error:
            self._later("evaluate the model", error, lambda: self._evaluate(instruction))
        except HanseError as error:
            reason = f"round {instruction.round}, evaluation at the server: {error}"
            await self.post(Failed(reason, self._clock.now_ms()))
        else:
            await self.post(Evaluated(instruction.round, metrics, self._clock.now_ms()))

    # ---- writing ----

    async def _write(self) -> None:
        """The step's one write. A full disk is waited for; a lost compare-and-set ends this driver.

        Raises:
            ConflictError: another shell has written.
        """
        revision, before = self.state.revision, self._spilled
        content = self._encode()
        await self._patiently("write the run record", self._write_once, content)
        self._version += 1
        self._written = revision
        if before and before != self._spilled:
            await self._forget(before)

    async def _write_once(self, content: bytes) -> None:
        key, ledger = self._keeping.run_key, self._seams.ledger
        content, self._spilled = await self._keeping.spill(content, self._mark, self.state.revision)
        while self._on_their_way and (self._put_off or self._seams.unhurried is None):
            await asyncio.wait(list(self._on_their_way.values()))
        if await ledger.compare_and_set(key, content, self._version):
            return
        if await ledger.get(key) != (content, self._version + 1):  # an earlier try may have done it, and then failed
            raise ConflictError(f"job {self.state.job}: another server has taken over")

    def _encode(self) -> bytes:
        wanted = {ordinal for ordinal, slot in self.state.open.items() if not slot.answer}
        self._asks = {ordinal: ask for ordinal, ask in self._asks.items() if ordinal in wanted}
        record = {
            "state": run_state.encode(self.state),
            "asks": encode_asks(self._asks),
            "checkpoints": self._unkept,
            "models": self._left.models,
            "uploads": sorted(self._left.uploads),
            "fingerprints": self._fingerprints,
            "update_kind": self._update_kind,
            "moved": [self._moved.down, self._moved.up, self._moved.saved],
            "sizes": self._models.sizes if self.state.spec.compression else {},
        }
        return self._mark + b"," + json.dumps(record, separators=(",", ":")).encode()[1:]

    # ---- checkpoints ----

    def _record_of(self, checkpoint: Checkpoint) -> tuple[RoundRecord, dict[str, Any]]:
        """The round's record for people, from the machine's checkpoint and the replies' metrics."""
        with_update = {ordinal for ordinal, reply in self._replies.items() if reply.update is not None}
        moved = self._moved.to_json(bool(self.state.spec.compression))
        record = record_of(checkpoint, self._replies, with_update, moved)
        self._moved = Moved()
        fates = [[ordinal, site, fate] for ordinal, (site, fate) in checkpoint.fates.items()]
        return record, {**record.to_json(), "fates": fates}

    def _settle(self, record: RoundRecord, content: dict[str, Any], fates: Mapping[int, tuple[str, str]]) -> None:
        """After the write: let go of what is settled."""
        self._tell("round", record={name: value for name, value in content.items() if name != "fates"})
        for ordinal in fates:
            self._replies.pop(ordinal, None)
        self._left.settled(fates)
        if self.state.spec.keep_updates or self.state.over:
            return
        due = self._left.due(self.state, record.number, self._needed_scopes())
        task = None if due is None else self._spawn(lambda: self._clean(due))
        if task is not None:
            self._cleaners.add(task)
            task.add_done_callback(self._cleaners.discard)

    def _needed_scopes(self) -> set[str]:
        return {scope for scope, _ in self._needed()}

    async def _clean(self, due: Due) -> None:
        """Blobs first: while there is a row, another driver knows that there may be blobs."""
        links = self._seams.links
        await asyncio.gather(*(self._forget(scope) for scope in due.models))
        for scope in due.models:
            for site in self._left.readers.get(scope, ()):
                links.revoke(site, scope_prefix=scope)
        for round_ in due.uploads:
            scope = f"{self._key}/{round_}/up"
            for site in self._left.uploads.get(round_, ()):
                links.revoke(site, scope_prefix=scope)
            await self._forget(scope)
        rows = (None,) if due.rows is None else due.rows
        await asyncio.gather(*(self._patiently("delete replies", self._delete_replies, row) for row in rows))
        self._left.gone(due)

    async def _delete_replies(self, round_: int | None) -> None:
        await self._keeping.delete_replies(round_)

    async def _forget(self, scope: str) -> None:
        await self._patiently("delete blobs", self._seams.blobs.delete_scope, scope)

    def _tell(self, what: str, **facts: Any) -> None:
        for observer in self.observers:
            observer({"what": what, "job": self.state.job, **facts})


def _answer(reply: Reply, receipt: int) -> Answer:
    reason = f"{reply.error_kind}: {reply.error}" if reply.error else reply.error_kind
    return reply.task.ordinal, reason, receipt
