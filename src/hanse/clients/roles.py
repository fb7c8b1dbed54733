"""`RoleRuntime`: play one role of a `RoleApp` at one site, and turn what its program returned into a reply.

The program gets a party over a channel to the site's agent, and `site`. What it returns is checked as any client's
answer is. A peer that is silent or gone is the kind `lost`, for which a new session may be tried; everything else that
goes wrong is the program's own failure.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hanse.channels.app import RoleApp
from hanse.channels.frames import Channel
from hanse.channels.party import Party, run_role
from hanse.channels.spending import Spending
from hanse.clients.client import arrays_of
from hanse.clients.execute import Outcome, metrics_of
from hanse.clients.failures import MAX_CAUSE, SHOWN, SITES_LOG, OnFailure, failure_of, is_ours, note_failure
from hanse.clients.fingerprint import fingerprint
from hanse.clients.role_task import COUNTERS, Part, check_told
from hanse.clients.site import Site, stream_of
from hanse.core.arrays import Arrays
from hanse.core.errors import ConfigError, TaskError, UnavailableError
from hanse.core.records import Metrics, Reply, Task
from hanse.core.seeds import seed_globals


class RoleRuntime:
    """Plays roles of one app at one site.

    Args:
        site_name, load, log, failed: see `hanse.clients.execute.Runtime`.
        outputs: see `Site.outputs`.
        checkpoints: the folder of `Site.checkpoints`, if any are kept.
        spending, secret: see `Site.spending`, `Site.secret`.
    """

    def __init__(
        self,
        app: RoleApp,
        *,
        site_name: str,
        load: Callable[[str], Any],
        log: Callable[[str], None],
        outputs: Callable[[], Arrays] | None = None,
        checkpoints: Path | None = None,
        spending: Spending | None = None,
        secret: Callable[[], bytes] | None = None,
        failed: OnFailure | None = None,
    ) -> None:
        self.app = app
        kept: dict[str, Any] = {"outputs": outputs, "checkpoints": checkpoints, "spending": spending, "secret": secret}
        self.site = Site(site_name, load, log, **kept)
        self._log = log
        self._failed = failed

    async def play(self, task: Task, part: Part, channel: Channel) -> Outcome:
        """Play the role that `part` names. A failure is a reply; only cancelling passes through."""
        started = time.perf_counter()
        try:
            reply, arrays = await self._play(task, part, channel)
        except (Exception, SystemExit) as error:
            lost = isinstance(error, UnavailableError) and is_ours(error)
            file = self.app.module_globals.get("__file__")
            rest = SITES_LOG if self._failed is None else SHOWN
            kind, message = failure_of(error, Path(file).parent if isinstance(file, str) else None, rest=rest)
            if not lost and (not isinstance(error, TaskError) or str(error) != message):
                note_failure(error, task.id, self.site.name, message, self._log, self._failed)
            failed = Reply.failed(
                task.id, self.site.name, *(("lost", str(error)[:MAX_CAUSE]) if lost else (kind, message))
            )
            return Outcome(replace(failed, seconds=time.perf_counter() - started), None, None)
        seconds = time.perf_counter() - started
        return Outcome(replace(reply, seconds=seconds, fingerprint=fingerprint()), arrays, None, self.site.tracked)

    async def _play(self, task: Task, part: Part, channel: Channel) -> tuple[Reply, Arrays | None]:
        program = self.app.programs.get(part.role)
        if program is None:
            raise ConfigError(f"app: it has no program for the role {part.role[:60]}")
        protocol = self.app.protocol
        absent = set(protocol.roles) - set(part.sites)
        party = Party(part.role, protocol, channel, names=part.sites, timeout_s=part.timeout_s, absent=absent)
        self.site.begin(task, {})
        seed_globals(stream_of(task, self.site.name, "globals"))
        answer = await run_role(party, lambda own: program(own, self.site))
        metrics, arrays = taken_apart(answer, part.role)
        check_told(metrics, self.app.protocol, part.role)
        counted = {name: getattr(party.counters, name) for name in COUNTERS}
        return Reply(task.id, self.site.name, metrics={**counted, **metrics}), arrays


def kept_outputs(arrays: Arrays) -> Arrays:
    """What a role kept in an earlier job, if that is anything.

    Raises:
        ConfigError: it is nothing.
    """
    if not arrays:
        raise ConfigError("site.outputs: expected what this role kept in the earlier job, found nothing of it here")
    return arrays


def taken_apart(answer: Any, role: str) -> tuple[Metrics, Arrays | None]:
    """Metrics and arrays of what a role program returned.

    Raises:
        TaskError: `bad_reply`.
    """
    what = f"role {role}"
    if answer is None:
        return {}, None
    if isinstance(answer, tuple) and len(answer) == 2:
        return metrics_of(answer[1], what), arrays_of(answer[0], what, None)
    return metrics_of(answer, what), None


def play_to_end(runtime: RoleRuntime, task: Task, channel_of: Callable[[], Channel]) -> Outcome:
    """`RoleRuntime.play` on an event loop of its own. The channel is made on it."""

    async def play() -> Outcome:
        channel = channel_of()
        try:
            return await runtime.play(task, Part.unpack(task.payload), channel)
        finally:
            close = getattr(channel, "close", None)
            if close is not None:
                await close()

    return asyncio.run(play())
