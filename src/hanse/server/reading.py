"""What people read of jobs: from the run that drives one, and from what is kept of it otherwise."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any

from hanse.core.blobs import INLINE_BYTES
from hanse.core.records import BlobRef
from hanse.pipeline.offering import job_end, job_row, rows_of
from hanse.pipeline.request import ROLES, JobRequest
from hanse.pipeline.sessions import result_of
from hanse.rounds import run_state
from hanse.rounds.driver.run import Run
from hanse.rounds.keeping import round_records, run_record
from hanse.rounds.result import Result
from hanse.rounds.seams import Seams
from hanse.server.job import Job, now_ms
from hanse.server.roles import RolesRun, kept_state

WATCH_S = 0.05
"""At least so long between two messages to somebody who watches."""


class Reading:
    """Descriptions, results and events of a federation's jobs.

    Args:
        active: jobs that are at work, by id.
        left: why a job is not at work that has not ended, by id.
        there: sites that hold a lease.
    """

    def __init__(
        self,
        seams: Seams,
        *,
        federation: str,
        active: Mapping[str, Job],
        left: Mapping[str, str],
        there: Callable[[], frozenset[str]],
    ) -> None:
        self._seams = seams
        self._federation = federation
        self._active = active
        self._left = left
        self._there = there

    async def describe(self, job_id: str) -> dict[str, Any]:
        """Everything about a job but its arrays.

        Raises:
            NotFoundError: there is none.
        """
        row = await job_row(job_id, self._seams.ledger)
        request = row["request"]
        component = request["components"][0]
        spec, is_roles = component["spec"], _is_roles(row)
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
        job = self._active.get(job_id)
        if job is not None and job.run is not None:
            return about | self._at_work(job, job.run)
        end = await job_end(job_id, self._seams.ledger)
        return about | {"sites": {}, **(end or {"status": "stopped", "error": self._left.get(job_id, "")})}

    def _at_work(self, job: Job, run: Run | RolesRun) -> dict[str, Any]:
        state, there = run.state, self._there()
        return {
            "status": state.status,
            "round": state.round,
            "phase": state.phase,
            "stage": state.stage,
            "error": state.error,
            "sites": {
                site: {
                    "decision": job.decisions.get(site, ("accept" if site in job.trusted else "asked", ""))[0],
                    "reason": job.decisions.get(site, ("", ""))[1],
                    "there": site in there,
                    "stage": job.stages.get(site, ""),
                }
                for site in sorted(set(job.offered) | job.trusted)
            },
        }

    async def describe_all(self) -> list[dict[str, Any]]:
        """Every job, newest first."""
        rows = await rows_of("job/", self._seams.ledger)
        return [await self.describe(key.removeprefix("job/")) for key, _, _ in reversed(rows)]

    async def result(self, job_id: str, after: int = 0) -> tuple[dict[str, Any], BlobRef | None]:
        """The result so far without arrays, and where the last model is.

        Raises:
            NotFoundError: there is no such job.
        """
        row = await job_row(job_id, self._seams.ledger)
        if _is_roles(row):
            return await self._roles_result(row), None
        component = _component(row)
        record, _, _ = await run_record(self._seams.ledger, self._seams.blobs, job_id, component)
        state = run_state.decode(record["state"])
        found = await round_records(self._seams.ledger, job_id, component, after, blobs=self._seams.blobs)
        records = [record for record in found if record.number > 0]
        sites = {site for record in records for site in (*record.folded, *record.late, *record.failed)}
        end = await self._end_of(row)
        result = Result(
            end.get("status", state.status),
            rounds=tuple(records),
            job=job_id,
            error=end.get("error", state.error),
            sites=tuple(sorted(sites)),
            seconds=(end.get("ended_at_ms", now_ms()) - row["taken_at_ms"]) / 1000,
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
        end = await self._end_of(row)
        ended_at_ms = end.get("ended_at_ms", now_ms())
        seconds = (ended_at_ms - row["taken_at_ms"]) / 1000
        result = result_of(state, request, ended_at_ms=ended_at_ms, seconds=seconds)
        return replace(result, status=end.get("status", result.status), error=end.get("error", result.error)).to_json()

    async def _end_of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """How a job ended; empty while it has not. The state of one that ended without a driver does not say."""
        return await job_end(row["request"]["job"], self._seams.ledger) or {}

    async def follow(self, job_id: str) -> AsyncIterator[list[dict[str, Any]]]:
        """What has happened and what happens, until the end; what happens close together comes together.

        Raises:
            NotFoundError: there is no such job.
        """
        job = self._active.get(job_id)
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
        row = await job_row(job_id, self._seams.ledger)
        if _is_roles(row):
            records = (await self._roles_result(row))["rounds"]
        else:
            found = await round_records(self._seams.ledger, job_id, _component(row), blobs=self._seams.blobs)
            records = [record.to_json() for record in found if record.number]
        return [{"what": "round", "job": job_id, "record": record} for record in records]


def _component(row: Mapping[str, Any]) -> str:
    return str(row["request"]["components"][0]["name"])


def _is_roles(row: Mapping[str, Any]) -> bool:
    return bool(row["request"]["components"][0]["kind"] == ROLES)
