"""The launcher over other organisations' accounts, which an emulator holds: every fault ends in a named cause.

The federation is a stand-in here, which says who is connected; `tests/e2e/test_training_accounts.py` has the real one.
"""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hanse.clients.app import App
from hanse.core.errors import (
    ConfigError,
    ConflictError,
    HanseError,
    JobFailed,
    NotFoundError,
    TrustError,
    UnavailableError,
)
from hanse.deploy.sagemaker import launch
from hanse.deploy.sagemaker.accounts import AccountJobs
from hanse.deploy.sagemaker.entry import Told
from hanse.deploy.sagemaker.launch import Launcher
from hanse.deploy.sagemaker.record import Launched, begin, read_record
from hanse.deploy.sagemaker.settings import Account, ServerPlace, Settings
from hanse.rounds.result import Result
from tests.integration.training_accounts import REGION, Accounts, Scripted, accounts_up

pytest.importorskip("boto3", reason="boto3 is not installed")
pytestmark = pytest.mark.long

SITES = {"north": "111111111111", "east": "222222222222", "south": "333333333333"}
ACCOUNTS = tuple(
    Account(
        site,
        account=number,
        region=REGION,
        kickoff_role="FL-kickoff-client-job",
        execution_role="FL-execution",
        external_id=f"{site}-id",
        image="1.dkr.ecr.eu-central-1.amazonaws.com/x:1",
        code=f"s3://{site}/code.tar.gz",
        channels={"train": f"s3://{site}/data/"},
        output=f"s3://{site}/models/",
        checkpoints=f"s3://{site}/checkpoints/",
        spot=site == "south",
    )
    for site, number in SITES.items()
)
NAMES = [f"fl-medicare-r1-{site}-1" for site in SITES]
RUNS = "InProgress/Training"
SESSIONS: dict[str, tuple[Any, float]] = {}
"""Shared by all tests, since making a client reads a large file."""


@pytest.fixture(scope="module")
def emulator() -> Iterator[Accounts]:
    with pytest.MonkeyPatch.context() as patch, accounts_up(ACCOUNTS) as found:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        yield found


@pytest.fixture
def aws(emulator: Accounts, monkeypatch: pytest.MonkeyPatch) -> Accounts:
    from moto.sagemaker.models import sagemaker_backends

    for number in SITES.values():
        sagemaker_backends[number][REGION].training_jobs.clear()
    emulator.lives.clear()
    emulator.made.clear()
    emulator.refuse.clear()
    emulator.live = lambda request, account: Scripted(RUNS)
    monkeypatch.setattr(launch, "LOOK_S", 0.001)
    monkeypatch.setattr(launch, "connected", lambda federation: set())
    return emulator


class Place:
    """One launch: its settings, and a federation that is not there."""

    def __init__(self, folder: Path, aws: Accounts) -> None:
        self.settings = Settings("medicare", "app.py", ServerPlace(Path("server")), folder, ACCOUNTS, folder)
        self.aws = aws
        self.events: list[dict[str, Any]] = []
        self.app = an_app(quorum=1)

    def launcher(self, launched: Launched | None = None, **changed: Account) -> Launcher:
        accounts = tuple(changed.get(each.site, each) for each in self.settings.accounts)
        settings = replace(self.settings, accounts=accounts)
        state = launched or Launched("r1", "j1")
        jobs = AccountJobs(settings, state.run, told, endpoint=self.aws.url, sleep=lambda seconds: None)
        if not changed:
            jobs._clients = SESSIONS
        return Launcher(
            settings, jobs, state, self.app, lambda state, event: self.events.append({**event, "state": state})
        )

    def lives(self, **scripts: tuple[str, ...]) -> None:
        """What becomes of the sites' jobs; of those not named: they run until they are stopped."""
        self.aws.live = lambda request, account: Scripted(*scripts.get(_site_of(request), (RUNS,)))


@pytest.fixture
def place(tmp_path: Path, aws: Accounts) -> Place:
    return Place(tmp_path, aws)


