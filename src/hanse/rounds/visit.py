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
from hanse.core.ids import upload_scope
from hanse.core.records import Reply
from hanse.core.spec import RunSpec
from hanse.rounds import machine, run_state
from hanse.rounds.clock import Clock
from hanse.rounds.driver import Run, Seams
from hanse.rounds.events import (
    Answer,
    Cancelled,
    Checkpoint,
    Event,
    Failed,
    Finish,
    Replied,
    Resumed,
    SitesChanged,
    Started,
    TimerFired,
)
from hanse.rounds.host import StrategyHost
from hanse.rounds.keeping import MAX_RECORD_BYTES, Keeping, run_record
from hanse.rounds.outgoing import RunInfo
from hanse.rounds.record import RoundRecord

PATIENCE_MS = 10_000
"""How long whoever wrote a record has for performing what it says, before somebody else does."""
MAX_LOOKS = 100
_PENDING = b'{"performed":false'
_PERFORMED = b'{"performed":true'

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


async def begin(
    state: run_state.RunState, seams: Seams, host: StrategyHost, now_ms: Now, info: RunInfo | None = None
) -> bool:
    """Write a new run's record; the first `visit` starts it. False if there is a record already."""
    try:
        run = await _Visit.create(state, seams, host, _Still(now_ms), info)
    except ConflictError:
        return False
    await run.close()
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
    ordinal, update = reply.task.ordinal, reply.update
    slot = state.open.get(ordinal) or state.released.get(ordinal)
    if state.over or slot is None:
        return "duplicate", ""
    if reply.site != slot.site or reply.task != state.task_id(ordinal, slot):
        return "refused", "the task is another site's"
    if update is not None and update.content is None:
        if update.scope != upload_scope(reply.task, reply.site):
            return "refused", "the update lies outside the site's own scope"
        if await seams.blobs.missing(update.scope, update.manifest):
            return "refused", "the update has not been uploaded"
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
    cancelled_by: str = "",
    failed: str = "",
    patience_ms: int = PATIENCE_MS,
) -> Outcome:
    """Look at a run and do what follows.

    Args:
        sites: those that are there and accepted the job.
        undecided, unwilling: how many may still answer, and what those said that do not take part; see `SitesChanged`.
        failed: why it must end, "" for no reason.
        cancelled_by: who wants it to end, "" for nobody.
        patience_ms: longer than the longest reduction takes; only a waste if it is shorter.

    Raises:
        StorageError, UnavailableError: call again. NotFoundError: no such run.
    """
    for _ in range(MAX_LOOKS):
        run = await _Visit.load(job, component, seams, _Still(now_ms), make_host, info)
        assert isinstance(run, _Visit)
        run._patience_ms = patience_ms
        try:
            changed = SitesChanged(tuple(sites), now_ms(), undecided, tuple(sorted((unwilling or {}).items())))
            return await run.look(changed, cancelled_by, failed)
        except ConflictError:
            continue  # somebody else has decided meanwhile: look again at what is now
        except NotFoundError:
            if not await run.is_overtaken():
                raise  # otherwise what it looked for has been cleaned up
        finally:
            await run.close()
    raise UnavailableError(f"job {job}: written by others {MAX_LOOKS} times in a row")


class _Still:
    """A clock that wakes nobody: whoever visits is told when to look again."""

    def __init__(self, now_ms: Now) -> None:
        self.now_ms = now_ms

    def call_at(self, at_ms: int, callback: Callable[[], None]) -> None:
        """Nothing is left to call back."""


