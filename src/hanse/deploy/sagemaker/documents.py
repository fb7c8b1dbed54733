"""Roles, policies and stacks, as documents. Pure: nothing here calls AWS.

An organisation's account gets one stack: the kick-off role that the launcher assumes, the role that its jobs run as, a
bucket for code, models and checkpoints, a security group, and a network as far as it is wanted (`network.py`). The
server's account gets a policy, a security group, the other end of the peerings, and a notebook instance if one is
wanted. Deleting the stacks leaves nothing but the bucket's models, which are kept on purpose.

The recipe that this follows gives its kick-off role the same actions on every resource, and three `ec2:Describe*`; the
launcher needs neither, so here they are scoped to the federation's job names, and left out.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hanse.deploy.aws.template import Value, att, policy, ref
from hanse.deploy.sagemaker import network
from hanse.deploy.sagemaker.request import prefix_of
from hanse.deploy.sagemaker.settings import Account, Settings
from hanse.deploy.sagemaker.template import ACCOUNT, NOTHING, PARTITION, REGION, allow, given, join, optional, text

JOB_ACTIONS = (
    "CreateTrainingJob",
    "DescribeTrainingJob",
    "StopTrainingJob",
    "UpdateTrainingJob",
    "AddTags",
    "ListTags",
)
SAGEMAKER = "sagemaker.amazonaws.com"
_INTERFACES = (
    "CreateNetworkInterface",
    "CreateNetworkInterfacePermission",
    "DeleteNetworkInterface",
    "DeleteNetworkInterfacePermission",
)
_LOOKS = (
    "DescribeNetworkInterfaces",
    "DescribeVpcs",
    "DescribeDhcpOptions",
    "DescribeSubnets",
    "DescribeSecurityGroups",
)


def kickoff_policy(federation_prefix: str, execution_role: Any, *, region: Any, account: Any) -> Value:
    """What the kick-off role may do: this federation's training jobs, run as the one execution role."""
    jobs = join("arn:", PARTITION, ":sagemaker:", region, ":", account, f":training-job/{federation_prefix}*")
    return policy(
        allow([f"sagemaker:{action}" for action in JOB_ACTIONS], jobs),
        allow(["iam:GetRole"], execution_role),
        allow(["iam:PassRole"], execution_role, {"StringEquals": {"iam:PassedToService": SAGEMAKER}}),
    )


def kickoff_trust(launcher: Any, external_id: Any) -> Value:
    """Who may assume it: the launcher's own role or user, and only with the external id."""
    return policy(
        {
            "Effect": "Allow",
            "Principal": {"AWS": launcher},
            "Action": "sts:AssumeRole",
            "Condition": {"StringEquals": {"sts:ExternalId": external_id}},
        }
    )


def execution_trust(account: Any) -> Value:
    """SageMaker, on behalf of this account's jobs and no other's."""
    return policy(
        {
            "Effect": "Allow",
            "Principal": {"Service": SAGEMAKER},
            "Action": "sts:AssumeRole",
            "Condition": {"StringEquals": {"aws:SourceAccount": account}},
        }
    )


def assume_policy(accounts: Iterable[Account]) -> Value:
    """What the launcher needs in the server's account: to assume each kick-off role."""
    return policy(allow(["sts:AssumeRole"], sorted(account.kickoff_arn for account in accounts)))


@dataclass(frozen=True, slots=True)
class _Reach:
    """What an account's template says of the way to the federation.

    Args:
        policy: of the execution role, to become the site.
        egress: out of the jobs' network, beside AWS's own addresses.
    """

    parameters: Value
    conditions: Value
    policy: Value
    egress: list[Value]
    resources: Value
    outputs: Value


