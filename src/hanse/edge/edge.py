"""`Edge`: a server to a group's members and a site to the federation above, in one process on one event loop.

A job that comes from above, and that the edge's policy accepts, is submitted within the group: the same bundle byte for
byte, so that members' policies know it by the same hash, signed by the edge's own person, whom the members' policies
allow. It is led from above: see `hanse.rounds.hosts.group`.
"""

import asyncio
import contextlib
import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from hanse.clients.client import Answer
from hanse.core.blobs import rechunk
from hanse.core.errors import ConflictError, HanseError, NotFoundError, TaskError
from hanse.core.ids import bundle_scope, job_id_of
from hanse.core.seams import BlobStore
from hanse.core.spec import RunSpec
from hanse.edge.members import Members
from hanse.edge.person import LOOK_S, check_may_submit, renew_if_due
from hanse.edge.unbroken import Unbroken
from hanse.pipeline.request import JobRequest
from hanse.rounds.hosts.group import GroupHost, Host, Order
from hanse.rounds.hosts.local import load_arrays
from hanse.rounds.machine.members import REFUSED
from hanse.server.jobs import ALL_REFUSED
from hanse.server.runs import Lead
from hanse.server.server import Server
from hanse.site.agent import Agent
from hanse.site.proposals import Proposal
from hanse.strategies.groups import Groups, is_within, of_members, within
from hanse.trust.bundle_signature import sign_bundle
from hanse.trust.certificates import PERSON, current_ms
from hanse.trust.membership import Membership
from hanse.workers.launcher import Launcher
from hanse.workers.server_host import ServerHost

FINISHED, FAILED, STOPPED = "finished", "failed", "stopped"
ANEW, RESUME, NOTHING = "anew", "resume", ""
NAME_CHARACTERS = 100
"""Of a job's name, at most."""
_FOR_GOOD = re.compile(rf"(round \d+, phase [^:]*: )?({re.escape(ALL_REFUSED)}|{re.escape(REFUSED)})")
"""How the error begins of a run that another one would not mend."""
log = structlog.get_logger("hanse.edge")


