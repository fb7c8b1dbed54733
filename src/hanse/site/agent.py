"""The site's agent: one event loop that takes what the server sends, and sends what the site answers.

    propose    → the policy decides; accepted, a worker is warmed up before the answer goes out
    task       → the job's runner, in order; answered before, the same answer again
    release    → dropped, or abandoned as soon as another task of the job waits
    end        → everything of the job is forgotten

Nothing comes in but through the stream that the site has opened. What a message says is checked before it is used:
from the server, for this site and federation, about a job that was accepted, with the app that was accepted.
"""

import asyncio
import contextlib
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import structlog

from hanse import __version__
from hanse.backends.local import LocalStore
from hanse.clients.roles import role_task
from hanse.core.blobs import CHUNK_BYTES, Manifest
from hanse.core.codec import canonical_json
from hanse.core.errors import CodecError, ConfigError, HanseError, NotFoundError, TrustError
from hanse.core.ids import SERVER, TaskId, check_name, check_scope
from hanse.core.records import Envelope, Task
from hanse.core.seams import BlobStore
from hanse.pipeline.request import manifest_from
from hanse.site import config as site_config
from hanse.site import policy as site_policy
from hanse.site.control import serve
from hanse.site.executors import Executors
from hanse.site.jobs import JobRunner, Seats, Surroundings, fetch_app
from hanse.site.journal import JobRow, Journal
from hanse.site.links import OpenLink
from hanse.site.material import MaterialIndex
from hanse.site.owner import verdict_of
from hanse.site.policy import ACCEPT, HOLD, REFUSE, Decision, Policy, decide, read_policy
from hanse.site.policy_file import watch
from hanse.site.proposals import Proposal
from hanse.site.replies import Replies
from hanse.site.roles import COMPONENT, RoleSide, discard_arrays
from hanse.site.tracking import SiteRuns
from hanse.site.transfers import Transfers
from hanse.site.verdicts import described, job_named, owner_decides, record
from hanse.trust.audit import AuditLog
from hanse.trust.certificates import current_ms
from hanse.trust.envelopes import sign_envelope
from hanse.trust.membership import Membership
from hanse.workers.datasets import check_declaration
from hanse.workers.isolation import require
from hanse.workers.launcher import Launcher
from hanse.workers.pool import Workers

RENEW_RETRY_S = 60.0
KEPT_LOGS = 20
LATE = "late"
FRUITLESS = ("failed", "cancelled")
"""How a job ends of which nobody keeps anything."""
REPORT_SHARE, LONGEST_REPORT_S = 0.1, 1.0
"""Of a task's time so much is kept back, so that the word that it took too long reaches the server in time."""
ASK_AGAIN_S = 30.0

log = structlog.get_logger("hanse.site")


OnEnd = Callable[[str, str, bool], None]


