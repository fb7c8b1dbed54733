"""The site's own runs: what its workers answered, told to the tracker that its owner's `site.yaml` names, if it does.

An app's wish counts for nothing here. What is told is what the reply holds anyway, numbers and texts and never arrays,
and what the app's code said with `site.track`, which goes nowhere else.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from hanse.core.records import Reply, Task
from hanse.core.tracked import Tracked
from hanse.site.proposals import Proposal
from hanse.tracking import Tracker, Tracking
from hanse.tracking.events import settings_of
from hanse.tracking.records import Run, begin, end, of_reply, of_tracked
from hanse.tracking.tracker import BUFFER

SHORT_S, LAST_S = 2.0, 30.0
"""How long a site that ends waits for a tracker that takes nothing; where its folder ends with it."""
log = structlog.get_logger("hanse.site")


class SiteRuns:
    """The runs of one site; does nothing where `tracker` is None.

    Args:
        is_last: whether what is not delivered when this ends is lost, since the folder ends, too.
    """

    def __init__(self, site: str, tracker: Tracker | None, directory: Path, *, is_last: bool = False) -> None:
        self._site = site
        self._close_s = LAST_S if is_last else SHORT_S
        self._tracking: Tracking | None = None
        if tracker is not None:
            self._tracking = Tracking(tracker, directory / BUFFER, say=_say)

    def answered(self, proposal: Proposal, task: Task, reply: Reply, tracked: Sequence[Tracked] = ()) -> None:
        """A task was answered. The same task again, with whatever answer, changes nothing.

        Args:
            tracked: what the app's code said with `site.track`.
        """
        if self._tracking is None or not reply.ok:
            return
        tracker, now_ms = self._tracking.tracker, time.time_ns() // 1_000_000
        run = Run(tracker.prefix, task.id.job, self._site)
        about: Mapping[str, Any] = {
            "role": "site",
            "site": self._site,
            "name": proposal.name,
            "person": proposal.person,
            "app": proposal.app,
            **settings_of(proposal.spec),
            **tracker.params,
        }
        place = f"{task.id.round}/{task.id.phase}/{task.id.ordinal}"
        found = of_reply(
            run,
            now_ms,
            key=f"reply/{place}",
            round_=task.id.round,
            phase=task.id.phase,
            metrics=reply.metrics,
            num_examples=reply.num_examples,
            seconds=reply.seconds,
            config=task.config if task.id.phase == "train" else None,
        )
        told = [begin(run, now_ms, about), found]
        if tracked:
            told.append(of_tracked(run, now_ms, key=f"tracked/{place}", round_=task.id.round, tracked=tracked))
        self._tracking.add(told)

    def ended(self, job: str, status: str) -> None:
        """A job is over here, if it ever began."""
        if self._tracking is not None:
            run = Run(self._tracking.tracker.prefix, job, self._site)
            self._tracking.add_if_begun(end(run, time.time_ns() // 1_000_000, status))

    def close(self) -> None:
        """Deliver what waits, for a moment; the rest is delivered when the site starts again."""
        if self._tracking is not None:
            self._tracking.close(self._close_s)


def _say(line: str) -> None:
    log.warning("tracking", what=line)