class Edge:
    """A group's aggregator. `run` it.

    Args:
        server: the folder of the group's own federation, as `hanse federation init` has made it.
        site: the folder of the site that the group is above, as `hanse site join` has made it.
        person: the folder of the group's person who submits what comes from above.

    Raises:
        ConfigError: a file is missing or wrong. TrustError: a certificate has expired.
    """

    def __init__(self, server: Path, site: Path, person: Path, launcher: Launcher) -> None:
        self._person = person
        member = Membership.load(person, kind=PERSON)  # what is wrong with it is said before anything starts
        self._name = member.identity.name
        self._site = site
        self._launcher = launcher
        self._hosts: dict[str, GroupHost] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._submitting = Unbroken()
        self._stop = asyncio.Event()
        self.server = Server(server, launcher, lead=Lead(self._name, self._lead))
        self.agent: Agent | None = None

    # ---- life ----

    async def run(self) -> None:
        """Serve the group and take part above, until `stop`.

        Raises:
            HanseError: it cannot start. TrustError: the federation above does not know this site any more.
        """
        await self.server.start()
        try:
            self.agent = Agent(self._site, launcher=self._launcher, on_end=self._ended, executors=self._members)
            self._spawn(self._stay_certified())
            log.info("edge ready", group=self.agent.name, above=self.agent.federation)
            working = asyncio.ensure_future(self.agent.run())
            stopped = asyncio.ensure_future(self._stop.wait())
            try:
                await asyncio.wait((working, stopped), return_when=asyncio.FIRST_COMPLETED)
                self.agent.stop()
                await working
            finally:
                stopped.cancel()
        finally:
            self._submitting.close()
            for task in self._tasks:
                task.cancel()
            await self.server.stop()

    def stop(self) -> None:
        """End `run`; everything can be taken up again."""
        self._stop.set()

    async def _stay_certified(self) -> None:
        while True:
            try:
                if await renew_if_due(self._person, self.server.members, current_ms()):
                    log.info("certificate of the group's person renewed")
            except HanseError as error:
                log.error("certificate of the group's person not renewed", reason=str(error))
            await asyncio.sleep(LOOK_S)

    def _members(self, agent: Agent) -> Members:
        return Members(agent.name, self._open, self._ask)

    # ---- jobs ----

    def _lead(self, request: JobRequest, made: Callable[[RunSpec], ServerHost], blobs: BlobStore) -> Host:
        """The host of a job within the group. One that the group's own people have submitted is like any other."""
        spec = request.spec
        if not is_within(spec):
            return made(spec)
        assert spec.groups is not None
        rounds = Groups.from_json(spec.groups).rounds
        host = GroupHost(made(of_members(spec)), blobs, rounds, lambda: self._wake(request.job))
        self._hosts[request.job] = host
        return host

    def _wake(self, job: str) -> None:
        found = self.server.jobs.active.get(job)
        if found is not None:
            self._spawn(self.server.jobs.presence_changed(found))

    async def _open(self, job: str) -> RunSpec:
        assert self.agent is not None
        proposal, bundle = self.agent.app_of(job)
        name = named(job, 1, self._name)
        if not await self.server.jobs.is_known(name):
            await self._submitting.do(job, lambda: self._submit(name, proposal, bundle))
        about = await self.server.jobs.reading.describe(name)
        if about["app"] != proposal.app:
            raise ConflictError(f"the group has another job {name}, of another app")
        return proposal.spec

    async def _latest(self, job: str) -> tuple[str, int]:
        """The group's job for one from above, and how many there were: one that failed has a successor."""
        number = 1
        while await self.server.jobs.is_known(named(job, number + 1, self._name)):
            number += 1
        return named(job, number, self._name), number

    async def _submit(self, name: str, proposal: Proposal, bundle: bytes) -> None:
        member = Membership.load(self._person)
        check_may_submit(member, self.server.members)
        person, federation = member.identity.name, member.identity.federation
        await self.server.blobs.put(bundle_scope(name), proposal.manifest, rechunk([bundle]))
        signed = sign_bundle(member.keys.signing, bundle_id=proposal.app, federation=federation, person=person)
        assert proposal.request is not None
        request = replace(
            proposal.request,
            job=name,
            name=shown(proposal.name, proposal.person, proposal.request.federation),
            federation=federation,
            person=person,
            bundle_signature=signed.decode(),
            spec=within(proposal.spec),
            initial=None,
            sites=None,
        )
        await self.server.submit(request, request.sign(member.keys.signing))

    async def _ask(self, job: str, order: Order) -> tuple[Answer, str]:
        """Ask a job's group, which ends the wait where its run is over.

        Raises:
            TaskError: it is over, or has nothing to answer.
        """
        name = await self._going(job)
        found, host = self.server.jobs.active.get(name), self._hosts.get(name)
        if found is None or found.run is None or host is None:
            raise TaskError("refused", f"the group cannot go on: {await self._cause(name)}")
        asking = asyncio.ensure_future(host.ask(order))
        try:
            await asyncio.wait((asking, found.run.finished), return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise TaskError("refused", f"the group cannot go on: {await self._cause(name)}")
            answered = asking.result()
        finally:
            asking.cancel()
        arrays = None if answered.model is None else await load_arrays(self.server.blobs, answered.model)
        return Answer(arrays, answered.num_examples, dict(answered.metrics)), answered.fingerprint

    async def _going(self, job: str) -> str:
        """The group's job for one from above, set going where it can be: see `remedy`."""
        assert self.agent is not None
        name, number = await self._latest(job)
        if name in self.server.jobs.active:
            return name
        about = await self._about(name)
        needed = remedy(str(about["status"]), str(about.get("error", "")))
        if needed == ANEW:
            name, app = named(job, number + 1, self._name), self.agent.app_of(job)
            await self._submitting.do(job, lambda: self._submit(name, *app))
            log.warning("the group begins anew", job=name, after=about.get("error"))
        elif needed == RESUME:
            await self._submitting.do(job, lambda: self.server.jobs.take_up(name))
            log.warning("the group's run is taken up again", job=name, after=about.get("error"))
        return name

    async def _about(self, name: str) -> Mapping[str, Any]:
        try:
            return await self.server.jobs.reading.describe(name)
        except NotFoundError:
            return {"status": "gone"}

    async def _cause(self, name: str) -> str:
        about = await self._about(name)
        return str(about.get("error") or f"its job is {about['status']}")

    def _ended(self, job: str, status: str, ran: bool) -> None:
        """The job above is over. One that has finished is finished within the group, too."""
        self._spawn(self._end(job, status))

    async def _end(self, job: str, status: str) -> None:
        await self._submitting.settled(job)
        name, number = await self._latest(job)
        host = self._hosts.get(name)
        for each in range(1, number + 1):
            self._hosts.pop(named(job, each, self._name), None)
        if status == FINISHED and host is not None and name in self.server.jobs.active:
            host.finish()
            return
        with contextlib.suppress(NotFoundError):  # it is over, or there never was one
            await self.server.jobs.cancel(name, "the federation above")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        async def guarded() -> None:
            try:
                await work
            except HanseError as error:
                log.error("work within the group failed", reason=str(error))

        task = asyncio.ensure_future(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def remedy(status: str, error: str) -> str:
    """What sets a group's run going that is not at work: another one, taking it up, or nothing.

    One that failed has a successor, so that a group which was short of members comes back. Not so one that all members
    have refused, or too many for its quorum: each round above would bring their owners the same question again. What
    members themselves say of a failure, which may be the same words, stands further on in an error, and is not heeded.
    """
    if status == STOPPED:
        return RESUME
    return ANEW if status == FAILED and not _FOR_GOOD.match(error) else NOTHING


def named(job: str, number: int, person: str) -> str:
    """The id of the n-th of a group's jobs for one from above: it begins with that one's and is the person's own.

    All of that one's is in it: two people above may have ids that begin alike, and each has a run of its own here.
    """
    return job_id_of(job if number == 1 else f"{job}-{number}", person)


def shown(name: str, person: str, federation: str) -> str:
    """What members' owners are shown of a job from above: its name, cut where it is long, and who submitted it."""
    who = f" ({person} of {federation})"
    return (name[: max(0, NAME_CHARACTERS - len(who))] + who)[:NAME_CHARACTERS]