class Agent:
    """A site at work.

    Args:
        directory: the site's own, as `join` has made it.
        launcher: started before anything that holds keys was imported.
        open_link: makes the link to the server; by default the one that `site.yaml` describes.
        on_end: called with a job, its status and whether it ran here, when the server has ended it and everything of it
            is done here.
        executors: what executes tasks, given the agent; worker processes by default. A site that is an edge has others.
        is_last: whether the directory ends with this agent, as a container's.

    Raises:
        ConfigError: a file is missing or wrong. TrustError: the certificate has expired.
        ConflictError: another agent runs in this directory.
    """

    def __init__(
        self,
        directory: Path,
        *,
        launcher: Launcher,
        open_link: OpenLink | None = None,
        on_end: OnEnd | None = None,
        executors: "Callable[[Agent], Executors] | None" = None,
        is_last: bool = False,
    ) -> None:
        self._on_end: OnEnd = on_end or (lambda job, status, ran: None)
        self.directory = directory.absolute()
        self.membership = Membership.load(self.directory)
        self.config = _checked_config(self.directory, self.membership.identity.name)
        self.name = self.membership.identity.name
        self.federation = self.membership.identity.federation
        self._began = time.monotonic()
        self._stop = asyncio.Event()
        self._runners: dict[str, JobRunner] = {}
        self._late: dict[str, float] = {}
        self._early: dict[str, dict[str, Envelope]] = {}
        self._ending: set[str] = set()
        self._undecided: dict[str, asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[None]] = set()
        with contextlib.ExitStack() as opened:
            # A cache, so "process". A file that a worker still maps is locked, and not written over.
            store = LocalStore.open(self.directory / "store", "process")
            self._store = opened.enter_context(store)
            self._journal = opened.enter_context(Journal(self.directory / "journal.db"))
            self._material = opened.enter_context(MaterialIndex(self.directory / "material.db"))
            keys = self.membership.keys
            self._audit = opened.enter_context(AuditLog(self.directory / "audit.jsonl", keys.signing))
            self._files = opened.pop_all()
        self.link = (open_link or link_of(self.config, self.directory))(
            lambda: self.membership,
            deliver=self.deliver,
            accepted=self.accepted,
            holding=self.holding,
            facts=self._facts,
            software=f"hanse/{__version__}",
        )
        self._transfers = Transfers(self.link, self._store.blobs)
        self._replies = Replies(self._journal, self.link, self._transfers, keys.signing, self.name, self.federation)
        self._is_edge = executors is not None
        self._workers: Executors = Workers(launcher) if executors is None else executors(self)
        self._around = Surroundings(
            self.name,
            self.directory,
            self.config,
            self._workers,
            Seats(self.config.max_workers),
            self._journal,
            self._replies,
            self._transfers,
            self.link,
            RoleSide(lambda: self.membership, self._material, self.directory / "outputs"),
            SiteRuns(self.name, self.config.tracking, self.directory, is_last=is_last),
        )

    # ---- life ----

    async def run(self) -> None:
        """Work until `stop` or cancelled; workers are killed and the journal closed when this returns.

        Raises:
            TrustError: the federation does not know this site any more.
        """
        server: asyncio.Server | None = None
        try:
            server = await serve(self.directory, self.control)
            self._restore()
            self._judge_held()
            self._spawn(watch(self.directory / site_policy.FILE, self._judge_held))
            log.info("site started", site=self.name, federation=self.federation)
            await self._hold_sessions()
        finally:
            await self._close(server)

    @property
    def is_idle(self) -> bool:
        """Whether no job is at hand."""
        return not self._runners and not self._undecided

    def stop(self) -> None:
        """End `run`."""
        self._stop.set()

    async def _hold_sessions(self) -> None:
        """One session after another: a renewed certificate needs a new one."""
        stopped: asyncio.Task[Any] = asyncio.ensure_future(self._stop.wait())
        try:
            while not self._stop.is_set():
                session, renewal = asyncio.ensure_future(self.link.run()), asyncio.ensure_future(self._renew())
                try:
                    done, _ = await asyncio.wait((session, renewal, stopped), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    session.cancel()
                    renewal.cancel()
                    await asyncio.gather(session, renewal, return_exceptions=True)
                for work in done:
                    work.result()
        except TrustError as error:
            self._audit.append(
                actor=f"site/{self.name}",
                action="session",
                subject=SERVER,
                outcome="refused",
                details={"reason": str(error)[:500]},
            )
            raise
        finally:
            stopped.cancel()

    async def _close(self, server: asyncio.Server | None) -> None:
        if server is not None:
            server.close()
            (self.directory / "control.sock").unlink(missing_ok=True)
        await self.link.leave()
        tasks = [*self._undecided.values(), *self._background]
        for task in tasks:
            task.cancel()
        self._replies.close()
        await asyncio.gather(*tasks, *(runner.close() for runner in self._runners.values()), return_exceptions=True)
        await self._workers.close()
        await asyncio.to_thread(self._around.runs.close)
        self._files.close()

    def _restore(self) -> None:
        """Take up what the journal holds."""
        rows = self._journal.jobs()
        jobs = self.directory / "jobs"
        jobs.mkdir(mode=0o700, exist_ok=True)
        for left in jobs.iterdir():
            if left.name not in {row.job for row in rows}:
                shutil.rmtree(left, ignore_errors=True)
        for row in rows:
            if row.decision == ACCEPT and not row.told:  # by the owner, while no agent ran
                self._undecided[row.job] = asyncio.ensure_future(self._accept(Proposal.parse(row.proposal), row.reason))
                continue
            if row.decision == ACCEPT:
                self._spawn(self._warm(self._begin(Proposal.parse(row.proposal))))
            self._tell(row)
        self._replies.restore(jobs)
        for row in rows:
            if row.decision == ACCEPT:
                self._give_up_session(Proposal.parse(row.proposal))

    def _give_up_session(self, proposal: Proposal) -> None:
        """Say at once that this site's part in a session broke with its agent, before the task comes again."""
        spec = proposal.roles
        role = None if spec is None else spec.role_of(self.name)
        prefix = f"{proposal.job}/{COMPONENT}/"
        attempts = [name.removeprefix(prefix) for name in self._material.taken(prefix)]
        numbers = [int(each) for each in attempts if each.isdecimal()]
        if spec is None or role is None or not numbers:
            return
        task = role_task(proposal.job, COMPONENT, max(numbers), role, spec.roles)
        if not self._replies.knows(str(task)):
            self._replies.refuse(task, "lost", "the site's agent has started again")

    def _begin(self, proposal: Proposal) -> JobRunner:
        runner = self._runners.get(proposal.job)
        if runner is None:
            policy = _quietly_read_policy(self.directory)
            runner = self._runners[proposal.job] = JobRunner(proposal, policy, self._around)
            runner.begin()
        return runner

    async def _warm(self, runner: JobRunner) -> None:
        try:
            await runner.prepare()
        except HanseError as error:  # its tasks will say so, one by one
            log.warning("no worker could be started", job=runner.job, reason=str(error))

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # ---- the link ----

    def holding(self) -> list[str]:
        """Ids of tasks that need not be sent again."""
        held = list(self._replies.holding)
        for runner in self._runners.values():
            held += runner.holding
        return list(dict.fromkeys(held))

    def _facts(self) -> dict[str, str]:
        facts = {"isolation": self.config.isolation.level, "workers": str(self.config.max_workers)}
        if self.config.share_dataset_names:
            facts["datasets"] = ",".join(sorted(self.config.datasets))
        return facts

    def accepted(self, id: str, outcome: str, reason: str) -> None:
        """The server has taken a message."""
        if id.startswith("decision/"):
            self._decision_accepted(id.partition("/")[2], outcome)
        else:
            self._replies.accepted(id, outcome, reason)

    def _decision_accepted(self, job: str, outcome: str) -> None:
        row = self._journal.job(job)
        if row is None:
            return
        self._journal.told(job)
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
        row = None if self._stop.is_set() else self._journal.job(job)
        if row is not None:
            self._tell(row)

    async def deliver(self, envelope: Envelope, count: int) -> None:
        """Take one message of the server. Returns at once; never raises for what a message says."""
        del count
        try:
            if (envelope.sender, envelope.recipient) != (SERVER, self.name):
                raise CodecError(f"expected a message from {SERVER} to {self.name}")
            if envelope.federation not in ("", self.federation):
                raise CodecError(f"expected a message of the federation {self.federation}")
            match envelope.kind:
                case "task":
                    self._task(envelope)
                case "release":
                    self._release(envelope)
                case "propose":
                    self._propose(envelope)
                case "end":
                    self._spawn(self._end(envelope))
                case _:
                    log.info("message of an unknown kind", kind=envelope.kind)
        except HanseError as error:
            self._refused(envelope, str(error))

    def _refused(self, envelope: Envelope, reason: str) -> None:
        """A message that is not for us to act on: it is noted, and does not come again."""
        log.error("message refused", kind=envelope.kind, id=envelope.id[:200], reason=reason)
        self._audit.append(
            actor="server/server",
            action=f"message.{envelope.kind or 'none'}"[:100],
            subject=envelope.id[:400] or "none",
            outcome="refused",
            details={"reason": reason[:500]},
        )
        self.link.done(envelope.kind, envelope.id)

    # ---- tasks ----

    def _task(self, envelope: Envelope) -> None:
        id = envelope.id
        if self._replies.knows(id):
            return self._replies.again(id)
        runner = self._runners.get(envelope.job)
        if runner is not None and runner.has(id):
            return None
        if runner is None and self._is_early(envelope):
            return None
        task = Task.unpack(envelope.body, deadline_s=envelope.deadline_s, verify=False)  # the worker does
        if str(task.id) != id or task.id.job != envelope.job:
            raise CodecError("the task's id is not the message's")
        reason = self._objection(task, runner)
        if reason or runner is None:
            self._refused(envelope, reason)
            return self._replies.refuse(task.id, "refused", reason)
        return runner.enqueue(task, _due(task.deadline_s), envelope.body)

    def _is_early(self, envelope: Envelope) -> bool:
        """Whether a task has come before its job is decided here: to a site that came again without its journal.

        It waits for the decision then. Whoever was this site before has taken the proposal, so it is asked for.
        """
        job = envelope.job
        if self._journal.job(job) is not None or self._journal.has_ended(job):
            return False
        if job not in self._undecided and job not in self._early and not self.link.ask(job):
            return False
        self._early.setdefault(job, {})[envelope.id] = envelope
        return True

    def _take_early(self, job: str) -> None:
        for envelope in self._early.pop(job, {}).values():
            try:
                self._task(envelope)
            except HanseError as error:
                self._refused(envelope, str(error))

    def _objection(self, task: Task, runner: JobRunner | None) -> str:
        if runner is None:
            return f"this site has not accepted the job {task.id.job}"
        if task.app != runner.proposal.app:
            return "the task is for another app than the one that this site has accepted"
        if task.site != self.name:
            return "the task is for another site"
        return ""

    def _release(self, envelope: Envelope) -> None:
        try:
            job = TaskId.parse(envelope.id).job
        except ConfigError as error:
            raise CodecError(str(error)) from None
        runner = self._runners.get(job)
        if runner is not None:
            runner.release(envelope.id)
        self.link.done("release", envelope.id)

    # ---- jobs ----

    def _propose(self, envelope: Envelope) -> None:
        try:
            job = check_name(envelope.job, "job")
        except ConfigError as error:
            raise CodecError(str(error)) from None
        if job in self._undecided:
            return
        row = self._journal.job(job)
        if row is None and self._journal.has_ended(job):  # or a server could have it run here once more
            row = JobRow(job, b"", REFUSE, "this job has ended at this site; submit the app again for a new one", True)
        if row is not None:
            self._tell(row)
            self.link.done("propose", envelope.id)
            return
        self._undecided[job] = asyncio.ensure_future(self._decide(job, envelope))

    async def _decide(self, job: str, envelope: Envelope) -> None:
        """Judge a proposal; the answer to an accepted one goes out when its worker is warm."""
        try:
            try:
                proposal, decision = self._judge(job, envelope.body)
            except HanseError as error:
                decision = Decision(REFUSE, str(error))
            else:
                if decision.verdict == ACCEPT:
                    decision = await self._prepare(proposal, decision.reason)
            self._settle(job, envelope.body, decision, f"site/{self.name}")
            self._take_early(job)
            if decision.verdict == HOLD:
                await self._show(proposal)
        finally:
            self._undecided.pop(job, None)
            if not self._stop.is_set():  # else it is to come again
                self.link.done("propose", envelope.id)

    def _judge(self, job: str, content: bytes) -> tuple[Proposal, Decision]:
        proposal = Proposal.parse(content)
        if proposal.job != job:
            raise CodecError("the proposal is for another job than its message")
        proposal.verify(authority_pem=self.membership.authority_pem, federation=self.federation)
        policy = read_policy(self.directory / site_policy.FILE)
        return proposal, decide(proposal, policy, self.name, is_edge=self._is_edge)

    def _judge_held(self) -> None:
        """The policy may be another one: what is held is judged by it as it is now."""
        try:
            rows = self._journal.jobs()
        except HanseError as error:
            log.error("held jobs are not judged again", reason=str(error))
            return
        for row in rows:
            if row.decision != HOLD:
                continue
            deciding = self._undecided.get(row.job)
            if deciding is None:
                self._undecided[row.job] = asyncio.ensure_future(self._decide_again(row))
            else:  # perhaps by the policy as it was
                deciding.add_done_callback(lambda done: None if done.cancelled() else self._judge_held())

    async def _decide_again(self, row: JobRow) -> None:
        """Judge a held job; one that cannot be judged, such as by a policy that cannot be read, stays held."""
        try:
            proposal, decision = self._judge(row.job, row.proposal)
            if (decision.verdict, decision.reason) == (row.decision, row.reason):
                return
            if decision.verdict == ACCEPT:
                decision = await self._prepare(proposal, decision.reason)
            elif decision.verdict == REFUSE:
                await self._drop(row.job)
            self._settle(row.job, row.proposal, decision, f"site/{self.name}")
        except HanseError as error:
            log.warning("a held job stays held", job=row.job, reason=str(error))
        finally:
            self._undecided.pop(row.job, None)

    def app_of(self, job: str) -> tuple[Proposal, bytes]:
        """An accepted job, and its bundle as it was checked.

        Raises:
            NotFoundError: it is not at hand.
        """
        runner = self._runners.get(job)
        if runner is None:
            raise NotFoundError(f"job {job} is not at hand at this site")
        proposal = runner.proposal
        manifest = proposal.manifest
        return proposal, bytes(self._store.blobs.read(proposal.scope, manifest.id, 0, manifest.size))

    async def _prepare(self, proposal: Proposal, reason: str) -> Decision:
        runner = self._begin(proposal)
        try:
            await runner.prepare()
        except HanseError as error:
            await self._drop(proposal.job)
            return Decision(REFUSE, f"the app cannot run here: {error}")
        except Exception as error:  # our own fault: the server must hear of it, or it would wait until the deadline
            log.exception("a job could not be prepared", job=proposal.job)
            await self._drop(proposal.job)
            return Decision(REFUSE, f"the site's software failed: {type(error).__name__}; its log says more")
        return Decision(ACCEPT, reason)

    async def _show(self, proposal: Proposal) -> None:
        """Put a held app where its owner can read it before deciding."""
        try:
            await fetch_app(proposal, self._transfers, self.directory / "jobs" / proposal.job)
        except HanseError as error:
            log.warning("a held app cannot be shown", job=proposal.job, reason=str(error))

    async def _accept(self, proposal: Proposal, reason: str) -> None:
        """The owner has approved: what was journalled as accepted is made so."""
        try:
            decision = await self._prepare(proposal, reason)
            if decision.verdict == ACCEPT:
                row = self._journal.job(proposal.job)
                if row is not None:
                    self._tell(row)
            else:
                self._settle(proposal.job, proposal.content, decision, f"site/{self.name}")
        finally:
            self._undecided.pop(proposal.job, None)

    def _settle(self, job: str, content: bytes, decision: Decision, actor: str) -> None:
        record(
            self._journal,
            self._audit,
            job=job,
            content=content,
            verdict=decision.verdict,
            reason=decision.reason,
            actor=actor,
        )
        log.info("job decided", job=job, decision=decision.verdict, reason=decision.reason)
        row = self._journal.job(job)
        if row is not None:
            self._tell(row)

    def _tell(self, row: JobRow) -> None:
        # The time tells apart what queues bring late or once more from what holds now.
        body = {"v": 1, "job": row.job, "decision": row.decision, "reason": row.reason, "at_ms": current_ms()}
        envelope = Envelope(
            sender=self.name,
            recipient=SERVER,
            id=f"decision/{row.job}",
            kind="decision",
            body=canonical_json(body),
            federation=self.federation,
            job=row.job,
        )
        self.link.send(sign_envelope(self.membership.keys.signing, envelope))

    async def _end(self, envelope: Envelope) -> None:
        """Forget a job. Its log is kept a while, for the owner."""
        try:
            job = check_name(envelope.job, "job")
        except ConfigError as error:
            return self._refused(envelope, str(error))
        if job in self._ending:  # the same word once more, which queues may bring
            return None
        self._ending.add(job)
        try:
            await self._end_of(job, envelope)
        finally:
            self._ending.discard(job)

    async def _end_of(self, job: str, envelope: Envelope) -> None:
        status = _status_in(envelope.body)
        self._around.runs.ended(job, status or "cancelled")
        if status in FRUITLESS and self._journal.job(job) is not None:
            await asyncio.to_thread(discard_arrays, self._around.roles, job)
        ran = job in self._runners
        if self.config.keep_models and ran:
            await self._keep_model(job, envelope.body)
        await self._forget(job)
        self.link.done("end", envelope.id)
        self._on_end(job, status or "cancelled", ran)

    async def _keep_model(self, job: str, body: bytes) -> None:
        """Keep the last model, if the server has said where it is."""
        told = json.loads(body).get("model")
        if not isinstance(told, dict):
            return
        try:
            scope = check_scope(str(told.get("scope")))
            if not scope.startswith(f"{job}/"):
                raise CodecError("expected a model of this job")
            manifest = manifest_from(told)
            await self._transfers.download(scope, manifest)
            target = self.directory / "outputs" / job / "model.safetensors"
            await asyncio.to_thread(_write_blob, self._store.blobs, scope, manifest, target)
            log.info("model kept", job=job, file=str(target.relative_to(self.directory)))
        except (HanseError, OSError, KeyError, TypeError, ValueError) as error:
            log.error("the last model could not be kept", job=job, reason=str(error)[:300])

    async def _forget_late(self, job: str) -> None:
        """Forget a job that ended while nobody was here."""
        self._around.runs.ended(job, "cancelled")
        ran = job in self._runners
        await self._forget(job)
        self._on_end(job, "cancelled", ran)

    async def _forget(self, job: str) -> None:
        self._late.pop(job, None)
        self._early.pop(job, None)
        await self._drop(job)
        try:
            await self._store.blobs.delete_scope(job)
            self._journal.forget(job)
            self._material.erase(f"{job}/")
        except HanseError as error:
            log.error("a job's remains could not be removed", job=job, reason=str(error))
        log.info("job ended", job=job)

    async def _drop(self, job: str) -> None:
        await self._stop_deciding(job)
        runner = self._runners.pop(job, None)
        if runner is not None:
            await runner.close()
        self._replies.forget(job)
        await asyncio.to_thread(_clear, self.directory, job)

    async def _stop_deciding(self, job: str) -> None:
        deciding = self._undecided.get(job)
        if deciding is not None and deciding is not asyncio.current_task():
            deciding.cancel()
            await asyncio.gather(deciding, return_exceptions=True)

    # ---- the owner ----

    async def control(self, command: dict[str, Any]) -> dict[str, Any]:
        """Do one command of the owner.

        Raises:
            HanseError: it cannot be done, and why.
        """
        op = command["op"]
        if op == "status":
            return self._status()
        if op == "pending":
            return {"jobs": [described(row) for row in self._journal.jobs() if row.decision == HOLD]}
        if op == "stop":
            self.stop()
            return {"stopping": True}
        verdict, job, reason = verdict_of(op), command.get("job"), command.get("reason")
        if not isinstance(job, str) or not isinstance(reason, str | None):
            raise ConfigError(f"{op}: expected the id of a job")
        job = job_named(self._journal, job)
        before = self._journal.job(job)
        row = owner_decides(self._journal, self._audit, job=job, verdict=verdict, reason=reason or "")
        if before is not None and before.decision != row.decision:
            if verdict == REFUSE:
                await self._drop(job)
                self._tell(row)
            else:
                await self._stop_deciding(job)
                self._undecided[job] = asyncio.ensure_future(self._accept(Proposal.parse(row.proposal), row.reason))
        return described(row)

    def _status(self) -> dict[str, Any]:
        jobs = []
        for row in self._journal.jobs():
            runner = self._runners.get(row.job)
            jobs.append(described(row) | (runner.status() if runner is not None else {}))
        return {
            "running": True,
            "pid": os.getpid(),
            "site": self.name,
            "federation": self.federation,
            "server": server_of(self.config, self.membership),
            "connected": self.link.connected.is_set(),
            "last_error": self.link.last_error,
            "up_s": round(time.monotonic() - self._began, 1),
            "certificate_days": round((self.membership.identity.not_after_ms - current_ms()) / 86_400_000, 2),
            "isolation": self.config.isolation.level,
            "datasets": sorted(self.config.datasets),
            "unsettled": len(self._replies.holding),
            "jobs": jobs,
        }

    # ---- renewal ----

    async def _renew(self) -> None:
        """Get a new certificate when a third of this one's life is left; returns when there is one.

        Raises:
            TrustError: the server does not give this site one.
        """
        while (left_ms := self.membership.identity.renew_at_ms - current_ms()) > 0:  # noqa: ASYNC110
            # by the hour, since a machine that was asleep has not counted the time
            await asyncio.sleep(min(left_ms / 1000, 3600.0))
        while True:
            await self.link.connected.wait()
            try:
                await self._renew_now()
                return
            except (HanseError, asyncio.CancelledError) as error:
                task = asyncio.current_task()
                if isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling()):
                    raise
                log.warning("certificate not renewed", reason=str(error) or "the connection broke")
            await asyncio.sleep(RENEW_RETRY_S * (0.5 + random.random()))

    async def _renew_now(self) -> None:
        connection = self.link.connection
        if connection is None:
            return
        renewed = await self.membership.renewed(connection.renew)
        await asyncio.to_thread(renewed.save, self.directory)
        self.membership = renewed
        log.info("certificate renewed", until_ms=renewed.identity.not_after_ms)


