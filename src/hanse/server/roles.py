"""`RolesRun`: drives one component of roles at the server: writes its state, opens sessions, asks, takes answers.

    roles/<job>/<component>     the state, written before anything of a new session leaves

It holds no rule of its own (`hanse.pipeline.roles` does), and looks to `Jobs` as a run of rounds does.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from hanse.backends.grpc.relay import Relays
from hanse.clients.roles import CALL, Part
from hanse.core.errors import ConflictError, HanseError, NotFoundError
from hanse.core.ids import TaskId
from hanse.core.records import Envelope, Reply, Task
from hanse.pipeline import roles as machine
from hanse.pipeline.request import JobRequest
from hanse.pipeline.roles import (
    Close,
    Event,
    Finish,
    Open,
    Replied,
    Resumed,
    RolesState,
    SetTimer,
    SitesChanged,
    Stopped,
)
from hanse.rounds.clock import Clock
from hanse.rounds.driver import Observer, Seams
from hanse.rounds.events import Event as RoundEvent
from hanse.rounds.events import Failed
from hanse.rounds.record import RoundRecord, role_record, to_plain
from hanse.rounds.result import Result

PHASE = "role"
MAX_METRICS_BYTES = 32 * 1024
"""Of all roles together, as JSON, each an equal part: the state is one record of the ledger."""
WATCH_S, MAX_WATCH_S = 0.4, 10.0
"""Between two words on the bytes exchanged, at first and later."""
log = structlog.get_logger("hanse.roles")


@dataclass(frozen=True, slots=True)
class Seen:
    """The state as listings and watchers ask for it."""

    status: str
    round: int
    phase: str
    stage: str
    error: str


def key_of(job: str, component: str) -> str:
    """Where the state is kept."""
    return f"roles/{job}/{component}"


async def kept_state(seams: Seams, job: str, component: str) -> tuple[RolesState, int]:
    """The state as it was last written, and its version.

    Raises:
        NotFoundError: there is none.
    """
    content, version = await seams.ledger.get(key_of(job, component))
    return machine.decode(content), version


class RolesRun:
    """One component of roles. Make it with `create` or `load`."""

    def __init__(
        self,
        request: JobRequest,
        state: RolesState,
        version: int,
        seams: Seams,
        relays: Relays,
        clock: Clock,
        record_of: Callable[[str], bytes],
    ) -> None:
        self._request = request
        self._state = state
        self._version = version
        self._seams = seams
        self._relays = relays
        self._clock = clock
        self._record_of = record_of
        self._turn = asyncio.Lock()
        self._is_closed = False
        self._watching: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks_behind: set[asyncio.Task[None]] = set()
        self.observers: list[Observer] = []
        self.finished: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.fingerprints: dict[str, str] = {}

    @classmethod
    async def create(
        cls, request: JobRequest, seams: Seams, relays: Relays, clock: Clock, record_of: Callable[[str], bytes]
    ) -> "RolesRun":
        """Begin a component.

        Raises:
            ConflictError: it has begun before.
        """
        assert request.roles is not None
        state = RolesState(request.roles)
        if not await seams.ledger.create(key_of(request.job, request.component), machine.encode(state)):
            raise ConflictError(f"job {request.job}: its component has begun before")
        return cls(request, state, 1, seams, relays, clock, record_of)

    @classmethod
    async def load(
        cls, request: JobRequest, seams: Seams, relays: Relays, clock: Clock, record_of: Callable[[str], bytes]
    ) -> "RolesRun":
        """Take a component up again.

        Raises:
            NotFoundError: it has never begun.
        """
        state, version = await kept_state(seams, request.job, request.component)
        return cls(request, state, version, seams, relays, clock, record_of)

    # ---- as Jobs sees a run ----

    @property
    def state(self) -> Seen:
        """Where it stands."""
        state = self._state
        return Seen(state.status, state.attempt, PHASE, state.status, state.error or state.cause)

    @property
    def trusted(self) -> set[str]:
        """Sites that have accepted, as far as the state tells."""
        return set(self._state.spec.sites) if self._state.attempt else set()

    async def start(self) -> None:
        """Nothing to do until sites are there."""

    async def resume(self, there: Sequence[str]) -> None:
        """Take up what the state says; sessions have not survived."""
        del there
        if self._state.status in machine.ENDED:
            self._end()
        else:
            await self._post(Resumed(self._clock.now_ms()))

    async def sites_changed(
        self, sites: Sequence[str], undecided: int = 0, unwilling: Mapping[str, str] | None = None
    ) -> None:
        """Who has accepted and is there, and who will not."""
        del undecided
        refused = {
            site: reason.partition(": ")[2] or "without a reason"
            for site, reason in (unwilling or {}).items()
            if reason.startswith("refuse")
        }
        await self._post(SitesChanged(frozenset(sites), refused, self._clock.now_ms()))

    async def post(self, event: RoundEvent) -> None:
        """What a run of rounds is told from outside; here only that it has failed."""
        if isinstance(event, Failed):
            await self._post(Stopped("failed", event.reason))

    async def cancel(self, by: str) -> None:
        """A person ends it."""
        await self._post(Stopped("cancelled", f"cancelled by {by}"))

    async def take(self, reply: Reply, packed: bytes | None = None) -> tuple[str, str]:
        """A role's answer; outcome and reason. `packed` as in `rounds.Run.take`: nothing of it is kept here."""
        spec, attempt = self._state.spec, self._state.attempt
        role = spec.role_of(reply.site)
        if role is None or reply.task.phase != PHASE:
            return "refused", "this site was not asked"
        if reply.task.round != attempt or self._state.status not in ("running", "settling"):
            return "late", "the session is over"
        if role not in self._state.playing:
            return "refused", "the session began without this site"
        metrics = {name: to_plain(value) for name, value in reply.metrics.items() if not isinstance(value, bytes)}
        kind, error, most = reply.error_kind, reply.error, MAX_METRICS_BYTES // len(spec.roles)
        if len(json.dumps(metrics)) > most:
            metrics, kind, error = {}, "bad_reply", f"metrics: expected at most {most} bytes"
        event = Replied(attempt, role, kind, error, metrics, self._clock.now_ms())
        if reply.fingerprint:
            self.fingerprints[reply.site] = reply.fingerprint
        await self._post(event)
        facts = {"phase": PHASE, "site": reply.site, "error": error, "metrics": event.metrics}
        self._tell("reply", round=attempt, num_examples=0, **facts)
        return "received", ""

    async def settle(self) -> None:
        """Every answer has been taken at once."""

    async def close(self) -> None:
        """Stop driving; it can be taken up again."""
        self._is_closed = True
        self._watching.cancel()
        self._relays.close(self._session(self._state.attempt))

    # ---- turns ----

    async def _post(self, event: Event) -> None:
        """One turn: step, write, perform. Turns follow each other."""
        async with self._turn:
            if self._is_closed:
                return
            state, instructions = machine.step(self._state, event)
            if state == self._state and not instructions:
                return
            key = key_of(self._request.job, self._request.component)
            if not await self._seams.ledger.compare_and_set(key, machine.encode(state), self._version):
                raise ConflictError(f"job {self._request.job}: another server drives it")
            self._state, self._version = state, self._version + 1
            for instruction in instructions:
                await self._perform(instruction)

    async def _perform(self, instruction: machine.Instruction) -> None:
        match instruction:
            case Open(attempt):
                await self._open(attempt)
            case Close(attempt):
                self._watching.cancel()
                self._relays.close(self._session(attempt))
                for task in self._tasks(attempt):
                    await self._send(task, "release")
            case SetTimer(at_ms):
                self._clock.call_at(at_ms, lambda: self._timer_fired(at_ms))
            case Finish():
                self._end()

    async def _open(self, attempt: int) -> None:
        """Open the session, then ask every role."""
        spec, playing = self._state.spec, self._state.playing
        session = self._session(attempt)
        self._relays.open(session, playing)
        try:
            records = {role: self._record_of(site).decode() for role, site in playing.items()}
        except HanseError as error:  # revoked since it accepted
            self._spawn(Stopped("failed", str(error)))
            return
        for role, task in zip(sorted(playing), self._tasks(attempt), strict=True):
            part = Part(session, role, spec.timeout_s, playing, records)
            await self._send(task, "task", part.pack())
        self._tell("phase", round=attempt, phase=PHASE, asked=len(playing))
        self._watching.cancel()
        self._watching = asyncio.ensure_future(self._watch(session))

    async def _watch(self, session: str) -> None:
        """Tell people who wait how many bytes roles have exchanged: all that a server sees of their progress."""
        pause_s, told = WATCH_S, 0
        while True:
            await asyncio.sleep(pause_s)
            try:
                moved = self._relays.find(session).moved_bytes
            except NotFoundError:
                return
            if moved != told:
                told = moved
                self._tell("moved", bytes=moved)
            pause_s = min(pause_s * 1.05, MAX_WATCH_S)  # events are kept for those who come later

    def _tasks(self, attempt: int) -> list[tuple[TaskId, str]]:
        """Each role's task and site, in order of the roles' names."""
        playing = self._state.playing
        return [
            (TaskId(self._request.job, self._request.component, attempt, PHASE, place), playing[role])
            for place, role in enumerate(sorted(playing))
        ]

    async def _send(self, task: tuple[TaskId, str], kind: str, payload: bytes = b"") -> None:
        task_id, site = task
        body = b""
        if kind == "task":
            spec = self._state.spec
            body = Task(task_id, site, CALL, self._request.app, seed=spec.seed, payload=payload).pack()
        envelope = Envelope(
            sender="server",
            recipient=site,
            id=str(task_id),
            kind=kind,
            body=body,
            federation=self._request.federation,
            job=self._request.job,
            component=self._request.component,
            deadline_s=self._state.spec.deadline_s if kind == "task" else 0.0,
        )
        await self._seams.inbox.send(site, envelope, durable=kind == "task")

    def _session(self, attempt: int) -> str:
        return f"{self._request.job}/{self._request.component}/{attempt}"

    def _timer_fired(self, at_ms: int) -> None:
        # The loop's clock and the wall's drift apart: a call that comes a millisecond early must not come for nothing.
        self._spawn(machine.TimerFired(max(at_ms, self._clock.now_ms())))

    def _spawn(self, event: Event) -> None:
        task = asyncio.ensure_future(self._post_quietly(event))
        self._tasks_behind.add(task)
        task.add_done_callback(self._tasks_behind.discard)

    async def _post_quietly(self, event: Event) -> None:
        try:
            await self._post(event)
        except HanseError as error:
            log.error("roles cannot go on", job=self._request.job, reason=str(error))

    def _end(self) -> None:
        if self.finished.done():
            return
        if self._state.status == "finished":
            record = record_of(self._state, self._clock.now_ms())
            self._tell("round", record=record.to_json())
        self._tell("finished", status=self._state.status, error=self._state.error)
        self.finished.set_result(self._state.status)

    def _tell(self, what: str, **facts: Any) -> None:
        for observer in self.observers:
            observer({"what": what, "job": self._request.job, **facts})


def record_of(state: RolesState, now_ms: int) -> RoundRecord:
    """A session that has ended well, as a round is told of."""
    return role_record(state.playing, state.metrics, max(0.0, (now_ms - state.began_ms) / 1000))


def result_of(state: RolesState, request: JobRequest, *, ended_at_ms: int, seconds: float) -> Result:
    """The result so far."""
    return Result(
        state.status if state.status in machine.ENDED else "running",
        rounds=(record_of(state, ended_at_ms),) if state.status == "finished" else (),
        job=request.job,
        error=state.error,
        sites=state.spec.sites,
        seconds=seconds,
        about={
            "app": request.name,
            "protocol": state.spec.protocol.name,
            "roles": ", ".join(f"{role}: {site}" for role, site in sorted(state.spec.roles.items())),
            "person": request.person,
            "federation": request.federation,
        },
    )
