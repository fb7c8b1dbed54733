"""The function in which an app's own server side runs: its strategy, its configuration, its evaluation.

As at a server, it runs in a worker process, from the bundle that the person signed, and is handed no credentials; the
process is defence in depth and not a wall, so this function has a role of its own. A warm function keeps the worker of
the job that it was called for last.
"""

import asyncio
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from hanse.core.records import Metrics
from hanse.pipeline.offering import fetch_bundle
from hanse.pipeline.request import JobRequest
from hanse.rounds.events import BlobKey
from hanse.rounds.hosts.host import PlanAnswer, PlanRequest, ReduceAnswer, ReduceRequest
from hanse.serverless.host import FunctionHost
from hanse.serverless.place import Place
from hanse.trust.bundle import unpack_bundle
from hanse.workers.launcher import Launcher
from hanse.workers.load import Load
from hanse.workers.pool import Workers
from hanse.workers.server_host import ServerHost

log = structlog.get_logger("hanse.serverless")


class AppHost(FunctionHost):
    """A `StrategyHost` that can do everything but a long reduction."""

    def __init__(self, place: Place, request: JobRequest, app: ServerHost) -> None:
        super().__init__(place, request.job, request.component, request.spec)
        self._app = app

    async def plan(self, request: PlanRequest) -> PlanAnswer:
        """See `StrategyHost.plan`."""
        return await self._app.plan(request)

    async def reduce(self, request: ReduceRequest) -> ReduceAnswer:
        """See `StrategyHost.reduce`."""
        return await (self._app.reduce(request) if self.is_custom else super().reduce(request))

    async def evaluate(self, model: BlobKey, round_: int) -> Metrics:
        """See `StrategyHost.evaluate`."""
        return await self._app.evaluate(model, round_)


class Apps:
    """The worker of one job at a time.

    Args:
        launcher: started before keys were loaded.
        directory: where bundles are unpacked.
    """

    def __init__(self, launcher: Launcher, directory: Path) -> None:
        self._workers = Workers(launcher)
        self._directory = directory
        self._job = ""
        self._app: ServerHost | None = None

    async def host(self, place: Place, row: Mapping[str, Any]) -> AppHost:
        """A host for a job.

        Raises:
            StorageError, UnavailableError: call again. RefusedError: the bundle is not what was signed.
        """
        request = JobRequest.from_json(row["request"])
        if self._app is None or self._job != request.job:
            if self._app is not None:
                await self._app.close()
            self._app = await self._open(place, request)
            self._job = request.job
        return AppHost(place, request, self._app)

    async def close(self) -> None:
        """End the worker."""
        if self._app is not None:
            await self._app.close()
        await self._workers.close()

    async def _open(self, place: Place, request: JobRequest) -> ServerHost:
        home = self._directory / request.job
        bundle = await fetch_bundle(request, place.blobs)
        await asyncio.to_thread(shutil.rmtree, home, ignore_errors=True)
        home.mkdir(parents=True)
        await asyncio.to_thread(unpack_bundle, bundle, home / "bundle")
        load = Load.server_side(home, entry=request.entry, object=request.object, spec=request.spec)
        job_log = log.bind(job=request.job)

        def line(text: str) -> None:
            job_log.info("app", line=text[:500])

        return ServerHost(request.spec, place.blobs, self._workers, load, threads=2, log=line)
