"""Jobs at the server: taken, offered to sites, driven, ended; and taken up again after a restart.

    job/<id>        the signed request and when it was taken
    jobend/<id>     how it ended
    run/…, reply/…, round/…    see rounds/driver.py

A job holds no rule about rounds: that is the machine's. What it decides is who may be asked: sites that hold a
lease and have accepted the proposal.
"""

import asyncio
import json
import shutil
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from hanse.backends.grpc.relay import Relays
from hanse.core.blobs import INLINE_BYTES
from hanse.core.errors import ConfigError, ConflictError, HanseError, NotFoundError, UnavailableError
from hanse.core.ids import TaskId, bundle_scope, model_scope
from hanse.core.records import BlobRef, Reply
from hanse.core.seams import BlobStore
from hanse.core.spec import RunSpec
from hanse.pipeline.offering import check_request, check_roles, end_of, fetch_bundle, job_row, keep_request, proposal_of
from hanse.pipeline.removal import is_gone, remove_job
from hanse.pipeline.request import ROLES, JobRequest
from hanse.pipeline.sessions import result_of
from hanse.rounds import machine, run_state
from hanse.rounds.clock import LoopClock
from hanse.rounds.driver import Run, Seams
from hanse.rounds.events import Failed
from hanse.rounds.group import Host
from hanse.rounds.keeping import round_records, run_record
from hanse.rounds.outgoing import RunInfo
from hanse.rounds.result import Result
from hanse.server.roles import RolesRun, kept_state
from hanse.strategies.catalogue import CUSTOM
from hanse.trust.bundle import unpack_bundle
from hanse.workers.load import Load
from hanse.workers.pool import Workers
from hanse.workers.server_host import ServerHost

DECISION_S = 30.0
"""How long a connected site that says nothing to a proposal holds the start up."""
EVENTS_KEPT = 2000
Lead = Callable[[JobRequest, Callable[[RunSpec], ServerHost], BlobStore], Host]
"""Makes the host of a job, from what makes an ordinary one: for groups, whose jobs a federation above leads."""
WATCH_S = 0.05
"""At least so long between two messages to somebody who watches."""
ENDED = ("finished", "failed", "cancelled")
log = structlog.get_logger("hanse.jobs")


class History:
    """What has happened to a job, for those who watch: the last `EVENTS_KEPT` events and a way to await more."""

    def __init__(self) -> None:
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS_KEPT)
        self._total = 0
        self._more = asyncio.Event()

    def add(self, event: dict[str, Any]) -> None:
        """Append."""
        self._events.append(event)
        self._total += 1
        self._more.set()
        self._more = asyncio.Event()

    async def since(self, position: int) -> tuple[list[dict[str, Any]], int]:
        """Events from `position` on (waiting for the first), and the position behind them."""
        while self._total <= position:
            await self._more.wait()
        missed = max(position, self._total - len(self._events))
        return list(self._events)[missed - self._total + len(self._events) :], self._total

    @property
    def complete(self) -> bool:
        """Whether nothing has been dropped yet."""
        return self._total == len(self._events)


class Job:
    """One job at work."""

    def __init__(self, request: JobRequest, signature: bytes, person_record: bytes, seams: Seams) -> None:
        self.request = request
        self.signature = signature
        self.run: Run | RolesRun | None = None
        self.host: Host | None = None
        self.decisions: dict[str, tuple[str, str]] = {}
        self.offered: dict[str, float] = {}
        self.trusted: set[str] = set()
        self.history = History()
        self.resumed = False
        self.settling = False
        self.stages: dict[str, str] = {}
        self._person_record = person_record
        self._seams = seams

    def wants(self, site: str) -> bool:
        """Whether the job may be offered to a site."""
        return self.request.sites is None or site in self.request.sites

    async def offer(self, site: str) -> None:
        """Propose the job to a site."""
        request = self.request
        self.offered[site] = time.monotonic()
        self._seams.links.grant(site, read=[(bundle_scope(request.job), request.bundle.id)])
        await self._seams.inbox.send(site, proposal_of(site, request, self.signature, self._person_record))

    async def dismiss(self, site: str, status: str, model: BlobRef | None = None) -> None:
        """Tell a site that the job is over, and where its last model is if the site is to have it."""
        if model is not None:
            self._seams.links.grant(site, read=[(model.scope, model.id)])
        await self._seams.inbox.send(site, end_of(site, self.request, status, model))

    def accepted(self) -> frozenset[str]:
        """Sites that have accepted, or had before the server restarted and have not said otherwise since."""
        yes = {site for site, (decision, _) in self.decisions.items() if decision == "accept"}
        return frozenset(yes | (self.trusted - set(self.decisions)))

    def undecided(self, there: Iterable[str], now: float) -> int:
        """Sites that are there, were asked, and may still answer in time."""
        return sum(
            1
            for site in there
            if self.wants(site)
            and site not in self.decisions
            and site not in self.trusted
            and now - self.offered.get(site, now) < DECISION_S
        )

    def unwilling(self) -> dict[str, str]:
        """Sites that hold or refuse the job, with what they said."""
        return {
            site: f"{decision}: {reason[:200]}" if reason else decision
            for site, (decision, reason) in self.decisions.items()
            if decision != "accept"
        }

    def note(self, event: dict[str, Any]) -> None:
        """Keep an event for those who watch."""
        self.history.add({**event, "at_s": time.time()})


