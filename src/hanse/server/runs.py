"""Making the run of a job: begun, or taken up where its record stands, with the host of its strategy."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from hanse.backends.grpc.relay import Relays
from hanse.core.errors import ConflictError, NotFoundError
from hanse.core.ids import model_scope
from hanse.core.seams import BlobStore
from hanse.core.spec import RunSpec
from hanse.pipeline.offering import fetch_bundle
from hanse.pipeline.request import JobRequest
from hanse.rounds import machine
from hanse.rounds.driver.clock import LoopClock
from hanse.rounds.driver.run import Run
from hanse.rounds.hosts.group import Host
from hanse.rounds.outgoing import RunInfo
from hanse.rounds.seams import Seams
from hanse.server.job import Job
from hanse.server.roles import RolesRun
from hanse.strategies.catalogue import CUSTOM
from hanse.trust.bundle import unpack_bundle
from hanse.workers.load import Load
from hanse.workers.pool import Workers
from hanse.workers.server_host import ServerHost

log = structlog.get_logger("hanse.jobs")


@dataclass(frozen=True, slots=True)
class Lead:
    """How jobs are led from a federation above, for groups.

    Args:
        person: who submits them.
        host: makes the host of a job, from what makes an ordinary one.
    """

    person: str
    host: Callable[[JobRequest, Callable[[RunSpec], ServerHost], BlobStore], Host]


class Runs:
    """Runs for jobs.

    Args:
        directory: where server-side apps are unpacked.
        threads: for reducing.
        datasets: what the server itself holds, by name; relative paths start beside `directory`.
        relays: where sessions of roles are opened.
        site_record_of: the member record of a site that is not revoked.
        lead: of an edge; None where no federation is above.
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
        self._relays = relays
        self._site_record_of = site_record_of

    @property
    def leader(self) -> str | None:
        """The person whose jobs a federation above leads here; None where there is none."""
        return None if self._lead is None else self._lead.person

    async def make(self, job: Job) -> Run | RolesRun:
        """The job's run, which does nothing yet: `go` sets it going.

        Whether it is resumed is what is found: a crash may have come between the job's row and its first state. Notes
        at the job whom its record shows to have accepted.
        """
        if job.request.roles is not None:
            job.run = run = await self._make_roles(job.request)
            job.trusted = run.trusted
            return run
        job.host = self._host(job.request)
        if not job.resumed:
            try:
                return await self._create(job, job.host)
            except ConflictError:
                job.resumed = True
        try:
            return await self._load(job, job.host)
        except NotFoundError:
            job.resumed = False
            return await self._create(job, job.host)

    async def go(self, job: Job, there: frozenset[str]) -> None:
        """Begin, or perform what is left.

        Args:
            there: sites that hold a lease.
        """
        run = job.run
        if isinstance(run, RolesRun):
            await run.resume(())
        elif run is not None and not job.resumed:
            await run.start()
        elif run is not None:
            log.info("job taken up again", job=job.request.job, round=run.state.round, stage=run.state.stage)
            await run.resume(sorted(_asked(run) | (there & job.trusted)))
            if run.state.stage == "waiting":
                await run.start()

    async def _make_roles(self, request: JobRequest) -> RolesRun:
        """`RolesRun` knows whether it begins or is taken up."""
        parts = (request, self._seams, self._relays, LoopClock(), self._site_record_of)
        try:
            return await RolesRun.load(*parts)
        except NotFoundError:
            return await RolesRun.create(*parts)

    async def _create(self, job: Job, host: Host) -> Run:
        request, model = job.request, None
        if request.initial is not None:
            model = (model_scope(request.job, request.component, 0), request.initial.id)
        state = machine.begin(request.job, request.component, request.spec, model)
        job.run = run = await Run.create(state, self._seams, host, LoopClock(), await self._info(request))
        return run

    async def _load(self, job: Job, host: Host) -> Run:
        request, info = job.request, await self._info(job.request)
        run = await Run.load(request.job, request.component, self._seams, LoopClock(), lambda _spec: host, info)
        job.run, job.trusted = run, _asked(run) | set(run.fingerprints)
        return run

    # ---- an app's server side ----

    def _host(self, request: JobRequest) -> Host:
        load = Load.server_side(
            self._directory / request.job,
            entry=request.entry,
            object=request.object,
            spec=request.spec,
            datasets=self._datasets,
            base=self._directory.parent,
        )
        server_log = log.bind(job=request.job)

        def line(text: str) -> None:
            server_log.info("app", line=text[:500])

        def made(spec: RunSpec) -> ServerHost:
            return ServerHost(spec, self._seams.blobs, self._workers, load, threads=self._threads, log=line)

        return made(request.spec) if self._lead is None else self._lead.host(request, made, self._seams.blobs)

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


def _asked(run: Run) -> set[str]:
    """Sites that have an open task."""
    return {slot.site for slot in run.state.open.values()}
