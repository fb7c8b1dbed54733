"""Who a site is on AWS: a role of its own, what the role may do, and who may take it on.

A site's role lives in the federation's account. It receives from one queue and sends to one; it has no right on any
object: models come and updates go through links, each for one blob that a task names. So a site can do on AWS what the
protocol asks of it and nothing else, whatever runs at the site.
"""

from typing import Any

from hanse.core.ids import SERVER
from hanse.deploy.aws.messages import queue
from hanse.deploy.aws.settings import Deployment, SitePlan
from hanse.deploy.aws.storage import BUCKET, KEY
from hanse.deploy.aws.template import (
    Resource,
    Resources,
    Statement,
    allow,
    att,
    logical,
    policy,
    ref,
    sub,
    tagged,
    together,
)
from hanse.serverless.contract import EVERYONE
from hanse.trust.certificates import SITE, identity_uri

AUTHORITY = "CertificateAuthority"
"""The parameter with the federation's authority, for sites that come with certificates."""
REVOKED, HAS_REVOKED = "RevokedCertificates", "HasRevokedCertificates"
"""The parameter with the certificates of such sites that hold no more, as an X.509 list, and whether there are any."""
ANCHOR, PERSON_POLICY = "Anchor", "PersonPolicy"
SESSION_S = 3600


def role(site: str) -> str:
    """The logical name of a site's role."""
    return f"{logical(site)}Role"


def role_name(deployment: Deployment, site: str) -> str:
    """The role's own name: its ARN is part of what the site is told."""
    return f"hanse-{deployment.federation}-site-{site}"


def profile(site: str) -> str:
    """The logical name of the Roles Anywhere profile of a site that comes with a certificate."""
    return f"{logical(site)}Profile"


def agent_name(deployment: Deployment, site: str) -> str:
    """The role that the site stack makes in the site's own account."""
    return f"hanse-{deployment.federation}-agent-{site}"


def external_id(site: str) -> str:
    """The parameter with the external id that a site's account must name."""
    return f"ExternalId{logical(site)}"


def identities(deployment: Deployment, tags: dict[str, str]) -> Resources:
    """The roles of all sites that have one; the trust anchor if any comes with a certificate."""
    parts: list[Resources] = [{PERSON_POLICY: _person_policy(deployment)}]
    parts += [{role(site.name): _role(deployment, site, tags)} for site in deployment.sites]
    bearers = [site for site in deployment.sites if site.access == "certificate"]
    if bearers:
        parts.append(_anchor(deployment, bearers, tags))
    return together(*parts)


def rights(deployment: Deployment, site: str) -> list[Statement]:
    """What a site's role allows."""
    receiving = ["ChangeMessageVisibility", "DeleteMessage", "GetQueueAttributes", "GetQueueUrl", "ReceiveMessage"]
    return [
        allow([f"sqs:{action}" for action in receiving], att(queue(site))),
        allow(["sqs:GetQueueUrl", "sqs:SendMessage"], att(queue(SERVER))),
        _key_through("sqs"),
    ]


def _key_through(service: str, *, write: bool = True) -> Statement:
    """The federation's key, but only as this service uses it on the caller's behalf."""
    actions = ["kms:Decrypt", *(["kms:GenerateDataKey"] if write else [])]
    named = [sub(f"{service}.${{AWS::Region}}.amazonaws.com")]
    return allow(actions, att(KEY), StringEquals={"kms:ViaService": named})


def _person_policy(deployment: Deployment) -> Resource:
    """What whoever submits jobs needs on AWS; what a person may ask of the federation, its own signature decides.

    Nothing to put: everybody with the policy would put into the place of everybody's jobs. A person is given links.
    """
    objects = f"${{{BUCKET}.Arn}}/v1/{deployment.federation}"
    statements = [
        allow(["sqs:GetQueueUrl", "sqs:SendMessage"], att(queue(SERVER))),
        allow(["s3:GetObject"], [sub(f"{objects}/documents/*")]),
        allow(["s3:ListBucket"], att(BUCKET), StringLike={"s3:prefix": [f"v1/{deployment.federation}/documents/*"]}),
        _key_through("sqs"),
        _key_through("s3", write=False),
    ]
    if deployment.results == EVERYONE:
        # Chunks and heads of models: a job's component is named by whoever submits it, `model` perhaps.
        statements.append(allow(["s3:GetObject"], [sub(f"{objects}/blobs/*/model/{part}/*") for part in ("C", "H")]))
        # What a single site has sent is for nobody to read, whatever the site is called.
        updates = sub(f"{objects}/blobs/*/up/*")
        statements.append({"Effect": "Deny", "Action": ["s3:GetObject"], "Resource": updates})
    return {
        "Type": "AWS::IAM::ManagedPolicy",
        "Properties": {
            "ManagedPolicyName": f"hanse-{deployment.federation}-person",
            "Description": f"Submit jobs to the federation {deployment.federation} and read what came of them",
            "PolicyDocument": policy(*statements),
        },
    }