def _write_blob(blobs: BlobStore, scope: str, manifest: Manifest, target: Path) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}")
    with draft.open("wb") as file:
        for start in range(0, manifest.size, CHUNK_BYTES):
            file.write(blobs.read(scope, manifest.id, start, min(manifest.size, start + CHUNK_BYTES)))
    os.replace(draft, target)


def _status_in(body: bytes) -> str:
    """How the server says a job ended; empty where it does not."""
    try:
        status = json.loads(body)["status"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return status if status in ("finished", *FRUITLESS) else ""


def link_of(config: site_config.SiteConfig, directory: Path) -> OpenLink:
    """The link that `site.yaml` describes: queues where it has a section `aws`, otherwise a server."""
    if config.aws is not None:
        from hanse.site.over_queues import over_sqs

        return over_sqs(config.aws, directory)
    from hanse.site.over_grpc import over_grpc

    return over_grpc(config.server)


def server_of(config: site_config.SiteConfig, membership: Membership) -> str:
    """Where the server is, for people."""
    return f"aws {config.aws.region}" if config.aws is not None else config.server or membership.address


def _due(deadline_s: float) -> float | None:
    """Loop time at which a task is given up; None for never."""
    if deadline_s <= 0:
        return None
    return asyncio.get_running_loop().time() + deadline_s - min(REPORT_SHARE * deadline_s, LONGEST_REPORT_S)


def _checked_config(directory: Path, name: str) -> site_config.SiteConfig:
    path = directory / site_config.FILE
    config = site_config.read_config(path)
    if config.name not in ("", name):
        raise ConfigError(f"{path.name}: name: expected {name}, as the certificate says, found {config.name!r}")
    try:
        for dataset, declaration in config.datasets.items():
            check_declaration(dataset, declaration)
        require(config.isolation.level)
    except ConfigError as error:
        raise ConfigError(f"{path.name}: {error}") from None
    return config


def _quietly_read_policy(directory: Path) -> Policy | None:
    """The policy as far as it grants data; what is wrong with it is said where jobs are decided."""
    try:
        return read_policy(directory / site_policy.FILE)
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
