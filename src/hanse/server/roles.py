"""`RolesRun`: drives one component of roles at the server: writes its state, opens sessions, asks, takes answers.

    roles/<job>/<component>     the state, written before anything of a new session leaves

It holds no rule of its own (`hanse.pipeline.roles` and `hanse.pipeline.sessions` do), and looks to `Jobs` as a run of
rounds does. What was decided and cannot be performed now is performed again, until it is or something else is decided.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import structlog

from hanse.backends.grpc.relay import Relays
from hanse.clients.role_task import PHASE
from hanse.core.errors import ConflictError, HanseError, NotFoundError, StorageError, UnavailableError, place_of
from hanse.core.records import Reply
from hanse.pipeline import roles as machine
from hanse.pipeline.request import JobRequest
from hanse.pipeline.roles import (
    Close,
    Event,
    Finish,
    Open,
    Resumed,
    RolesState,
    SetTimer,
    SitesChanged,
    Stopped,
)
from hanse.pipeline.sessions import Seen, asks, judged, record_of, refusals, releases, session_name
from hanse.rounds.driver.clock import Clock
from hanse.rounds.events import Event as RoundEvent
from hanse.rounds.events import Failed
from hanse.rounds.seams import Seams
from hanse.rounds.telling import Observer, Telling

WATCH_S, MAX_WATCH_S = 0.4, 10.0
"""Between two words on the bytes exchanged, at first and later."""
FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 15.0
"""Between two tries of performing what was decided."""
log = structlog.get_logger("hanse.roles")


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
        self._retry_s = 0.0
        self._is_closed = False
        self._watching: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks_behind: set[asyncio.Task[None]] = set()
        self._telling = Telling(request.job)
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
    def observers(self) -> list[Observer]:
        """Those who are told what happens: append to them."""
        return self._telling.observers

    @property
    def state(self) -> Seen:
        """Where it stands."""
        return Seen.of(self._state)

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
        self,
        sites: Sequence[str],
        undecided: int = 0,
        unwilling: Mapping[str, str] | None = None,
        enrolled: int = 0,
    ) -> None:
        """Who has accepted and is there, and who will not."""
        del undecided, enrolled  # every role is needed
        refused = refusals(unwilling or {})
        await self._post(SitesChanged(frozenset(sites), refused, self._clock.now_ms()))

    async def post(self, event: RoundEvent) -> None:
        """What a run of rounds is told from outside; here only that it has failed."""
        if isinstance(event, Failed):
            await self._post(Stopped("failed", event.reason))

    async def cancel(self, by: str) -> None:
        """A person ends it."""
        await self._post(Stopped("cancelled", f"cancelled by {by}"))

    async def take(self, reply: Reply, packed: bytes | None = None) -> tuple[str, str]:
        """A role's answer; outcome and reason. `packed` as in `driver.run.Run.take`: nothing of it is kept here."""
        outcome, reason, event = judged(self._state, reply, self._clock.now_ms())
        if event is None:
            return outcome, reason
        if reply.fingerprint:
            self.fingerprints[reply.site] = reply.fingerprint
        await self._post(event)
        facts = {"phase": PHASE, "site": reply.site, "error": event.error, "metrics": event.metrics}
        self._telling.tell("reply", round=event.attempt, num_examples=0, **facts)
        return outcome, reason

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
            await self._perform_all(instructions)

    async def _perform_all(self, instructions: Sequence[machine.Instruction]) -> bool:
        """Perform what was decided; whether all of it could be. If not, whatever the state then asks for is tried."""
        try:
            for instruction in instructions:
                await self._perform(instruction)
        except (StorageError, UnavailableError) as error:
            log.warning("not performed; it is tried again", job=self._request.job, reason=str(error), **place_of(error))
            if not self._retry_s:
                self._retry_s = FIRST_RETRY_S
                self._retry()
            return False
        except HanseError as error:  # a site was revoked since it accepted; or something that no later try mends
            self._spawn(self._post(Stopped("failed", str(error))))
        return True

    def _retry(self) -> None:
        at_ms = self._clock.now_ms() + round(self._retry_s * 1000)
        self._clock.call_at(at_ms, lambda: self._spawn(self._again()))

    async def _again(self) -> None:
        async with self._turn:
            if self._is_closed:
                return
            if await self._perform_all(machine.standing(self._state)):
                self._retry_s = 0.0
            else:
                self._retry_s = min(2 * self._retry_s, LONGEST_RETRY_S)
                self._retry()

    async def _perform(self, instruction: machine.Instruction) -> None:
        match instruction:
            case Open(attempt):
                await self._open(attempt)
            case Close(attempt):
                self._watching.cancel()
                self._relays.close(self._session(attempt))
                for release in releases(self._request, self._state, attempt):
                    await self._seams.inbox.send(release.recipient, release, durable=False)
            case SetTimer(at_ms):
                self._clock.call_at(at_ms, lambda: self._timer_fired(at_ms))
            case Finish():
                self._end()

    async def _open(self, attempt: int) -> None:
        """Open the session, then ask every role."""
        playing, session = self._state.playing, self._session(attempt)
        self._relays.open(session, playing)
        records = {role: self._record_of(site).decode() for role, site in playing.items()}
        for ask in asks(self._request, self._state, records):
            await self._seams.inbox.send(ask.recipient, ask)
        self._telling.tell("phase", round=attempt, phase=PHASE, asked=len(playing))
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
                self._telling.tell("moved", bytes=moved)
            pause_s = min(pause_s * 1.05, MAX_WATCH_S)  # events are kept for those who come later

    def _session(self, attempt: int) -> str:
        return session_name(self._request, attempt)

    def _timer_fired(self, at_ms: int) -> None:
        # The loop's clock and the wall's drift apart: a call that comes a millisecond early must not come for nothing.
        self._spawn(self._post(machine.TimerFired(max(at_ms, self._clock.now_ms()))))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(self._quietly(work))
        self._tasks_behind.add(task)
        task.add_done_callback(self._tasks_behind.discard)

    async def _quietly(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except HanseError as error:
            log.error("roles cannot go on", job=self._request.job, reason=str(error))

    def _end(self) -> None:
        if self.finished.done():
            return
        if self._state.status == "finished":
            record = record_of(self._state, self._clock.now_ms())
            self._telling.tell("round", record=record.to_json())
        self._telling.tell("finished", status=self._state.status, error=self._state.error)
        self.finished.set_result(self._state.status)
