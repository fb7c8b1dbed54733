"""One job at this site: its tasks in order, in one warm worker that may be replaced between any two of them.

`site.state` is kept with every answer (`states.py`), so that a worker holds nothing that matters.
"""

import asyncio
import shutil
import socket
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from hanse.clients.role_task import CALL as ROLE
from hanse.core.errors import (
    ConfigError,
    ConflictError,
    HanseError,
    RefusedError,
    StorageError,
    TaskError,
    TrustError,
    UnavailableError,
)
from hanse.core.records import Reply, Task
from hanse.core.spec import RunSpec
from hanse.core.tracked import Tracked
from hanse.site.applog import AppLog
from hanse.site.bundles import fetch_app
from hanse.site.config import SiteConfig
from hanse.site.executors import Executor
from hanse.site.policy import Allowed, Policy
from hanse.site.proposals import Proposal
from hanse.site.roles import keep_arrays, lend_outputs, play
from hanse.site.states import States
from hanse.site.surroundings import Surroundings
from hanse.strategies.analysis import Analysis
from hanse.workers.answers import Done
from hanse.workers.assignment import Assignment, State, StateFile
from hanse.workers.isolation import LEVELS, Isolation
from hanse.workers.load import Load

LOAD_S = 300.0
"""An app that takes longer to import hangs."""
WORTH_KEEPING_S = 1.0
"""An answer that took less to compute is not journalled, unless it has changed the site's state."""
REPORT_S = 0.5
"""A task that takes longer is shown as running."""

log = structlog.get_logger("hanse.site")


@dataclass(slots=True)
class Item:
    """A task that waits or runs. `due`: loop time at which it is given up; None for never.

    `packed`: the task as it came, so that it need not be packed again.
    """

    task: Task
    due: float | None
    packed: bytes | None = None
    is_released: bool = False


@dataclass(frozen=True, slots=True)
class _Finished:
    reply: Reply
    state: State
    out: Path | None
    packed: bytes | None = None
    tracked: tuple[Tracked, ...] = ()


