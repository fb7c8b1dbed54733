"""A real AWS account in place of an emulator, for tests marked `aws`.

    HANSE_AWS_ACCOUNT   its number: these tests make and remove things there, and it costs a little
    HANSE_AWS_REGION    by default eu-central-1

Credentials are boto3's own (AWS_PROFILE and the like), and must be that account's. With AWS_ENDPOINT_URL the same code
meets an emulator.
"""

import functools
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from hanse.backends.aws import AwsConfig

REGION = os.environ.get("HANSE_AWS_REGION") or "eu-central-1"


@functools.cache
def session() -> Any:
    """The account's, or the test is skipped."""
    wanted = os.environ.get("HANSE_AWS_ACCOUNT", "")
    if not wanted:
        pytest.skip("runs against a real AWS account: set HANSE_AWS_ACCOUNT to its number")
    boto3 = pytest.importorskip("boto3", reason="needs the extra `aws`")
    found = boto3.Session(region_name=REGION)
    account = found.client("sts").get_caller_identity()["Account"]
    assert account == wanted, f"HANSE_AWS_ACCOUNT is {wanted}, but these credentials are of {account}"
    return found


def principal() -> str:
    """The role or user whose credentials these are."""
    arn: str = session().client("sts").get_caller_identity()["Arn"]
    if ":assumed-role/" not in arn:
        return arn
    head, _, tail = arn.partition(":assumed-role/")
    return f"{head.replace(':sts:', ':iam:')}:role/{tail.partition('/')[0]}"


@contextmanager
def in_account(members: tuple[str, ...]) -> Iterator[AwsConfig]:
    """A fresh federation: a bucket, a table and queues, removed afterwards."""
    name = f"t{secrets.token_hex(6)}"
    s3, dynamodb, sqs = (session().client(service) for service in ("s3", "dynamodb", "sqs"))
    with ExitStack() as stack:
        where = {} if REGION == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": REGION}}
        s3.create_bucket(Bucket=f"hanse-{name}", **where)
        stack.callback(_remove_bucket, s3, f"hanse-{name}")
        dynamodb.create_table(
            TableName=f"hanse-{name}",
            KeySchema=[{"AttributeName": "p", "KeyType": "HASH"}, {"AttributeName": "k", "KeyType": "RANGE"}],
            AttributeDefinitions=[
                {"AttributeName": "p", "AttributeType": "S"},
                {"AttributeName": "k", "AttributeType": "B"},
            ],
            BillingMode="PAY_PER_REQUEST",
        )
        stack.callback(dynamodb.delete_table, TableName=f"hanse-{name}")
        for who in members:
            made = sqs.create_queue(QueueName=f"hanse-{name}-{who}", Attributes={"VisibilityTimeout": "30"})
            stack.callback(sqs.delete_queue, QueueUrl=made["QueueUrl"])
        dynamodb.get_waiter("table_exists").wait(TableName=f"hanse-{name}", WaiterConfig={"Delay": 2})
        yield AwsConfig(name, f"hanse-{name}", f"hanse-{name}", REGION, os.environ.get("AWS_ENDPOINT_URL") or None)


def _remove_bucket(s3: Any, bucket: str) -> None:
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for found in page.get("Contents", []):
            s3.delete_object(Bucket=bucket, Key=found["Key"])
    s3.delete_bucket(Bucket=bucket)
