"""Training jobs in accounts of others, over moto: assumed roles, adoption, names, reasons; and what cannot be."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hanse.core.errors import ConfigError, ConflictError, MissingExtraError, TrustError, UnavailableError
from hanse.deploy.sagemaker.accounts import AccountJobs, session_policy
from hanse.deploy.sagemaker.entry import Told
from hanse.deploy.sagemaker.jobs import capacity, reason_of, state_of
from hanse.deploy.sagemaker.request import job_name, training_job
from hanse.deploy.sagemaker.settings import Account, ServerPlace, Settings

moto = pytest.importorskip("moto", reason="moto is not installed")
pytest.importorskip("boto3", reason="boto3 is not installed")

NORTH, EAST = (
    Account(
        site,
        account=number,
        region="eu-central-1",
        kickoff_role="FL-kickoff-client-job",
        execution_role="FL-execution",
        external_id=f"{site}-id",
        image="1.dkr.ecr.eu-central-1.amazonaws.com/x:1",
        code=f"s3://{site}/code.tar.gz",
        channels={"train": f"s3://{site}/data/"},
        output=f"s3://{site}/models/",
        subnets=("subnet-1",),
        security_groups=("sg-1",),
    )
    for site, number in (("north", "111111111111"), ("east", "222222222222"))
)
SETTINGS = Settings("medicare", "app.py", ServerPlace(Path("server")), Path("out"), (NORTH, EAST), Path())


def told(account: Account) -> Told:
    return Told("medicare", account.site, "10.0.0.1:7400", "10.0.0.1:7401", "ab" * 32, "identity")


@pytest.fixture(scope="module")
def emulator() -> Iterator[None]:
    """One for all tests: making a client of SageMaker reads a large file, once for each session."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        with moto.mock_aws():
            yield


@pytest.fixture
def aws(emulator: None) -> None:
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.sagemaker.models import sagemaker_backends

    for account in (DEFAULT_ACCOUNT_ID, NORTH.account, EAST.account):
        sagemaker_backends[account]["eu-central-1"].training_jobs.clear()


def jobs(run: str = "a1") -> AccountJobs:
    return AccountJobs(SETTINGS, run, told, sleep=lambda seconds: None)


def in_account(account: Account) -> Any:
    return jobs()._client(account)


def test_without_boto3_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hanse.deploy.sagemaker.accounts.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"boto3 is not installed; .*hanse\[sagemaker\]"):
        jobs()


@pytest.mark.usefixtures("aws")
def test_each_job_is_made_in_its_own_account_and_adopted_by_the_next_launcher() -> None:
    first = [jobs().start(account) for account in (NORTH, EAST)]
    assert [state.name for state in first] == ["fl-medicare-a1-north-1", "fl-medicare-a1-east-1"]
    assert not any(state.adopted for state in first)
    again = [jobs().start(account) for account in (NORTH, EAST)]
    assert all(state.adopted for state in again), "a launcher that was killed starts nothing twice"
    assert [state.name for state in again] == [state.name for state in first]
    for account, state in zip((NORTH, EAST), first, strict=True):
        client = in_account(account)
        listed = [each["TrainingJobName"] for each in client.list_training_jobs()["TrainingJobSummaries"]]
        assert listed == [state.name], "and none of the other account's"
        made = client.describe_training_job(TrainingJobName=state.name)
        assert f":{account.account}:" in made["TrainingJobArn"]
        assert made["RoleArn"] == f"arn:aws:iam::{account.account}:role/FL-execution"
        assert json.loads(made["HyperParameters"]["hanse-site"]) == account.site
    assert jobs().start(replace(NORTH, instance="ml.m5.large")).adopted
    assert jobs("b2").start(NORTH).name == "fl-medicare-b2-north-1", "another run has its own"


