"""The simulation's shell: drives the round machine in memory, in virtual time, with an engine for the sites' code.

It performs what the machine instructs as the driver does, and holds no rule of its own; what both make of a plan, of a
checkpoint and of a closed phase is in `rounds`. No wire forms, no ledger, no event loop: a reply costs a few
microseconds beside the client's own code.

Time. Every task that is sent gets the moment at which its reply arrives, from a trace (`traces.py`); without traces all
arrive at once, in the order in which they were sent. The shell takes the replies that come before anything else can be
decided, lets the engine compute them, in order of position, and tells the machine of all of them. A reply that comes
after its phase has closed is late, as in a federation; a site that is released in the middle of its work computes
nothing. Without traces time is the wall clock's, and no deadline passes while a site is at work.
"""

import heapq
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

from hanse.aggregation import Partial
from hanse.aggregation.canonical import GROUP
from hanse.clients.app import App
from hanse.clients.failures import SHOWN, failure_of, text_of
from hanse.clients.server import ServerRuntime
from hanse.core.arrays import Arrays
from hanse.core.errors import ConfigError, HanseError, RefusedError, TaskError
from hanse.core.ids import TaskId
from hanse.core.quickly import maker
from hanse.core.records import Reply, Task
from hanse.core.spec import RunSpec
from hanse.core.tracked import Tracked
from hanse.rounds import machine
from hanse.rounds.events import (
    Answer,
    BlobKey,
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
from hanse.rounds.hosts.host import PlanRequest
from hanse.rounds.hosts.planning import earlier, plan_phase
from hanse.rounds.names import Without
from hanse.rounds.performing import planned, planned_parameters, record_of
from hanse.rounds.record import RoundRecord, mean_metrics, server_metrics
from hanse.rounds.result import Result
from hanse.rounds.run_state import RunState
from hanse.rounds.telling import Observer, Telling
from hanse.simulation.engine import Batch, Engine, Summed
from hanse.simulation.models import Models
from hanse.simulation.sites import Population, to_stderr
from hanse.simulation.traces import Traces, Visit
from hanse.simulation.updates import Updates
from hanse.strategies import Ask, Strategy

_task = maker(Task)
LEASE_S = 10.0
"""Virtual seconds until it is noticed that a site has gone, as over gRPC."""


class Flight(NamedTuple):
    """A task that was sent and has not been answered."""

    send: Send
    ask: Ask
    model: BlobKey | None
    arrives_ms: float


class Shell:
    """One run in memory.

    Args:
        server: the app's own side at the server.
        engine: where client code runs; the caller closes it.
        observers: called with every event (phase, reply, round, finished) as a dict.
    """

    def __init__(
        self,
        app: App,
        strategy: Strategy,
        server: ServerRuntime,
        population: Population,
        engine: Engine,
        traces: Traces,
        state: RunState,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.state = state
        self.models = Models(state.job)
        self.records: list[RoundRecord] = []
        self.site_states: dict[str, bytes] = {}
        self.fingerprints: dict[str, str] = {}
        self.now_ms = 0
        self.mixed = False
        """Whether that was so before the run was resumed; see `is_mixed`."""
        self.on_checkpoint: Callable[[Shell], None] | None = None
        self._spec: RunSpec = state.spec
        self._strategy = strategy
        self._server = server
        self._config = server.config if state.spec.server_config else None
        self._names = population.names
        self._engine = engine
        self._traces = traces
        self.virtual = traces.virtual
        """Whether time is virtual."""
        self._telling = Telling(state.job, observers)
        self._directory = _directory(app)
        self._asks: dict[int, Ask] = {}
        self.flights: dict[int, Flight] = {}
        self.arrivals: list[tuple[float, int]] = []
        self.losses: list[tuple[float, str, int]] = []
        self.lost: set[str] = set()
        self.timers: dict[str, tuple[int, str]] = {}
        self.replies: dict[int, Reply] = {}
        self.update_kind = "values"
        self.updates = Updates(strategy, state.spec, self.models)
        self.receipt = 0
        self._started_s = time.perf_counter()

    # ---- the whole run ----

    def begin(self, model: Arrays | None) -> None:
        """Start a new run; `model`: the initial model if the app brings one."""
        if model is not None:
            self.state.model = self.models.keep(0, model)
        self._happen(Started(self._now()))
        self._sites_changed()

    def go_on(self, resumed: Resumed) -> None:
        """Take up a run that was restored."""
        self._started_s -= self.now_ms / 1000
        self._happen(replace(resumed, sites=self._present()))

    @property
    def is_mixed(self) -> bool:
        """Whether workers of different numerics fingerprints had a part in it."""
        return self.mixed or bool(self._engine.settings.get("mixed_hardware"))

    def run(self) -> Result:
        """Let things happen until the run is over."""
        while not self.state.over:
            self._next()
        return self.result()

    def result(self) -> Result:
        """The result so far."""
        state = self.state
        sites = {site for record in self.records for site in (*record.folded, *record.late, *record.failed)}
        return Result(
            state.status,
            Arrays() if state.model is None else self.models.arrays[state.model],
            rounds=tuple(self.records),
            job=state.job,
            error=state.error,
            sites=tuple(sorted(sites)),
            fingerprints=dict(self.fingerprints),
            about={"Hardware": "mixed, so that bits are not comparable"} if self.is_mixed else {},
        )

    def _next(self) -> None:
        """What happens next: replies arrive, a site is found to be gone, or a timer fires."""
        timer = min(self.timers.values(), default=(math.inf, ""))
        while self.losses and self.losses[0][2] not in self.flights:
            heapq.heappop(self.losses)  # released: nobody waits for this site any more
        lost = self.losses[0][0] if self.losses else math.inf
        ready = self._ready(min(timer[0], lost) if self.virtual else math.inf)
        if ready:
            self._answer(ready)
        elif lost <= timer[0] and lost < math.inf:
            at, site, _ = heapq.heappop(self.losses)
            self._pass_to(at)
            self.lost.add(site)
            self._sites_changed()
        elif timer[1]:
            self._wait_for(timer)
        else:
            raise RuntimeError(f"the simulation has come to a halt in stage {self.state.stage}")

    def _wait_for(self, timer: tuple[float, str]) -> None:
        step = self._traces.step_ms
        if self.state.stage in ("waiting", "starved") and step and self.now_ms + step < timer[0]:
            self._pass_to(self.now_ms + step)
            self._sites_changed()
            return
        at, name = timer
        del self.timers[name.partition("/")[0]]
        self._pass_to(at)
        self._happen(TimerFired(name, self._now()))

    # ---- time ----

    def _now(self) -> int:
        if not self.virtual:
            self.now_ms = max(self.now_ms, int((time.perf_counter() - self._started_s) * 1000))
        return self.now_ms

    def _pass_to(self, at_ms: float) -> None:
        self.now_ms = max(self.now_ms, int(at_ms))

    def _present(self) -> Sequence[str]:
        names = self._traces.present(self._names, self._spec.seed, self.now_ms / 1000)
        return Without(names, self.lost) if self.lost else names

    def _sites_changed(self) -> None:
        self._happen(SitesChanged(self._present(), self._now()))

    # ---- stepping ----

    def _happen(self, event: Event) -> None:
        """Step, and step again with the answers to what the machine instructs."""
        events = [event]
        while events:
            _, instructions = machine.step(self.state, events.pop(0))
            sends = [instruction for instruction in instructions if type(instruction) is Send]  # most of them
            self._send(sends)
            for instruction in instructions if len(sends) < len(instructions) else ():
                if type(instruction) is Send:
                    continue
                answer = self._perform(instruction)
                if answer is not None:
                    plans = isinstance(answer, Reduced | Evaluated)
                    if plans and (self.lost or self._traces.step_ms):  # who is there is asked anew before each phase
                        self._come_back()
                        events.append(SitesChanged(self._present(), self._now()))
                    events.append(answer)

    def _perform(self, instruction: Instruction) -> Event | None:
        match instruction:
            case Plan():
                return self._plan(instruction)
            case SetTimer(name, at_ms):
                self.timers[name.partition("/")[0]] = (at_ms, name)
            case Reduce():
                return self._reduce(instruction)
            case Evaluate(round_, model):
                return self._evaluate(round_, model)
            case Checkpoint():
                self._checkpoint(instruction)
            case Release(tasks):
                self._release(tasks)
            case Finish(status, error):
                self._telling.tell("finished", status=status, error=error)
        return None

    def _come_back(self) -> None:
        """Who was lost is there again; what it was asked and has not been released from, it does now."""
        for ordinal, flight in self.flights.items():
            if flight.send.site in self.lost:
                takes = self._traces.takes_ms(self._visit(flight.send), certain=True)
                self.flights[ordinal] = flight._replace(arrives_ms=self.now_ms + takes)
                heapq.heappush(self.arrivals, (self.now_ms + takes, ordinal))
        self.lost.clear()

    def _visit(self, send: Send) -> Visit:
        task = send.task
        return Visit(self._spec.seed, send.site, task.round, task.phase, send.attempt, self.now_ms / 1000)

    # ---- planning and sending ----

    def _plan(self, plan: Plan) -> Event:
        where = (plan.round, plan.phase_index)
        sites = plan.only or plan.sites
        if plan.round == 0:
            if not sites:
                return PlanFailed(*where, "no site is there to be asked for the initial model", self._now())
            ask, event = planned_parameters(self._spec, sites, bool(plan.only), self._now())
            self._asks = {self.state.next_ordinal: ask}
            return event
        previous = earlier([self.replies[o] for o in plan.previous if o in self.replies])
        request = PlanRequest(
            *where, sites, plan.busy, previous, bool(plan.only), plan.refills, plan.asked, self.state.memory
        )
        try:
            with self._named():
                answer = plan_phase(self._strategy, self._spec, request, self._config)
        except ConfigError as error:
            return PlanFailed(*where, str(error), self._now())
        except (TaskError, RefusedError) as error:
            return PlanFailed(*where, f"the app's server side: {error}", self._now(), final=True)
        self.update_kind = answer.update_kind
        first = self.state.next_ordinal
        self._asks = {first + offset: ask for offset, ask in enumerate(answer.plan.asks)}
        event = planned(plan, answer, self._now())
        self._telling.tell("phase", round=plan.round, phase=event.phase, asked=len(event.tasks))
        return event

    def _send(self, sends: Sequence[Send]) -> None:
        """Let tasks go out. One that is out already, or answered, does not go again."""
        slots, asks, flights, virtual = self.state.open, self._asks, self.flights, self.virtual
        before = len(flights)
        for send in sends:
            ordinal = send.task.ordinal
            slot, ask = slots.get(ordinal), asks.get(ordinal)
            if slot is None or ask is None or slot.answer or ordinal in flights:
                continue
            arrives = self.now_ms + self._traces.takes_ms(self._visit(send)) if virtual else 0.0
            model = slot.model if ask.with_model else None
            flights[ordinal] = Flight(send, ask, model, arrives)
            if arrives < math.inf:
                heapq.heappush(self.arrivals, (arrives, ordinal))
            else:
                heapq.heappush(self.losses, (self.now_ms + LEASE_S * 1000, send.site, ordinal))
                self.updates.never(send.position)
        sent = Counter(flight.model for flight in islice(flights.values(), before, None))
        for model, times in sent.items():
            self.updates.moved["down"] += 0 if model is None else times * self.models.refs[model].manifest.size

    def _release(self, tasks: Sequence[tuple[TaskId, str]]) -> None:
        """Who has not finished stops working; a reply of this very moment is on its way and will be late."""
        for task, _ in tasks:
            flight = self.flights.get(task.ordinal)
            if flight is not None and flight.arrives_ms > self.now_ms:
                del self.flights[task.ordinal]

    # ---- replies ----

    def _ready(self, until_ms: float) -> list[int]:
        """The next replies to arrive, up to the one at which something may be decided; they leave the queue."""
        state = self.state
        wanted = min(state.count - state.num_ok, state.num_awaited) if state.stage == "open" else 0
        if state.stage == "open" and (state.refill or state.by_group):
            wanted = 1  # something may be decided at every reply
        unbounded = wanted <= 0
        if not self.virtual and (unbounded or wanted >= len(self.arrivals)):
            arrivals, self.arrivals = self.arrivals, []
            return [ordinal for _, ordinal in sorted(arrivals) if ordinal in self.flights]
        ready: list[int] = []
        while self.arrivals and self.arrivals[0][0] <= until_ms and (unbounded or wanted > 0):
            ordinal = heapq.heappop(self.arrivals)[1]
            if ordinal not in self.flights:
                continue
            ready.append(ordinal)
            slot = state.open.get(ordinal)
            if slot is not None and slot.phase == state.phase and (state.keep_in_flight or slot.round == state.round):
                wanted -= 1
        return ready

    def _answer(self, ordinals: Sequence[int]) -> None:
        """Compute replies and let them arrive."""
        flights = {ordinal: self.flights[ordinal] for ordinal in ordinals}
        reasons: dict[int, str] = {}
        for group in _alike(flights):
            self._compute(group, flights, reasons)
            if self._spec.on_error == "fail" and any(reasons.values()):
                break
        for ordinal, flight in flights.items():
            if ordinal in reasons:
                del self.flights[ordinal]
            else:  # put back what was not begun
                heapq.heappush(self.arrivals, (flight.arrives_ms, ordinal))
        self._happen(Replied(self._receipts(reasons, flights), self._now()))

    def _receipts(self, reasons: Mapping[int, str], flights: Mapping[int, Flight]) -> tuple[Answer, ...]:
        """The replies in the order in which they arrive; time passes to the last of them."""
        if not self.virtual:  # no time passes, and receipts only count
            first, self.receipt = self.receipt + 1, self.receipt + len(reasons)
            order = sorted(reasons)
            return tuple(zip(order, map(reasons.__getitem__, order), count(first), strict=False))
        answers: list[Answer] = []
        arrived = sorted((flights[ordinal].arrives_ms, ordinal) for ordinal in reasons)
        self._pass_to(arrived[-1][0])
        for at_ms, ordinal in arrived:
            self.receipt = max(self.receipt + 1, int(at_ms * 1000))  # microseconds of virtual time
            answers.append((ordinal, reasons[ordinal], self.receipt))
        return tuple(answers)

    def _compute(self, ordinals: Sequence[int], flights: Mapping[int, Flight], reasons: dict[int, str]) -> None:
        """Let the engine do tasks of one phase and one model, noting why each failed, or "" if it did not."""
        batch = self._batch([flights[ordinal] for ordinal in ordinals])
        by_position = dict(zip(batch.positions, ordinals, strict=True))
        members: list[int] = []
        for item in self._engine.run(batch):
            if isinstance(item, Partial):
                inside = item.subtree.positions
                self.updates.add_partial(self.state, item, [p for p in members if p in inside])
                members = [p for p in members if p not in inside]
            elif isinstance(item, Summed):
                done = [by_position[position] for position in item.positions]
                members.extend(item.positions)
                self.updates.receive_summed(self.state, done)
                told = [item.tracked.get(position, ()) for position in item.positions] if item.tracked else ()
                self._note(done, item.replies, item.states, told)
                reasons.update(dict.fromkeys(done, ""))
            else:
                ordinal, reply = by_position[item.position], item.outcome.reply
                self.updates.receive(self.state, ordinal, item)
                self._note((ordinal,), (reply,), (item.outcome.state,), (item.outcome.tracked,))
                reasons[ordinal] = f"{reply.error_kind}: {reply.error}" if reply.error else reply.error_kind

    def _batch(self, flights: Sequence[Flight]) -> Batch:
        state, spec = self.state, self._spec
        first = flights[0]
        ref = None if first.model is None else self.models.refs[first.model]
        here = (first.send.task.round, first.send.task.phase) == (state.round, state.phase)
        summing = self.updates.summing(state) if here and ref is not None else None
        kind, seed, any_value, states = self.update_kind, spec.seed, spec.allow_nonfinite, self.site_states
        tasks: list[Task] = []
        positions: list[int] = []
        for send, ask, _, _ in flights:
            name, site, position, attempt, _, _ = send
            positions.append(position)
            tasks.append(
                _task(name, site, ask.call, "", attempt, ask.config, ref, kind, seed, any_value, ask.payload, None, 0.0)
            )
        return Batch(
            positions,
            tasks,
            [states.get(task.site) for task in tasks] if states else [None] * len(tasks),
            None if first.model is None else self.models.arrays[first.model],
            summing,
            0,
            state.size - state.size % GROUP if summing is not None and self._is_whole_phase(flights) else 0,
            spec.on_error == "fail",
        )

    def _is_whole_phase(self, flights: Sequence[Flight]) -> bool:
        """Whether nobody else of the open phase has answered or may answer."""
        never = sum(1 for flight in self.flights.values() if flight.arrives_ms == math.inf)
        return len(flights) + never == self.state.size

    def _note(
        self,
        ordinals: Sequence[int],
        replies: Sequence[Reply],
        states: Sequence[bytes | None],
        tracked: Sequence[Sequence[Tracked]],
    ) -> None:
        """Keep what sites have answered besides their updates. `tracked`: one for each reply, or nothing at all."""
        self.replies.update(zip(ordinals, replies, strict=True))
        self.fingerprints.update((reply.site, reply.fingerprint) for reply in replies if reply.fingerprint)
        if any(state is not None for state in states):
            pairs = zip(replies, states, strict=True)
            self.site_states.update((reply.site, state) for reply, state in pairs if state is not None)
        for place, reply in enumerate(replies if self._telling.observers else ()):
            self._telling.reply(reply, tracked[place] if tracked else ())

    # ---- reducing and evaluating ----

    def _reduce(self, reduce: Reduce) -> Event:
        where = (reduce.round, reduce.phase_index)
        replies = [self.replies[folded.task.ordinal] for folded in reduce.folded]
        try:
            with self._named():
                made = self.updates.reduce(self.state, reduce, replies)
        except HanseError as error:
            return Failed(f"round {reduce.round}, phase {reduce.phase}: {error}", self._now())
        if made.refused:
            return ReduceRefused(*where, made.refused, self._now())
        metrics = mean_metrics(reduce.phase, [(reply.num_examples, reply.metrics) for reply in replies])
        return Reduced(*where, made.model, made.states, metrics, self._now(), made.memory)

    def _evaluate(self, round_: int, model: BlobKey) -> Event:
        try:
            with self._named():
                metrics = server_metrics(self._server.evaluate(self.models.arrays[model].copy(), round_))
        except HanseError as error:
            return Failed(f"round {round_}, evaluation at the server: {error}", self._now())
        return Evaluated(round_, metrics, self._now())

    # ---- what is kept ----

    def _checkpoint(self, checkpoint: Checkpoint) -> None:
        updates = self.updates
        record = record_of(checkpoint, self.replies, updates.borne, updates.moved)
        if self.virtual:
            record = replace(record, time_s=self.now_ms / 1000)
        if record.number:  # before the first round there is only the asking for parameters
            self.records.append(record)
        for ordinal in checkpoint.fates:
            self.replies.pop(ordinal, None)
        updates.settled(checkpoint.fates)
        state = self.state
        slots = (*state.open.values(), *state.carried.values())
        needed = {slot.model for slot in slots} | {flight.model for flight in self.flights.values()}
        self.models.keep_only(needed | {state.model, checkpoint.model, *state.state})
        if self._telling.observers:
            self._telling.tell("round", record=record.to_json())
        if self.on_checkpoint is not None:
            self.on_checkpoint(self)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Failures of the app's own server side become what a worker would make of them; tracebacks are shown."""
        try:
            yield
        except HanseError as error:
            if error.__cause__ is not None:
                to_stderr(text_of(error.__cause__))
            raise
        except (Exception, SystemExit) as error:
            to_stderr(text_of(error))
            raise TaskError(*failure_of(error, self._directory, rest=SHOWN)) from error


def _alike(flights: Mapping[int, Flight]) -> list[list[int]]:
    """Ordinals by phase, round and model, each in order of position and with distinct sites."""
    kinds = {(flight.model, flight.send.task.round, flight.send.task.phase) for flight in flights.values()}
    if len(kinds) == 1 and len({flight.send.site for flight in flights.values()}) == len(flights):
        positions = [flight.send.position for flight in flights.values()]
        if positions == sorted(positions):
            return [list(flights)]  # the common case; positions are issued in the order of ordinals
    groups: dict[tuple[int, str, BlobKey | None], list[list[int]]] = {}
    sites: dict[tuple[int, str, BlobKey | None], set[str]] = {}
    for ordinal, flight in sorted(flights.items(), key=lambda item: (item[1].send.task.round, item[1].send.position)):
        key = (flight.send.task.round, flight.send.task.phase, flight.model)
        seen = sites.setdefault(key, set())
        lists = groups.setdefault(key, [[]])
        if flight.send.site in seen:
            lists.append([])
            seen.clear()
        seen.add(flight.send.site)
        lists[-1].append(ordinal)
    return [ordinals for lists in groups.values() for ordinals in lists]


def _directory(app: App) -> Path | None:
    file = app.module_globals.get("__file__")
    return Path(file).parent if isinstance(file, str) else None
