"""The whole recipe: a server, a training job in every account, the app, models on both sides, and nothing left running.

    server up → jobs started or adopted → sites there → app submitted or attached to → rounds → models → jobs over

What is decided is small and written down before it is done (`launch.json`: the run, the federation's job, each site's
job), so that a launcher that was killed is started again and goes on: it starts nothing twice.
"""

import asyncio
import contextlib
import json
import os
import queue
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse.backends.local.ports import free_ports
from hanse.core.errors import ConfigError, ConflictError, HanseError, JobFailed, NotFoundError, UnavailableError
from hanse.core.ids import new_job_id
from hanse.deploy.sagemaker.entry import THE_JOB, Told
from hanse.deploy.sagemaker.jobs import TRAINING, JobState, TrainingJobs, capacity
from hanse.deploy.sagemaker.settings import QUEUES, Account, Settings
from hanse.person.federation import Federation
from hanse.person.loop import wait_for
from hanse.rounds.result import Result
from hanse.trust.aws_identity import AwsIdentity

if TYPE_CHECKING:
    from hanse.clients.loader import AnyApp

RECORD = "launch.json"
PERSON = "admin"
START_S = 900.0
"""How long sites may take to come: machines have to be found, and images to be fetched."""
END_S = 180.0
"""How long jobs may take to end once the federation's job is over."""
LOOK_S = 1.0
STOP_S, RESTARTS = 15.0, 5
CAPACITY_ATTEMPTS = 3
STOPS = ("stopping", "stopped")
OVER = ("finished", "failed", "cancelled")
Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Launched:
    """What `launch.json` holds, and what is shown.

    Args:
        run: names the jobs of one launch.
        job: the federation's job. Its id is noted before anything starts; submitted it is when the sites are there.
        begun_ms: when, in milliseconds since 1970; 0 where an earlier version began it.
        status: `starting`, `training` (once the job was submitted), `finished`, `failed` or `cancelled`.
        sites: site → its training job.
    """

    run: str
    job: str = ""
    status: str = "starting"
    error: str = ""
    sites: Mapping[str, JobState] = field(default_factory=dict)
    begun_ms: int = 0

    @property
    def is_over(self) -> bool:
        """Whether this run has ended."""
        return self.status in OVER


Shown = Callable[[Launched, Event], None]
"""Told of every change: of the jobs (event `{"what": "jobs"}`), and of every event of the federation's job."""


def read_record(folder: Path) -> Launched | None:
    """What an earlier launcher wrote.

    Raises:
        ConfigError: something else is there.
    """
    try:
        value = json.loads((folder / RECORD).read_text())
        return Launched(**{**value, "sites": {name: JobState(**state) for name, state in value["sites"].items()}})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ConfigError(f"{folder / RECORD}: expected what an earlier launch wrote; move it away") from None


def write_record(folder: Path, launched: Launched) -> None:
    """Keep it, in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{RECORD}"
    draft.write_text(json.dumps(asdict(launched), indent=1))
    os.replace(draft, folder / RECORD)


def begin(folder: Path) -> Launched:
    """The run that was begun and has not ended, or a new one."""
    before = read_record(folder)
    return before if before is not None and not before.is_over else anew()


def anew(run: str = "") -> Launched:
    """A run that begins now."""
    return Launched(run or secrets.token_hex(3), begun_ms=time.time_ns() // 1_000_000)


def noted(folder: Path, launched: Launched, person: str) -> Launched:
    """The run with the id of the federation's job, which `person` submits: on disk before anybody is told of it."""
    if not launched.job:
        launched = replace(launched, job=new_job_id(person))
        write_record(folder, launched)
    return launched


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


# ---- the server ----


@contextmanager
def server_up(settings: Settings, *, by_identity: bool, log: Path, sts: str = "") -> Iterator[Federation]:
    """The federation's server: made if it is not there, started if it does not run; ended again if it was started here.

    Args:
        by_identity: whether sites join by their AWS identities.
        log: where the server's log goes.
        sts: another address of STS than AWS's, for a server that is made.

    Raises:
        UnavailableError: it does not come up; with the last words of its log.
    """
    place = settings.server.directory
    if not (place / "server.yaml").exists():
        _found(settings, by_identity=by_identity, sts=sts)
    federation = Federation.load(place / PERSON)
    if _answers(federation):
        if by_identity:
            _check_identities(settings, "restart the server after writing it")
        yield federation
        return
    if by_identity:
        _write_identities(settings)
    server = _Server(place, log)
    server.start()
    try:
        yield federation
    finally:
        server.stop()