@pytest.mark.usefixtures("aws")
def test_a_name_that_is_taken_by_somebody_else_or_by_a_failed_job_gets_another_suffix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = in_account(NORTH)
    stranger = training_job(SETTINGS, NORTH, "a1", 1, told(NORTH)) | {"Tags": []}
    client.create_training_job(**stranger)
    assert jobs().start(NORTH).name == "fl-medicare-a1-north-2"
    own = AccountJobs._call

    def failed(self: AccountJobs, account: Account, name: str, **arguments: Any) -> Any:
        answer = own(self, account, name, **arguments)
        if name == "describe_training_job" and answer["TrainingJobName"].endswith("-2"):
            answer |= {"TrainingJobStatus": "Failed"}
        return answer

    monkeypatch.setattr(AccountJobs, "_call", failed)
    assert jobs().start(NORTH).name == "fl-medicare-a1-north-3"


@pytest.mark.usefixtures("aws")
def test_another_launcher_may_be_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    client = in_account(NORTH)
    own, seen = AccountJobs._found, list[str]()

    def found(self: AccountJobs, account: Account, name: str) -> Any:
        if not seen:
            seen.append(name)
            client.create_training_job(**training_job(SETTINGS, NORTH, "a1", 1, told(NORTH)))
            return None
        return own(self, account, name)

    monkeypatch.setattr(AccountJobs, "_found", found)
    refuse(monkeypatch, "CreateTrainingJob", "ResourceInUse", "there is one", after=1)
    state = jobs().start(NORTH)
    assert state.adopted
    assert state.name == "fl-medicare-a1-north-1"


@pytest.mark.usefixtures("aws")
def test_only_what_runs_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    own = AccountJobs._call

    def watched(self: AccountJobs, account: Account, name: str, **arguments: Any) -> Any:
        calls.append(name)
        if name == "stop_training_job":
            return {}  # moto answers 500 to this one call
        answer = own(self, account, name, **arguments)
        return answer | {"TrainingJobStatus": "InProgress"} if name == "describe_training_job" else answer

    made = jobs().start(NORTH)
    jobs().stop(NORTH, "fl-medicare-a1-none-1")
    monkeypatch.setattr(AccountJobs, "_call", watched)
    jobs().stop(NORTH, made.name)
    assert calls == ["describe_training_job", "stop_training_job"]


@pytest.mark.parametrize(
    ("code", "message", "kind", "named"),
    [
        ("AccessDenied", "no", TrustError, "external id"),
        ("ExpiredToken", "old", UnavailableError, "session has ended"),
    ],
)
@pytest.mark.usefixtures("aws")
def test_a_role_that_cannot_be_assumed_is_named(
    monkeypatch: pytest.MonkeyPatch, code: str, message: str, kind: type[Exception], named: str
) -> None:
    refuse(monkeypatch, "AssumeRole", code, message)
    with pytest.raises(kind, match=named) as caught:
        jobs().start(NORTH)
    assert "north" in str(caught.value)


@pytest.mark.parametrize(
    ("code", "kind", "named"),
    [
        ("ResourceLimitExceeded", UnavailableError, "quota is used up"),
        ("AccessDeniedException", TrustError, "may not create_training_job"),
        ("ValidationException", ConfigError, "create_training_job: no such image"),
        ("InternalFailure", UnavailableError, "InternalFailure"),
    ],
)
@pytest.mark.usefixtures("aws")
def test_what_sagemaker_refuses_is_one_named_cause(
    monkeypatch: pytest.MonkeyPatch, code: str, kind: type[Exception], named: str
) -> None:
    refuse(monkeypatch, "CreateTrainingJob", code, "no such image")
    with pytest.raises(kind, match=named) as caught:
        jobs().start(NORTH)
    assert "north (111111111111, eu-central-1)" in str(caught.value)
    assert "\n" not in str(caught.value)


def refuse(monkeypatch: pytest.MonkeyPatch, operation: str, code: str, message: str, after: int = 0) -> None:
    from botocore.client import BaseClient
    from botocore.exceptions import ClientError

    own, calls = BaseClient._make_api_call, list[str]()

    def answer(self: Any, name: str, arguments: Any) -> Any:
        calls.append(name)
        if name == operation and calls.count(name) > after:
            raise ClientError({"Error": {"Code": code, "Message": message}}, operation)
        return own(self, name, arguments)

    monkeypatch.setattr(BaseClient, "_make_api_call", answer)