def an_app(**settings: Any) -> App:
    app = App(rounds=4, initial=[np.zeros(1)], **settings)
    app.train(lambda arrays, config, site: (arrays, 1, {}))
    return app


def told(account: Account) -> Told:
    return Told("medicare", account.site, "127.0.0.1:7400", "127.0.0.1:7401", "ab" * 32, "identity")


def _site_of(request: dict[str, Any]) -> str:
    return str(request["TrainingJobName"]).split("-")[3]


def refused(place: Place, launcher: Launcher, kind: type[HanseError], said: str) -> str:
    """The launch ends with that, no job runs on, and the record says so."""
    with pytest.raises(kind, match=said) as caught:
        launcher.run(None)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert place.aws.running() == []
    record = read_record(place.settings.output)
    assert record is not None
    assert record.status == "failed"
    assert record.error == str(caught.value)[:500]
    assert begin(place.settings.output).run != record.run, "the next launch is a new run"
    return str(caught.value)


# ---- before a job starts ----


def test_an_app_that_cannot_be_submitted_costs_nothing(place: Place) -> None:
    place.app = App(rounds=1)
    with pytest.raises(ConfigError, match="app: found no client"):
        place.launcher()


def test_a_role_that_is_not_there_and_a_wrong_external_id_are_named(place: Place) -> None:
    east = ACCOUNTS[1]
    for wrong in (replace(east, kickoff_role="Another"), replace(east, external_id="guessed")):
        text = refused(place, place.launcher(east=wrong), TrustError, "external id")
        assert text.startswith(f"east: {wrong.kickoff_arn} cannot be assumed")
        assert "guessed" not in text
    assert place.aws.made == [NAMES[0], "fl-medicare-r1-north-2"], "a job that was stopped is adopted by nobody"


@pytest.mark.parametrize(
    ("code", "message", "kind", "said"),
    [
        ("ResourceLimitExceeded", "The account-level service limit is 0 instances", UnavailableError, "quota"),
        ("ValidationException", "Image 1.dkr.ecr… does not exist", ConfigError, "does not exist"),
        ("AccessDeniedException", "not authorized to perform: iam:PassRole", TrustError, "may not create_training_job"),
    ],
)
def test_what_sagemaker_will_not_make_ends_the_launch(
    place: Place, code: str, message: str, kind: type[HanseError], said: str
) -> None:
    place.aws.refuse["CreateTrainingJob"] = (code, message)
    text = refused(place, place.launcher(), kind, said)
    assert text.startswith("north (111111111111, eu-central-1): ")
    assert place.aws.made == []


# ---- when it starts ----


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("ClientError: Cannot pull image from ECR", "the image cannot be fetched"),
        ("ClientError: PermanentRedirect (301): The bucket is in this region: us-east-1", "another region"),
        ("ClientError: No S3 objects found under S3 URL", "nothing at one of the s3:// addresses"),
        ("ClientError: Data download failed: AccessDenied (403)", "may not read or write"),
        ("AlgorithmError: 127.0.0.1:7401 is out of reach; is there a route (peering, PrivateLink)", "does not reach"),
        ("AlgorithmError: code bundle: expected policy.yaml beside the program", "expected policy.yaml"),
    ],
)
def test_a_job_that_fails_at_its_start_ends_the_launch(place: Place, reason: str, said: str) -> None:
    place.lives(east=("InProgress/Starting", "InProgress/Downloading", f"Failed/Failed: {reason}"))
    text = refused(place, place.launcher(), UnavailableError, said)
    assert text.startswith("east: its training job fl-medicare-r1-east-1 failed: ")
    assert {name: life.stops for name, life in place.aws.lives.items()} == {NAMES[0]: 1, NAMES[1]: 0, NAMES[2]: 1}


def test_want_of_a_machine_is_met_by_another_attempt_and_in_the_end_named(place: Place) -> None:
    failed = "Failed/Failed: CapacityError: Unable to provision requested ML compute capacity"
    place.lives(south=("InProgress/Starting", failed))
    refused(place, place.launcher(), UnavailableError, "no such machine free now")
    assert [name for name in place.aws.made if "south" in name] == [f"fl-medicare-r1-south-{n}" for n in (1, 2, 3)]