def _to_a_server(settings: Settings) -> _Reach:
    """Over a peering, with a token or by identity."""
    token = policy(allow(["secretsmanager:GetSecretValue"], ref("TokenSecretArn")))
    return _Reach(
        {
            "ServerCidr": text("The server's network, such as 10.0.0.0/16"),
            "TokenSecretArn": optional("Join token in Secrets Manager; empty to join by identity"),
            **network.SITE_PARAMETERS,
        },
        {"HasToken": given("TokenSecretArn"), **network.SITE_CONDITIONS},
        {"Fn::If": ["HasToken", {"PolicyName": "read-token", "PolicyDocument": token}, NOTHING]},
        [
            {
                "IpProtocol": "tcp",
                "FromPort": settings.server.port or 7400,
                "ToPort": settings.server.enrolment_port or 7401,
                "CidrIp": ref("ServerCidr"),
                "Description": "Server of the federation",
            }
        ],
        network.of_site(),
        network.SITE_OUTPUTS,
    )


def _over_queues() -> _Reach:
    """AWS's own addresses are all that is reached; the site is who its secret says."""
    come = policy(
        allow(["secretsmanager:GetSecretValue"], ref("SiteSecretArn")),
        allow(["sts:AssumeRole"], ref("FederationRoleArn")),
    )
    parameters = {
        "SiteSecretArn": text("Secret with what `hanse site pack` prints"),
        "FederationRoleArn": text("The site's role in the federation's account; in its admission, under aws"),
    }
    return _Reach(parameters, {}, {"PolicyName": "come-as-site", "PolicyDocument": come}, [], {}, {})


def account_template(settings: Settings, account: Account) -> dict[str, Any]:
    """The CloudFormation template of one organisation's account; its owner deploys it."""
    prefix = prefix_of(settings)
    reach = _to_a_server(settings) if settings.queues is None else _over_queues()
    bucket, data = ref("Bucket"), ref("DataBucket")
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": f"Hanse: site {account.site} of federation {settings.federation}, as SageMaker training jobs",
        "Parameters": {
            "LauncherArn": text("ARN of the role or user that launches, in the server's account"),
            "ExternalId": {**text("What the launcher must name; agreed beforehand"), "MinLength": 6, "NoEcho": True},
            "DataBucket": text("Bucket with this organisation's data"),
            "DataPrefix": {**text("Beginning of the data's keys"), "Default": "providers/"},
            "LogBucket": optional("Bucket for access logs of the models' bucket; empty for none"),
            "VpcId": text("Network in which jobs run"),
            **reach.parameters,
        },
        "Conditions": {"HasLogs": given("LogBucket"), **reach.conditions},
        "Resources": {
            "KickoffRole": {
                "Type": "AWS::IAM::Role",
                "Properties": {
                    "RoleName": account.kickoff_role,
                    "MaxSessionDuration": 3600,
                    "AssumeRolePolicyDocument": kickoff_trust(ref("LauncherArn"), ref("ExternalId")),
                    "Policies": [
                        {
                            "PolicyName": "launch-jobs",
                            "PolicyDocument": kickoff_policy(
                                prefix, att("ExecutionRole", "Arn"), region=REGION, account=ACCOUNT
                            ),
                        }
                    ],
                },
            },
            "ExecutionRole": {
                "Type": "AWS::IAM::Role",
                "Properties": {
                    "RoleName": account.execution_role,
                    "AssumeRolePolicyDocument": execution_trust(ACCOUNT),
                    "Policies": [
                        {"PolicyName": "run-jobs", "PolicyDocument": _execution_policy(bucket, data)},
                        reach.policy,
                    ],
                },
            },
            "Bucket": {
                "Type": "AWS::S3::Bucket",
                "DeletionPolicy": "Retain",
                "UpdateReplacePolicy": "Retain",
                "Properties": {
                    "BucketEncryption": {
                        "ServerSideEncryptionConfiguration": [
                            {"ServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}, "BucketKeyEnabled": True}
                        ]
                    },
                    "LoggingConfiguration": {
                        "Fn::If": [
                            "HasLogs",
                            {"DestinationBucketName": ref("LogBucket"), "LogFilePrefix": "models/"},
                            NOTHING,
                        ]
                    },
                    "VersioningConfiguration": {"Status": "Enabled"},
                    "OwnershipControls": {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
                    "PublicAccessBlockConfiguration": {
                        "BlockPublicAcls": True,
                        "BlockPublicPolicy": True,
                        "IgnorePublicAcls": True,
                        "RestrictPublicBuckets": True,
                    },
                },
            },
            "BucketPolicy": {
                "Type": "AWS::S3::BucketPolicy",
                "Properties": {
                    "Bucket": bucket,
                    "PolicyDocument": policy(
                        {
                            "Effect": "Deny",
                            "Principal": "*",
                            "Action": "s3:*",
                            "Resource": [att("Bucket", "Arn"), join(att("Bucket", "Arn"), "/*")],
                            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                        }
                    ),
                },
            },
            "SecurityGroup": {
                "Type": "AWS::EC2::SecurityGroup",
                "Properties": {
                    "GroupDescription": "Training jobs: out to the server and to AWS, nothing in",
                    "VpcId": ref("VpcId"),
                    "SecurityGroupEgress": [
                        *reach.egress,
                        {
                            "IpProtocol": "tcp",
                            "FromPort": 443,
                            "ToPort": 443,
                            "CidrIp": "0.0.0.0/0",
                            "Description": "AWS endpoints",
                        },
                    ],
                },
            },
            **reach.resources,
        },
        "Outputs": {
            "KickoffRoleArn": {"Value": att("KickoffRole", "Arn")},
            "ExecutionRoleArn": {"Value": att("ExecutionRole", "Arn")},
            "BucketName": {"Value": bucket},
            "SecurityGroupId": {"Value": att("SecurityGroup", "GroupId")},
            **reach.outputs,
        },
    }


def launcher_template(settings: Settings) -> dict[str, Any]:
    """Without a server: what the launcher's role needs in its own account."""
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": f"Hanse: launcher of federation {settings.federation}, whose sites are SageMaker training jobs",
        "Parameters": {"LauncherRoleName": text("Role of the machine that launches")},
        "Resources": {
            "AssumeKickoffRoles": {
                "Type": "AWS::IAM::RolePolicy",
                "Properties": {
                    "PolicyName": f"hanse-{settings.federation}-launch",
                    "RoleName": ref("LauncherRoleName"),
                    "PolicyDocument": assume_policy(settings.accounts),
                },
            }
        },
    }