class JobRunner:
    """Runs one accepted job. Call `prepare` or `begin` first."""

    def __init__(self, proposal: Proposal, policy: Policy | None, around: Surroundings) -> None:
        self.proposal = proposal
        self.job = proposal.job
        self.directory = around.directory / "jobs" / self.job
        self.log = AppLog(self.directory / "app.log")
        self._around = around
        self._load_options = _load_options(around.config, policy, around.directory, proposal, around.site)
        role = None if proposal.roles is None else proposal.roles.role_of(around.site)
        allowed = None if policy is None or role is None else policy.role(role)
        self._lends: Allowed = frozenset() if allowed is None else allowed.lends
        self._queries = None if allowed is None else allowed.queries
        self._queue: deque[Item] = deque()
        self._wake = asyncio.Event()
        self._running: Item | None = None
        self._step: asyncio.Task[_Finished] | None = None
        self._worker: Executor | None = None
        self._is_unpacked = False
        self._preparing: set[asyncio.Task[Executor]] = set()
        self._starting = asyncio.Lock()
        is_synced = around.config.durability == "power"
        self._states = States(around.journal, self.job, self.directory, is_synced=is_synced)
        self._model_scope = ""
        self._main: asyncio.Task[None] | None = None
        self._log = log.bind(job=self.job)

    # ---- what others see ----

    @property
    def is_busy(self) -> bool:
        """Whether its worker is needed now."""
        return self._running is not None or bool(self._queue) or bool(self._preparing)

    @property
    def holding(self) -> list[str]:
        """Ids of tasks that wait or run."""
        running = [] if self._running is None else [str(self._running.task.id)]
        return running + [str(item.task.id) for item in self._queue]

    def has(self, task: str) -> bool:
        """Whether the task waits or runs."""
        return task in self.holding

    def status(self) -> dict[str, Any]:
        """For the owner."""
        return {
            "running": None if self._running is None else str(self._running.task.id),
            "queued": len(self._queue),
            "worker_pid": self._worker.pid if self._worker is not None and self._worker.alive else None,
        }

    # ---- life ----

    async def prepare(self) -> None:
        """Fetch the app, check it, start a worker and import it.

        Raises:
            HanseError: it cannot run here, and why.
        """
        preparing = asyncio.ensure_future(self._ready_worker(LOAD_S))
        self._preparing.add(preparing)
        try:
            await preparing
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is None or current.cancelling():
                raise
            raise UnavailableError(f"job {self.job}: it ended before its worker was ready") from None
        finally:
            self._preparing.discard(preparing)
            self._around.seats.at_rest()

    def begin(self) -> None:
        """Take tasks."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._around.replies.open_job(self.job, self.directory)
        if self._main is None:
            self._main = asyncio.ensure_future(self._run())

    async def close(self) -> None:
        """Stop: kill the worker, forget what waits. What is journalled stays."""
        tasks = [*self._preparing, *([] if self._main is None else [self._main])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._worker is not None:
            await self._worker.close()
        self._around.seats.leave(self)
        self.log.close()

    def drop_worker(self) -> None:
        """Give the worker's place to another job; a new one is started for the next task."""
        if self._worker is not None:
            self._worker.kill()

    # ---- tasks ----

    def enqueue(self, task: Task, due: float | None, packed: bytes | None = None) -> None:
        """Take a task. A role's has at most the time that the job's person signed for a session."""
        if task.call == ROLE and self.proposal.roles is not None:
            most = asyncio.get_running_loop().time() + self.proposal.roles.deadline_s
            due = most if due is None else min(due, most)
        self._queue.append(Item(task, due, packed))
        self._wake.set()
        self._abandon_if_released()

    def release(self, task: str) -> None:
        """The server does not wait for it any more: it may go on until the next one comes."""
        for item in self._queue:
            if str(item.task.id) == task:
                self._queue.remove(item)
                return
        if self._running is not None and str(self._running.task.id) == task:
            self._running.is_released = True
            self._abandon_if_released()

    def _abandon_if_released(self) -> None:
        if self._queue and self._running is not None and self._running.is_released and self._step is not None:
            self._step.cancel()

    async def _run(self) -> None:
        while True:
            while not self._queue:
                self._wake.clear()
                self._around.seats.at_rest()
                await self._wake.wait()
            self._running = self._queue.popleft()
            try:
                await self._answer(self._running)
            finally:
                self._running = None

    async def _answer(self, item: Item) -> None:
        """Execute one task and hand in what it came to; says nothing if it was abandoned."""
        task = item.task
        self._step = asyncio.ensure_future(self._execute(item))
        timer = asyncio.get_running_loop().call_later(REPORT_S, self._around.link.report, str(task.id), "running")
        try:
            finished = await self._step
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is None or current.cancelling():
                raise
            self._log.info("task abandoned", task=str(task.id))
            return
        except Exception as error:  # the top of a task: whatever happens is an answer
            self._log.exception("task failed inside the agent", task=str(task.id))
            finished = _Finished(_failed(self._around.site, task, error), self._states.before(task.id.component), None)
        finally:
            timer.cancel()
            self._step = None
        await self._keep(item, finished)

    async def _execute(self, item: Item) -> _Finished:
        task = item.task
        before: State = None
        out = self._around.replies.take_file(self.job) if _needs_file(task) else None
        done: Done | None = None
        try:
            before = await self._states.load(task.id.component)
            worker = await self._ready_worker(_remaining(item))
            is_stored = task.model is not None and task.model.content is None
            model = await self._model(task) if is_stored else None  # an inline one is in the task
            timeout_s = _remaining(item)
            if task.call == ROLE:
                done = await self._play(worker, item, out, timeout_s)
                role = self.proposal.roles.role_of(self._around.site) if self.proposal.roles is not None else None
                kept = await asyncio.to_thread(keep_arrays, self._around.roles, self.proposal, role or "", done, out)
                done = replace(done, reply=kept, packed=kept.pack(), written=False)
                return _Finished(done.reply, before, None, done.packed, done.tracked)
            after = self._states.file_after(task.id.component) if is_stored or isinstance(before, StateFile) else None
            assigned = Assignment(task, item.packed, model, before, after, out, timeout_s=timeout_s)
            done = await worker.execute(assigned)
            if done.reply.error_kind:  # told without what the app's error tells, as to the person
                self._log.warning("task failed", task=str(task.id), kind=done.reply.error_kind, reason=done.reply.error)
            return _Finished(done.reply, done.state, out if done.written else None, done.packed, done.tracked)
        except (HanseError, OSError) as error:
            self._log.warning("task failed", task=str(task.id), kind=getattr(error, "kind", type(error).__name__))
            self.log.line(f"task {task.id}: {error}")
            return _Finished(_failed(self._around.site, task, error), before, None)
        finally:
            if out is not None and (done is None or not done.written):
                self._around.replies.give_file(self.job, out)

    async def _play(self, worker: Executor, item: Item, out: Path | None, timeout_s: float | None) -> Done:
        """Have the worker play a role, over a socket that `play` bridges to the other roles."""
        task = item.task

        async def execute(channel: socket.socket) -> Done:
            assigned = Assignment(task, item.packed, out=out, channel=channel, timeout_s=timeout_s)
            return await worker.execute(assigned)

        try:
            return await play(self._around.roles, self.proposal, task, self._around.link.connection, execute)
        except ConflictError as error:
            raise TaskError("lost", str(error)) from None

    async def _keep(self, item: Item, finished: _Finished) -> None:
        replies, component, state = self._around.replies, item.task.id.component, finished.state
        self._around.runs.answered(self.proposal, item.task, finished.reply, finished.tracked)
        changed = self._states.is_change(component, state)
        task = replies.add(self.job, finished.reply, out=finished.out, packed=finished.packed)
        self._running = None  # `replies` has it now
        try:
            if not changed:
                # Lost, it would only be computed again: it need not wait for the disk, nor go there if that is quicker.
                replies.start(task)
                if finished.out is not None or finished.reply.seconds >= WORTH_KEEPING_S:
                    await asyncio.sleep(0)
                    replies.keep(task)
                return
            replies.keep(task, state=await self._states.sync(state))
        except StorageError as error:
            self._log.error("journal refused", task=task, reason=str(error))
            if changed:
                # Its state would be lost while its answer counts; without either, the site stays as it was.
                replies.drop(task)
                replies.refuse(item.task.id, "lost", "the site cannot write its journal; its owner must make room")
            return
        self._states.committed(component, state)
        if self._around.config.durability == "power":
            try:
                await asyncio.to_thread(self._around.journal.sync)
            except StorageError as error:  # committed all the same, but for a loss of power
                self._log.error("journal not synced", task=task, reason=str(error))
        replies.start(task)

    async def _model(self, task: Task) -> bytes | Path:
        ref = task.model
        if ref is None:
            raise TaskError("refused", "the task names no model")
        if ref.content is None and ref.scope != self._model_scope:
            if self._model_scope:  # before the download, which then writes over the file
                await self._around.transfers.blobs.delete_scope(self._model_scope)
            self._model_scope = ref.scope
        return await self._around.transfers.model(ref)

    # ---- the worker ----

    async def _ready_worker(self, timeout_s: float | None) -> Executor:
        if self._worker is not None and self._worker.alive:
            return self._worker
        async with self._starting:
            if self._worker is None or not self._worker.alive:
                self._worker = await self._new_worker(self._worker, timeout_s)
            return self._worker

    async def _new_worker(self, before: Executor | None, timeout_s: float | None) -> Executor:
        if before is not None:
            await asyncio.shield(before.exited)  # its files are the next one's
        await self._around.seats.take(self)
        await self._unpack()
        await asyncio.to_thread(_empty, self.directory / "scratch")
        checkpoints = spent = None
        if self.proposal.roles is not None:
            checkpoints, spent = self.directory / "checkpoints", self._around.directory / "spent"
            for folder in (checkpoints, spent):
                await asyncio.to_thread(folder.mkdir, mode=0o700, exist_ok=True)
            owner = self._load_options["isolation"]
            role = self.proposal.roles.role_of(self._around.site) or ""
            scratch = self.directory / "scratch"
            await asyncio.to_thread(lend_outputs, self._around.roles, self.proposal, role, scratch, owner, self._lends)
        worker = await self._around.workers.spawn(threads=self.proposal.spec.threads, on_log=self.log.line)
        load = Load(
            self.directory / "bundle",
            self.proposal.entry,
            self.directory / "scratch",
            object=self.proposal.object,
            site=self._around.site,
            seed=self.proposal.spec.seed,
            checkpoints=checkpoints,
            spent=spent,
            queries=self._queries,
            **self._load_options,
        )
        try:
            await worker.load(load, timeout_s=LOAD_S if timeout_s is None else min(LOAD_S, timeout_s))
        except BaseException:
            await worker.close()
            raise
        return worker

    async def _unpack(self) -> None:
        if self._is_unpacked:
            return
        await fetch_app(self.proposal, self._around.transfers, self.directory)
        if self._load_options["isolation"].level == "user":
            for folder in (self._around.directory, self.directory.parent, self.directory):
                folder.chmod(0o711)  # another user must be able to walk to its bundle; lists and keys stay closed
        self._is_unpacked = True


