"""The aggregator's runs: what the server knows of every job, for the tracker that `server.yaml` names, if any."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import structlog

from hanse.pipeline.request import JobRequest
from hanse.tracking import Tracker, Tracking
from hanse.tracking.events import follower, settings_of
from hanse.tracking.tracker import BUFFER

log = structlog.get_logger("hanse.server")


class AggregatorRuns:
    """One run a job; does nothing where `tracker` is None.

    Args:
        request_of: the request of a job at work; None where there is none.
    """

    def __init__(
        self, tracker: Tracker | None, directory: Path, request_of: Callable[[str], JobRequest | None]
    ) -> None:
        self._tracking: Tracking | None = None
        self._request_of = request_of
        self._followers: dict[str, Callable[[Mapping[str, Any]], None]] = {}
        if tracker is not None:
            self._tracking = Tracking(tracker, directory / BUFFER, say=_say)

    @property
    def is_on(self) -> bool:
        """Whether anything is tracked."""
        return self._tracking is not None

    def take(self, event: Mapping[str, Any]) -> None:
        """One event of a job; told twice, it counts once."""
        if self._tracking is None or event["what"] not in ("round", "finished"):
            return
        job = event["job"]
        if job not in self._followers:
            self._followers[job] = follower(self._tracking, _about(self._request_of(job)))
        self._followers[job](event)
        if event["what"] == "finished":
            del self._followers[job]

    def close(self) -> None:
        """Deliver what waits, for a moment; the rest is delivered when the server starts again."""
        if self._tracking is not None:
            self._tracking.close(2.0)


def _about(request: JobRequest | None) -> dict[str, Any]:
    if request is None:
        return {}
    about = {"name": request.name, "person": request.person, "app": request.app, "federation": request.federation}
    return {**about, **settings_of(request.spec)}


def _say(line: str) -> None:
    log.warning("tracking", what=line)
