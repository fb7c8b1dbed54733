"""The roles' policies where they are enforced: an emulator that asks IAM before it answers.

What it does not enforce or understand (trust, external ids, queue policies, conditions, names instead of resources) is
asserted on the documents in `test_templates`.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.unit.deploy.aws.resolved import ACCOUNT, REGION, attribute_of, resolved
from tests.unit.deploy.aws.test_templates import PLAIN, of_kind

boto3 = pytest.importorskip("boto3", reason="needs the extra `aws`")
moto = pytest.importorskip("moto", reason="needs moto")


def client(service: str, credentials: dict[str, str] | None = None) -> Any:
    given = credentials or {"AccessKeyId": "testing", "SecretAccessKey": "testing", "SessionToken": ""}
    return boto3.client(
        service,
        region_name=REGION,
        aws_access_key_id=given["AccessKeyId"],
        aws_secret_access_key=given["SecretAccessKey"],
        aws_session_token=given["SessionToken"] or None,
    )


Attempt = Callable[..., int]
DENIED = 403
BUCKET = attribute_of(PLAIN, "Bucket", "Arn").rpartition(":")[2]
MODEL = "v1/north/blobs/j/c/1/model/H/x"
APP, ABOUT = "v1/north/blobs/j/bundle/H/x", "v1/north/documents/j/about"


@pytest.fixture(scope="module")
def attempt() -> Iterator[Attempt]:
    """The federation's resources; calls something in a role and says with which HTTP status that ended."""
    from botocore.exceptions import ClientError
    from moto.core import set_initial_no_auth_action_count

    with pytest.MonkeyPatch.context() as environment, moto.mock_aws():
        for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL"):
            environment.delenv(name, raising=False)
        _deploy()
        sessions = {role: _taken_on(role) for role in ("LuebeckRole", "StepRole", "ReduceRole")}
        sessions["person"] = _person()

        def call(role: str, service: str, operation: str, **arguments: Any) -> int:
            try:
                set_initial_no_auth_action_count(0)(getattr(client(service, sessions[role]), operation))(**arguments)
            except ClientError as error:
                return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
            return 200

        yield call


def _deploy() -> None:
    sqs, s3 = client("sqs"), client("s3")
    for properties in of_kind(PLAIN, "SQS::Queue").values():
        sqs.create_queue(QueueName=properties["QueueName"])
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    for key in (MODEL, MODEL.replace("north", "south"), ABOUT, APP):
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"model")
    (table,) = of_kind(PLAIN, "DynamoDB::Table").values()
    wanted = ("TableName", "KeySchema", "AttributeDefinitions", "BillingMode")
    client("dynamodb").create_table(**{key: table[key] for key in wanted})


def _taken_on(role: str) -> dict[str, str]:
    iam, properties = client("iam"), of_kind(PLAIN, "IAM::Role")[role]
    trusted = resolved(PLAIN, properties["AssumeRolePolicyDocument"])
    made = iam.create_role(RoleName=role, AssumeRolePolicyDocument=json.dumps(trusted))["Role"]["Arn"]
    for policy in properties["Policies"]:
        document = json.dumps(resolved(PLAIN, policy["PolicyDocument"]))
        iam.put_role_policy(RoleName=role, PolicyName=policy["PolicyName"], PolicyDocument=document)
    found: dict[str, str] = client("sts").assume_role(RoleArn=made, RoleSessionName="test")["Credentials"]
    return found


