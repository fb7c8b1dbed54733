"""Private ways to AWS: endpoints in a VPC, each with a policy that lets it reach what is the federation's, and no more.

Used twice: by the functions where the operator wants them in a VPC, and by a site in its own.
"""

from typing import Any

from hanse.core.ids import SERVER
from hanse.deploy.aws.functions import FUNCTION_GROUP, machine_arn
from hanse.deploy.aws.messages import TOPIC, queue
from hanse.deploy.aws.settings import Deployment, Vpc
from hanse.deploy.aws.storage import BUCKET, KEY, SECRET, TABLE
from hanse.deploy.aws.template import Resource, Resources, Statement, att, policy, ref, sub, tagged

ENDPOINTS = "EndpointNetwork"


def function_network(deployment: Deployment, vpc: Vpc, tags: dict[str, str]) -> Resources:
    """Endpoints for the functions: gateways for the bucket and the table, interfaces for the rest."""
    queues = [att(queue(name)) for name in (SERVER, *(site.name for site in deployment.sites))]
    interfaces = {
        "sqs": ("sqs:*", queues),
        "secretsmanager": ("secretsmanager:GetSecretValue", [ref(SECRET)]),
        "kms": ("kms:*", [att(KEY)]),
        "states": ("states:*", [machine_arn(deployment)]),
        "sns": ("sns:Publish", [ref(TOPIC)]) if deployment.topic else None,
    }
    found = network_groups(FUNCTION_GROUP, vpc.id, vpc.cidr, tags)
    found |= {
        "S3Endpoint": gateway("s3", vpc.id, list(vpc.route_tables), "s3:*", [att(BUCKET), sub(f"${{{BUCKET}.Arn}}/*")]),
        "TableEndpoint": gateway("dynamodb", vpc.id, list(vpc.route_tables), "dynamodb:*", [att(TABLE)]),
    }
    for service, reach in interfaces.items():
        if reach is not None:
            found[f"{service.capitalize()}Endpoint"] = interface(service, vpc.id, list(vpc.subnets), *reach)
    return found


def network_groups(client: str, vpc: Any, cidr: Any, tags: dict[str, str]) -> Resources:
    """Security groups: of who asks (nothing comes in, HTTPS goes out) and of the endpoints (HTTPS comes in)."""
    https = {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443}
    return {
        client: {
            "Type": "AWS::EC2::SecurityGroup",
            "Properties": {
                "GroupDescription": "Hanse: dials out over HTTPS, is reached by nobody",
                "VpcId": vpc,
                # Gateway endpoints have addresses of AWS's, so the subnets' routes and the endpoints' policies decide.
                "SecurityGroupEgress": [{**https, "CidrIp": "0.0.0.0/0", "Description": "AWS, through endpoints"}],
                "Tags": tagged(tags),
            },
        },
        ENDPOINTS: {
            "Type": "AWS::EC2::SecurityGroup",
            "Properties": {
                "GroupDescription": "Hanse: endpoints of AWS",
                "VpcId": vpc,
                "SecurityGroupIngress": [{**https, "CidrIp": cidr, "Description": "HTTPS from the VPC"}],
                "SecurityGroupEgress": [{**https, "CidrIp": cidr, "Description": "answers"}],
                "Tags": tagged(tags),
            },
        },
    }


def gateway(service: str, vpc: Any, route_tables: Any, action: Any, resources: list[Any]) -> Resource:
    """A gateway endpoint, which costs nothing."""
    return {
        "Type": "AWS::EC2::VPCEndpoint",
        "Properties": {
            "VpcEndpointType": "Gateway",
            "ServiceName": sub(f"com.amazonaws.${{AWS::Region}}.{service}"),
            "VpcId": vpc,
            "RouteTableIds": route_tables,
            "PolicyDocument": policy(_only(action, resources)),
        },
    }


def interface(service: str, vpc: Any, subnets: Any, action: Any, resources: list[Any]) -> Resource:
    """An interface endpoint, paid by the hour and subnet."""
    return {
        "Type": "AWS::EC2::VPCEndpoint",
        "Properties": {
            "VpcEndpointType": "Interface",
            "ServiceName": sub(f"com.amazonaws.${{AWS::Region}}.{service}"),
            "VpcId": vpc,
            "SubnetIds": subnets,
            "SecurityGroupIds": [att(ENDPOINTS, "GroupId")],
            "PrivateDnsEnabled": True,
            "PolicyDocument": policy(_only(action, resources)),
        },
    }


def _only(action: Any, resources: list[Any]) -> Statement:
    """Through an endpoint, whoever may by its own policy reaches these resources and no others."""
    return {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": action, "Resource": resources}
