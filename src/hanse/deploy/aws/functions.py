"""The functions, what wakes them, and what each of them may do: no more than its calls need."""

import os
from dataclasses import dataclass
from typing import Any

from hanse.core.ids import SERVER
from hanse.deploy.aws.interpreter import definition
from hanse.deploy.aws.messages import COLLECT_TIMEOUT_S, TOPIC, dead_queue, queue, queue_policy
from hanse.deploy.aws.package import libraries_here
from hanse.deploy.aws.settings import Deployment
from hanse.deploy.aws.storage import BUCKET, KEY, SECRET, TABLE, log_group
from hanse.deploy.aws.template import (
    Resource,
    Resources,
    Statement,
    allow,
    arn,
    att,
    policy,
    ref,
    render,
    sub,
    tagged,
    together,
    trust,
    without_check,
)
from hanse.serverless import contract

MACHINE, STREAM_DEAD = "StateMachine", "StreamDead"
FUNCTION_GROUP = "FunctionNetwork"
"""The security group of functions in a VPC."""
EMULATED_WAIT_S = 5
NEWS = {"eventName": ["INSERT"], "dynamodb": {"NewImage": {"t": {"S": ["reply", "decision"]}}}}
"""The rows whose appearance is news for a run; see `contract.STREAM`."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a function is, and what it may touch.

    Args:
        memory_mb: also its share of a CPU: one at 1,769.
        timeout_s: AWS allows 900.
        rights: names of `_RIGHTS`.
    """

    memory_mb: int
    timeout_s: int
    rights: tuple[str, ...]


_RUN = ("records", "objects", "keys", "send", "answer", "start")
SHAPES: dict[str, Shape] = {
    "collect": Shape(2048, COLLECT_TIMEOUT_S, (*_RUN, "receive")),
    "step": Shape(2048, 900, (*_RUN, "stream")),
    "timer": Shape(1024, 60, ("rows", "answer")),
    "reduce": Shape(3008, 900, ("rows", "objects")),
    "evaluate": Shape(3008, 900, _RUN),
}
_NO_LEVEL = ("xray:PutTelemetryRecords", "xray:PutTraceSegments")
_LOG_DELIVERY = (
    "logs:CreateLogDelivery",
    "logs:DeleteLogDelivery",
    "logs:DescribeLogGroups",
    "logs:DescribeResourcePolicies",
    "logs:GetLogDelivery",
    "logs:ListLogDeliveries",
    "logs:PutResourcePolicy",
    "logs:UpdateLogDelivery",
)
_DESCRIBE = ("ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets")
_NETWORK = (
    "ec2:AssignPrivateIpAddresses",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:UnassignPrivateIpAddresses",
)
_LIST = ("dynamodb:ListStreams",)
WITHOUT_RESOURCE_LEVEL = frozenset({*_NO_LEVEL, *_LOG_DELIVERY, *_DESCRIBE, *_LIST})
"""The only actions that a policy here allows on `*`: AWS lets nobody name a resource for them."""


def function(handler: str) -> str:
    """The logical name of a handler's function."""
    return f"{handler.capitalize()}Function"


def function_name(deployment: Deployment, handler: str) -> str:
    """The function's own name."""
    return f"hanse-{deployment.federation}-{handler}"


def machine_arn(deployment: Deployment) -> Any:
    """The state machine's ARN, written out: the functions come before it."""
    return arn("states", f"stateMachine:hanse-{deployment.federation}")


def functions(deployment: Deployment, tags: dict[str, str]) -> Resources:
    """Functions, event sources, and the state machine."""
    parts = [_function(deployment, handler, shape, tags) for handler, shape in SHAPES.items()]
    return together(*parts, _sources(deployment, tags), _machine(deployment, tags))


def environment(deployment: Deployment, handler: str) -> dict[str, Any]:
    """What a function is told; see `hanse.serverless.contract`."""
    told = {
        contract.FEDERATION: deployment.federation,
        contract.BUCKET: ref(BUCKET),
        contract.TABLE: ref(TABLE),
        contract.SERVER_QUEUE: ref(queue(SERVER)),
        contract.STATE_MACHINE: machine_arn(deployment),
        contract.KEEP_DAYS: str(deployment.keep_days),
        contract.RESULTS: deployment.results,
        contract.OPEN_JOBS: str(deployment.open_jobs),
    }
    if deployment.models_to_sites:
        told[contract.MODELS] = "sites"
    if handler in contract.SIGNING:
        told[contract.KEYS] = ref(SECRET)
    if deployment.stream:
        told[contract.STREAM] = "1"
    if deployment.is_emulated:
        told["PYTHONPATH"] = os.pathsep.join(libraries_here())
    return told | ({contract.TOPIC: ref(TOPIC)} if deployment.topic else {})