class _Server:
    """The server's process; one that ends by itself is started again, and its jobs go on."""

    def __init__(self, place: Path, log: Path) -> None:
        self._place, self._log = place, log
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._watch = threading.Thread(target=self._keep_up, name="server", daemon=True)

    def start(self) -> None:
        """Returns when it can be reached.

        Raises:
            UnavailableError: it ends instead; with the last words of its log.
        """
        self._begin()
        self._watch.start()

    def stop(self) -> None:
        """End it."""
        self._stopping.set()
        if self._child is not None:
            _ended(self._child)
        self._watch.join(STOP_S)

    def _begin(self) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as out:
            command = [sys.executable, "-m", "hanse.cli.processes", "server", str(self._place)]
            self._child = child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out, start_new_session=True
            )
        if child.stdout is None or child.stdout.readline() != b"ready\n":
            _ended(child)
            raise UnavailableError(f"the server did not start: {_last_line(self._log)}")

    def _keep_up(self) -> None:
        for _ in range(RESTARTS):
            if self._child is not None:
                self._child.wait()
            if self._stopping.is_set():
                return
            with contextlib.suppress(UnavailableError):
                self._begin()
            if self._stopping.is_set() and self._child is not None:  # stopped in between
                _ended(self._child)


def _ended(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    try:
        child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()


def _found(settings: Settings, *, by_identity: bool, sts: str) -> None:
    from hanse.server.config import ServerConfig
    from hanse.server.init import init_federation
    from hanse.tracking import tracker_from

    place = settings.server
    port, enrolment = (place.port, place.enrolment_port) if place.port else free_ports(2)
    config = ServerConfig(
        federation=settings.federation,
        listen="127.0.0.1" if place.address == "127.0.0.1" else "0.0.0.0",
        port=port,
        enrolment_port=enrolment,
        http_port=None,
        hosts=tuple(dict.fromkeys((place.address, "127.0.0.1", "localhost"))),
        models_to_sites=True,
        datasets=place.datasets,
        tracking=None if place.tracking is None else tracker_from(dict(place.tracking), "server.tracking"),
        aws_identities=identities_of(settings) if by_identity else {},
        aws_sts=sts,
    )
    init_federation(place.directory, config, person=PERSON)


def identities_of(settings: Settings) -> dict[str, AwsIdentity]:
    """Who may join as which site: the account's execution role, where the site has no token."""
    joining = [account for account in settings.accounts if not account.token_secret]
    return {each.site: AwsIdentity(each.account, each.execution_role) for each in joining}


def _write_identities(settings: Settings) -> None:
    """Have `server.yaml` know the accounts of today and no others, before the server starts."""
    from hanse.server.config import ServerConfig

    config = ServerConfig.load(settings.server.directory)
    known = identities_of(settings)
    if known != config.aws_identities:
        replace(config, aws_identities=known).save(settings.server.directory)


def _check_identities(settings: Settings, advice: str) -> None:
    from hanse.server.config import ServerConfig

    known = ServerConfig.load(settings.server.directory).aws_identities
    wanted = identities_of(settings)
    if others := sorted(set(known) - set(wanted)):
        raise ConfigError(
            f"{settings.server.directory / 'server.yaml'}: aws_identities: found {', '.join(others)}, which "
            f"federation.yaml does not name and who could still join; take it out there; {advice}"
        )
    for site, identity in wanted.items():
        if known.get(site) != identity:
            raise ConfigError(
                f"{settings.server.directory / 'server.yaml'}: aws_identities: expected {site}: {{account: "
                f'"{identity.account}", role: {identity.role}}}; {advice}'
            )


def _answers(federation: Federation) -> bool:
    host, _, port = federation.address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), 2):
            return True
    except OSError:
        return False


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1][:300] if lines else f"see {log}"


def told_of(
    settings: Settings, federation: Federation, join: Callable[[Account], str], **more: Any
) -> Callable[[Account], Told]:
    """What each site's job is told.

    Args:
        join: how a site joins, as `Told.join`.
    """
    from hanse.server.config import ServerConfig
    from hanse.trust.certificates import fingerprint

    authority = fingerprint(federation.membership.authority_pem).hex()
    if settings.queues is not None:
        server = enrolment = QUEUES
    else:
        config = ServerConfig.load(settings.server.directory)
        server, enrolment = config.address, config.enrolment_address

    def told(account: Account) -> Told:
        return Told(
            settings.federation,
            account.site,
            server,
            enrolment,
            authority,
            join(account),
            **more,
        )

    return told


def local_token(federation: Federation, site: str, folder: Path) -> str:
    """A join token in a private file, in the place of Secrets Manager; a site of an earlier launch is let in anew."""

    async def invite() -> str:
        async with federation.connect() as session:
            known = {each["site"]: each["state"] for each in (await session.ask("sites"))["sites"]}
            if known.get(site, "revoked") != "revoked":
                await session.ask("revoke", kind="site", name=site)
            return str((await session.ask("invite", kind="site", name=site, hours=24.0))["token"])

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / site
    path.touch(mode=0o600)
    path.write_text(asyncio.run(invite()))
    return f"file:{path}"