@pytest.mark.usefixtures("aws")
def test_sessions_are_narrowed_named_and_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.client import BaseClient

    own, asked = BaseClient._make_api_call, []

    def watched(self: Any, name: str, arguments: Any) -> Any:
        if name == "AssumeRole":
            asked.append(arguments)
        return own(self, name, arguments)

    monkeypatch.setattr(BaseClient, "_make_api_call", watched)
    used = jobs()
    used.start(NORTH)
    used.look(NORTH, "fl-medicare-a1-north-1")
    assert len(asked) == 1
    assert asked[0]["ExternalId"] == "north-id"
    assert json.loads(asked[0]["Policy"]) == session_policy(SETTINGS, NORTH)
    assert len(asked[0]["Policy"]) < 2048, "AWS's limit"
    client, until = used._clients["north"]
    used._clients["north"] = (client, until - 3600 + 500)
    used.look(NORTH, "fl-medicare-a1-north-1")
    assert len(asked) == 2, "renewed before it ends"


def test_a_session_may_touch_jobs_of_this_federation_and_nothing_else() -> None:
    text = json.dumps(session_policy(SETTINGS, NORTH))
    assert '"*"' not in text
    assert "s3:" not in text
    for statement in session_policy(SETTINGS, NORTH)["Statement"]:
        resources = statement["Resource"]
        for resource in [resources] if isinstance(resources, str) else resources:
            assert re.fullmatch(
                r"arn:aws:sagemaker:eu-central-1:111111111111:training-job/fl-medicare-\*"
                r"|arn:aws:iam::111111111111:role/FL-execution",
                resource,
            )


def test_requests_keep_to_sagemakers_limits() -> None:
    made = training_job(SETTINGS, replace(NORTH, spot=True, checkpoints="s3://north/kept/"), "a1", 1, told(NORTH))
    assert made["EnableManagedSpotTraining"]
    assert made["StoppingCondition"]["MaxWaitTimeInSeconds"] >= made["StoppingCondition"]["MaxRuntimeInSeconds"]
    assert made["CheckpointConfig"]["S3Uri"] == "s3://north/kept/fl-medicare-a1-north-1"
    assert made["VpcConfig"] == {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}
    assert "secret" not in json.dumps(made).lower(), "DescribeTrainingJob shows hyperparameters"
    with pytest.raises(ConfigError, match="at most 63"):
        job_name(SETTINGS, "a1", "n" * 50, 1)
    with pytest.raises(ConfigError, match="at most 2500 characters"):
        training_job(SETTINGS, replace(NORTH, hyperparameters={"x": "y" * 3000}), "a1", 1, told(NORTH))


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ("CapacityError: Unable to provision requested ML compute capacity", "no such machine free"),
        ("ClientError: Cannot pull image 1.dkr.ecr... not found", "image cannot be fetched"),
        ("ClientError: Data download failed: NoSuchKey (404)", "nothing at one of the s3"),
        ("ClientError: Data download failed: AccessDenied (403)", "may not read or write"),
        ("ClientError: PermanentRedirect (301): The bucket is in this region: us-east-1", "another region"),
        ("AlgorithmError: nobody answers; is there a route (peering, PrivateLink)", "does not reach the server"),
        ("AlgorithmError: ExitCode 137", "memory was short"),
    ],
)
def test_reasons_are_said_in_plain_words_with_the_original_behind(said: str, means: str) -> None:
    assert means in reason_of(said)
    assert said in reason_of(said)
    assert reason_of("something new") == "something new"


def test_states_are_read_from_what_describe_answers() -> None:
    told = {"TrainingJobName": "n", "TrainingJobStatus": "Failed", "SecondaryStatus": "Failed"}
    state = state_of("north", told | {"FailureReason": "CapacityError: none"})
    assert state.is_over
    assert capacity(state)
    assert not capacity(state_of("north", told | {"FailureReason": "AlgorithmError: x"}))


def test_taken_names_end_somewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    always = {"TrainingJobStatus": "Failed", "TrainingJobArn": "x"}
    monkeypatch.setattr(AccountJobs, "_found", lambda self, account, name: always)
    monkeypatch.setattr(AccountJobs, "_is_ours", lambda self, account, there: True)
    with pytest.raises(ConflictError, match="begin a new run"):
        jobs().start(NORTH)
