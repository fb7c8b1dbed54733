"""When a site asks for its next certificate, and what it does until it has one."""

import asyncio
import random
from pathlib import Path

import structlog

from hanse.core.errors import HanseError
from hanse.site.links import Session
from hanse.trust.certificates import current_ms
from hanse.trust.membership import Membership

RETRY_S = 60.0
LOOK_S = 3600.0
"""Between two looks at the certificate: by the hour, since a machine that was asleep has not counted the time."""

log = structlog.get_logger("hanse.site")


async def next_membership(membership: Membership, link: Session, directory: Path) -> Membership:
    """Ask for a new certificate when a third of this one's life is left; return when one is kept in `directory`."""
    while (left_ms := membership.identity.renew_at_ms - current_ms()) > 0:  # noqa: ASYNC110
        await asyncio.sleep(min(left_ms / 1000, LOOK_S))
    while True:
        await link.connected.wait()
        try:
            if link.connection is not None:
                renewed = await membership.renewed(link.connection.renew)
                await asyncio.to_thread(renewed.save, directory)
                log.info("certificate renewed", until_ms=renewed.identity.not_after_ms)
                return renewed
        except (HanseError, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling()):
                raise
            log.warning("certificate not renewed", reason=str(error) or "the connection broke")
        await asyncio.sleep(RETRY_S * (0.5 + random.random()))
