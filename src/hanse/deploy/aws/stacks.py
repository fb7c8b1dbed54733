"""The three templates: of the server's account, of a site's account, and of the bucket that code is uploaded to.

They are plain values made from a `Deployment`, the one source of truth: `hanse deploy aws` sends them to AWS, people
click on them in the console, and `deploy/aws/app.py` takes them into a CDK app.
"""

from typing import Any

from hanse.core.ids import SERVER
from hanse.deploy.aws.functions import MACHINE, functions
from hanse.deploy.aws.identity import (
    ANCHOR,
    AUTHORITY,
    HAS_REVOKED,
    PERSON_POLICY,
    REVOKED,
    agent_name,
    external_id,
    identities,
    profile,
    role,
    role_name,
)
from hanse.deploy.aws.messages import TOPIC, messages, queue, queue_name
from hanse.deploy.aws.network import function_network, gateway, interface, network_groups
from hanse.deploy.aws.settings import Deployment, SitePlan
from hanse.deploy.aws.storage import BUCKET, KEY, SECRET, TABLE, storage
from hanse.deploy.aws.template import (
    FORMAT,
    Resources,
    Value,
    allow,
    att,
    deny_plaintext,
    policy,
    ref,
    sub,
    tagged,
    together,
    without_check,
)
from hanse.deploy.aws.watching import watching

Template = dict[str, Any]
CODE = "Code"
AGENT = "Agent"
MIN_EXTERNAL_ID = 16


def tags_of(deployment: Deployment) -> dict[str, str]:
    """On everything that bears tags: what a federation costs can be told by them."""
    return {"hanse:federation": deployment.federation, **deployment.tags}


def server_stack(deployment: Deployment) -> Template:
    """Everything in the federation's own account."""
    tags = tags_of(deployment)
    resources = together(
        storage(deployment, tags),
        messages(deployment, tags),
        functions(deployment, tags),
        identities(deployment, tags),
        watching(deployment, tags),
        function_network(deployment, deployment.vpc, tags) if deployment.vpc is not None else {},
    )
    parameters = _server_parameters(deployment)
    conditions = {HAS_REVOKED: {"Fn::Not": [{"Fn::Equals": [ref(REVOKED), ""]}]}} if REVOKED in parameters else {}
    return {
        "AWSTemplateFormatVersion": FORMAT,
        "Description": f"Hanse: the federation {deployment.federation}, without a server",
        "Parameters": parameters,
        **({"Conditions": conditions} if conditions else {}),
        "Resources": resources,
        "Outputs": _server_outputs(deployment),
    }


def site_stack(deployment: Deployment, site: SitePlan) -> Template:
    """What a site's owner deploys in an account of its own: a role for its agent, and private ways to AWS if wanted.

    Nobody outside that account gets any right in it: no principal of the federation's account stands in this template.
    """
    tags = {**tags_of(deployment), "hanse:site": site.name}
    name = agent_name(deployment, site.name)
    where = f"arn:${{AWS::Partition}}:%s:{deployment.region}:${{FederationAccount}}:%s"
    queues = [sub(where % ("sqs", queue_name(deployment, owner))) for owner in (site.name, SERVER)]
    federation_role = sub(
        f"arn:${{AWS::Partition}}:iam::${{FederationAccount}}:role/{role_name(deployment, site.name)}"
    )
    resources: Resources = {
        AGENT: {
            "Type": "AWS::IAM::Role",
            "Properties": {
                "RoleName": name,
                "Description": f"The agent of site {site.name}; all it may do is take on the federation's role for it",
                "AssumeRolePolicyDocument": {
                    "Version": "2012-10-17",
                    "Statement": [
                        {
                            "Effect": "Allow",
                            "Principal": {"Service": ["ec2.amazonaws.com", "ecs-tasks.amazonaws.com"]},
                            "Action": "sts:AssumeRole",
                        }
                    ],
                },
                "Policies": [
                    {
                        "PolicyName": "federation",
                        "PolicyDocument": policy(
                            allow(
                                ["sts:AssumeRole"],
                                federation_role,
                                StringEquals={"sts:ExternalId": ref("ExternalId")},
                            )
                        ),
                    }
                ],
                "Tags": tagged(tags),
            },
        },
        "AgentProfile": {
            "Type": "AWS::IAM::InstanceProfile",
            "Properties": {"InstanceProfileName": name, "Roles": [ref(AGENT)]},
        },
    }
    private = {
        **network_groups("AgentNetwork", ref("VpcId"), ref("VpcCidr"), tags),
        "S3Endpoint": gateway(
            "s3",
            ref("VpcId"),
            ref("RouteTableIds"),
            ["s3:GetObject", "s3:PutObject"],
            [sub(f"arn:${{AWS::Partition}}:s3:::${{FederationBucket}}/v1/{deployment.federation}/*")],
        ),
        "SqsEndpoint": interface("sqs", ref("VpcId"), ref("SubnetIds"), "sqs:*", queues),
        "StsEndpoint": interface("sts", ref("VpcId"), ref("SubnetIds"), "sts:AssumeRole", [federation_role]),
    }
    for resource in private.values():
        resource["Condition"] = "IsPrivate"
    none_yet = {"Type": "CommaDelimitedList", "Default": ""}
    return {
        "AWSTemplateFormatVersion": FORMAT,
        "Description": f"Hanse: site {site.name} of the federation {deployment.federation}, in its owner's account",
        "Parameters": {
            "FederationAccount": {
                "Type": "String",
                "AllowedPattern": r"\d{12}",
                "Description": "The federation's AWS account, as its operator told you",
            },
            "FederationBucket": {"Type": "String", "Description": "The federation's bucket, as its operator told you"},
            "ExternalId": _external_id(site.name),
            "VpcId": {"Type": "String", "Default": "", "Description": "For private ways to AWS: your VPC; else empty"},
            "VpcCidr": {"Type": "String", "Default": "10.0.0.0/16", "Description": "Its addresses"},
            "SubnetIds": {**none_yet, "Description": "Where the agent runs"},
            "RouteTableIds": {**none_yet, "Description": "Of these subnets"},
        },
        "Conditions": {"IsPrivate": {"Fn::Not": [{"Fn::Equals": [ref("VpcId"), ""]}]}},
        "Resources": together(resources, private),
        "Outputs": {
            "AgentRole": {"Description": "The role of the machine that runs the agent", "Value": att(AGENT)},
            "FederationRole": {"Description": "What it takes on", "Value": federation_role},
        },
    }


