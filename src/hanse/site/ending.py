"""The end of a job at a site: what is kept of it, and that everything else of it is forgotten."""

import asyncio
import json
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import structlog

from hanse.core.blobs import CHUNK_BYTES, Manifest
from hanse.core.errors import CodecError, ConfigError, HanseError
from hanse.core.ids import check_name, check_scope
from hanse.core.records import Envelope
from hanse.core.seams import BlobStore
from hanse.pipeline.request import manifest_from
from hanse.site.deciding import Deciding
from hanse.site.roles import discard_arrays
from hanse.site.runners import Runners
from hanse.site.surroundings import Surroundings

LATE = "late"
FRUITLESS = ("failed", "cancelled")
"""How a job ends of which nobody keeps anything."""
ASK_AGAIN_S = 30.0

log = structlog.get_logger("hanse.site")

OnEnd = Callable[[str, str, bool], None]
"""Told of a job, its status and whether it ran here."""


class Ending:
    """Ends of jobs.

    Args:
        on_end: called when the server has ended a job and everything of it is done here.
        spawn: does work in the background.
    """

    def __init__(
        self,
        around: Surroundings,
        runners: Runners,
        deciding: Deciding,
        *,
        on_end: OnEnd,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._around = around
        self._runners = runners
        self._deciding = deciding
        self._on_end = on_end
        self._spawn = spawn
        self._late: dict[str, float] = {}
        self._at_work: set[str] = set()

    async def end(self, envelope: Envelope) -> None:
        """Forget a job. Its log is kept a while, for the owner."""
        around = self._around
        try:
            job = check_name(envelope.job, "job")
        except ConfigError as error:
            return around.refused(envelope, str(error))
        if job in self._at_work:  # the same word once more, which queues may bring
            return None
        self._at_work.add(job)
        try:
            await self._end(job, envelope)
        finally:
            self._at_work.discard(job)
        return None

    async def _end(self, job: str, envelope: Envelope) -> None:
        around = self._around
        status = status_in(envelope.body)
        around.runs.ended(job, status or "cancelled")
        if status in FRUITLESS and around.journal.job(job) is not None:
            await asyncio.to_thread(discard_arrays, around.roles, job)
        ran = job in self._runners
        if around.config.keep_models and ran:
            await self._keep_model(job, envelope.body)
        await self._forget(job)
        around.link.done("end", envelope.id)
        self._on_end(job, status or "cancelled", ran)

    def decision_taken(self, job: str, outcome: str) -> None:
        """The server has heard of a decision; it may answer that the job is over, or not known, which looks alike."""
        if self._around.journal.job(job) is None:
            return
        self._around.journal.told(job)
        if outcome != LATE:
            self._late.pop(job, None)
            return
        # The job ended while we were away. A server that has just started may not know its jobs yet: ask twice.
        loop = asyncio.get_running_loop()
        first = self._late.setdefault(job, loop.time())
        if loop.time() - first >= ASK_AGAIN_S:
            self._spawn(self._forget_late(job))
        else:
            loop.call_later(ASK_AGAIN_S, self._tell_again, job)

    def _tell_again(self, job: str) -> None:
        if not self._around.stopping.is_set():
            self._deciding.tell_again(job)

    async def _forget_late(self, job: str) -> None:
        """Forget a job that ended while nobody was here."""
        self._around.runs.ended(job, "cancelled")
        ran = job in self._runners
        await self._forget(job)
        self._on_end(job, "cancelled", ran)

    async def _forget(self, job: str) -> None:
        self._late.pop(job, None)
        await self._deciding.stop(job)
        await self._runners.drop(job)
        try:
            await self._around.blobs.delete_scope(job)
            self._around.journal.forget(job)
            self._around.material.erase(f"{job}/")
        except HanseError as error:
            log.error("a job's remains could not be removed", job=job, reason=str(error))
        log.info("job ended", job=job)

    async def _keep_model(self, job: str, body: bytes) -> None:
        """Keep the last model, if the server has said where it is."""
        around = self._around
        told = json.loads(body).get("model")
        if not isinstance(told, dict):
            return
        try:
            scope = check_scope(str(told.get("scope")))
            if not scope.startswith(f"{job}/"):
                raise CodecError("expected a model of this job")
            manifest = manifest_from(told)
            await around.transfers.download(scope, manifest)
            target = around.directory / "outputs" / job / "model.safetensors"
            await asyncio.to_thread(_write_blob, around.blobs, scope, manifest, target)
            log.info("model kept", job=job, file=str(target.relative_to(around.directory)))
        except (HanseError, OSError, KeyError, TypeError, ValueError) as error:
            log.error("the last model could not be kept", job=job, reason=str(error)[:300])


def status_in(body: bytes) -> str:
    """How the server says a job ended; empty where it does not."""
    try:
        status = json.loads(body)["status"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return status if status in ("finished", *FRUITLESS) else ""


def _write_blob(blobs: BlobStore, scope: str, manifest: Manifest, target: Path) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}")
    with draft.open("wb") as file:
        for start in range(0, manifest.size, CHUNK_BYTES):
            file.write(blobs.read(scope, manifest.id, start, min(manifest.size, start + CHUNK_BYTES)))
    os.replace(draft, target)