def _function(deployment: Deployment, handler: str, shape: Shape, tags: dict[str, str]) -> Resources:
    name, role, logs = function(handler), f"{handler.capitalize()}Role", f"{handler.capitalize()}Logs"
    statements = [statement for right in shape.rights for statement in _rights(deployment, right)]
    statements += [
        allow(["kms:Decrypt", "kms:GenerateDataKey"], att(KEY)),
        # Log streams are named by AWS, below the function's own group.
        allow(["logs:CreateLogStream", "logs:PutLogEvents"], att(logs)),
        allow(_NO_LEVEL, "*"),
    ]
    properties: dict[str, Any] = {
        "FunctionName": function_name(deployment, handler),
        "Description": f"Hanse, federation {deployment.federation}: {handler}",
        "Handler": f"hanse.serverless.handlers.{handler}",
        "Runtime": f"python{deployment.python}",
        "Architectures": [deployment.architecture],
        "Code": {"S3Bucket": ref("CodeBucket"), "S3Key": ref("CodeKey")},
        "MemorySize": shape.memory_mb,
        "Timeout": shape.timeout_s,
        "Role": att(role),
        "KmsKeyArn": att(KEY),
        "Environment": {"Variables": environment(deployment, handler)},
        "LoggingConfig": {"LogGroup": ref(logs), "LogFormat": "JSON", "ApplicationLogLevel": "INFO"},
        "TracingConfig": {"Mode": "Active"},
        "Tags": tagged(tags),
    }
    skipped = {
        "CKV_AWS_115": "A new account may have a quota of ten: reserving some would leave none.",
        "CKV_AWS_116": "Nobody invokes it asynchronously: event sources have dead-letter queues of their own.",
        "CKV_AWS_272": "The package is reproducible and its hash is part of its key; signing needs an own profile.",
    }
    if deployment.vpc is None:
        skipped["CKV_AWS_117"] = "Without a VPC it reaches nothing but AWS, and nobody reaches it; `vpc` is an option."
    else:
        properties["VpcConfig"] = {
            "SubnetIds": list(deployment.vpc.subnets),
            "SecurityGroupIds": [att(FUNCTION_GROUP, "GroupId")],
        }
        # The interfaces are made by AWS Lambda on the function's behalf, and named by nobody before.
        statements += [allow(_NETWORK, arn("ec2", "*/*")), allow(_DESCRIBE, "*")]
    return {
        logs: log_group(handler, deployment, tags),
        role: {
            "Type": "AWS::IAM::Role",
            "Properties": {
                "AssumeRolePolicyDocument": trust("lambda"),
                "Policies": [{"PolicyName": handler, "PolicyDocument": policy(*statements)}],
                "Tags": tagged(tags),
            },
        },
        name: without_check({"Type": "AWS::Lambda::Function", "Properties": properties}, **skipped),
    }


def _rights(deployment: Deployment, right: str) -> list[Statement]:
    prefix = f"v1/{deployment.federation}/"
    match right:
        case "records" | "rows":
            # All records of the federation, and only these, lie in one partition of its own table.
            own = {"ForAllValues:StringEquals": {"dynamodb:LeadingKeys": [deployment.federation]}}
            more = ["BatchWriteItem", "DeleteItem", "Query"] if right == "records" else []
            actions = sorted(["GetItem", "PutItem", *more])
            return [allow([f"dynamodb:{action}" for action in actions], att(TABLE), **own)]
        case "objects":
            return [
                allow(["s3:DeleteObject", "s3:GetObject", "s3:PutObject"], sub(f"${{{BUCKET}.Arn}}/{prefix}*")),
                allow(["s3:ListBucket"], att(BUCKET), StringLike={"s3:prefix": [f"{prefix}*"]}),
            ]
        case "keys":
            return [allow(["secretsmanager:GetSecretValue"], ref(SECRET))]
        case "send" if deployment.topic:
            return [allow(["sns:Publish"], ref(TOPIC)), *_send(deployment)]
        case "send":
            return _send(deployment)
        case "receive":
            actions = ["ChangeMessageVisibility", "DeleteMessage", "GetQueueAttributes", "ReceiveMessage"]
            return [allow([f"sqs:{action}" for action in actions], att(queue(SERVER)))]
        case "stream" if not deployment.stream:
            return []
        case "stream":
            reading = ["DescribeStream", "GetRecords", "GetShardIterator"]
            return [
                allow([f"dynamodb:{action}" for action in reading], att(TABLE, "StreamArn")),
                allow(["sqs:SendMessage"], att(STREAM_DEAD)),
                allow(_LIST, "*"),
            ]
        case "answer":
            return [allow(["states:SendTaskFailure", "states:SendTaskSuccess"], machine_arn(deployment))]
        case _:
            return [allow(["states:StartExecution"], machine_arn(deployment))]


