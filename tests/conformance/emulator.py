"""An AWS emulator on a free loopback port, one for the test process; each federation in it is fresh."""

import atexit
import functools
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from hanse.backends.aws import AwsConfig

REGION = "eu-central-1"
SITES = ("site", "server", "a", "b", "c")
_numbers = itertools.count(1)


def session() -> Any:
    """A boto3 session with credentials that only an emulator takes."""
    boto3 = pytest.importorskip("boto3", reason="needs the extra `aws`")
    return boto3.Session(aws_access_key_id="testing", aws_secret_access_key="testing", region_name=REGION)


@functools.cache
def endpoint() -> str:
    """The URL of this process's emulator."""
    server = pytest.importorskip("moto.server", reason="needs moto").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    atexit.register(server.stop)
    host, port = server.get_host_and_port()
    return f"http://{host}:{port}"


@contextmanager
def emulated() -> Iterator[AwsConfig]:
    """A federation's bucket, table and queues, as a deployment makes them."""
    pytest.importorskip("obstore", reason="needs the extra `aws`")
    name = f"f{next(_numbers)}"
    config = AwsConfig(name, f"hanse-{name}", f"hanse-{name}", REGION, endpoint())
    clients = {each: session().client(each, endpoint_url=config.endpoint) for each in ("s3", "dynamodb", "sqs")}
    clients["s3"].create_bucket(Bucket=config.bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    clients["dynamodb"].create_table(
        TableName=config.table,
        KeySchema=[{"AttributeName": "p", "KeyType": "HASH"}, {"AttributeName": "k", "KeyType": "RANGE"}],
        AttributeDefinitions=[
            {"AttributeName": "p", "AttributeType": "S"},
            {"AttributeName": "k", "AttributeType": "B"},
        ],
        BillingMode="PAY_PER_REQUEST",
    )
    for who in SITES:
        clients["sqs"].create_queue(QueueName=f"hanse-{name}-{who}", Attributes={"VisibilityTimeout": "30"})
    yield config
