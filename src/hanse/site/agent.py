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
import os
import shutil
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import structlog

from hanse import __version__
from hanse.backends.local import LocalStore
from hanse.clients.role_task import role_task
from hanse.core.errors import CodecError, ConfigError, HanseError, NotFoundError, TrustError
from hanse.core.ids import SERVER
from hanse.core.records import Envelope
from hanse.site import config as site_config
from hanse.site.control import serve
from hanse.site.deciding import Deciding
from hanse.site.ending import Ending, OnEnd
from hanse.site.executors import Executors
from hanse.site.journal import Journal
from hanse.site.links import OpenLink
from hanse.site.material import MaterialIndex
from hanse.site.owner import verdict_of
from hanse.site.policy import ACCEPT, HOLD
from hanse.site.policy import FILE as POLICY
from hanse.site.policy_file import watch
from hanse.site.proposals import Proposal
from hanse.site.renewal import next_membership
from hanse.site.replies import Replies
from hanse.site.roles import COMPONENT, RoleSide
from hanse.site.runners import Runners
from hanse.site.seats import Seats
from hanse.site.surroundings import Surroundings
from hanse.site.tracking import SiteRuns
from hanse.site.transfers import Transfers
from hanse.site.verdicts import described
from hanse.trust.audit import AuditLog
from hanse.trust.certificates import SITE, current_ms
from hanse.trust.membership import Membership
from hanse.workers.datasets import check_declaration
from hanse.workers.isolation import require
from hanse.workers.launcher import Launcher
from hanse.workers.pool import Workers