def test_a_job_that_its_owner_stops_before_it_joined_is_named(place: Place) -> None:
    place.lives(east=(RUNS, "Stopping/Stopping", "Stopped/Stopped"))
    refused(
        place, place.launcher(), UnavailableError, "stopped: stopped; not by this launcher but from its own account"
    )


def test_sites_that_do_not_come_in_time_are_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "START_S", 0.0)
    monkeypatch.setattr(launch, "connected", lambda federation: {"north", "south"})
    refused(place, place.launcher(), UnavailableError, "these sites are not there: east; see their jobs' logs")


# ---- calls that end without an answer ----


def test_a_job_whose_making_was_not_answered_is_found_and_stopped(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.client import BaseClient
    from botocore.exceptions import ReadTimeoutError

    own: Callable[..., Any] = BaseClient._make_api_call

    def lost(self: Any, name: str, arguments: Any) -> Any:
        answer = own(self, name, arguments)
        if name == "CreateTrainingJob" and "east" in arguments["TrainingJobName"]:
            raise ReadTimeoutError(endpoint_url="x")
        return answer

    monkeypatch.setattr(BaseClient, "_make_api_call", lost)
    place.lives(south=("Failed/Failed: ClientError: Cannot pull image",))
    refused(place, place.launcher(), UnavailableError, "south: its training job")
    assert sorted(place.aws.made) == sorted(NAMES)


def test_a_job_that_cannot_be_looked_at_yet_is_stopped_all_the_same(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, looks = AccountJobs.look, list[str]()

    def look(self: AccountJobs, account: Account, name: str) -> Any:
        looks.append(name)
        if looks.count(name) == 1:
            raise UnavailableError("busy")
        return own(self, account, name)

    monkeypatch.setattr(AccountJobs, "look", look)
    place.aws.refuse.clear()
    place.lives(south=("Failed/Failed: ClientError: Cannot pull image",))
    refused(place, place.launcher(), UnavailableError, "south: its training job")


# ---- in the middle ----


class Run:
    """The federation's job, as the launcher follows it: four events, and something that happens before each."""

    id = "j1"

    def __init__(self, result: Result, before: Callable[[int], None]) -> None:
        self._result, self._before = result, before

    def follow(self) -> Iterator[dict[str, Any]]:
        for number in range(1, 5):
            self._before(number)
            yield {"what": "waiting", "reason": f"round {number}"}

    def snapshot(self) -> Result:
        return self._result


class Followed:
    """The federation's side: what was asked of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.conflicts = False
        self._patch = monkeypatch

        async def ask(federation: Any, op: str, **body: Any) -> dict[str, Any]:
            self.asked.append(f"{op} {body['job']}")
            if "submit" not in self.asked:
                raise NotFoundError("there is no such job")
            return {}

        monkeypatch.setattr(launch, "_ask", ask)
        monkeypatch.setattr(launch, "connected", lambda federation: set(SITES))
        monkeypatch.setattr(launch, "LOOK_S", 0.0)

    def ends(self, result: Result, before: Callable[[int], None] = lambda number: None) -> None:
        run = Run(result, before)

        def submit(*_: Any, id: str, **__: Any) -> Run:
            self.asked.append("submit")
            assert id == "j1"
            if self.conflicts:
                raise ConflictError("job j1 exists already and is another one")
            return run

        self._patch.setattr("hanse.person.jobs.submit", submit)
        self._patch.setattr("hanse.person.jobs.Job", lambda id, federation, tracker: run)


@pytest.fixture
def job(aws: Accounts, monkeypatch: pytest.MonkeyPatch) -> Followed:
    return Followed(monkeypatch)


DONE = (RUNS, RUNS, "InProgress/Uploading", "Completed/Completed")
FINISHED = Result("finished", job="j1")


def test_a_job_that_fails_in_mid_run_is_named_and_the_others_go_on_by_quorum(place: Place, job: Followed) -> None:
    place.lives(north=DONE, south=DONE, east=(RUNS, RUNS, "Failed/Failed: AlgorithmError: ExitCode 137"))
    job.ends(FINISHED)
    launcher = place.launcher()
    assert launcher.run(None).ok  # type: ignore[arg-type]
    states = launcher.launched.sites
    assert {site: state.status for site, state in states.items()} == {
        "north": "Completed",
        "east": "Failed",
        "south": "Completed",
    }
    assert states["east"].reason.startswith("memory was short")
    assert launcher.launched.status == "finished"
    assert job.asked == ["submit"]


@pytest.mark.parametrize(
    ("life", "said"),
    [
        ((RUNS, RUNS, "Failed/Failed: AlgorithmError: ExitCode 137"), "failed: memory was short; take a larger"),
        ((RUNS, RUNS, "Stopped/Stopped"), "stopped: stopped; not by this launcher but from its own account"),
        ((RUNS, RUNS, "Stopped/MaxRuntimeExceeded"), "stopped: stopped: it ran longer than max_run_s"),
    ],
)
def test_a_quorum_that_is_missed_names_the_jobs_that_are_gone(
    place: Place, job: Followed, life: tuple[str, ...], said: str
) -> None:
    told = "AlgorithmError: the federation's job j1 ended as failed; the server knows why"
    ended = (RUNS, RUNS, f"Failed/Failed: {told}")
    place.lives(east=life, north=ended, south=ended)
    job.ends(Result("failed", job="j1", error="round 3: 2 of 3 sites answered"))
    text = refused(place, place.launcher(), JobFailed, "2 of 3 sites answered; ")
    assert text.startswith(
        f"the federation's job failed: round 3: 2 of 3 sites answered; east: its training job {NAMES[1]}"
    )
    assert said in text
    assert "north" not in text, "which failed only because the federation's job did"


@pytest.mark.parametrize("quorum", [3, None])
def test_a_quorum_that_nobody_can_make_up_any_more_ends_the_launch_before_the_deadline(
    place: Place, job: Followed, quorum: int | None
) -> None:
    """The federation's job would wait for the site, whose training job is over for good."""
    place.lives(east=(RUNS, RUNS, "Stopped/Stopped"))
    place.app = an_app(quorum=quorum)
    waits = threading.Event()
    job.ends(FINISHED, lambda number: None if number < 4 else waits.wait() and None)
    try:
        text = refused(place, place.launcher(), UnavailableError, "from its own account; 2 of 3 are left")
    finally:
        waits.set()
    assert text.startswith(f"east: its training job {NAMES[1]} stopped")
    assert job.asked[-1] == "cancel j1"


def test_an_app_that_can_do_without_some_has_a_least_number() -> None:
    for app, wanted in (
        (an_app(), 3),
        (an_app(quorum=2), 2),
        (an_app(sample=0.5), 1),
        (an_app(sample=0.5, quorum=2), 2),
        (object(), 3),
    ):
        assert launch.least(app, 3) == wanted


def test_spot_capacity_that_is_taken_away_is_told_and_comes_back(place: Place, job: Followed) -> None:
    spot = (RUNS, RUNS, "InProgress/Interrupted", "InProgress/Restarting", RUNS, "Completed/Completed")
    place.lives(north=DONE, east=DONE, south=spot)
    job.ends(FINISHED)
    assert place.launcher().run(None).ok  # type: ignore[arg-type]
    told = [e["state"].sites["south"].doing for e in place.events if e.get("site") == "south"]
    assert [word for word in told if "spot capacity was taken away" in word or word == "starting again"] == [
        "interrupted: spot capacity was taken away; it starts again with its checkpoints",
        "starting again",
    ]
    assert place.aws.made == NAMES


def test_a_launcher_that_was_killed_is_taken_up_and_starts_nothing_twice(
    place: Place, job: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(number: int) -> None:
        if number == 3:
            raise Killed

    place.lives()
    first = place.launcher()
    monkeypatch.setattr(first, "_end", lambda federation, error: None)  # it does no more from here on
    job.ends(FINISHED, killed)
    with pytest.raises(Killed):
        first.run(None)  # type: ignore[arg-type]
    for name in NAMES:
        place.aws.lives[name] = Scripted(*DONE)
    job.ends(FINISHED)
    again = place.launcher(begin(place.settings.output))
    assert again.run(None).ok  # type: ignore[arg-type]
    assert again.launched.run == "r1"
    assert all(state.adopted for state in again.launched.sites.values())
    assert place.aws.made == NAMES
    assert job.asked == ["submit"]


@pytest.mark.parametrize("heard", [True, False])
def test_a_launcher_that_was_killed_just_before_or_after_it_submitted_makes_no_second_job(
    place: Place, job: Followed, heard: bool
) -> None:
    """Its last word was on its way, and is heard before the second asks, or only behind that."""
    place.lives(north=DONE, east=DONE, south=DONE)
    first = place.launcher()
    for account in ACCOUNTS:
        first._change(account.site, first._backend.start(account))
    job.ends(FINISHED)
    if heard:
        job.asked.append("submit")
    else:
        job.conflicts = True
    again = place.launcher(begin(place.settings.output))
    assert again.run(None).ok  # type: ignore[arg-type]
    assert again.launched.job == "j1"
    assert job.asked == (["submit", "job j1"] if heard else ["job j1", "submit"])
    assert place.aws.made == NAMES


@pytest.mark.parametrize("when", ["training", "ending"])
def test_ctrl_c_cancels_the_federations_job_and_stops_every_training_job(
    place: Place, job: Followed, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    job.ends(FINISHED, interrupted if when == "training" else lambda number: None)
    if when == "ending":
        monkeypatch.setattr(Launcher, "_await_ends", interrupted)
    launcher = place.launcher()
    with pytest.raises(KeyboardInterrupt):
        launcher.run(None)  # type: ignore[arg-type]
    assert place.aws.running() == []
    assert [life.stops for life in place.aws.lives.values()] == [1, 1, 1]
    assert job.asked == ["submit", "cancel j1"]
    assert launcher.launched.status == "cancelled"


def test_one_account_that_takes_its_trust_back_ends_the_launch_and_the_others_are_stopped(
    place: Place, job: Followed
) -> None:
    def withdrawn(number: int) -> None:
        if number == 2:
            place.aws.refuse["DescribeTrainingJob"] = ("AccessDeniedException", "explicit deny")
        if number == 3:
            place.aws.refuse.clear()

    job.ends(FINISHED, withdrawn)
    with pytest.raises(TrustError, match="may not describe_training_job"):
        place.launcher().run(None)  # type: ignore[arg-type]
    record = read_record(place.settings.output)
    assert record is not None
    assert record.status == "failed"


# ---- the commands beside launch ----


def test_status_and_stop_look_into_every_account(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    from hanse.cli.deploy_sagemaker import status, stop

    keys = ("account", "region", "kickoff_role", "execution_role", "external_id", "image", "code", "output")
    accounts = {each.site: {key: getattr(each, key) for key in keys} for each in ACCOUNTS}
    file = place.settings.output / "federation.yaml"
    file.write_text(
        json.dumps(
            {
                "federation": "medicare",
                "app": "app.py",
                "output": ".",
                "accounts": accounts,
                "server": {"address": "10.0.0.1"},
            }
        )
    )
    launcher = place.launcher()
    for account in ACCOUNTS:
        launcher._change(account.site, launcher._backend.start(account))
    place.aws.lives[NAMES[1]].stop()
    place.aws.lives[NAMES[1]].told()
    status(file, json=True, endpoint_url=place.aws.url)
    told = json.loads(capsys.readouterr().out)
    assert [each["status"] for each in told["accounts"]] == ["InProgress", "Stopped", "InProgress"]
    assert stop(file, json=True, endpoint_url=place.aws.url) == 0
    assert json.loads(capsys.readouterr().out) == {"run": "r1", "not_stopped": 0}
    assert place.aws.running() == []
    assert begin(place.settings.output).run != "r1"
    assert stop(file, json=True, endpoint_url=place.aws.url) == 0, "once more is harmless"
