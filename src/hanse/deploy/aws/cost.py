"""What a round costs: calls that were counted, times prices as known on a date. An estimate, not a bill.

Calls are those of a synchronous round (a phase that trains, one that evaluates) with a model of 40 kB, counted where
they arrive, at an emulator's HTTP front, as the difference between jobs of twelve and of two rounds, with two and with
four sites: a part for the round, and a part for each site. What a larger model adds is computed: it moves in chunks of
8 MiB. How long a function takes on AWS is assumed, and that no two messages come together. Not in it: starting and
ending a job, and an app's own evaluation. Of the prices only those of Step Functions
were compared with AWS's page; SOURCE is where to look before you rely on one.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from hanse.core.blobs import CHUNK_BYTES, INLINE_BYTES
from hanse.deploy.aws.functions import SHAPES
from hanse.deploy.aws.settings import Deployment
from hanse.deploy.aws.stacks import server_stack

DATE = "2026-11-28"
SOURCE = "aws.amazon.com/{lambda,sqs,s3,dynamodb,step-functions,kms,secrets-manager,cloudwatch}/pricing"
REGION = "us-east-1"
MILLION = 1e6


@dataclass(frozen=True, slots=True)
class Counted:
    """One kind of call: `dollars` for one, how many a round needs, and how many more for each site."""

    what: str
    dollars: float
    round: float
    site: float


CALLS: tuple[Counted, ...] = (
    Counted("SQS SendMessage", 0.40 / MILLION, 0.0, 4.0),
    Counted("SQS ReceiveMessage, with a message", 0.40 / MILLION, 2.1, 1.8),
    Counted("SQS DeleteMessageBatch", 0.40 / MILLION, 2.1, 1.9),
    Counted("S3 PUT", 5.00 / MILLION, 5.0, 0.0),
    Counted("S3 LIST", 5.00 / MILLION, 5.4, 0.65),
    Counted("S3 GET", 0.40 / MILLION, 5.4, 0.6),
    Counted("S3 DELETE", 0.0, 1.0, 0.0),
    Counted("DynamoDB GetItem, up to 4 kB", 0.125 / MILLION, 4.1, 1.8),
    Counted("DynamoDB Query, up to 4 kB", 0.125 / MILLION, 5.7, 0.0),
    Counted("DynamoDB PutItem, up to 1 kB", 0.625 / MILLION, 5.0, 2.0),
    Counted("DynamoDB BatchWriteItem", 0.0, 1.0, 0.0),
)
"""Counted on 2026-11-29, a person who follows the job included."""
BEHIND: tuple[Counted, ...] = (
    Counted("DynamoDB row deleted", 0.625 / MILLION, 0.0, 2.0),
    Counted("Step Functions state transition", 25.0 / MILLION, 0.5, 0.0),
    Counted("Lambda collect, invocation", 0.20 / MILLION, 0.0, 2.0),
    Counted("Lambda step, invocation", 0.20 / MILLION, 0.2, 0.0),
)
"""What AWS counts on top of the calls that we make. Data keys of bucket and queues are reused: KMS adds nothing."""
INVOCATION_S = 0.25
"""Assumed: what a function is billed for each time it is warm."""
FUNCTION_BPS = 75e6
"""What a function reads from S3 in a second, as AWS's own examples have it."""
GB_SECOND = {"arm64": 13.3334 / MILLION, "x86_64": 16.6667 / MILLION}
EGRESS_GB = 0.09
"""For each GB that leaves AWS to the internet."""
MONTH_S = 30 * 86_400
POLL_S = 20.0
POLLERS = 5
"""What AWS keeps asking the server's queue for the collector, at the least."""
KEY_MONTH, SECRET_MONTH, ALARM_MONTH = 1.00, 0.40, 0.10


@dataclass(frozen=True, slots=True)
class Line:
    """One kind of cost of a round."""

    what: str
    count: float
    dollars: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a round costs, and a month without one.

    Args:
        calls_per_site_round: calls that Hanse makes, without those of `BEHIND` and idle polls.
    """

    lines: tuple[Line, ...]
    calls_per_site_round: float
    month_dollars: float
    rounds: int
    date: str = DATE
    region: str = REGION
    source: str = SOURCE

    @property
    def round_dollars(self) -> float:
        """All lines together."""
        return sum(line.dollars for line in self.lines)

    def to_json(self) -> dict[str, Any]:
        """As the command prints it."""
        return {**asdict(self), "round_dollars": self.round_dollars, "job_dollars": self.round_dollars * self.rounds}


def estimate(
    deployment: Deployment, *, rounds: int = 100, round_s: float = 60.0, model_bytes: int = 40_000
) -> Estimate:
    """An estimate for a deployment.

    Args:
        round_s: how long a round takes; sites ask their queues meanwhile.
        model_bytes: of the model, and of each site's update.
    """
    sites = len(deployment.sites)
    chunks = math.ceil(model_bytes / CHUNK_BYTES) if model_bytes > INLINE_BYTES else 0
    lines = [Line(c.what, n, n * c.dollars) for c in (*CALLS, *BEHIND) if (n := c.round + c.site * sites)]
    lines += _model(deployment, model_bytes, chunks)
    polls = max(0.0, round_s / POLL_S * sites)
    lines.append(Line("SQS ReceiveMessage, empty", polls, polls * 0.40 / MILLION))
    made = sum(c.round + c.site * sites for c in CALLS) + chunks * (3 * sites + 1)
    return Estimate(tuple(lines), made / sites, _month(deployment), rounds)


def _model(deployment: Deployment, size: int, chunks: int) -> Iterator[Line]:
    """What a model's bytes add: each site fetches and puts one, the reducer reads all and writes one."""
    sites, get, put = len(deployment.sites), 0.40 / MILLION, 5.00 / MILLION
    if chunks:
        yield Line("S3 GET, chunks of 8 MiB", 2 * sites * chunks, 2 * sites * chunks * get)
        yield Line("S3 PUT, chunks of 8 MiB", (sites + 1) * chunks, (sites + 1) * chunks * put)
    busy = {"collect": 2 * sites * INVOCATION_S + (sites + 1) * size / FUNCTION_BPS, "step": 0.2 * INVOCATION_S}
    seconds = sum(SHAPES[name].memory_mb / 1024 * each for name, each in busy.items())
    yield Line("Lambda, GB-seconds", seconds, seconds * GB_SECOND[deployment.architecture])
    gigabytes = sites * size / 1e9
    yield Line("GB to sites that are not on AWS", gigabytes, gigabytes * EGRESS_GB)


def _month(deployment: Deployment) -> float:
    """Standing still: key, secret, alarms, and what AWS asks the server's queue for the collector."""
    kinds = [resource["Type"] for resource in server_stack(deployment)["Resources"].values()]
    polls = POLLERS * MONTH_S / POLL_S * 0.40 / MILLION
    return KEY_MONTH + SECRET_MONTH + kinds.count("AWS::CloudWatch::Alarm") * ALARM_MONTH + polls
