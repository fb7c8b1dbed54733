"""One job at work: its request, the run that drives it, and what sites have answered to the proposal."""

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from hanse.core.ids import bundle_scope
from hanse.core.records import BlobRef
from hanse.pipeline.offering import end_of, proposal_of
from hanse.pipeline.request import JobRequest
from hanse.rounds.driver.run import Run
from hanse.rounds.hosts.group import Host
from hanse.rounds.seams import Seams
from hanse.server.history import History
from hanse.server.roles import RolesRun

DECISION_S = 30.0
"""How long a connected site that says nothing to a proposal holds the start up."""
DECISIONS = ("accept", "hold", "refuse")


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
        self.left = asyncio.Event()
        """Set once nothing is done for the job any more: it has ended and its sites know, or its driver has stopped."""
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
        await self._seams.inbox.send(site, end_of(site, self.request.federation, self.request.job, status, model))

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


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