def _load_options(
    config: SiteConfig, policy: Policy | None, base: Path, proposal: Proposal, site: str
) -> dict[str, Any]:
    roles = proposal.roles
    role = None if roles is None else roles.role_of(site)
    level = config.isolation.level
    if policy is not None:
        level = max(level, policy.isolation, key=LEVELS.index)
    granted: Mapping[str, Any] = {
        name: declaration
        for name, declaration in config.datasets.items()
        if policy is not None and policy.grants(name, role)
    }
    isolation: Isolation = replace(config.isolation, level=level)
    return {
        "datasets": granted,
        "declared": tuple(config.datasets),
        "base": base,
        "isolation": isolation,
        "memory_bytes": config.memory_bytes,
        "options": _question(proposal.spec) if roles is None else {"protocol": roles.protocol.describe()},
    }


def _question(spec: RunSpec) -> dict[str, Any]:
    """A question of `hs.analytics` is asked by our own software, from the signed job: no code of the bundle runs."""
    return {"spec": spec.to_json()} if spec.strategy == Analysis.name else {}


def _needs_file(task: Task) -> bool:
    """Whether the answer may be over 64 KiB: trained arrays are as long as the model they started from."""
    if task.call == "train" and task.model is not None:
        return task.model.content is None
    return task.call != "evaluate"


def _remaining(item: Item) -> float | None:
    if item.due is None:
        return None
    left = item.due - asyncio.get_running_loop().time()
    if left <= 0:
        raise TaskError("timeout", "the task's deadline passed before it could run")
    return left


def _failed(site: str, task: Task, error: Exception) -> Reply:
    """An error as a reply. Of what is not ours only the kind is told: its text could hold anything."""
    if isinstance(error, TaskError):
        return Reply.failed(task.id, site, error.kind, str(error))
    if isinstance(error, HanseError):
        kind = "refused" if isinstance(error, ConfigError | RefusedError | TrustError) else "lost"
        return Reply.failed(task.id, site, kind, str(error))
    return Reply.failed(task.id, site, "lost", f"the site's agent failed: {type(error).__name__}; see its log")


def _empty(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700)
