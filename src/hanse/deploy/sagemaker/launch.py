"""The whole recipe: a server, a training job in every account, the app, models on both sides, and nothing left running.

server up → jobs started or adopted → sites there → app submitted or attached to → rounds → models → jobs over
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hanse.core.errors import ConflictError, HanseError, JobFailed, NotFoundError, UnavailableError
from hanse.deploy.sagemaker.entry import THE_JOB
from hanse.deploy.sagemaker.jobs import TRAINING, JobState, TrainingJobs, capacity
from hanse.deploy.sagemaker.record import OVER, Launched, write_record
from hanse.deploy.sagemaker.settings import Settings
from hanse.person.federation import Federation
from hanse.person.loop import wait_for
from hanse.rounds.result import Result

if TYPE_CHECKING:
    from hanse.clients.loader import AnyApp

START_S = 900.0
"""How long sites may take to come: machines have to be found, and images to be fetched."""
END_S = 180.0
"""How long jobs may take to end once the federation's job is over."""
LOOK_S = 1.0
CAPACITY_ATTEMPTS = 3
STOPS = ("stopping", "stopped")
Event = Mapping[str, Any]
Shown = Callable[[Launched, Event], None]
"""Told of every change: of the jobs (event `{"what": "jobs"}`), and of every event of the federation's job."""


class Launcher:
    """One launch.

    Args:
        backend: where the training jobs run.
        launched: the run, new or taken up; see `noted`.
        app: what is submitted, loaded from `settings.app`: what is wrong with it is said before anything costs.
        shown: told what happens.

    Raises:
        ConfigError: the app is none that can be submitted.
    """

    def __init__(
        self, settings: Settings, backend: TrainingJobs, launched: Launched, app: "AnyApp", shown: Shown
    ) -> None:
        self._app, self._least = app, least(app, len(settings.accounts))
        self._settings, self._backend, self._shown = settings, backend, shown
        self.launched = launched
        self._attempts: dict[str, int] = {}
        self._asked_to_stop: set[str] = set()
        self._may_be_submitted = bool(launched.sites)  # by the launcher that began it
        self._accounts = {account.site: account for account in settings.accounts}

    def run(self, federation: Federation) -> Result:
        """Start everything, follow it to the end, keep the model.

        Raises:
            JobFailed: the federation's job failed. HanseError: it could not be started; nothing is left running.
        """
        try:
            for account in self._settings.accounts:
                self._change(account.site, self._backend.start(account))
            if not self._is_submitted(federation):  # else sites were there; its quorum decides
                self._await_sites(
                    lambda: self._at_work() if self._settings.queues is not None else connected(federation)
                )
            result = self._train(federation)
            self._await_ends()
        except BaseException as error:
            self._end(federation, error)
            raise
        gone = [_ended_early(each) for each in self.launched.sites.values() if each.is_early and not _follows(each)]
        why = "; ".join([f"{THE_JOB} {result.status}: {result.error}", *gone])
        self._set(status=result.status, error="" if result.ok else why)
        if not result.ok:
            raise JobFailed(why, result)
        result.save(self._settings.output / "model.safetensors")
        result.report(self._settings.output / "report.html")
        return result

    # ---- phases ----

    def _is_submitted(self, federation: Federation) -> bool:
        """Whether the federation's job is there: who was killed has perhaps not come to write that down."""
        if self._may_be_submitted and self.launched.status != "training":
            with contextlib.suppress(NotFoundError):
                wait_for(_ask(federation, "job", job=self.launched.job))
                self._set(status="training")
        return self.launched.status == "training"

    def _await_sites(self, those_there: Callable[[], set[str]]) -> None:
        """Until every site is there; a job that ends before that ends the launch."""
        end = time.monotonic() + START_S
        while True:
            self._look()
            there = those_there()
            if set(self._accounts) <= there:
                return
            for site, state in self.launched.sites.items():
                if state.is_over and site not in there:
                    raise UnavailableError(_ended_early(state))
            if time.monotonic() > end:
                missing = ", ".join(sorted(set(self._accounts) - there))
                raise UnavailableError(
                    f"after {START_S:.0f} s these sites are not there: {missing}; see their jobs' logs"
                )
            time.sleep(LOOK_S)  # two systems that announce nothing to us

    def _at_work(self) -> set[str]:
        """Sites whose program runs: where nothing listens nobody is connected, and proposals wait in queues."""
        return {site for site, state in self.launched.sites.items() if state.doing == TRAINING and not state.is_over}

    def _train(self, federation: Federation) -> Result:
        """Submit the app, or attach to the job that was submitted before; its events, and the training jobs beside."""
        from hanse.person.jobs import Job, submit

        job = Job(self.launched.job, federation, getattr(self._app, "tracking", None))
        if self.launched.status != "training":
            self._may_be_submitted = True
            with contextlib.suppress(ConflictError):  # it was on its way already: nobody else can have made this id
                job = submit(self._app, federation, sites=sorted(self._accounts), id=self.launched.job)
            self._set(status="training")
        last = time.monotonic()
        for event in _with_pauses(job.follow()):
            if event is not None:
                self._shown(self.launched, event)
            if time.monotonic() - last > LOOK_S:
                self._look()
                self._check_those_left(federation)
                last = time.monotonic()
        return job.snapshot()

    def _check_those_left(self, federation: Federation) -> None:
        """Return if the training jobs that are left can still make up the quorum: nobody comes in place of the others.

        Raises:
            UnavailableError: they cannot, and the federation's job would wait for its deadline.
        """
        gone = [state for state in self.launched.sites.values() if state.is_early and not _follows(state)]
        left = len(self._accounts) - len(gone)
        if not gone or left >= self._least:
            return
        if wait_for(_ask(federation, "job", job=self.launched.job)).get("status") in OVER:
            return  # its end is on its way here, with its own cause
        raise UnavailableError(
            f"{'; '.join(map(_ended_early, gone))}; {left} of {len(self._accounts)} are left, and the app's quorum is "
            f"{self._least}"
        )

    def _await_ends(self) -> None:
        """Until every training job is over; what takes too long is stopped."""
        end = time.monotonic() + END_S
        while not all(state.is_over for state in self.launched.sites.values()):
            if time.monotonic() > end:
                self._stop_all()
                end = time.monotonic() + END_S
            time.sleep(LOOK_S / 2)
            self._look()

    def _end(self, federation: Federation, error: BaseException) -> None:
        """Leave nothing running."""
        cancelled = isinstance(error, KeyboardInterrupt)
        with contextlib.suppress(HanseError):
            if self._may_be_submitted:
                wait_for(_ask(federation, "cancel", job=self.launched.job))
        self._stop_all()
        with contextlib.suppress(HanseError):
            self._look()
        self._set(status="cancelled" if cancelled else "failed", error=str(error)[:500])

    def _stop_all(self) -> None:
        for site, state in self.launched.sites.items():
            if state.name and not state.is_over:
                self._asked_to_stop.add(site)
                with contextlib.suppress(HanseError):  # one account's refusal must not keep the others running
                    self._backend.stop(self._accounts[site], state.name)

    # ---- what is known ----

    def _look(self) -> None:
        for site, state in list(self.launched.sites.items()):
            if state.is_over:
                continue
            try:
                found = replace(self._backend.look(self._accounts[site], state.name), adopted=state.adopted)
            except UnavailableError:
                continue  # asked again soon
            if capacity(found) and self._attempts.get(site, 1) < CAPACITY_ATTEMPTS:
                self._attempts[site] = self._attempts.get(site, 1) + 1
                found = self._backend.start(self._accounts[site])
            if found.doing in STOPS and not found.reason and site not in self._asked_to_stop:
                found = replace(found, reason=f"{found.doing}; not by this launcher but from its own account")
            self._change(site, found)

    def _change(self, site: str, state: JobState) -> None:
        if self.launched.sites.get(site) != state:
            self._set(sites={**self.launched.sites, site: state})
            self._shown(self.launched, {"what": "jobs", "site": site})

    def _set(self, **changed: Any) -> None:
        self.launched = replace(self.launched, **changed)
        write_record(self._settings.output, self.launched)