def server_template(settings: Settings) -> dict[str, Any]:
    """The CloudFormation template of the server's account.

    A policy for the launcher, a group that lets sites in, the accounts' peerings, and, if a type of machine is given, a
    notebook instance with a role of its own. Without a server only the first.
    """
    if settings.queues is not None:
        return launcher_template(settings)
    sites = [account.site for account in settings.accounts]
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": f"Hanse: server of federation {settings.federation}, whose sites are SageMaker training jobs",
        "Parameters": {
            "LauncherRoleName": optional(
                "Role of the machine on which the server runs and that launches; empty for the notebook's own"
            ),
            "VpcId": text("The server's network"),
            "SitesCidr": text("Networks of the sites, such as 10.0.0.0/8"),
            "NotebookSubnetId": optional("Subnet of a notebook instance on which the server runs; empty: none is made"),
            "NotebookType": {**text("Its machine"), "Default": "ml.t3.medium"},
            **network.server_parameters(sites),
        },
        "Conditions": {
            "HasLauncherRole": given("LauncherRoleName"),
            "HasNotebook": given("NotebookSubnetId"),
            "MakesRole": {"Fn::Not": [{"Condition": "HasLauncherRole"}]},
            **network.server_conditions(sites),
        },
        "Resources": {
            "AssumeKickoffRoles": {
                "Type": "AWS::IAM::RolePolicy",
                "Properties": {
                    "PolicyName": f"hanse-{settings.federation}-launch",
                    "RoleName": {"Fn::If": ["HasLauncherRole", ref("LauncherRoleName"), ref("LauncherRole")]},
                    "PolicyDocument": assume_policy(settings.accounts),
                },
            },
            "LauncherRole": {
                "Type": "AWS::IAM::Role",
                "Condition": "MakesRole",
                "Properties": {"AssumeRolePolicyDocument": execution_trust(ACCOUNT)},
            },
            "SecurityGroup": {
                "Type": "AWS::EC2::SecurityGroup",
                "Properties": {
                    "GroupDescription": "Server of the federation: in from sites, at its two ports",
                    "VpcId": ref("VpcId"),
                    "SecurityGroupIngress": [
                        {
                            "IpProtocol": "tcp",
                            "FromPort": settings.server.port or 7400,
                            "ToPort": settings.server.enrolment_port or 7401,
                            "CidrIp": ref("SitesCidr"),
                            "Description": "Sites",
                        }
                    ],
                },
            },
            "NotebookKey": {
                "Type": "AWS::KMS::Key",
                "Condition": "HasNotebook",
                "Properties": {
                    "Description": "Of the notebook's volume, which holds the federation's authority",
                    "EnableKeyRotation": True,
                    "KeyPolicy": policy(
                        {
                            "Effect": "Allow",
                            "Principal": {"AWS": join("arn:", PARTITION, ":iam::", ACCOUNT, ":root")},
                            "Action": "kms:*",
                            "Resource": "*",
                        }
                    ),
                },
            },
            "Notebook": {
                "Type": "AWS::SageMaker::NotebookInstance",
                "Condition": "HasNotebook",
                "Properties": {
                    "InstanceType": ref("NotebookType"),
                    "RoleArn": {
                        "Fn::If": [
                            "HasLauncherRole",
                            join("arn:", PARTITION, ":iam::", ACCOUNT, ":role/", ref("LauncherRoleName")),
                            att("LauncherRole", "Arn"),
                        ]
                    },
                    "SubnetId": ref("NotebookSubnetId"),
                    "SecurityGroupIds": [att("SecurityGroup", "GroupId")],
                    "KmsKeyId": ref("NotebookKey"),
                    "InstanceMetadataServiceConfiguration": {"MinimumInstanceMetadataServiceVersion": "2"},
                    "DirectInternetAccess": "Disabled",
                    "RootAccess": "Disabled",
                },
            },
            **network.of_server(settings.accounts),
        },
        "Outputs": {
            "SecurityGroupId": {"Value": att("SecurityGroup", "GroupId")},
            "LauncherRoleArn": {"Condition": "MakesRole", "Value": att("LauncherRole", "Arn")},
            **network.SERVER_OUTPUTS,
        },
    }


