"""Alarms: what an operator wants to be woken for, each with what it means and what to do."""

from typing import Any

from hanse.core.ids import SERVER
from hanse.deploy.aws.functions import MACHINE, SHAPES, STREAM_DEAD, function
from hanse.deploy.aws.messages import dead, queue
from hanse.deploy.aws.settings import Deployment
from hanse.deploy.aws.storage import KEY
from hanse.deploy.aws.template import Resource, Resources, att, logical, policy, ref, tagged, together

ALARMS = "Alarms"
PERIOD_S = 300
LOST_PERIODS = 3


def watching(deployment: Deployment, tags: dict[str, str]) -> Resources:
    """The alarms and the topic that they are sent to."""
    queues = [SERVER, *(site.name for site in deployment.sites)]
    parts = [
        _topic(deployment, tags),
        {"StreamDeadAlarm": _dead_alarm(deployment, "stream", STREAM_DEAD, tags)} if deployment.stream else {},
        *({f"{logical(owner)}DeadAlarm": _dead_alarm(deployment, owner, dead(owner), tags)} for owner in queues),
        *({f"{logical(site.name)}LostAlarm": _lost_alarm(deployment, site.name, tags)} for site in deployment.sites),
        *({f"{handler.capitalize()}ErrorsAlarm": _errors_alarm(deployment, handler, tags)} for handler in SHAPES),
        {"FailedAlarm": _failed_alarm(deployment, tags)},
    ]
    return together(*parts)


def _topic(deployment: Deployment, tags: dict[str, str]) -> Resources:
    own = {
        "Sid": "Alarms",
        "Effect": "Allow",
        "Principal": {"Service": "cloudwatch.amazonaws.com"},
        "Action": "sns:Publish",
        "Resource": ref(ALARMS),
        "Condition": {"StringEquals": {"aws:SourceAccount": ref("AWS::AccountId")}},
    }
    found: Resources = {
        ALARMS: {
            "Type": "AWS::SNS::Topic",
            "Properties": {
                "TopicName": f"hanse-{deployment.federation}-alarms",
                "KmsMasterKeyId": ref(KEY),
                "Tags": tagged(tags),
            },
        },
        f"{ALARMS}Policy": {
            "Type": "AWS::SNS::TopicPolicy",
            "Properties": {"Topics": [ref(ALARMS)], "PolicyDocument": policy(own)},
        },
    }
    if deployment.alarms:
        found["AlarmsByMail"] = {
            "Type": "AWS::SNS::Subscription",
            "Properties": {"TopicArn": ref(ALARMS), "Protocol": "email", "Endpoint": deployment.alarms},
        }
    return found


def _alarm(
    deployment: Deployment,
    name: str,
    about: str,
    metric: tuple[str, str, str],
    dimension: tuple[str, Any],
    tags: dict[str, str],
    *,
    periods: int = 1,
) -> Resource:
    """Something that should be nought is not.

    Args:
        metric: namespace, name, statistic.
    """
    namespace, metric_name, statistic = metric
    return {
        "Type": "AWS::CloudWatch::Alarm",
        "Properties": {
            "AlarmName": f"hanse-{deployment.federation}-{name}",
            "AlarmDescription": about,
            "Namespace": namespace,
            "MetricName": metric_name,
            "Dimensions": [{"Name": dimension[0], "Value": dimension[1]}],
            "Statistic": statistic,
            "Period": PERIOD_S,
            "EvaluationPeriods": periods,
            "Threshold": 1,
            "ComparisonOperator": "GreaterThanOrEqualToThreshold",
            "TreatMissingData": "notBreaching",
            "ActionsEnabled": True,
            "AlarmActions": [ref(ALARMS)],
            "OKActions": [ref(ALARMS)],
            "Tags": tagged(tags),
        },
    }


def _dead_alarm(deployment: Deployment, owner: str, name: str, tags: dict[str, str]) -> Resource:
    about = (
        f"Messages for {owner} could not be delivered. Read one, mend the cause, then send them back with the queue's "
        "redrive."
    )
    metric = ("AWS/SQS", "ApproximateNumberOfMessagesVisible", "Maximum")
    return _alarm(deployment, f"{owner}-dead", about, metric, ("QueueName", att(name, "QueueName")), tags)


def _lost_alarm(deployment: Deployment, site: str, tags: dict[str, str]) -> Resource:
    # Not the age of the oldest message: that counts those which a site has taken and trains on, for hours perhaps.
    about = (
        f"Tasks wait for site {site} and it has not taken them for {LOST_PERIODS * PERIOD_S // 60} minutes: its agent "
        "is not running, or does not reach AWS."
    )
    metric = ("AWS/SQS", "ApproximateNumberOfMessagesVisible", "Minimum")
    dimension = ("QueueName", att(queue(site), "QueueName"))
    return _alarm(deployment, f"{site}-lost", about, metric, dimension, tags, periods=LOST_PERIODS)


def _errors_alarm(deployment: Deployment, handler: str, tags: dict[str, str]) -> Resource:
    about = f"The function {handler} has failed. What it was doing is tried again; its log group says why it failed."
    metric = ("AWS/Lambda", "Errors", "Sum")
    return _alarm(deployment, f"{handler}-errors", about, metric, ("FunctionName", ref(function(handler))), tags)


def _failed_alarm(deployment: Deployment, tags: dict[str, str]) -> Resource:
    about = "A job has failed or was cancelled; `hanse job list` says which, and why."
    metric = ("AWS/States", "ExecutionsFailed", "Sum")
    return _alarm(deployment, "failed", about, metric, ("StateMachineArn", ref(MACHINE)), tags)