def _person() -> dict[str, str]:
    """Somebody's role to which the managed policy of people is attached."""
    iam, properties = client("iam"), of_kind(PLAIN, "IAM::ManagedPolicy")["PersonPolicy"]
    document = json.dumps(resolved(PLAIN, properties["PolicyDocument"]))
    policy = iam.create_policy(PolicyName=properties["ManagedPolicyName"], PolicyDocument=document)["Policy"]["Arn"]
    made = iam.create_role(RoleName="anna", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    iam.attach_role_policy(RoleName="anna", PolicyArn=policy)
    found: dict[str, str] = client("sts").assume_role(RoleArn=made, RoleSessionName="anna")["Credentials"]
    return found


def url(owner: str) -> str:
    return f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/hanse-north-{owner}"


def test_a_site_takes_part(attempt: Attempt) -> None:
    assert attempt("LuebeckRole", "sqs", "receive_message", QueueUrl=url("luebeck")) == 200
    assert attempt("LuebeckRole", "sqs", "send_message", QueueUrl=url("server"), MessageBody="x") == 200


@pytest.mark.parametrize(
    ("service", "operation", "arguments"),
    [
        ("sqs", "receive_message", {"QueueUrl": url("bergen")}),
        ("sqs", "send_message", {"QueueUrl": url("bergen"), "MessageBody": "x"}),
        ("sqs", "purge_queue", {"QueueUrl": url("bergen")}),
        ("sqs", "receive_message", {"QueueUrl": url("server")}),
        ("sqs", "delete_queue", {"QueueUrl": url("luebeck")}),
        ("sqs", "receive_message", {"QueueUrl": url("luebeck-dead")}),
        ("s3", "get_object", {"Bucket": BUCKET, "Key": MODEL}),
        ("s3", "put_object", {"Bucket": BUCKET, "Key": "v1/north/blobs/j/c/1/up/bergen/C/x", "Body": b"x"}),
        ("s3", "put_object", {"Bucket": BUCKET, "Key": "v1/north/blobs/j/c/1/up/luebeck/C/x", "Body": b"x"}),
        ("s3", "list_objects_v2", {"Bucket": BUCKET}),
        ("dynamodb", "scan", {"TableName": "hanse-north"}),
        ("dynamodb", "get_item", {"TableName": "hanse-north", "Key": {"p": {"S": "north"}, "k": {"B": b"x"}}}),
        ("dynamodb", "put_item", {"TableName": "hanse-north", "Item": {"p": {"S": "north"}, "k": {"B": b"x"}}}),
        ("secretsmanager", "get_secret_value", {"SecretId": "hanse/north/server"}),
        ("stepfunctions", "send_task_success", {"taskToken": "x", "output": "{}"}),
        ("stepfunctions", "list_state_machines", {}),
        ("iam", "list_roles", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values()))[:60],
)
def test_a_site_is_denied_the_rest(attempt: Attempt, service: str, operation: str, arguments: dict[str, Any]) -> None:
    assert attempt("LuebeckRole", service, operation, **arguments) == DENIED


def test_a_function_reaches_its_federation_and_no_other(attempt: Attempt) -> None:
    assert attempt("ReduceRole", "s3", "get_object", Bucket=BUCKET, Key=MODEL) == 200
    other = {"Bucket": BUCKET, "Key": MODEL.replace("north", "south")}
    assert attempt("ReduceRole", "s3", "get_object", **other) == DENIED
    assert attempt("StepRole", "sqs", "send_message", QueueUrl=url("luebeck"), MessageBody="x") == 200
    assert attempt("ReduceRole", "sqs", "send_message", QueueUrl=url("luebeck"), MessageBody="x") == DENIED
    assert attempt("StepRole", "sqs", "receive_message", QueueUrl=url("server")) == DENIED
    assert attempt("StepRole", "dynamodb", "delete_table", TableName="hanse-north") == DENIED


def test_a_person_asks_and_reads_what_is_told(attempt: Attempt) -> None:
    assert attempt("person", "sqs", "send_message", QueueUrl=url("server"), MessageBody="x") == 200
    assert attempt("person", "s3", "get_object", Bucket=BUCKET, Key=ABOUT) == 200


@pytest.mark.parametrize(
    ("service", "operation", "arguments"),
    [
        # Nothing is put where an app, a model or a document of anybody's is to be, not even one's own.
        *(("s3", "put_object", {"Bucket": BUCKET, "Key": key, "Body": b"x"}) for key in (APP, MODEL, ABOUT)),
        ("s3", "put_object", {"Bucket": BUCKET, "Key": "v1/north/blobs/j/c/0/model/C/x", "Body": b"x"}),
        ("s3", "delete_object", {"Bucket": BUCKET, "Key": ABOUT}),
        ("s3", "get_object", {"Bucket": BUCKET, "Key": APP}),
        ("s3", "get_object", {"Bucket": BUCKET, "Key": MODEL}),
        ("sqs", "receive_message", {"QueueUrl": url("server")}),
        ("sqs", "send_message", {"QueueUrl": url("luebeck"), "MessageBody": "x"}),
        ("dynamodb", "get_item", {"TableName": "hanse-north", "Key": {"p": {"S": "north"}, "k": {"B": b"x"}}}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values()))[:60],
)
def test_a_person_is_denied_the_rest(attempt: Attempt, service: str, operation: str, arguments: dict[str, Any]) -> None:
    assert attempt("person", service, operation, **arguments) == DENIED