def least(app: "AnyApp", sites: int) -> int:
    """How many of the sites an app cannot do without: its quorum, or all of them where all are asked.

    Raises:
        ConfigError: the app lacks something.
    """
    from hanse.clients.app import App

    if not isinstance(app, App):
        return sites
    spec = app.spec()
    return spec.quorum or (sites if spec.sample == 1.0 else 1)


def _with_pauses(events: Iterator[Event]) -> Iterator[Event | None]:
    """The same, one by one as they are asked for, and None whenever nothing has come for a while."""
    asked = threading.Semaphore(0)
    found: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()

    def follow() -> None:
        try:
            event: Event | None = {}
            while event is not None:
                asked.acquire()
                event = next(events, None)
                found.put(event)
        except BaseException as error:  # raised where it is waited for
            found.put(error)

    threading.Thread(target=follow, name="events", daemon=True).start()
    asked.release()
    while True:
        try:
            event = found.get(timeout=LOOK_S)
        except queue.Empty:
            yield None
            continue
        if isinstance(event, BaseException):
            raise event
        if event is None:
            return
        yield event
        asked.release()


def _follows(state: JobState) -> bool:
    """Whether a training job failed only because the federation's job had."""
    return THE_JOB in state.reason


def _ended_early(state: JobState) -> str:
    why = state.reason or state.doing or "no reason was given"
    return f"{state.site}: its training job {state.name} {state.status.lower()}: {why}"


def connected(federation: Federation) -> set[str]:
    """Sites that hold a session now; none where the server cannot be reached."""
    try:
        sites = wait_for(_ask(federation, "sites"))["sites"]
    except UnavailableError:
        return set()
    return {site["site"] for site in sites if site["state"] == "there"}


async def _ask(federation: Federation, op: str, **body: Any) -> dict[str, Any]:
    async with federation.connect() as session:
        return await session.ask(op, **body)
