"""A run driven by functions that keep nothing: each *visit* loads the record, decides, writes once and performs.

Where nothing stays in memory (serverless), whoever has news calls `visit`: a reply's row exists, a timer is due, a
person cancels. Any number of visits may overlap, die anywhere or be repeated: what they know is the run record and the
rows of replies, what they decide counts by ONE compare-and-set, and a visit whose write loses looks again.

    collect(reply)   a reply becomes a row, or is refused; its message may be deleted when this returns
    visit(...)       everything that follows from the rows and the time; tells when somebody must look again

A record says whether what it decided has been performed. A visit that finds it has not, and that the one who wrote it
has had `PATIENCE_MS`, performs it again: sending a task twice is harmless, its id is known.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from hanse.core.errors import ConflictError, NotFoundError, StorageError, UnavailableError
from hanse.core.records import Reply
from hanse.core.spec import RunSpec
from hanse.rounds import machine, run_state
from hanse.rounds.driver.driving import Driving, keeping_of, log
from hanse.rounds.driver.life import Life, Work
from hanse.rounds.driver.noting import Noting
from hanse.rounds.driver.patience import Patience
from hanse.rounds.driver.receiving import refusal_of, refusal_of_update, slot_of
from hanse.rounds.driver.standing import Standing
from hanse.rounds.driver.turns import Turns
from hanse.rounds.events import (
    Answer,
    Cancelled,
    Event,
    Failed,
    Replied,
    Resumed,
    SitesChanged,
    Started,
    TimerFired,
)
from hanse.rounds.hosts.host import StrategyHost
from hanse.rounds.keeping import Keeping, run_record
from hanse.rounds.outgoing import RunInfo
from hanse.rounds.seams import Seams
from hanse.rounds.telling import Telling

PATIENCE_MS = 10_000
"""How long whoever wrote a record has for performing what it says, before somebody else does."""
MAX_LOOKS = 100

Now = Callable[[], int]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a visit left behind.

    Args:
        status: the run's: waiting, running, finished, failed, cancelled.
        wake_ms: when somebody must visit again though nothing has happened; None when the run is over.
        state: where the run is; to be read, not changed.
        moved: whether this visit has written it.
        fingerprints: site → numerics fingerprint of its worker, as far as it has answered.
    """

    status: str
    wake_ms: int | None
    state: run_state.RunState
    moved: bool
    fingerprints: Mapping[str, str]

    @property
    def round(self) -> int:
        """The round that it is in."""
        return self.state.round

    @property
    def error(self) -> str:
        """Why it failed or was cancelled."""
        return self.state.error


async def begin(state: run_state.RunState, seams: Seams, now_ms: Now) -> bool:
    """Write a new run's record; the first `visit` starts it. False if there is a record already."""
    try:
        await Noting(_driving(Standing.of(state), seams, now_ms)).create()
    except ConflictError:
        return False
    return True


async def collect(job: str, component: str, seams: Seams, now_ms: Now, reply: Reply) -> tuple[str, str]:
    """Receive a reply: durable when this returns. Somebody should `visit` then.

    Returns:
        `received`, `duplicate` or `refused`, and the reason of a refusal.

    Raises:
        StorageError, UnavailableError: the reply is not kept; it comes again.
    """
    try:
        record, _, _ = await run_record(seams.ledger, seams.blobs, job, component)
    except NotFoundError:
        return "refused", "there is no such job"
    state = run_state.decode(record["state"])
    ordinal = reply.task.ordinal
    slot = slot_of(state, ordinal)
    if state.over or slot is None:
        return "duplicate", ""
    if refusal := refusal_of(state, slot, reply) or await refusal_of_update(seams.blobs, reply):
        return "refused", refusal
    keeping = Keeping(seams.ledger, seams.blobs, f"{job}/{component}")
    _, row = await keeping.reply_row(reply, now_ms() * 1000)
    # Rows lie under the round in which they came; under the task's own round one reply cannot get two.
    created = await seams.ledger.create(keeping.reply_key(reply.task.round, ordinal), row)
    return ("received" if created else "duplicate"), ""


async def visit(
    job: str,
    component: str,
    seams: Seams,
    now_ms: Now,
    make_host: Callable[[RunSpec], StrategyHost],
    info: RunInfo | None = None,
    *,
    sites: Sequence[str],
    undecided: int = 0,
    unwilling: Mapping[str, str] | None = None,
    enrolled: int = 0,
    cancelled_by: str = "",
    failed: str = "",
    patience_ms: int = PATIENCE_MS,
) -> Outcome:
    """Look at a run and do what follows.

    Args:
        sites: those that are there and accepted the job.
        undecided, unwilling, enrolled: how many may still answer, what those said that do not take part, and how many
            were asked; see `SitesChanged`.
        failed: why it must end, "" for no reason.
        cancelled_by: who wants it to end, "" for nobody.
        patience_ms: longer than the longest reduction takes; only a waste if it is shorter.

    Raises:
        StorageError, UnavailableError: call again. NotFoundError: no such run.
    """
    for _ in range(MAX_LOOKS):
        run = await _load(job, component, seams, now_ms, make_host, info or RunInfo(), patience_ms)
        try:
            said = tuple(sorted((unwilling or {}).items()))
            changed = SitesChanged(tuple(sites), now_ms(), undecided, said, enrolled)
            return await run.look(changed, cancelled_by, failed)
        except ConflictError:
            continue  # somebody else has decided meanwhile: look again at what is now
        except NotFoundError:
            if not await run.writing.is_overtaken():
                raise  # otherwise what it looked for has been cleaned up
        finally:
            await run.driving.life.close()
    raise UnavailableError(f"job {job}: written by others {MAX_LOOKS} times in a row")


