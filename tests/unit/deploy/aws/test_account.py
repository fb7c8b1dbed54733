"""What AWS says when deploying goes wrong: one line, the cause, the next step."""

from pathlib import Path
from typing import Any

import pytest

from hanse.core.errors import (
    ConfigError,
    ConflictError,
    HanseError,
    NotFoundError,
    PolicyError,
    StorageError,
    UnavailableError,
)
from hanse.deploy.aws import cloudformation
from hanse.deploy.aws.account import Account, calling, explained

boto3 = pytest.importorskip("boto3", reason="needs the extra `aws`")


@pytest.mark.parametrize(
    ("reason", "kind", "step"),
    [
        (
            "StepRole (AWS::IAM::Role): User: arn:aws:iam::1:user/x is not authorized to perform: iam:CreateRole",
            PolicyError,
            "administrator",
        ),
        ("LuebeckQueue (AWS::SQS::Queue): Resource of type 'AWS::SQS::Queue' already exists", ConflictError, "rename"),
        ("Table (AWS::DynamoDB::Table): LimitExceededException: Subscriber limit exceeded", UnavailableError, "Quotas"),
        (
            "ServerKeys: a secret with this name is already scheduled for deletion",
            ConflictError,
            "wait until it is gone",
        ),
        ("BergenRole: MalformedPolicyDocument: Invalid principal in policy", ConfigError, "does not exist"),
        ("Rate exceeded", UnavailableError, "wait a minute"),
        ("Something new\nunder the sun", StorageError, "Something new under the sun"),
    ],
)
def test_a_failed_stack_says_why_and_what_next(reason: str, kind: type[HanseError], step: str) -> None:
    error = explained("stack hanse-north", reason)
    assert type(error) is kind
    assert step in str(error)
    assert "\n" not in str(error)
    assert str(error).startswith("aws: stack hanse-north: ")


def test_an_unknown_region_is_named_before_anything_is_sent() -> None:
    with pytest.raises(ConfigError, match=r"region: expected one of AWS's, such as eu-.*; found 'eu-nowhere-1'"):
        Account("eu-nowhere-1").session()
    assert Account("eu-nowhere-1", endpoint="http://127.0.0.1:1").session()  # an emulator knows any


def test_an_unknown_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    with pytest.raises(PolicyError, match="no profile 'nobody'"):
        Account("eu-central-1", profile="nobody").session()


@pytest.mark.parametrize("endpoint", ["nonsense", "127.0.0.1:4566", "ftp://127.0.0.1", "http://"])
def test_an_emulator_s_url_that_is_none(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="endpoint: expected an emulator's URL such as"):
        Account("eu-central-1", endpoint=endpoint).id()


@pytest.mark.parametrize(
    ("profile", "environment", "said"),
    [
        ("p", {}, "not logged in, or the login has expired: aws sso login"),
        ("", {"AWS_PROFILE": "nobody"}, "no profile 'nobody' on this machine"),
        ("", {}, "found no credentials; log in"),
    ],
)
def test_who_has_not_logged_in_is_told_how(
    profile: str, environment: dict[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = "sso_session = x\nsso_account_id = 1\nsso_role_name = y\n"
    portal = "[sso-session x]\nsso_region = eu-central-1\nsso_start_url = https://127.0.0.1\n"
    (tmp_path / "config").write_text(f"[profile p]\n{login}{portal}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    told = {"AWS_CONFIG_FILE": f"{tmp_path}/config", "AWS_SHARED_CREDENTIALS_FILE": f"{tmp_path}/none"}
    for name, value in {**told, "AWS_EC2_METADATA_DISABLED": "true", "HOME": f"{tmp_path}", **environment}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(PolicyError, match=said):
        Account("eu-central-1", profile=profile).id()


def test_nobody_there() -> None:
    from botocore.config import Config

    account = Account("eu-central-1", endpoint="http://127.0.0.1:1")
    once = Config(retries={"total_max_attempts": 1}, connect_timeout=1)
    account._clients["sts"] = account.session().client("sts", endpoint_url=account.endpoint, config=once)
    with pytest.raises(UnavailableError, match=r"asking who we are at http://127.0.0.1:1: not reached"):
        account.id()


def error_of(code: str, message: str, status: int = 400) -> Any:
    from botocore.exceptions import ClientError

    answer = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "x")  # type: ignore[arg-type]  # the parts that are read


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (error_of("403", "Forbidden", 403), PolicyError, "belongs to another account"),
        (error_of("AccessDenied", "Access Denied", 403), PolicyError, "belongs to another account"),
        (error_of("BucketAlreadyExists", "taken"), ConflictError, "rename the federation"),
        (
            error_of("LimitExceeded", "Cannot exceed quota for RolesPerAccount: 1000"),
            UnavailableError,
            "Service Quotas",
        ),
        (error_of("Throttling", "Rate exceeded"), UnavailableError, "wait a minute"),
        (error_of("ExpiredToken", "expired"), PolicyError, "renew them"),
        (error_of("NoSuchBucket", "none"), NotFoundError, "no such bucket"),
    ],
)
def test_a_call_that_fails(error: Any, kind: type[HanseError], text: str) -> None:
    with pytest.raises(kind, match=text), calling("uploading to s3 bucket x"):
        raise error


class Stacks:
    """CloudFormation as `cloudformation` uses it; `events` are what happened to the stack, newest first."""

    def __init__(self, status: str, events: list[tuple[str, str, str]]) -> None:
        self.status = status
        self.events = events

    def execute_change_set(self, **_: Any) -> None:
        return None

    def describe_stacks(self, StackName: str) -> dict[str, Any]:
        return {"Stacks": [{"StackStatus": self.status, "StackId": StackName}]}

    def get_paginator(self, _name: str) -> "Stacks":
        return self

    def paginate(self, **_: Any) -> list[dict[str, Any]]:
        names = ("LogicalResourceId", "ResourceStatus", "ResourceStatusReason")
        return [{"StackEvents": [{**dict(zip(names, e, strict=True)), "ResourceType": "T"} for e in self.events]}]


def test_the_first_failure_is_told_and_not_what_was_cancelled_after_it() -> None:
    account = Account("eu-central-1", endpoint="http://127.0.0.1:1")
    account._clients["cloudformation"] = Stacks(
        "ROLLBACK_COMPLETE",
        [
            ("Topic", "DELETE_COMPLETE", ""),
            ("StepRole", "CREATE_FAILED", "Resource creation cancelled"),
            ("Table", "CREATE_FAILED", "Table already exists"),
            ("Table", "CREATE_IN_PROGRESS", ""),
        ],
    )
    with pytest.raises(ConflictError, match=r"ROLLBACK_COMPLETE\): Table \(T\): Table already exists"):
        cloudformation.execute(account, "hanse-north", "set", lambda _: None)