log = structlog.get_logger("hanse.site")


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
        self.directory = directory.absolute()
        self.membership = Membership.load(self.directory, kind=SITE)
        self.config = _checked_config(self.directory, self.membership.identity.name)
        self.name = self.membership.identity.name
        self.federation = self.membership.identity.federation
        self._began = time.monotonic()
        self._stop = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()
        with contextlib.ExitStack() as opened:
            # A cache, so "process". A file that a worker still maps is locked, and not written over.
            store = opened.enter_context(LocalStore.open(self.directory / "store", "process"))
            self._journal = opened.enter_context(Journal(self.directory / "journal.db"))
            material = opened.enter_context(MaterialIndex(self.directory / "material.db"))
            keys = self.membership.keys
            audit = opened.enter_context(AuditLog(self.directory / "audit.jsonl", keys.signing))
            self._files = opened.pop_all()
        self.link = (open_link or link_of(self.config, self.directory))(
            lambda: self.membership,
            deliver=self.deliver,
            accepted=self.accepted,
            holding=self.holding,
            facts=self._facts,
            software=f"hanse/{__version__}",
        )
        transfers = Transfers(self.link, store.blobs)
        self._replies = Replies(self._journal, self.link, transfers, keys.signing, self.name, self.federation)
        self._around = Surroundings(
            site=self.name,
            federation=self.federation,
            directory=self.directory,
            config=self.config,
            member=lambda: self.membership,
            workers=Workers(launcher) if executors is None else executors(self),
            seats=Seats(self.config.max_workers),
            journal=self._journal,
            material=material,
            audit=audit,
            blobs=store.blobs,
            replies=self._replies,
            transfers=transfers,
            link=self.link,
            roles=RoleSide(lambda: self.membership, material, self.directory / "outputs"),
            runs=SiteRuns(self.name, self.config.tracking, self.directory, is_last=is_last),
            stopping=self._stop,
        )
        self._runners = Runners(self._around)
        self._deciding = Deciding(self._around, self._runners, is_edge=executors is not None)
        told = on_end or (lambda job, status, ran: None)
        self._ending = Ending(self._around, self._runners, self._deciding, on_end=told, spawn=self._spawn)

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
            self._deciding.judge_held()
            self._spawn(watch(self.directory / POLICY, self._deciding.judge_held))
            log.info("site started", site=self.name, federation=self.federation)
            await self._hold_sessions()
        finally:
            await self._close(server)

    @property
    def is_idle(self) -> bool:
        """Whether no job is at hand."""
        return len(self._runners) + len(self._deciding) == 0

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
            self._around.audit.append(
                actor=f"site/{self.name}",
                action="session",
                subject=SERVER,
                outcome="refused",
                details={"reason": str(error)[:500]},
            )
            raise
        finally:
            stopped.cancel()

    async def _renew(self) -> None:
        self.membership = await next_membership(self.membership, self.link, self.directory)

    async def _close(self, server: asyncio.Server | None) -> None:
        if server is not None:
            server.close()
            (self.directory / "control.sock").unlink(missing_ok=True)
        await self.link.leave()
        background = list(self._background)
        for task in background:
            task.cancel()
        self._replies.close()
        await asyncio.gather(*background, self._deciding.close(), self._runners.close(), return_exceptions=True)
        await self._around.workers.close()
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
                self._deciding.approved(row)
                continue
            if row.decision == ACCEPT:
                self._spawn(self._runners.warm(self._runners.begin(Proposal.parse(row.proposal))))
            self._deciding.tell(row)
        self._replies.restore(jobs)
        for row in rows:
            if row.decision == ACCEPT:
                self._give_up_session(Proposal.parse(row.proposal))

    def _give_up_session(self, proposal: Proposal) -> None:
        """Say at once that this site's part in a session broke with its agent, before the task comes again."""
        spec = proposal.roles
        role = None if spec is None else spec.role_of(self.name)
        prefix = f"{proposal.job}/{COMPONENT}/"
        attempts = [name.removeprefix(prefix) for name in self._around.material.taken(prefix)]
        numbers = [int(each) for each in attempts if each.isdecimal()]
        if spec is None or role is None or not numbers:
            return
        task = role_task(proposal.job, COMPONENT, max(numbers), role, spec.roles)
        if not self._replies.knows(str(task)):
            self._replies.refuse(task, "lost", "the site's agent has started again")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def app_of(self, job: str) -> tuple[Proposal, bytes]:
        """An accepted job, and its bundle as it was checked.

        Raises:
            NotFoundError: it is not at hand.
        """
        runner = self._runners.of(job)
        if runner is None:
            raise NotFoundError(f"job {job} is not at hand at this site")
        proposal = runner.proposal
        manifest = proposal.manifest
        return proposal, bytes(self._around.blobs.read(proposal.scope, manifest.id, 0, manifest.size))

    # ---- the link ----

    def holding(self) -> list[str]:
        """Ids of tasks that need not be sent again."""
        return list(dict.fromkeys([*self._replies.holding, *self._runners.holding]))

    def _facts(self) -> dict[str, str]:
        facts = {"isolation": self.config.isolation.level, "workers": str(self.config.max_workers)}
        if self.config.share_dataset_names:
            facts["datasets"] = ",".join(sorted(self.config.datasets))
        return facts

    def accepted(self, id: str, outcome: str, reason: str) -> None:
        """The server has taken a message."""
        if id.startswith("decision/"):
            self._ending.decision_taken(id.partition("/")[2], outcome)
        else:
            self._replies.accepted(id, outcome, reason)

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
                    if not self._deciding.is_early(envelope):
                        self._runners.task(envelope)
                case "release":
                    self._runners.release(envelope)
                case "propose":
                    self._deciding.propose(envelope)
                case "end":
                    self._spawn(self._ending.end(envelope))
                case _:
                    log.info("message of an unknown kind", kind=envelope.kind)
        except HanseError as error:
            self._around.refused(envelope, str(error))

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
        return described(await self._deciding.by_owner(job, verdict, reason or ""))

    def _status(self) -> dict[str, Any]:
        jobs = [described(row) | self._runners.status(row.job) for row in self._journal.jobs()]
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