class Jobs:
    """Every job of a federation.

    Args:
        directory: where server-side apps are unpacked.
        models_to_sites: whether sites get the last model of a job they took part in.
        datasets: what the server itself holds, by name; relative paths start beside `directory`.
        there: sites that hold a lease.
        expect: gives sites a lease before they have been heard.
        enrolled: sites that belong to the federation and are not revoked.
        key_of: the signing key of a person, as verified.
        on_event: told what happens, for logs, metrics and audit.
        relays: where sessions of roles are opened.
        site_record_of: the member record of a site that is not revoked.
        lead: makes jobs' hosts; None for the ordinary ones.
    """

    def __init__(
        self,
        seams: Seams,
        workers: Workers,
        directory: Path,
        *,
        federation: str,
        threads: int,
        datasets: Mapping[str, Mapping[str, Any]],
        models_to_sites: bool,
        there: Callable[[], frozenset[str]],
        expect: Callable[[Iterable[str]], None],
        enrolled: Callable[[], Sequence[str]],
        record_of: Callable[[str], bytes],
        on_event: Callable[[dict[str, Any]], None],
        relays: Relays,
        site_record_of: Callable[[str], bytes],
        lead: Lead | None = None,
    ) -> None:
        self._lead = lead
        self._seams = seams
        self._workers = workers
        self._directory = directory
        self._federation = federation
        self._threads = threads
        self._datasets = datasets
        self._models_to_sites = models_to_sites
        self._there = there
        self._expect = expect
        self._enrolled = enrolled
        self._record_of = record_of
        self._on_event = on_event
        self._relays = relays
        self._site_record_of = site_record_of
        self.active: dict[str, Job] = {}
        self._left: set[str] = set()
        self._closing = False
        self._tasks: set[asyncio.Task[None]] = set()

    # ---- taking ----

    async def submit(self, request: JobRequest, signature: bytes) -> None:
        """Take a verified request. Asking twice is harmless.

        Raises:
            ConflictError: another job of this id. ConfigError, RefusedError: something in it does not hold.
        """
        leads = self._lead is not None
        await check_request(request, self._seams.blobs, federation=self._federation, leads=leads)
        check_roles(request, self._enrolled())
        if await is_gone(request.job, self._seams.ledger):
            raise ConflictError(f"job {request.job} was removed; submit the app again for a new one")
        if not await keep_request(request, signature, self._seams.ledger, _now()):
            return
        job = Job(request, signature, self._record_of(request.person), self._seams)
        await self._begin(job)

    async def recover(self) -> None:
        """Take up every job that had not ended."""
        ended = {key.removeprefix("jobend/") for key, _, _ in await self._all("jobend/")}
        for key, value, _ in await self._all("job/"):
            job_id = key.removeprefix("job/")
            if job_id in ended or job_id in self.active:
                continue
            row = json.loads(value)
            try:
                request = JobRequest.from_json(row["request"])
                job = Job(request, bytes.fromhex(row["signature"]), self._record_of(request.person), self._seams)
                await self._resume(job)
            except HanseError as error:
                self._left.add(job_id)
                log.error("job cannot be taken up", job=job_id, reason=str(error))

    async def _begin(self, job: Job) -> None:
        request = job.request
        if request.roles is not None:
            await self._begin_roles(job)
            return
        model = None
        if request.initial is not None:
            model = (model_scope(request.job, request.component, 0), request.initial.id)
        state = machine.begin(request.job, request.component, request.spec, model)
        job.host = self._host(job)
        try:
            run = await Run.create(state, self._seams, job.host, LoopClock(), await self._info(request))
        except ConflictError:
            await self._resume(job)  # a crash between the job's row and its first state
            return
        await self._attach(job, run)
        await run.start()
        await self._offer_to_all(job)
        await self.presence_changed(job)

    async def _begin_roles(self, job: Job) -> None:
        """Begin a component of roles, or take it up: `RolesRun` knows which."""
        parts = (job.request, self._seams, self._relays, LoopClock(), self._site_record_of)
        try:
            run = await RolesRun.load(*parts)
        except NotFoundError:
            run = await RolesRun.create(*parts)
        job.trusted = run.trusted
        self._expect(job.trusted)
        await self._attach(job, run)
        await run.resume(())
        await self._offer_to_all(job)
        await self.presence_changed(job)

    async def _resume(self, job: Job) -> None:
        request = job.request
        job.resumed = True
        if request.roles is not None:
            await self._begin_roles(job)
            return
        job.host = host = self._host(job)
        info = await self._info(request)
        try:
            run = await Run.load(request.job, request.component, self._seams, LoopClock(), lambda _spec: host, info)
        except NotFoundError:
            await self._begin(job)
            return
        expected = {slot.site for slot in run.state.open.values()}
        job.trusted = expected | set(run.fingerprints)
        self._expect(job.trusted)
        await self._attach(job, run)
        log.info("job taken up again", job=request.job, round=run.state.round, stage=run.state.stage)
        await run.resume(sorted(expected | (self._there() & job.trusted)))
        if run.state.stage == "waiting":
            await run.start()
        await self._offer_to_all(job)
        await self.presence_changed(job)

    async def _attach(self, job: Job, run: Run | RolesRun) -> None:
        job.run = run
        self.active[job.request.job] = job
        run.observers.append(job.note)
        run.observers.append(self._on_event)
        self._spawn(self._until_end(job, run))

    async def _until_end(self, job: Job, run: Run | RolesRun) -> None:
        request = job.request
        try:
            status = await run.finished
            end = {
                "status": status,
                "error": run.state.error,
                "ended_at_ms": _now(),
                "fingerprints": dict(run.fingerprints),
            }
            await self._keep_end(request.job, end)  # before the job leaves: who asks in between would find no end
        except asyncio.CancelledError:
            return  # the server stops, and the job is active: who asks until it is gone is not told that it is over
        except Exception as error:  # the top of a job: it is named and left as it is, to be taken up later
            self._left.add(request.job)
            log.exception("job stopped", job=request.job)
            job.note({"what": "stopped", "job": request.job, "error": type(error).__name__})
            self.active.pop(request.job, None)
            return
        self.active.pop(request.job, None)
        model = await self._last_model(run) if self._models_to_sites and status == "finished" else None
        for site in sorted(job.offered):
            self._seams.links.revoke(site, scope_prefix=request.job)
            await job.dismiss(site, status, model if site in run.fingerprints else None)
        await run.close()
        if job.host is not None:
            await job.host.close()

    async def _last_model(self, run: Run | RolesRun) -> BlobRef | None:
        key = run.state.model if isinstance(run, Run) else None
        return None if key is None else BlobRef(await self._seams.blobs.manifest(*key), key[0])

    async def _keep_end(self, job: str, end: Mapping[str, Any]) -> None:
        await self._seams.ledger.create(f"jobend/{job}", json.dumps(end).encode())

    # ---- sites ----

    async def _offer_to_all(self, job: Job) -> None:
        for site in sorted(self._there()):
            if job.wants(site):
                await job.offer(site)
        loop = asyncio.get_running_loop()
        loop.call_later(DECISION_S + 0.1, lambda: self._spawn(self.presence_changed(job)))

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
            causes = "; ".join(f"{site}: {refused[site]}" for site in sorted(refused)[:8])
            await job.run.post(Failed(f"every site has refused the job ({causes})", _now()))
            return
        await job.run.sites_changed(sorted(sites), job.undecided(there, time.monotonic()), job.unwilling())

    async def decided(self, site: str, body: Mapping[str, Any]) -> tuple[str, str]:
        """A site's answer to a proposal."""
        job = self.active.get(str(body.get("job")))
        decision, reason = str(body.get("decision")), str(body.get("reason", ""))[:500]
        if job is None:
            return "late", "the job is over"
        if not job.wants(site):
            return "refused", "the job was not offered to this site"
        if decision not in ("accept", "hold", "refuse"):
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
            await self._row(job_id)
        except NotFoundError:
            return await is_gone(job_id, self._seams.ledger)
        return True

    async def owner(self, job_id: str) -> str:
        """Who submitted a job.

        Raises:
            NotFoundError: there is none.
        """
        return str((await self._row(job_id))["request"]["person"])

    async def remove(self, job_id: str) -> None:
        """Forget a job that is over, with its models.

        Raises:
            NotFoundError: there is none. ConflictError: it is at work.
        """
        person = await self.owner(job_id)
        if job_id in self.active or await self._end(job_id) is None:
            raise ConflictError(f"job {job_id} is not over; end it first: hanse job cancel {job_id}")

        async def code() -> None:
            await asyncio.to_thread(shutil.rmtree, self._directory / job_id, ignore_errors=True)

        await remove_job(job_id, person, self._seams.ledger, self._seams.blobs, _now(), code)

    async def cancel(self, job_id: str, by: str) -> None:
        """End a job.

        Raises:
            NotFoundError: no such job at work.
        """
        job = self.active.get(job_id)
        if job is None or job.run is None:
            await self._row(job_id)
            raise NotFoundError(f"job {job_id} is not at work")
        await job.run.cancel(by)

    async def describe(self, job_id: str) -> dict[str, Any]:
        """Everything about a job but its arrays.

        Raises:
            NotFoundError: there is none.
        """
        row = await self._row(job_id)
        request = row["request"]
        component = request["components"][0]
        spec, is_roles = component["spec"], component["kind"] == ROLES
        about: dict[str, Any] = {
            "job": job_id,
            "name": request["name"],
            "person": request["person"],
            "app": request["app"],
            "submitted_at_ms": request["submitted_at_ms"],
            "rounds": 1 if is_roles else spec["rounds"],
            "strategy": ROLES if is_roles else spec["strategy"],
            "component": component["name"],
        }
        if is_roles:
            about |= {"roles": spec["roles"], "protocol": spec["protocol"]["name"]}
        job = self.active.get(job_id)
        if job is not None and job.run is not None:
            state = job.run.state
            about |= {
                "status": state.status,
                "round": state.round,
                "phase": state.phase,
                "stage": state.stage,
                "error": state.error,
                "sites": {
                    site: {
                        "decision": job.decisions.get(site, ("accept" if site in job.trusted else "asked", ""))[0],
                        "reason": job.decisions.get(site, ("", ""))[1],
                        "there": site in self._there(),
                        "stage": job.stages.get(site, ""),
                    }
                    for site in sorted(set(job.offered) | job.trusted)
                },
            }
            return about
        end = await self._end(job_id)
        return about | {"sites": {}, **(end or {"status": "stopped", "error": ""})}

    async def describe_all(self) -> list[dict[str, Any]]:
        """Every job, newest first."""
        rows = await self._all("job/")
        return [await self.describe(key.removeprefix("job/")) for key, _, _ in reversed(rows)]

    async def result(self, job_id: str, after: int = 0) -> tuple[dict[str, Any], BlobRef | None]:
        """The result so far without arrays, and where the last model is.

        Raises:
            NotFoundError: there is no such job.
        """
        row = await self._row(job_id)
        component = row["request"]["components"][0]["name"]
        if row["request"]["components"][0]["kind"] == ROLES:
            return await self._roles_result(row), None
        record, _, _ = await run_record(self._seams.ledger, self._seams.blobs, job_id, component)
        state = run_state.decode(record["state"])
        records = [
            r
            for r in await round_records(self._seams.ledger, job_id, component, after, blobs=self._seams.blobs)
            if r.number > 0
        ]
        sites = {site for r in records for site in (*r.folded, *r.late, *r.failed)}
        end = await self._end(job_id)
        result = Result(
            state.status,
            rounds=tuple(records),
            job=job_id,
            error=state.error,
            sites=tuple(sorted(sites)),
            seconds=((end["ended_at_ms"] if end else _now()) - row["taken_at_ms"]) / 1000,
            fingerprints=record["fingerprints"],
            about={
                "app": row["request"]["name"],
                "strategy": state.spec.strategy,
                "person": row["request"]["person"],
                "federation": self._federation,
            },
        )
        if state.model is None:
            return result.to_json(), None
        manifest = await self._seams.blobs.manifest(*state.model)
        inline = None
        if manifest.size <= INLINE_BYTES:
            inline = bytes(self._seams.blobs.read(*state.model, 0, manifest.size))
        return result.to_json(), BlobRef(manifest, state.model[0], inline)

    async def _roles_result(self, row: Mapping[str, Any]) -> dict[str, Any]:
        request = JobRequest.from_json(row["request"])
        state, _ = await kept_state(self._seams, request.job, request.component)
        end = await self._end(request.job)
        ended_at_ms = end["ended_at_ms"] if end else _now()
        seconds = (ended_at_ms - row["taken_at_ms"]) / 1000
        return result_of(state, request, ended_at_ms=ended_at_ms, seconds=seconds).to_json()

    async def follow(self, job_id: str) -> AsyncIterator[list[dict[str, Any]]]:
        """What has happened and what happens, until the end; what happens close together comes together.

        Raises:
            NotFoundError: there is no such job.
        """
        job = self.active.get(job_id)
        if job is None or job.resumed or not job.history.complete:
            yield await self.past(job_id)
        position = 0
        while job is not None:
            events, position = await job.history.since(position)
            yield events
            if events[-1]["what"] in ("finished", "stopped"):
                return
            await asyncio.sleep(WATCH_S)  # people who watch must not slow the rounds down
        about = await self.describe(job_id)
        yield [{"what": "finished", "job": job_id, "status": about["status"], "error": about.get("error", "")}]

    async def past(self, job_id: str) -> list[dict[str, Any]]:
        """Events of the rounds that are over, made from what is kept of them."""
        row = await self._row(job_id)
        if row["request"]["components"][0]["kind"] == ROLES:
            records = (await self._roles_result(row))["rounds"]
            return [{"what": "round", "job": job_id, "record": record} for record in records]
        component = row["request"]["components"][0]["name"]
        records = await round_records(self._seams.ledger, job_id, component, blobs=self._seams.blobs)
        return [{"what": "round", "job": job_id, "record": record.to_json()} for record in records if record.number]

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

    # ---- details ----

    def _host(self, job: Job) -> Host:
        request = job.request
        home = self._directory / request.job
        load = Load(
            bundle=home / "bundle",
            entry=request.entry,
            object=request.object,
            role="server",
            seed=request.spec.seed,
            scratch=home / "scratch",
            datasets=self._datasets,
            base=self._directory.parent,
            options={"spec": request.spec.to_json()},
        )
        server_log = log.bind(job=request.job)

        def line(text: str) -> None:
            server_log.info("app", line=text[:500])

        def made(spec: RunSpec) -> ServerHost:
            return ServerHost(spec, self._seams.blobs, self._workers, load, threads=self._threads, log=line)

        return made(request.spec) if self._lead is None else self._lead(request, made, self._seams.blobs)

    async def _info(self, request: JobRequest) -> RunInfo:
        spec = request.spec
        if spec.server_config or spec.server_evaluate or spec.strategy == CUSTOM:
            await self._unpack(request)
        return RunInfo(self._federation, request.app)

    async def _unpack(self, request: JobRequest) -> None:
        target = self._directory / request.job / "bundle"
        if not target.exists():
            bundle = await fetch_bundle(request, self._seams.blobs)
            target.parent.mkdir(parents=True, exist_ok=True)
            await asyncio.to_thread(unpack_bundle, bundle, target)

    async def _row(self, job_id: str) -> dict[str, Any]:
        return await job_row(job_id, self._seams.ledger)

    async def _end(self, job_id: str) -> dict[str, Any] | None:
        try:
            content, _ = await self._seams.ledger.get(f"jobend/{job_id}")
        except NotFoundError:
            return None
        end: dict[str, Any] = json.loads(content)
        return end

    async def _all(self, prefix: str) -> list[tuple[str, bytes, int]]:
        found: list[tuple[str, bytes, int]] = []
        after: str | None = None
        while rows := await self._seams.ledger.query(prefix, after):
            after = rows[-1][0]
            found.extend(rows)
        return found

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Any) -> None:
        try:
            await work
        except HanseError as error:
            log.error("job work failed", reason=str(error))


def _now() -> int:
    return time.time_ns() // 1_000_000
