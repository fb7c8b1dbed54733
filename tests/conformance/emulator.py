"""An AWS emulator on a free loopback port, one for the test process; each federation in it is fresh."""

import atexit
import functools
import itertools
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from hanse.backends.aws import AwsConfig

REGION = "eu-central-1"
BUCKET, TABLE = "hanse-bucket", "hanse-table"
SITES = ("site", "server", "a", "b", "c")
_numbers = itertools.count(1)


class Session:
    """What the seams need of a boto3 session, with credentials that only an emulator takes; making clients is slow."""

    def __init__(self) -> None:
        self._session = _session()

    def client(self, service: str, **settings: Any) -> Any:
        """One client of each service for the whole process."""
        return _client(service)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


@functools.cache
def _session() -> Any:
    boto3 = pytest.importorskip("boto3", reason="needs the extra `aws`")
    return boto3.Session(aws_access_key_id="testing", aws_secret_access_key="testing", region_name=REGION)


@functools.cache
def _client(service: str) -> Any:
    from hanse.backends.aws.errors import imported

    _, settings = imported()
    return _session().client(service, endpoint_url=_endpoint(), config=settings(service, True))


@functools.cache
def _endpoint() -> str:
    """The URL of this process's emulator, with a bucket and a table as a deployment makes them."""
    server = pytest.importorskip("moto.server", reason="needs moto").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for every request
    server.start()
    inner = server._server.app

    def counting(environ: dict[str, Any], respond: Any) -> Any:
        _count(environ)
        return inner(environ, respond)

    server._server.app = counting
    atexit.register(server.stop)
    host, port = server.get_host_and_port()
    return f"http://{host}:{port}"


calls: Counter[str] = Counter()
"""Every call that the emulator has taken: `SQS SendMessage`, `DynamoDB PutItem`, `S3 PUT KEY'S FIRST PARTS`."""


def _count(environ: dict[str, Any]) -> None:
    service, _, action = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")
    if action:
        calls[f"{'SQS' if service == 'AmazonSQS' else 'DynamoDB'} {action}"] += 1
    else:
        calls[f"S3 {environ['REQUEST_METHOD']} {environ['PATH_INFO']} {environ['QUERY_STRING']}"] += 1


def _deployed() -> None:
    """The bucket and the table, anew: a test with `mock_aws` in the same process takes away what the emulator has."""
    if BUCKET in [each["Name"] for each in _client("s3").list_buckets()["Buckets"]]:
        return
    _client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    _client("dynamodb").create_table(
        TableName=TABLE,
        KeySchema=[{"AttributeName": "p", "KeyType": "HASH"}, {"AttributeName": "k", "KeyType": "RANGE"}],
        AttributeDefinitions=[
            {"AttributeName": "p", "AttributeType": "S"},
            {"AttributeName": "k", "AttributeType": "B"},
        ],
        BillingMode="PAY_PER_REQUEST",
    )


@contextmanager
def emulated() -> Iterator[AwsConfig]:
    """A fresh federation: its queues, and its part of the bucket and the table."""
    yield deployed(f"f{next(_numbers)}", SITES, visibility_s=600)  # its clock goes on by itself


def deployed(name: str, members: Iterable[str], *, visibility_s: int = 30) -> AwsConfig:
    """A federation's queues, and its part of the bucket and the table."""
    pytest.importorskip("obstore", reason="needs the extra `aws`")
    _deployed()
    for who in members:
        _client("sqs").create_queue(
            QueueName=f"hanse-{name}-{who}", Attributes={"VisibilityTimeout": str(visibility_s)}
        )
    return AwsConfig(name, BUCKET, TABLE, REGION, _endpoint())
