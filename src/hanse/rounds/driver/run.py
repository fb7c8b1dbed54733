"""`Run`: one component's run, driven by a process that stays.

A driver that dies at any moment is replaced by `Run.load`, which performs what is left; a driver whose write loses
stops. Resuming writes before it reads the replies, so whoever drove before can neither write nor acknowledge any more.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from hanse.core.arrays import Arrays
from hanse.core.errors import UnavailableError
from hanse.core.records import Reply
from hanse.core.spec import RunSpec
from hanse.rounds.driver.clock import Clock
from hanse.rounds.driver.driving import Driving
from hanse.rounds.driver.standing import Standing
from hanse.rounds.driver.turns import Turns
from hanse.rounds.driver.writing import Writing
from hanse.rounds.events import Answer, Cancelled, Event, Resumed, SitesChanged, Started
from hanse.rounds.hosts.host import StrategyHost
from hanse.rounds.hosts.local import load_arrays
from hanse.rounds.keeping import round_records, run_record
from hanse.rounds.outgoing import RunInfo
from hanse.rounds.result import Result
from hanse.rounds.run_state import RunState
from hanse.rounds.seams import Seams
from hanse.rounds.telling import Observer


class Run:
    """One component's run, driven. Make it with `create` or `load`."""

    def __init__(self, driving: Driving, host: StrategyHost, info: RunInfo | None) -> None:
        self.driving = driving
        self.writing = Writing(driving)
        self.turns = Turns(driving, self.writing, host, info or RunInfo())

    # ---- life ----

    @classmethod
    async def create(
        cls, state: RunState, seams: Seams, host: StrategyHost, clock: Clock, info: RunInfo | None = None
    ) -> "Run":
        """Begin a run.

        Raises:
            ConflictError: there is one already.
        """
        run = cls(Driving.staying(Standing.of(state), seams, clock), host, info)
        await run.writing.create()
        run.turns.ready.set()
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
        standing = Standing.from_json(record)
        run = cls(Driving.staying(standing, seams, clock), make_host(standing.state.spec), info)
        run.writing.found(version, spilled)
        return run

    async def start(self) -> None:
        """The first event of a new run."""
        await self.post(Started(self.driving.clock.now_ms()))

    async def resume(self, sites: Sequence[str]) -> None:
        """Perform what is left. `sites`: those expected to be there; their leases start afresh.

        Raises:
            ConflictError: another shell has taken the run up meanwhile.
        """
        try:
            rows = await self._take_up()
        except BaseException as error:
            interrupted = UnavailableError("resuming was interrupted")
            self.driving.life.stop(error if isinstance(error, Exception) else interrupted)
            if not self.finished.cancelled():
                self.finished.exception()  # it is raised here, too: nobody need await it
            raise
        finally:
            self.turns.ready.set()
        self.turns.queue.appendleft(Resumed(rows, tuple(sites), self.driving.clock.now_ms()))
        await self.turns.work()

    async def _take_up(self) -> tuple[Answer, ...]:
        standing, insist = self.driving.standing, self.driving.patience.insist
        await self.writing.write()  # the mark: whoever drove before can neither write nor acknowledge any more
        rows = await insist("read the replies", self.turns.receiving.load)
        for record in standing.unkept:
            await insist("keep a round's record", self.driving.keeping.round_row, record)
        standing.unkept = []
        state = standing.state
        slots = (*state.open.values(), *state.closing.values(), *state.carried.values(), *state.released.values())
        standing.left.may_upload(state.round)
        for slot in slots:
            standing.left.may_upload(slot.round, [slot.site])
        return rows

    async def close(self) -> None:
        """Stop driving; the record stays and can be loaded. What is being cleaned up is let finish."""
        await self.driving.life.close()

    # ---- what it shows ----

    @property
    def state(self) -> RunState:
        """Where the run is; to be read, not changed."""
        return self.driving.standing.state

    @property
    def finished(self) -> "asyncio.Future[str]":
        """The run's status once it is over; what ended the driving, if something did, is its exception."""
        return self.driving.life.finished

    @property
    def observers(self) -> list[Observer]:
        """Those who are told what happens: append to them."""
        return self.driving.telling.observers

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """Site → numerics fingerprint of its worker, as far as it has answered."""
        return self.driving.standing.fingerprints

    async def result(self) -> Result:
        """The result so far; the arrays are those of the last model."""
        state, seams = self.state, self.driving.seams
        records = await round_records(seams.ledger, state.job, state.component, blobs=seams.blobs)
        sites = {site for record in records for site in (*record.folded, *record.late, *record.failed)}
        return Result(
            state.status,
            Arrays() if state.model is None else await load_arrays(seams.blobs, state.model),
            rounds=tuple(records),
            job=state.job,
            error=state.error,
            sites=tuple(sorted(sites)),
            fingerprints=dict(self.fingerprints),
        )

    # ---- events ----

    async def post(self, event: Event) -> None:
        """Let something happen. Returns when the run has come to rest, or at once if it is at work already.

        Raises nothing: what ends the driving is the exception of `finished`.
        """
        await self.turns.post(event)

    async def sites_changed(
        self,
        sites: Sequence[str],
        undecided: int = 0,
        unwilling: Mapping[str, str] | None = None,
        enrolled: int = 0,
    ) -> None:
        """The sites that hold a lease and accepted the job; see `SitesChanged`."""
        said = tuple(sorted((unwilling or {}).items()))
        now_ms = self.driving.clock.now_ms()
        await self.post(SitesChanged(tuple(sorted(sites)), now_ms, undecided, said, enrolled))

    async def cancel(self, by: str) -> None:
        """End the run."""
        await self.post(Cancelled(by, self.driving.clock.now_ms()))

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
        await self.turns.ready.wait()
        return await self.turns.receiving.take(reply, packed)

    async def settle(self) -> None:
        """Let what was taken count."""
        await self.turns.work()