class _Visit(Run):
    """A run that is loaded, moved and let go."""

    _expected = (ConflictError, NotFoundError, StorageError, UnavailableError)
    _patience_ms = PATIENCE_MS
    _is_performed = True
    _written_ms = 0

    def __init__(
        self, state: run_state.RunState, seams: Seams, host: StrategyHost, clock: Clock, info: RunInfo | None = None
    ) -> None:
        super().__init__(state, seams, host, clock, info)
        self._mark = _PERFORMED + b',"written_ms":0'
        self._earlier: list[dict[str, Any]] = []
        self._seen: dict[int, list[int]] = {}
        self._content = b""

    def _loaded(self, record: Mapping[str, Any]) -> None:
        self._is_performed = bool(record.get("performed", False))
        self._written_ms = int(record.get("written_ms", 0))
        self._earlier = list(self._unkept)

    async def look(self, there: SitesChanged, cancelled_by: str, failed: str) -> Outcome:
        """One visit."""
        now, before = self._clock.now_ms(), self._written
        is_overdue = not self._is_performed and now >= self._written_ms + self._patience_ms
        if not self.state.over or is_overdue:
            if is_overdue:
                await self._keep_earlier()
            rows = await self._load_replies()
            self._left.may_upload(self.state.round)
            for slot in (*self.state.open.values(), *self.state.carried.values(), *self.state.released.values()):
                self._left.may_upload(slot.round, [slot.site])
            self._resumed.set()
            self._queue.extend(self._news(rows, there, cancelled_by, failed, now, is_overdue))
            await self._work()
            while self._background and self._failure() is None:
                await asyncio.wait(list(self._background), return_when=asyncio.FIRST_COMPLETED)
            if (failure := self._failure()) is not None:
                raise failure
            if self._written != before or is_overdue:
                await self._note_performed()
        moved = self._written != before or is_overdue
        return Outcome(self.state.status, self._wake_ms(), self.state, moved, dict(self._fingerprints))

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
        machine.expect(self.state, there.sites)
        news: list[Event] = [Resumed(rows, there.sites, now)] if is_overdue else []
        if rows and not is_overdue:
            news.append(Replied(rows, now))  # first: who has answered and gone is not asked again
        if not is_overdue:
            news.append(there)
        if self.state.stage == "waiting":
            news.append(Started(now))
        if cancelled_by:
            news.append(Cancelled(cancelled_by, now))
        if failed:
            news.append(Failed(failed, now))
        news += [TimerFired(timer.id, now) for timer in machine.timers(self.state) if timer.at_ms <= now]
        return news

    def _wake_ms(self) -> int | None:
        if self.state.over:
            return None if self._is_performed else self._written_ms + self._patience_ms
        times = [timer.at_ms for timer in machine.timers(self.state)]
        if not self._is_performed:
            times.append(self._written_ms + self._patience_ms)
        return min(times, default=self._clock.now_ms() + self._patience_ms)

    # ---- the mark: whether what was decided has been performed ----

    async def _keep_earlier(self) -> None:
        """The records of the checkpoints before, if whoever wrote them did not get so far."""
        for record in self._earlier:
            await self._keeping.round_row(record)
        self._earlier = []

    async def _write(self) -> None:
        await self._keep_earlier()
        self._is_performed, self._written_ms = False, self._clock.now_ms()
        self._mark = _PENDING + b',"written_ms":%d' % self._written_ms
        await super()._write()

    async def _write_once(self, content: bytes) -> None:
        await super()._write_once(content)
        self._content = content if not self._spilled else b""

    async def _note_performed(self) -> None:
        """Not a step: nothing is lost if it is not written, or if somebody has gone on meanwhile.

        It says as well what has been cleaned up, which nobody need clean up again.
        """
        self._mark = _PERFORMED + b',"written_ms":%d' % self._written_ms
        noted = b"" if self._spilled else self._encode()
        if not noted or len(noted) > MAX_RECORD_BYTES:
            content = self._content
            if not content:
                content, version = await self._seams.ledger.get(self._keeping.run_key)
                if version != self._version or not content.startswith(_PENDING):
                    return
            noted = _PERFORMED + content[len(_PENDING) :]
        self._is_performed = await self._seams.ledger.compare_and_set(self._keeping.run_key, noted, self._version)

    async def is_overtaken(self) -> bool:
        """Whether somebody has written since this visit has."""
        return (await self._seams.ledger.get(self._keeping.run_key))[1] != self._version

    # ---- replies ----

    async def _load_replies(self) -> tuple[Answer, ...]:
        rows = await super()._load_replies()
        self._fingerprints |= {r.site: r.fingerprint for r in self._replies.values() if r.fingerprint}
        return rows

    async def _finish(self, finish: Finish) -> None:
        """Released sites may have uploaded for any round after it was cleaned up."""
        for round_ in range(self.state.round + 1):
            self._left.may_upload(round_)
        await super()._finish(finish)

    def _row_seen(self, round_: int, ordinal: int) -> None:
        self._seen.setdefault(round_, []).append(ordinal)

    async def _delete_replies(self, round_: int | None) -> None:
        """Only what was seen, but at the end: another reply may have come since under the same round."""
        if round_ is None:
            await super()._delete_replies(None)
        elif seen := self._seen.pop(round_, []):
            await self._keeping.delete_seen(round_, seen)

    def _record_of(self, checkpoint: Checkpoint) -> tuple[RoundRecord, dict[str, Any]]:
        """Bytes that came up are counted here: every visit before has seen the same replies."""
        replies = [self._replies.get(ordinal) for ordinal in checkpoint.fates]
        sent = [(r.base, r.update.manifest.size) for r in replies if r is not None and r.update is not None]
        self._moved.up = sum(size for _, size in sent)
        self._moved.saved = sum(self._saved(base, size) for base, size in sent)
        return super()._record_of(checkpoint)

    # ---- what nobody stays for ----

    def _failure(self) -> Exception | None:
        if self.finished.done() and not self.finished.cancelled():
            error = self.finished.exception()
            return error if isinstance(error, Exception) else None
        return None

    def _later(self, what: str, why: Exception, work: Callable[[], Awaitable[None]]) -> None:
        raise UnavailableError(f"cannot {what} now; visit again: {why}")

    async def _patiently(self, what: str, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        return await call(*args)
