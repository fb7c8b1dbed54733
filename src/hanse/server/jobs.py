"""Jobs at the server: taken, offered to sites, driven, ended; and taken up again after a restart.

    job/<id>        the signed request and when it was taken
    jobend/<id>     how it ended
    run/…, reply/…, round/…    see rounds/keeping.py

A job holds no rule about rounds: that is the machine's. What is decided here is who may be asked: sites that hold a
lease and have accepted the proposal. Runs are made by `runs`; what people read of jobs is in `reading`.
"""

import asyncio
import shutil
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import structlog

from hanse.core.errors import ConfigError, ConflictError, HanseError, NotFoundError, UnavailableError, place_of
from hanse.core.ids import TaskId
from hanse.core.records import BlobRef, Reply
from hanse.pipeline.offering import (
    check_request,
    check_sites,
    end_of,
    job_end,
    job_row,
    keep_end,
    keep_request,
    rows_of,
)
from hanse.pipeline.removal import is_gone, remove_job
from hanse.pipeline.request import JobRequest
from hanse.rounds import causes
from hanse.rounds.driver.run import Run
from hanse.rounds.events import Failed
from hanse.rounds.seams import Seams
from hanse.server.job import DECISION_S, DECISIONS, Job, now_ms
from hanse.server.reading import Reading
from hanse.server.roles import RolesRun
from hanse.server.runs import Runs

ENDED = ("finished", "failed", "cancelled")
ALL_REFUSED = "every site has refused the job"
"""What the error of such a job begins with."""
log = structlog.get_logger("hanse.jobs")


