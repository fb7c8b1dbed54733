"""What the functions and whoever deploys them agree on: names, environment, events, instructions.

Five functions, each `hanse.serverless.handlers.NAME(event, context) -> dict`:

    collect     a batch of the server's queue: {"Records": [...]} → {"batchItemFailures": [...]}
    step        the state machine: an input of `Input` → an instruction; or the table's stream (see STREAM)
    timer       the state machine waits: {"token": TASK TOKEN, "instruction": the Wait} → {}
    reduce      one shard of a reduction: an element of `shards` → {}
    evaluate    as `step`, where the app's own server side may run: an instruction → an instruction

The state machine holds no rule. It starts with `Step`, does what the answer's `kind` says, and hands the answer on:

    Wait        invoke `timer` and wait for the task token (lambda:invoke.waitForTaskToken), at most `timeout_s`
                seconds (TimeoutSecondsPath). Called back: the output is an instruction, do it. States.Timeout: `Step`
                with the Wait as its input.
    Reduce      invoke `reduce` for each of `shards` side by side (Map); then `Step` with the Reduce as its input
    Evaluate    invoke `evaluate` with the Evaluate as its input; do what it answers
    Step        start a new execution of this state machine, named `name`, with `input`; then succeed.
                (A history is finite; an execution of that name that exists already is as good.)
    Again       `Step` with the Again as its input
    Finish      over: succeed if `status` is "finished", else fail with error `status` and cause `error`

Every instruction has `job`, `component`, `turns` and `generation`, so that it is an input of `Step` itself.

What others are told, besides their certificates:

    a site      `aws: {region, profile, role, external_id, endpoint}` in its site.yaml, and beside it
                `server-record.json`, the server's signed record
    a person    `aws: {region, bucket, profile, role, external_id, endpoint}` in its federation.yaml

All but `region` and `bucket` may be left out. A site's role may receive from and hide messages of its own queue, and
send to the server's; blobs come and go by links. A person's may send to the server's queue and read documents
(and models, where results are everyone's) below `v1/FEDERATION/` (but no `up/`: what a single site has sent). Nobody
but the functions has a right to put anything.
"""

from typing import Any, Final, Literal, NotRequired, TypedDict

FEDERATION: Final = "HANSE_FEDERATION"
"""The federation's name."""
BUCKET: Final = "HANSE_BUCKET"
"""The S3 bucket; objects lie below `v1/FEDERATION/`."""
TABLE: Final = "HANSE_TABLE"
"""The DynamoDB table: partition key `p` (S), sort key `k` (B). Rows also have `t` (S), the first part of their key."""
SERVER_QUEUE: Final = "HANSE_SERVER_QUEUE"
"""The URL of the server's queue, `hanse-FEDERATION-server`; a site's is `hanse-FEDERATION-SITE`."""
KEYS: Final = "HANSE_KEYS"
"""The name or ARN of the Secrets Manager secret with the server's identity: what `hanse.serverless.keys.pack` makes.
`file:PATH` reads a file instead, for tests. Told to `SIGNING` only, who alone may read it."""
STATE_MACHINE: Final = "HANSE_STATE_MACHINE"
"""The state machine's ARN. Write it out by name: the functions come before it."""
TOPIC: Final = "HANSE_TOPIC"
"""Optional: an SNS topic's ARN. Messages to sites go through it, with the attribute `recipient` = the site's name for
the subscription's filter policy, raw delivery on. Without it they are put into the site's queue."""
STREAM: Final = "HANSE_STREAM"
"""Optional: `1` where the table's stream invokes `step`; then `collect` leaves looking at the run to it. Event source:
filter {"eventName": ["INSERT"], "dynamodb": {"NewImage": {"t": {"S": ["reply", "decision"]}}}}, NEW_IMAGE,
ReportBatchItemFailures."""
SHARD_BYTES: Final = "HANSE_SHARD_BYTES"
"""Optional: a reduction that reads more than this is sharded (default 2 GiB)."""
KEEP_DAYS: Final = "HANSE_KEEP_DAYS"
"""Optional: after how many days rows of old jobs expire, by their attribute `x` (default: never)."""
RESULTS: Final = "HANSE_RESULTS"
"""Optional: who reads a job's results, `owner` (who submitted it, and admins: documents are sealed for them, and links
to the model given to them when they ask; the default) or `everyone` who may read the bucket as a person."""
MODELS: Final = "HANSE_MODELS"
"""Optional: `sites` where every site of a job that has finished is told where its last model is, and may read it."""
OPEN_JOBS: Final = "HANSE_OPEN_JOBS"
"""Optional: how many jobs of one person may be open at a time (default 20)."""
OWNER: Final = "owner"
EVERYONE: Final = "everyone"

REQUIRED: Final = (FEDERATION, BUCKET, TABLE, SERVER_QUEUE, STATE_MACHINE)
OPTIONAL: Final = (TOPIC, STREAM, SHARD_BYTES, KEEP_DAYS, RESULTS, MODELS, OPEN_JOBS)
HANDLERS: Final = ("collect", "step", "timer", "reduce", "evaluate")
SIGNING: Final = ("collect", "step", "evaluate")
"""The handlers that send messages to sites, or verify those of others."""
KINDS: Final = ("Wait", "Reduce", "Evaluate", "Step", "Again", "Finish")
MAX_TURNS: Final = 200
"""A turn of the state machine is at most about 20 of the 25,000 events that its history holds."""
LONGEST_EXECUTION_NAME: Final = 80
"""Characters; AWS takes no more."""

Kind = Literal["Wait", "Reduce", "Evaluate", "Step", "Again", "Finish"]


class Input(TypedDict):
    """What an execution is started with: turns 0, and the number of executions of this job before it.

    Its name is `execution_name(...)`: starting it twice starts one.
    """

    job: str
    component: str
    turns: int
    generation: int


class Shard(TypedDict):
    """What one `reduce` is asked: its part of the reduction `id`."""

    job: str
    component: str
    id: str
    shard: int
    shards: int


class Instruction(Input):
    """What the state machine does next; which of the optional fields are there depends on `kind`."""

    kind: Kind
    until_ms: NotRequired[int]
    timeout_s: NotRequired[int]
    shards: NotRequired[list[Shard]]
    name: NotRequired[str]
    input: NotRequired[Input]
    status: NotRequired[str]
    error: NotRequired[str]


def execution_name(job: str, component: str, generation: int) -> str:
    """The name of one execution of a job's state machine."""
    return f"{job}-{component}-{generation}"


def first_input(job: str, component: str, generation: int = 0) -> Input:
    """What the first execution of a job is started with."""
    return {"job": job, "component": component, "turns": 0, "generation": generation}


def is_stream(event: dict[str, Any]) -> bool:
    """Whether `step` was invoked by the table's stream."""
    return "Records" in event