def _role(deployment: Deployment, site: SitePlan, tags: dict[str, str]) -> Resource:
    trusted = _certificate_trust(deployment, site) if site.access == "certificate" else _account_trust(deployment, site)
    return {
        "Type": "AWS::IAM::Role",
        "Properties": {
            "RoleName": role_name(deployment, site.name),
            "Description": f"Site {site.name} of the federation {deployment.federation}",
            "MaxSessionDuration": SESSION_S,
            "AssumeRolePolicyDocument": trusted,
            "Policies": [{"PolicyName": "site", "PolicyDocument": policy(*rights(deployment, site.name))}],
            "Tags": tagged({**tags, "hanse:site": site.name}),
        },
    }


def _account_trust(deployment: Deployment, site: SitePlan) -> Any:
    account = site.account or "${AWS::AccountId}"
    principal = site.principal or f"arn:${{AWS::Partition}}:iam::{account}:role/{agent_name(deployment, site.name)}"
    statement = {
        "Effect": "Allow",
        # The account, narrowed to one of its principals: which need not exist yet, and whose removal breaks nothing.
        "Principal": {"AWS": sub(f"arn:${{AWS::Partition}}:iam::{account}:root")},
        "Action": "sts:AssumeRole",
        "Condition": {
            "StringEquals": {"sts:ExternalId": ref(external_id(site.name))},
            "ArnEquals": {"aws:PrincipalArn": sub(principal)},
        },
    }
    return policy(statement)


def _certificate_trust(deployment: Deployment, site: SitePlan) -> Any:
    # What Roles Anywhere needs; the name in the certificate is what the federation's authority wrote into it.
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "rolesanywhere.amazonaws.com"},
        "Action": ["sts:AssumeRole", "sts:SetSourceIdentity", "sts:TagSession"],
        "Condition": {
            "StringEquals": {
                # The kind too: a person may bear a site's name.
                "aws:PrincipalTag/x509SAN/URI": identity_uri(deployment.federation, SITE, site.name),
                "aws:SourceAccount": ref("AWS::AccountId"),
            },
            "ArnEquals": {"aws:SourceArn": att(ANCHOR, "TrustAnchorArn")},
        },
    }
    return policy(statement)


def _anchor(deployment: Deployment, sites: list[SitePlan], tags: dict[str, str]) -> Resources:
    return {
        ANCHOR: {
            "Type": "AWS::RolesAnywhere::TrustAnchor",
            "Properties": {
                "Name": f"hanse-{deployment.federation}",
                "Enabled": True,
                "Source": {
                    "SourceType": "CERTIFICATE_BUNDLE",
                    "SourceData": {"X509CertificateData": ref(AUTHORITY)},
                },
                "Tags": tagged(tags),
            },
        },
        "RevokedList": {
            "Type": "AWS::RolesAnywhere::CRL",
            "Condition": HAS_REVOKED,
            "Properties": {
                "Name": f"hanse-{deployment.federation}",
                "CrlData": ref(REVOKED),
                "Enabled": True,
                "TrustAnchorArn": att(ANCHOR, "TrustAnchorArn"),
                "Tags": tagged(tags),
            },
        },
        **{
            profile(site.name): {
                "Type": "AWS::RolesAnywhere::Profile",
                "Properties": {
                    "Name": f"hanse-{deployment.federation}-{site.name}",
                    "Enabled": True,
                    "DurationSeconds": SESSION_S,
                    "RoleArns": [att(role(site.name))],
                    "Tags": tagged({**tags, "hanse:site": site.name}),
                },
            }
            for site in sites
        },
    }