def _execution_policy(bucket: Any, data: Any) -> Value:
    arn = "arn:"
    objects = join(arn, PARTITION, ":s3:::", bucket)
    data_objects = join(arn, PARTITION, ":s3:::", data, "/", ref("DataPrefix"), "*")
    here = join(arn, PARTITION, ":ec2:", REGION, ":", ACCOUNT, ":")
    interfaces = [join(here, f"{kind}/*") for kind in ("network-interface", "subnet", "security-group")]
    logs = join(arn, PARTITION, ":logs:", REGION, ":", ACCOUNT, ":log-group:/aws/sagemaker/TrainingJobs:*")
    images = join(arn, PARTITION, ":ecr:", REGION, ":*:repository/*")  # AWS's own images lie in accounts of its own
    below = {"StringLike": {"s3:prefix": join(ref("DataPrefix"), "*")}}
    namespace = {"StringEquals": {"cloudwatch:namespace": "/aws/sagemaker/TrainingJobs"}}
    own = [join(objects, f"/{folder}/*") for folder in ("code", "models", "checkpoints")]
    return policy(
        allow(["s3:GetObject"], data_objects),
        allow(["s3:ListBucket"], join(arn, PARTITION, ":s3:::", data), below),
        allow(["s3:GetObject", "s3:PutObject"], own),
        allow(["s3:ListBucket"], objects),
        allow(["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"], logs),
        allow(["cloudwatch:PutMetricData"], "*", namespace),
        allow([f"ec2:{action}" for action in _INTERFACES], interfaces),
        allow([f"ec2:{action}" for action in _LOOKS], "*", {"StringEquals": {"aws:RequestedRegion": REGION}}),
        allow(["ecr:GetAuthorizationToken"], "*", {"StringEquals": {"aws:RequestedRegion": REGION}}),
        allow(["ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage"], images),
    )
