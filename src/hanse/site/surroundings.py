"""`Surroundings`: what the parts of one agent, and the jobs at hand, have in common."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from hanse.core.records import Envelope
from hanse.core.seams import BlobStore
from hanse.site.config import SiteConfig
from hanse.site.executors import Executors
from hanse.site.journal import Journal
from hanse.site.links import Outgoing
from hanse.site.material import MaterialIndex
from hanse.site.replies import Replies
from hanse.site.roles import RoleSide
from hanse.site.seats import Seats
from hanse.site.tracking import SiteRuns
from hanse.site.transfers import Transfers
from hanse.trust.audit import AuditLog
from hanse.trust.membership import Membership

log = structlog.get_logger("hanse.site")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """A site at work, to its parts.

    Args:
        member: who this site is; asked again each time, since certificates are renewed.
        stopping: set when the agent is to end.
    """

    site: str
    federation: str
    directory: Path
    config: SiteConfig
    member: Callable[[], Membership]
    workers: Executors
    seats: Seats
    journal: Journal
    material: MaterialIndex
    audit: AuditLog
    blobs: BlobStore
    replies: Replies
    transfers: Transfers
    link: Outgoing
    roles: RoleSide
    runs: SiteRuns
    stopping: asyncio.Event

    def refused(self, envelope: Envelope, reason: str) -> None:
        """A message that is not for this site to act on: it is noted, and does not come again."""
        log.error("message refused", kind=envelope.kind, id=envelope.id[:200], reason=reason)
        self.audit.append(
            actor="server/server",
            action=f"message.{envelope.kind or 'none'}"[:100],
            subject=envelope.id[:400] or "none",
            outcome="refused",
            details={"reason": reason[:500]},
        )
        self.link.done(envelope.kind, envelope.id)