class _Still:
    """A clock that wakes nobody: whoever visits is told when to look again."""

    def __init__(self, now_ms: Now) -> None:
        self.now_ms = now_ms

    def call_at(self, at_ms: int, callback: Callable[[], None]) -> None:
        """Nothing is left to call back."""


class _NoPatience(Patience):
    """Nobody stays to ask again: whoever called the visit calls it once more."""

    def later(self, what: str, why: Exception, work: Work) -> None:
        """Give up."""
        raise UnavailableError(f"cannot {what} now; visit again: {why}")

    async def insist(self, what: str, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call once."""
        return await call(*args)


def _driving(standing: Standing, seams: Seams, now_ms: Now) -> Driving:
    """A visit's: what a function may meet ends it by name, and others visit at the same time."""
    clock = _Still(now_ms)
    bound = log.bind(job=standing.state.job)
    life = Life(standing.state.job, bound, (ConflictError, NotFoundError, StorageError, UnavailableError))
    patience = _NoPatience(clock, life, bound)
    keeping, telling = keeping_of(standing, seams), Telling(standing.state.job)
    return Driving(standing, seams, clock, keeping, life, patience, telling, alone=False)


class _Visit:
    """A run that is loaded, moved and let go."""

    def __init__(self, driving: Driving, writing: Noting, turns: Turns, patience_ms: int) -> None:
        self.driving = driving
        self.writing = writing
        self._turns = turns
        self._patience_ms = patience_ms

    async def look(self, there: SitesChanged, cancelled_by: str, failed: str) -> Outcome:
        """One visit."""
        standing, writing, life = self.driving.standing, self.writing, self.driving.life
        now, before = self.driving.clock.now_ms(), writing.version
        is_overdue = not writing.is_performed and now >= writing.written_ms + self._patience_ms
        if not standing.state.over or is_overdue:
            if is_overdue:
                await writing.keep_earlier()
            rows = await self._load_replies()
            self._turns.ready.set()
            self._turns.queue.extend(self._news(rows, there, cancelled_by, failed, now, is_overdue))
            await self._turns.work()
            while life.background and life.failure is None:
                await asyncio.wait(list(life.background), return_when=asyncio.FIRST_COMPLETED)
            if (failure := life.failure) is not None:
                raise failure
            if writing.version != before or is_overdue:
                await writing.note_performed()
        state, moved = standing.state, writing.version != before or is_overdue
        return Outcome(state.status, self._wake_ms(), state, moved, dict(standing.fingerprints))

    async def _load_replies(self) -> tuple[Answer, ...]:
        standing = self.driving.standing
        rows = await self._turns.receiving.load()
        standing.fingerprints |= {r.site: r.fingerprint for r in standing.replies.values() if r.fingerprint}
        state, left = standing.state, standing.left
        left.may_upload(state.round)
        for slot in (*state.open.values(), *state.carried.values(), *state.released.values()):
            left.may_upload(slot.round, [slot.site])
        return rows

    def _news(
        self,
        rows: tuple[Answer, ...],
        there: SitesChanged,
        cancelled_by: str,
        failed: str,
        now: int,
        is_overdue: bool,
    ) -> list[Event]:
        """All that may have happened since the record was written."""
        state = self.driving.standing.state
        machine.expect(state, there.sites)
        news: list[Event] = [Resumed(rows, there.sites, now)] if is_overdue else []
        if rows and not is_overdue:
            news.append(Replied(rows, now))  # first: who has answered and gone is not asked again
        if not is_overdue:
            news.append(there)
        if state.stage == "waiting":
            news.append(Started(now))
        if cancelled_by:
            news.append(Cancelled(cancelled_by, now))
        if failed:
            news.append(Failed(failed, now))
        news += [TimerFired(timer.id, now) for timer in machine.timers(state) if timer.at_ms <= now]
        return news

    def _wake_ms(self) -> int | None:
        """When somebody must look again though nothing has happened."""
        state, writing = self.driving.standing.state, self.writing
        overdue_ms = writing.written_ms + self._patience_ms
        if state.over:
            return None if writing.is_performed else overdue_ms
        times = [timer.at_ms for timer in machine.timers(state)]
        if not writing.is_performed:
            times.append(overdue_ms)
        return min(times, default=self.driving.clock.now_ms() + self._patience_ms)


async def _load(
    job: str,
    component: str,
    seams: Seams,
    now_ms: Now,
    make_host: Callable[[RunSpec], StrategyHost],
    info: RunInfo,
    patience_ms: int,
) -> _Visit:
    record, version, spilled = await run_record(seams.ledger, seams.blobs, job, component)
    standing = Standing.from_json(record)
    driving = _driving(standing, seams, now_ms)
    writing = Noting(driving, record)
    writing.found(version, spilled)
    turns = Turns(driving, writing, make_host(standing.state.spec), info)
    return _Visit(driving, writing, turns, patience_ms)
