"""Queues: one for the server, one for each site, each with a dead-letter queue; and the topic, where there is one."""

from typing import Any

from hanse.core.ids import SERVER
from hanse.deploy.aws.settings import Deployment, SitePlan
from hanse.deploy.aws.storage import KEY
from hanse.deploy.aws.template import (
    Resource,
    Resources,
    arn,
    att,
    deny_plaintext,
    logical,
    policy,
    ref,
    tagged,
    together,
)

TOPIC = "Topic"
COLLECT_TIMEOUT_S = 120
"""The collector looks at the run too, which may end a round: what takes longer is shared out by ranges."""
DAYS_S = 86_400
KEPT_DAYS = 14
"""The longest that SQS keeps a message: a site may be away for so long."""
DELIVERIES, SITE_DELIVERIES = 5, 20
"""After so many a message goes to the dead-letter queue. At a site's, each of the twelve-hourly returns of one long
training costs one; so does each start of its agent while a task is at work, and each stop another, since an agent that
goes may have to take once more what it gives back (`hanse.site.over_queues`).
"""
SITE_HIDDEN_S = 300
"""Until a site that took a message and died loses it again; an agent that lives extends it."""


def queue(owner: str) -> str:
    """The logical name of the queue of the server or of a site."""
    return f"{logical(owner)}Queue"


def dead(owner: str) -> str:
    """The logical name of its dead-letter queue."""
    return f"{logical(owner)}Dead"


def queue_name(deployment: Deployment, owner: str) -> str:
    """The name under which `hanse.backends.aws` finds it."""
    return f"hanse-{deployment.federation}-{owner}"


def messages(deployment: Deployment, tags: dict[str, str]) -> Resources:
    """All queues and, if asked for, the topic."""
    parts = [_pair(deployment, SERVER, 6 * COLLECT_TIMEOUT_S, tags)]
    parts += [_pair(deployment, s.name, SITE_HIDDEN_S, {**tags, "hanse:site": s.name}) for s in deployment.sites]
    if deployment.topic:
        parts.append(_topic(deployment, tags))
        parts += [{f"{logical(site.name)}Subscription": _subscription(site)} for site in deployment.sites]
    return together(*parts)


def dead_queue(name: str, source: Any, tags: dict[str, str]) -> Resource:
    """A queue for what could not be delivered."""
    properties: dict[str, Any] = {
        "QueueName": f"{name}-dead",
        "MessageRetentionPeriod": KEPT_DAYS * DAYS_S,
        "KmsMasterKeyId": att(KEY),
        "KmsDataKeyReusePeriodSeconds": 3600,
        "Tags": tagged(tags),
    }
    if source is not None:
        properties["RedriveAllowPolicy"] = {"redrivePermission": "byQueue", "sourceQueueArns": [source]}
    return {"Type": "AWS::SQS::Queue", "Properties": properties}


def queue_policy(name: str, *statements: dict[str, Any]) -> Resource:
    """Nobody without TLS; nobody of another account; further statements."""
    elsewhere = {
        "Sid": "ThisAccountOnly",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "sqs:*",
        "Resource": att(name),
        # Sites of other accounts come in roles of this one.
        "Condition": {
            "StringNotEqualsIfExists": {"aws:PrincipalAccount": ref("AWS::AccountId")},
            "BoolIfExists": {"aws:PrincipalIsAWSService": "false"},
        },
    }
    document = policy(deny_plaintext(att(name), "sqs:*"), elsewhere, *statements)
    return {"Type": "AWS::SQS::QueuePolicy", "Properties": {"Queues": [ref(name)], "PolicyDocument": document}}


def _pair(deployment: Deployment, owner: str, hidden_s: int, tags: dict[str, str]) -> Resources:
    name = queue_name(deployment, owner)
    most = DELIVERIES if owner == SERVER else SITE_DELIVERIES
    main = {
        "Type": "AWS::SQS::Queue",
        "Properties": {
            "QueueName": name,
            "MessageRetentionPeriod": KEPT_DAYS * DAYS_S,
            "ReceiveMessageWaitTimeSeconds": 20,
            "VisibilityTimeout": hidden_s,
            "KmsMasterKeyId": att(KEY),
            "KmsDataKeyReusePeriodSeconds": 3600,
            "RedrivePolicy": {"deadLetterTargetArn": att(dead(owner)), "maxReceiveCount": most},
            "Tags": tagged(tags),
        },
    }
    from_topic: list[dict[str, Any]] = []
    if deployment.topic and owner != SERVER:
        from_topic = [
            {
                "Sid": "Topic",
                "Effect": "Allow",
                "Principal": {"Service": "sns.amazonaws.com"},
                "Action": "sqs:SendMessage",
                "Resource": att(queue(owner)),
                "Condition": {"ArnEquals": {"aws:SourceArn": ref(TOPIC)}},
            }
        ]
    return {
        # Written out: the two queues name each other.
        dead(owner): dead_queue(name, arn("sqs", name), tags),
        f"{dead(owner)}Policy": queue_policy(dead(owner)),
        queue(owner): main,
        f"{queue(owner)}Policy": queue_policy(queue(owner), *from_topic),
    }


def _topic(deployment: Deployment, tags: dict[str, str]) -> Resources:
    plain = {
        "Sid": "TlsOnly",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "sns:Publish",
        "Resource": ref(TOPIC),
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    return {
        TOPIC: {
            "Type": "AWS::SNS::Topic",
            "Properties": {
                "TopicName": f"hanse-{deployment.federation}",
                "KmsMasterKeyId": ref(KEY),
                "Tags": tagged(tags),
            },
        },
        f"{TOPIC}Policy": {
            "Type": "AWS::SNS::TopicPolicy",
            "Properties": {"Topics": [ref(TOPIC)], "PolicyDocument": policy(plain)},
        },
    }


def _subscription(site: SitePlan) -> Resource:
    return {
        "Type": "AWS::SNS::Subscription",
        "Properties": {
            "TopicArn": ref(TOPIC),
            "Protocol": "sqs",
            "Endpoint": att(queue(site.name)),
            "RawMessageDelivery": True,
            "FilterPolicy": {"recipient": [site.name]},
            "RedrivePolicy": {"deadLetterTargetArn": att(dead(site.name))},
        },
        "DependsOn": [f"{queue(site.name)}Policy"],
    }