def code_stack(deployment: Deployment) -> Template:
    """The bucket that packages and large templates are uploaded to, before there is anything else."""
    everything = [att(CODE), sub(f"${{{CODE}.Arn}}/*")]
    bucket = {
        "Type": "AWS::S3::Bucket",
        "UpdateReplacePolicy": "Delete",
        "DeletionPolicy": "Delete",
        "Properties": {
            "PublicAccessBlockConfiguration": {
                "BlockPublicAcls": True,
                "BlockPublicPolicy": True,
                "IgnorePublicAcls": True,
                "RestrictPublicBuckets": True,
            },
            "OwnershipControls": {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
            "VersioningConfiguration": {"Status": "Enabled"},
            "BucketEncryption": {
                "ServerSideEncryptionConfiguration": [{"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
            },
            "LifecycleConfiguration": {
                "Rules": [
                    {
                        "Id": "old",
                        "Status": "Enabled",
                        "NoncurrentVersionExpiration": {"NoncurrentDays": 30},
                        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
                    }
                ]
            },
            "Tags": tagged(tags_of(deployment)),
        },
    }
    reasons = {
        "CKV_AWS_18": "It holds our own published code and templates; who reads them is of no interest.",
        "CKV_AWS_145": "It comes before the federation's key, and holds no secret.",
    }
    return {
        "AWSTemplateFormatVersion": FORMAT,
        "Description": f"Hanse: where the code of the federation {deployment.federation} is uploaded to",
        "Resources": {
            CODE: without_check(bucket, **reasons),
            f"{CODE}Policy": {
                "Type": "AWS::S3::BucketPolicy",
                "Properties": {"Bucket": ref(CODE), "PolicyDocument": policy(deny_plaintext(everything, "s3:*"))},
            },
        },
        "Outputs": {"Bucket": {"Value": ref(CODE)}},
    }


def _external_id(site: str) -> Value:
    return {
        "Type": "String",
        "MinLength": MIN_EXTERNAL_ID,
        "MaxLength": 64,
        "AllowedPattern": r"[\w+=,.@:/-]+",
        "Description": f"What the account of site {site} names when it takes on the role; the same in both accounts",
    }


def _server_parameters(deployment: Deployment) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "CodeBucket": {"Type": "String", "Description": "The bucket with the functions' package"},
        "CodeKey": {"Type": "String", "Description": "Its key there; `hanse deploy aws package` makes it"},
    }
    parameters |= {external_id(s.name): _external_id(s.name) for s in deployment.sites if s.access == "role"}
    if any(site.access == "certificate" for site in deployment.sites):
        parameters[AUTHORITY] = {
            "Type": "String",
            "Description": "The certificate of the federation's authority (PEM); the key stays with its operator",
        }
        parameters[REVOKED] = {
            "Type": "String",
            "Default": "",
            "Description": "Certificates of sites that hold no more, as an X.509 revocation list (PEM)",
        }
    return parameters


def _server_outputs(deployment: Deployment) -> dict[str, Any]:
    outputs: dict[str, Any] = {
        "Account": {"Value": ref("AWS::AccountId")},
        "Region": {"Value": ref("AWS::Region")},
        "BucketName": {"Value": ref(BUCKET)},
        "TableName": {"Value": ref(TABLE)},
        "KeyArn": {"Value": att(KEY)},
        "SecretArn": {"Value": ref(SECRET)},
        "StateMachineArn": {"Value": ref(MACHINE)},
        "PersonPolicyArn": {"Value": ref(PERSON_POLICY), "Description": "For the roles of people who submit jobs"},
        "ServerQueueUrl": {"Value": ref(queue(SERVER))},
    }
    if deployment.topic:
        outputs["TopicArn"] = {"Value": ref(TOPIC)}
    for site in deployment.sites:
        outputs[f"{role(site.name)}Arn"] = {"Value": att(role(site.name)), "Description": f"Of site {site.name}"}
        if site.access == "certificate":
            outputs[f"{profile(site.name)}Arn"] = {"Value": att(profile(site.name), "ProfileArn")}
            outputs["AnchorArn"] = {"Value": att(ANCHOR, "TrustAnchorArn")}
    return outputs