def _send(deployment: Deployment) -> list[Statement]:
    """Into the sites' queues, and no others."""
    return [allow(["sqs:GetQueueUrl", "sqs:SendMessage"], [att(queue(site.name)) for site in deployment.sites])]


def _sources(deployment: Deployment, tags: dict[str, str]) -> Resources:
    found: Resources = {
        "QueueToCollect": {
            "Type": "AWS::Lambda::EventSourceMapping",
            "Properties": {
                "FunctionName": ref(function("collect")),
                "EventSourceArn": att(queue(SERVER)),
                "BatchSize": 10,
                "FunctionResponseTypes": ["ReportBatchItemFailures"],
            },
        },
    }
    return together(found, _stream(deployment, tags) if deployment.stream else {})


def _stream(deployment: Deployment, tags: dict[str, str]) -> Resources:
    return {
        STREAM_DEAD: dead_queue(f"hanse-{deployment.federation}-stream", None, tags),
        f"{STREAM_DEAD}Policy": queue_policy(STREAM_DEAD),
        "StreamToStep": {
            "Type": "AWS::Lambda::EventSourceMapping",
            "Properties": {
                "FunctionName": ref(function("step")),
                "EventSourceArn": att(TABLE, "StreamArn"),
                "StartingPosition": "TRIM_HORIZON",
                "BatchSize": 100,
                "BisectBatchOnFunctionError": True,
                "MaximumRetryAttempts": 10,
                "MaximumRecordAgeInSeconds": 3600,
                "FunctionResponseTypes": ["ReportBatchItemFailures"],
                "FilterCriteria": {"Filters": [{"Pattern": render(NEWS, small=True)}]},
                "DestinationConfig": {"OnFailure": {"Destination": att(STREAM_DEAD)}},
            },
        },
    }


def _machine(deployment: Deployment, tags: dict[str, str]) -> Resources:
    handlers = ("step", "timer", "reduce", "evaluate")
    arns = {handler: f"${{{function(handler)}.Arn}}" for handler in handlers}
    own = machine_arn(deployment)
    text = render(
        definition(arns, own["Fn::Sub"], longest_wait_s=EMULATED_WAIT_S if deployment.is_emulated else None), small=True
    )
    statements = [
        allow(["lambda:InvokeFunction"], [att(function(handler)) for handler in handlers]),
        allow(["states:StartExecution"], own),
        allow(_LOG_DELIVERY, "*"),
        allow(_NO_LEVEL, "*"),
    ]
    return {
        "MachineLogs": log_group("state-machine", deployment, tags),
        "MachineRole": {
            "Type": "AWS::IAM::Role",
            "Properties": {
                "AssumeRolePolicyDocument": trust(
                    "states",
                    StringEquals={"aws:SourceAccount": ref("AWS::AccountId")},
                    ArnLike={"aws:SourceArn": own},
                ),
                "Policies": [{"PolicyName": "interpret", "PolicyDocument": policy(*statements)}],
                "Tags": tagged(tags),
            },
        },
        MACHINE: _state_machine(deployment, text, tags),
    }


def _state_machine(deployment: Deployment, text: str, tags: dict[str, str]) -> Resource:
    return {
        "Type": "AWS::StepFunctions::StateMachine",
        "Properties": {
            "StateMachineName": f"hanse-{deployment.federation}",
            "StateMachineType": "STANDARD",
            "DefinitionString": sub(text),
            "RoleArn": att("MachineRole"),
            "LoggingConfiguration": {
                "Level": "ERROR",
                "IncludeExecutionData": False,  # inputs hold task tokens
                "Destinations": [{"CloudWatchLogsLogGroup": {"LogGroupArn": att("MachineLogs")}}],
            },
            "TracingConfiguration": {"Enabled": True},
            "EncryptionConfiguration": {"Type": "AWS_OWNED_KEY"},
            "Tags": tagged(tags),
        },
    }