class Jobs:
    """Every job of a federation.

    Args:
        runs: makes the run of each.
        directory: where server-side apps are unpacked.
        models_to_sites: whether sites get the last model of a job they took part in.
        there: sites that hold a lease.
        expect: gives sites a lease before they have been heard.
        enrolled: sites that belong to the federation and are not revoked.
        record_of: the member record of a person.
        on_event: told what happens, for logs, metrics and audit.
    """

    def __init__(
        self,
        seams: Seams,
        runs: Runs,
        directory: Path,
        *,
        federation: str,
        models_to_sites: bool,
        there: Callable[[], frozenset[str]],
        expect: Callable[[Iterable[str]], None],
        enrolled: Callable[[], Sequence[str]],
        record_of: Callable[[str], bytes],
        on_event: Callable[[dict[str, Any]], None],
    ) -> None:
        self._seams = seams
        self._runs = runs
        self._directory = directory
        self._federation = federation
        self._models_to_sites = models_to_sites
        self._there = there
        self._expect = expect
        self._enrolled = enrolled
        self._record_of = record_of
        self._on_event = on_event
        self.active: dict[str, Job] = {}
        self._left: dict[str, str] = {}
        self.reading = Reading(seams, federation=federation, active=self.active, left=self._left, there=there)
        self._closing = False
        self._tasks: set[asyncio.Task[None]] = set()

    # ---- taking ----

    async def submit(self, request: JobRequest, signature: bytes) -> None:
        """Take a verified request. Asking twice is harmless.

        Raises:
            ConflictError: another job of this id. ConfigError, RefusedError: something in it does not hold.
        """
        leader = self._runs.leader
        await check_request(request, self._seams.blobs, federation=self._federation, leader=leader)
        check_sites(request, self._enrolled())
        if await is_gone(request.job, self._seams.ledger):
            raise ConflictError(f"job {request.job} was removed; submit the app again for a new one")
        if await keep_request(request, signature, self._seams.ledger, now_ms()):
            await self._drive(Job(request, signature, self._record_of(request.person), self._seams))
        elif self._left.pop(request.job, None) is not None:  # its first try broke behind the row
            await self._take_up(request.job)

    async def recover(self) -> None:
        """After a start: take up every job that had not ended."""
        ledger = self._seams.ledger
        ended = {key.removeprefix("jobend/") for key, _, _ in await rows_of("jobend/", ledger)}
        jobs = [key.removeprefix("job/") for key, _, _ in await rows_of("job/", ledger)]
        self._left |= {job: "the server has just started" for job in jobs if job not in ended}
        await self.take_up()

    async def take_up(self, only: str | None = None) -> None:
        """Take up every job, or this one, that has not ended and is not at work; one that cannot be stays as it is."""
        for job_id in list(self._left) if only is None else [only]:
            if self._left.pop(job_id, None) is None:
                continue  # somebody else has taken it up, or ended it, meanwhile
            try:
                await self._take_up(job_id)
            except HanseError as error:
                log.error("job cannot be taken up", job=job_id, reason=str(error), **place_of(error))
            except Exception:  # the top of one job: the others go on
                log.exception("job cannot be taken up", job=job_id)

    async def _take_up(self, job_id: str) -> None:
        with self._leaving(job_id):
            row = await job_row(job_id, self._seams.ledger)
            request = JobRequest.from_json(row["request"])
            job = Job(request, bytes.fromhex(row["signature"]), self._record_of(request.person), self._seams)
        job.resumed = True
        await self._drive(job)

    @contextmanager
    def _leaving(self, job_id: str) -> Iterator[None]:
        """What breaks in here leaves the job without a driver: it can be resumed, or cancelled."""
        try:
            yield
        except BaseException as error:
            reason = str(error) if isinstance(error, HanseError) else type(error).__name__
            self._left[job_id] = f"it cannot be driven ({reason}): resume it, or cancel it"
            raise

    async def _drive(self, job: Job) -> None:
        with self._leaving(job.request.job):
            run = await self._runs.make(job)
        self._expect(job.trusted)
        self.active[job.request.job] = job
        run.observers.append(job.note)
        run.observers.append(self._on_event)
        self._spawn(self._until_end(job, run))
        await self._runs.go(job, self._there())
        for site in sorted(self._there()):
            if job.wants(site):
                await job.offer(site)
        loop = asyncio.get_running_loop()
        loop.call_later(DECISION_S + 0.1, lambda: self._spawn(self.presence_changed(job)))
        await self.presence_changed(job)

    # ---- ending ----

    async def _until_end(self, job: Job, run: Run | RolesRun) -> None:
        try:
            await self._see_off(job, run)
        finally:
            job.left.set()

    async def _see_off(self, job: Job, run: Run | RolesRun) -> None:
        request = job.request
        try:
            status = await run.finished
            # Before the job leaves: who asks in between would find no end.
            await self._keep_end(request.job, status, run.state.error, run.fingerprints, round=run.state.round)
        except asyncio.CancelledError:
            return  # the server stops, and the job is active: who asks until it is gone is not told that it is over
        except Exception as error:  # the top of a job: it is named and left as it is, to be taken up later
            log.exception("job stopped", job=request.job)
            if job.host is not None:
                await job.host.close()
            self._left[request.job] = f"its driver stopped ({type(error).__name__}): resume it, or cancel it"
            self.active.pop(request.job, None)
            job.note({"what": "stopped", "job": request.job, "error": type(error).__name__})
            return
        self.active.pop(request.job, None)
        self._left.pop(request.job, None)
        async with AsyncExitStack() as closing:
            if job.host is not None:
                closing.push_async_callback(job.host.close)
            closing.push_async_callback(run.close)
            await self._tell_all(job, run, status)

    async def _tell_all(self, job: Job, run: Run | RolesRun, status: str) -> None:
        """Tell every site that was asked of the end: one that cannot be told keeps it from no other."""
        model = await self._last_model(run) if self._models_to_sites and status == "finished" else None
        for site in sorted(job.offered):
            with _of_one(site, job.request.job):
                self._seams.links.revoke(site, scope_prefix=job.request.job)
                await job.dismiss(site, status, model if site in run.fingerprints else None)

    async def _last_model(self, run: Run | RolesRun) -> BlobRef | None:
        """Where the last model is; None if there is none, or none that can be read."""
        key = run.state.model if isinstance(run, Run) else None
        if key is None:
            return None
        try:
            return BlobRef(await self._seams.blobs.manifest(*key), key[0])
        except HanseError as error:
            log.error("last model cannot be given to sites", reason=str(error), **place_of(error))
            return None

    async def _keep_end(
        self, job: str, status: str, error: str, fingerprints: Mapping[str, str], **reached: int
    ) -> None:
        end = {"status": status, "error": error, "ended_at_ms": now_ms(), "fingerprints": dict(fingerprints)}
        await keep_end(job, {**end, **reached}, self._seams.ledger)

    async def cancel(self, job_id: str, by: str) -> None:
        """End a job. One that nobody drives and could drive is ended where it stands.

        Raises:
            NotFoundError: no such job at work. UnavailableError: its driver has stopped this moment; ask again.
        """
        job = self.active.get(job_id)
        if job is not None and job.run is not None:
            finished = job.run.finished
            if finished.done() and not finished.cancelled() and finished.exception() is not None:
                raise UnavailableError(f"job {job_id}: its driver has just stopped; try again")
            await job.run.cancel(by)
        elif self._left.pop(job_id, None) is not None:
            await self._end_without_driver(job_id, f"cancelled by {by}")
        else:
            await job_row(job_id, self._seams.ledger)
            raise NotFoundError(f"job {job_id} is not at work")

    async def _end_without_driver(self, job_id: str, reason: str) -> None:
        """The job's state stays as its driver left it; what lies about goes when the job is removed."""
        with self._leaving(job_id):
            status, error, fingerprints = await self._last_word(job_id, reason)
            await self._keep_end(job_id, status, error, fingerprints)
        for site in sorted(self._enrolled()):  # one that was not asked knows no such job, and forgets nothing
            with _of_one(site, job_id):
                self._seams.links.revoke(site, scope_prefix=job_id)
                await self._seams.inbox.send(site, end_of(site, self._federation, job_id, status))
        self._on_event({"what": "finished", "job": job_id, "status": status, "error": error})
        log.warning("job ended without a driver", job=job_id, status=status)

    async def _last_word(self, job_id: str, reason: str) -> tuple[str, str, Mapping[str, str]]:
        """Status, error and fingerprints: those of its state if that was over, and only its end could not be kept."""
        try:
            result, _ = await self.reading.result(job_id)
        except Exception:  # a record that nobody can read must not keep its job from being ended
            log.exception("job has no result", job=job_id)
            return "cancelled", reason, {}
        if result["status"] in ENDED:
            return result["status"], result["error"], result["fingerprints"]
        return "cancelled", reason, result["fingerprints"]

    # ---- sites ----

    async def site_opened(self, site: str) -> None:
        """A site is there: it learns of every job at work."""
        for job in list(self.active.values()):
            if job.wants(site):
                await job.offer(site)
            await self.presence_changed(job)

    async def all_presence_changed(self) -> None:
        """Leases came or went."""
        for job in list(self.active.values()):
            await self.presence_changed(job)

    async def presence_changed(self, job: Job) -> None:
        """Tell the run who may be asked now."""
        if job.run is None or job.run.finished.done():
            return
        there = self._there()
        sites = there & job.accepted()
        everyone = [site for site in self._enrolled() if job.wants(site)]
        refused = {site: reason for site, (decision, reason) in job.decisions.items() if decision == "refuse"}
        if everyone and set(everyone) <= set(refused):
            await job.run.post(Failed(f"{ALL_REFUSED} ({causes.told(refused, len(everyone))})", now_ms()))
            return
        unwilling = {site: said for site, said in job.unwilling().items() if site in everyone}
        undecided = job.undecided(there, time.monotonic())
        await job.run.sites_changed(sorted(sites), undecided, unwilling, len(everyone))

    async def decided(self, site: str, body: Mapping[str, Any]) -> tuple[str, str]:
        """A site's answer to a proposal."""
        job = self.active.get(str(body.get("job")))
        decision, reason = str(body.get("decision")), str(body.get("reason", ""))[:500]
        if job is None:
            return "late", "the job is over"
        if not job.wants(site):
            return "refused", "the job was not offered to this site"
        if decision not in DECISIONS:
            return "refused", "expected accept, hold or refuse"
        job.decisions[site] = (decision, reason)
        event = {"what": "decision", "job": job.request.job, "site": site, "decision": decision, "reason": reason}
        job.note(event)
        self._on_event(event)
        self._spawn(self.presence_changed(job))
        return "received", ""

    async def replied(self, site: str, reply: Reply, packed: bytes) -> tuple[str, str]:
        """A site's reply, and as it came.

        Raises:
            UnavailableError: the job is not over, but not driven now; the site keeps the reply and sends it again.
        """
        if reply.site != site:
            return "refused", "the reply names another site than its sender"
        job = self.active.get(reply.task.job)
        if job is None or job.run is None or self._closing:
            if self._closing or reply.task.job in self._left:
                raise UnavailableError("the job is not over, but it is not driven here now")
            return "late", "the job is over"
        outcome = await job.run.take(reply, packed)
        if not job.settling:  # replies that came together are settled together
            job.settling = True
            self._spawn(self._settle(job))
        return outcome

    async def _settle(self, job: Job) -> None:
        job.settling = False
        if job.run is not None:
            await job.run.settle()

    def reported(self, site: str, task: str, stage: str) -> None:
        """Progress, for people."""
        try:
            job = self.active.get(TaskId.parse(task).job)
        except ConfigError:
            return
        if job is not None and stage in ("accepted", "held", "running", "uploading"):
            job.stages[site] = stage

    # ---- people ----

    async def is_known(self, job_id: str) -> bool:
        """Whether there is, or was, such a job."""
        try:
            await job_row(job_id, self._seams.ledger)
        except NotFoundError:
            return await is_gone(job_id, self._seams.ledger)
        return True

    async def owner(self, job_id: str) -> str:
        """Who submitted a job.

        Raises:
            NotFoundError: there is none.
        """
        return str((await job_row(job_id, self._seams.ledger))["request"]["person"])

    async def remove(self, job_id: str) -> None:
        """Forget a job that is over, with its models.

        Raises:
            NotFoundError: there is none. ConflictError: it is at work.
        """
        person = await self.owner(job_id)
        job = self.active.get(job_id)
        if job is not None and job.run is not None and job.run.state.over:
            await job.left.wait()  # whoever follows it may know of its end a moment before that is kept
        if job_id in self.active or await job_end(job_id, self._seams.ledger) is None:
            raise ConflictError(f"job {job_id} is not over; end it first: hanse job cancel {job_id}")

        async def code() -> None:
            await asyncio.to_thread(shutil.rmtree, self._directory / job_id, ignore_errors=True)

        await remove_job(job_id, person, self._seams.ledger, self._seams.blobs, now_ms(), code)

    async def close(self) -> None:
        """Stop driving; everything can be taken up again."""
        self._closing = True
        for job in list(self.active.values()):
            if job.run is not None:
                await job.run.close()
            if job.host is not None:
                await job.host.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except HanseError as error:
            log.error("job work failed", reason=str(error), **place_of(error))


@contextmanager
def _of_one(site: str, job: str) -> Iterator[None]:
    """Telling one site of a job's end: what breaks in here is noted, and the others are told."""
    try:
        yield
    except Exception:  # the top of what is done for one site
        log.exception("site not told of a job's end", job=job, site=site)
