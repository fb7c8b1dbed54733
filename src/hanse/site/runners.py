"""The jobs at hand: a runner for each that was accepted, and the tasks that come for them."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog

from hanse.core.errors import CodecError, ConfigError, HanseError
from hanse.core.ids import TaskId
from hanse.core.records import Envelope, Task
from hanse.site.jobs import JobRunner
from hanse.site.policy import FILE, Policy, read_policy
from hanse.site.proposals import Proposal
from hanse.site.surroundings import Surroundings

KEPT_LOGS = 20
REPORT_SHARE, LONGEST_REPORT_S = 0.1, 1.0
"""Of a task's time so much is kept back, so that the word that it took too long reaches the server in time."""

log = structlog.get_logger("hanse.site")


class Runners:
    """One for each accepted job."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._runners: dict[str, JobRunner] = {}

    def __len__(self) -> int:
        return len(self._runners)

    def __contains__(self, job: str) -> bool:
        return job in self._runners

    @property
    def holding(self) -> list[str]:
        """Ids of tasks that wait or run."""
        return [task for runner in self._runners.values() for task in runner.holding]

    def of(self, job: str) -> JobRunner | None:
        """The runner of a job that is at hand."""
        return self._runners.get(job)

    def status(self, job: str) -> dict[str, Any]:
        """What a job is doing, for the owner; nothing for one that is not at hand."""
        runner = self._runners.get(job)
        return {} if runner is None else runner.status()

    # ---- life ----

    def begin(self, proposal: Proposal) -> JobRunner:
        """Take tasks of an accepted job from here on."""
        runner = self._runners.get(proposal.job)
        if runner is None:
            policy = _quietly_read_policy(self._around.directory)
            runner = self._runners[proposal.job] = JobRunner(proposal, policy, self._around)
            runner.begin()
        return runner

    @staticmethod
    async def warm(runner: JobRunner) -> None:
        """Have a worker ready before the first task comes."""
        try:
            await runner.prepare()
        except HanseError as error:  # its tasks will say so, one by one
            log.warning("no worker could be started", job=runner.job, reason=str(error))

    async def drop(self, job: str) -> None:
        """Stop a job and remove its files; what its app printed is kept a while, for the owner."""
        runner = self._runners.pop(job, None)
        if runner is not None:
            await runner.close()
        self._around.replies.forget(job)
        await asyncio.to_thread(_clear, self._around.directory, job)

    async def close(self) -> None:
        """Stop all. What is journalled stays."""
        await asyncio.gather(*(runner.close() for runner in self._runners.values()), return_exceptions=True)

    # ---- tasks ----

    def task(self, envelope: Envelope) -> None:
        """Take a task; one that was answered before has the same answer again.

        Raises:
            CodecError: no task of this message's job.
        """
        replies, id = self._around.replies, envelope.id
        if replies.knows(id):
            return replies.again(id)
        runner = self._runners.get(envelope.job)
        if runner is not None and runner.has(id):
            return None
        task = Task.unpack(envelope.body, deadline_s=envelope.deadline_s, verify=False)  # the worker does
        if str(task.id) != id or task.id.job != envelope.job:
            raise CodecError("the task's id is not the message's")
        reason = self._objection(task, runner)
        if reason or runner is None:
            self._around.refused(envelope, reason)
            return replies.refuse(task.id, "refused", reason)
        return runner.enqueue(task, _due(task.deadline_s), envelope.body)

    def _objection(self, task: Task, runner: JobRunner | None) -> str:
        if runner is None:
            return f"this site has not accepted the job {task.id.job}"
        if task.app != runner.proposal.app:
            return "the task is for another app than the one that this site has accepted"
        if task.site != self._around.site:
            return "the task is for another site"
        return ""

    def release(self, envelope: Envelope) -> None:
        """A task that the server does not wait for any more.

        Raises:
            CodecError: no task's id.
        """
        try:
            job = TaskId.parse(envelope.id).job
        except ConfigError as error:
            raise CodecError(str(error)) from None
        runner = self._runners.get(job)
        if runner is not None:
            runner.release(envelope.id)
        self._around.link.done("release", envelope.id)


def _due(deadline_s: float) -> float | None:
    """Loop time at which a task is given up; None for never."""
    if deadline_s <= 0:
        return None
    return asyncio.get_running_loop().time() + deadline_s - min(REPORT_SHARE * deadline_s, LONGEST_REPORT_S)


def _quietly_read_policy(directory: Path) -> Policy | None:
    """The policy as far as it grants data; what is wrong with it is said where jobs are decided."""
    try:
        return read_policy(directory / FILE)
    except ConfigError as error:
        log.error("the policy cannot be read: no data set is granted", reason=str(error))
        return None


def _clear(directory: Path, job: str) -> None:
    """Remove a job's folder; keep what its app printed."""
    folder = directory / "jobs" / job
    printed = folder / "app.log"
    if printed.exists():
        logs = directory / "app-logs"
        with contextlib.suppress(OSError):
            logs.mkdir(mode=0o700, exist_ok=True)
            os.replace(printed, logs / f"{job}.log")
            for old in sorted(_by_age(logs))[:-KEPT_LOGS]:
                old[1].unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _by_age(logs: Path) -> Iterator[tuple[float, Path]]:
    for path in logs.glob("*.log"):
        yield path.stat().st_mtime, path
