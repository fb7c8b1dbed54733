"""The network between a site's jobs and the server: a subnet for the jobs, a peering, and routes at both ends.

All of it is optional: jobs may run in subnets that are there, and reach the server through PrivateLink or a way that
the organisations have already. What is made here has no way to the internet: S3 is reached through an endpoint.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from hanse.deploy.aws.template import att, logical, policy, ref
from hanse.deploy.sagemaker.settings import Account
from hanse.deploy.sagemaker.template import ACCOUNT, NOTHING, PARTITION, REGION, allow, both, given, join, optional

SITE_PARAMETERS = {
    "ServerVpcId": optional("The server's network to peer with; empty for PrivateLink"),
    "ServerAccount": optional("The server's account, for peering"),
    "ServerRegion": optional("The server's region, for peering"),
    "PeeringRoleArn": optional("Role in the server's account that accepts the peering; empty: its owner does by hand"),
    "RouteTableId": optional("Route table of subnets that are there, which is to lead to the server by the peering"),
    "SubnetCidr": optional("Addresses of a private subnet to be made for the jobs; empty: they use one that is there"),
}
SITE_CONDITIONS = {
    "Peers": given("ServerVpcId"),
    "HasPeeringRole": given("PeeringRoleArn"),
    "HasRouteTable": given("RouteTableId"),
    "MakesSubnet": given("SubnetCidr"),
    "PeersFromThere": both("Peers", "HasRouteTable"),
    "PeersFromSubnet": both("Peers", "MakesSubnet"),
}
SITE_OUTPUTS = {
    "PeeringId": {"Condition": "Peers", "Value": ref("Peering")},
    "SubnetId": {"Condition": "MakesSubnet", "Value": ref("Subnet")},
}
SERVER_OUTPUTS = {"PeeringRoleArn": {"Condition": "HasDeployers", "Value": att("PeeringRole", "Arn")}}


def of_site() -> dict[str, Any]:
    """A site's resources."""
    return {
        "Peering": {
            "Type": "AWS::EC2::VPCPeeringConnection",
            "Condition": "Peers",
            "Properties": {
                "VpcId": ref("VpcId"),
                "PeerVpcId": ref("ServerVpcId"),
                "PeerOwnerId": ref("ServerAccount"),
                "PeerRegion": ref("ServerRegion"),
                "PeerRoleArn": {"Fn::If": ["HasPeeringRole", ref("PeeringRoleArn"), NOTHING]},
            },
        },
        "Route": {
            "Type": "AWS::EC2::Route",
            "Condition": "PeersFromThere",
            "Properties": {
                "RouteTableId": ref("RouteTableId"),
                "DestinationCidrBlock": ref("ServerCidr"),
                "VpcPeeringConnectionId": ref("Peering"),
            },
        },
        "Subnet": {
            "Type": "AWS::EC2::Subnet",
            "Condition": "MakesSubnet",
            "Properties": {"VpcId": ref("VpcId"), "CidrBlock": ref("SubnetCidr"), "MapPublicIpOnLaunch": False},
        },
        "Routes": {
            "Type": "AWS::EC2::RouteTable",
            "Condition": "MakesSubnet",
            "Properties": {"VpcId": ref("VpcId")},
        },
        "SubnetRoutes": {
            "Type": "AWS::EC2::SubnetRouteTableAssociation",
            "Condition": "MakesSubnet",
            "Properties": {"SubnetId": ref("Subnet"), "RouteTableId": ref("Routes")},
        },
        "SubnetRoute": {
            "Type": "AWS::EC2::Route",
            "Condition": "PeersFromSubnet",
            "Properties": {
                "RouteTableId": ref("Routes"),
                "DestinationCidrBlock": ref("ServerCidr"),
                "VpcPeeringConnectionId": ref("Peering"),
            },
        },
        "S3Endpoint": {
            "Type": "AWS::EC2::VPCEndpoint",
            "Condition": "MakesSubnet",
            "Properties": {
                "VpcId": ref("VpcId"),
                "VpcEndpointType": "Gateway",
                "ServiceName": join("com.amazonaws.", REGION, ".s3"),
                "RouteTableIds": [ref("Routes")],
            },
        },
    }


def server_parameters(sites: Iterable[str]) -> dict[str, Any]:
    """Of each site's peering: its id, from the output of that site's stack, and the addresses behind it."""
    found = {
        "RouteTableId": optional("Route table of the server's subnet, which is to lead back to the sites"),
        "DeployerArns": {
            **optional(
                "Roles that deploy the sites' stacks and may have a peering accepted; empty: it is done by hand"
            ),
            "Type": "CommaDelimitedList",
        },
    }
    for site in sites:
        found[f"PeeringId{logical(site)}"] = optional(f"Peering of site {site}, from the output of its stack")
        found[f"Cidr{logical(site)}"] = optional(f"Addresses of the jobs of site {site}; empty: no peering with it")
    return found


def server_conditions(sites: Iterable[str]) -> dict[str, Any]:
    """Whether each site's peering is there."""
    deployers = {"Fn::Not": [{"Fn::Equals": [{"Fn::Join": ["", ref("DeployerArns")]}, ""]}]}
    return {
        "HasDeployers": deployers,
        **{f"Peers{logical(site)}": given(f"Cidr{logical(site)}") for site in sites},
    }


def of_server(accounts: Sequence[Account]) -> dict[str, Any]:
    """The other end: who may have a peering accepted, and a route back to each site."""
    here = join("arn:", PARTITION, ":ec2:", REGION, ":", ACCOUNT, ":")
    vpc = join(here, "vpc/", ref("VpcId"))
    accept = allow(
        ["ec2:AcceptVpcPeeringConnection"],
        join(here, "vpc-peering-connection/*"),
        {"ArnEquals": {"ec2:AccepterVpc": vpc}},
    )
    found: dict[str, Any] = {
        "PeeringRole": {
            "Type": "AWS::IAM::Role",
            "Condition": "HasDeployers",
            "Properties": {
                "Description": "CloudFormation in a site's account assumes it to have that site's peering accepted",
                "AssumeRolePolicyDocument": policy(
                    {"Effect": "Allow", "Principal": {"AWS": ref("DeployerArns")}, "Action": "sts:AssumeRole"}
                ),
                "Policies": [
                    {
                        "PolicyName": "accept-peering",
                        "PolicyDocument": policy(accept, allow(["ec2:AcceptVpcPeeringConnection"], vpc)),
                    }
                ],
            },
        }
    }
    for account in accounts:
        name = logical(account.site)
        found[f"Route{name}"] = {
            "Type": "AWS::EC2::Route",
            "Condition": f"Peers{name}",
            "Properties": {
                "RouteTableId": ref("RouteTableId"),
                "DestinationCidrBlock": ref(f"Cidr{name}"),
                "VpcPeeringConnectionId": ref(f"PeeringId{name}"),
            },
        }
    return found
