"""The templates as documents: who may do what, what is encrypted, what is kept for how long, what an alarm watches."""

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

import pytest

from hanse.deploy.aws.functions import NEWS, SHAPES, WITHOUT_RESOURCE_LEVEL
from hanse.deploy.aws.settings import Deployment, read
from hanse.deploy.aws.stacks import code_stack, server_stack, site_stack
from hanse.deploy.aws.template import logical, render
from hanse.serverless import contract
from hanse.serverless.functions import LOOKED_AT
from tests.unit.deploy.aws.resolved import ACCOUNT, attribute_of, resolved

VPC = {"id": "vpc-1", "cidr": "10.0.0.0/16", "subnets": ["subnet-1"], "route_tables": ["rtb-1"]}
SITES = ["luebeck", {"name": "bergen", "account": "111122223333"}, {"name": "riga", "access": "certificate"}]


def deployment(sites: Any = None, **more: Any) -> Deployment:
    section = {"region": "eu-central-1", "sites": SITES if sites is None else sites, **more}
    return read({"federation": "north", "aws": section})


PLAIN = server_stack(deployment())
FULL = server_stack(deployment(topic=True, stream=True, vpc=VPC, alarms="ops@example.org"))
STACKS = pytest.mark.parametrize("template", [PLAIN, FULL], ids=["plain", "full"])


def of_kind(template: dict[str, Any], kind: str) -> dict[str, Any]:
    return {name: r["Properties"] for name, r in template["Resources"].items() if r["Type"] == f"AWS::{kind}"}


def statements(template: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every statement of every policy that gives rights to roles."""
    for name, properties in of_kind(template, "IAM::Role").items():
        for policy in properties.get("Policies", []):
            for statement in policy["PolicyDocument"]["Statement"]:
                yield name, resolved(template, statement)
    for name, properties in of_kind(template, "IAM::ManagedPolicy").items():
        for statement in properties["PolicyDocument"]["Statement"]:
            yield name, resolved(template, statement)


def rights(template: dict[str, Any], role: str) -> dict[str, set[str]]:
    """Action → resources, of one role."""
    found: dict[str, set[str]] = {}
    for name, statement in statements(template):
        if name == role:
            resources = statement["Resource"]
            for action in statement["Action"]:
                found.setdefault(action, set()).update([resources] if isinstance(resources, str) else resources)
    return found


# ---- least privilege ----


@STACKS
def test_star_is_allowed_only_where_aws_knows_no_resource(template: dict[str, Any]) -> None:
    seen = 0
    for name, statement in statements(template):
        if statement["Effect"] == "Deny":
            continue
        assert not {"NotAction", "NotResource"} & set(statement), name
        assert not any("*" in action for action in statement["Action"]), name
        if statement["Resource"] == "*":
            assert set(statement["Action"]) <= WITHOUT_RESOURCE_LEVEL, name
            seen += 1
    assert seen


@STACKS
def test_no_linter_rule_about_rights_is_suppressed(template: dict[str, Any]) -> None:
    skipped = {
        skip["id"]
        for resource in template["Resources"].values()
        for skip in resource.get("Metadata", {}).get("checkov", {}).get("skip", [])
    }
    # Access logs, functions' concurrency, dead letters, VPC, signing; rotation of a secret that is a certificate.
    assert skipped <= {"CKV_AWS_18", "CKV_AWS_115", "CKV_AWS_116", "CKV_AWS_117", "CKV_AWS_272", "CKV2_AWS_57"}


def test_a_site_may_use_its_own_queue_and_send_to_the_server_s_and_nothing_else() -> None:
    found = rights(PLAIN, "LuebeckRole")
    key = found.pop("kms:Decrypt") | found.pop("kms:GenerateDataKey")
    assert len(key) == 1
    queue = "arn:aws:sqs:eu-central-1:123456789012:hanse-north-"
    assert found.pop("sqs:SendMessage") == {f"{queue}server"}
    assert found.pop("sqs:GetQueueUrl") == {f"{queue}luebeck", f"{queue}server"}
    assert set(found) == {
        f"sqs:{a}" for a in ("ReceiveMessage", "DeleteMessage", "ChangeMessageVisibility", "GetQueueAttributes")
    }
    assert {resource for resources in found.values() for resource in resources} == {f"{queue}luebeck"}


def test_only_the_reducer_has_no_voice_and_only_the_collector_reads_the_queue() -> None:
    for handler in SHAPES:
        found = rights(PLAIN, f"{handler.capitalize()}Role")
        assert ("sqs:SendMessage" in found) == (handler not in ("reduce", "timer"))
        assert ("states:SendTaskSuccess" in found) == (handler != "reduce")
        assert ("sqs:ReceiveMessage" in found) == (handler == "collect")
        assert "dynamodb:GetRecords" not in found
        assert ("dynamodb:GetRecords" in rights(FULL, f"{handler.capitalize()}Role")) == (handler == "step")
        assert ("s3:GetObject" in found) == ("states:StartExecution" in found or handler == "reduce")
        assert ("states:StartExecution" in found) == (handler in ("collect", "step", "evaluate"))
        assert all("v1/north/" in key for right in ("Put", "Get") for key in found.get(f"s3:{right}Object", ()))
    conditions = [s["Condition"] for n, s in statements(PLAIN) if n == "StepRole" and "dynamodb:PutItem" in s["Action"]]
    assert conditions == [{"ForAllValues:StringEquals": {"dynamodb:LeadingKeys": ["north"]}}]


@pytest.mark.parametrize(
    ("key", "owner", "everyone"),
    [
        ("documents/j/about", True, True),
        ("blobs/j/bundle/H/x", False, False),
        ("blobs/j/main/0/model/C/x", False, True),
        ("blobs/j/main/3/model/H/x", False, True),
        ("blobs/j/main/1/up/bergen/C/x", False, False),
        ("blobs/j/model/1/up/bergen/C/x", False, False),  # the component's name is the person's choice
        ("blobs/j/bundle/1/up/bergen/H/x", False, False),
        ("blobs/j/bundle/1/model/C/x", False, True),
        ("blobs/j/main/1/up/model/C/x", False, False),  # a site's name, the operator's
        ("blobs/j/main/shards/H/x", False, False),
    ],
)
@pytest.mark.parametrize("results", ["owner", "everyone"])
def test_a_person_reads_models_where_they_are_shared_and_puts_nothing(
    results: str, key: str, owner: bool, everyone: bool
) -> None:
    template = PLAIN if results == "owner" else server_stack(deployment(results=results))
    found = {
        statement["Effect"]
        for name, statement in statements(template)
        for resource in [statement["Resource"]]
        for each in ([resource] if isinstance(resource, str) else resource)
        if name == "PersonPolicy" and "s3:GetObject" in statement["Action"]
        if fnmatchcase(f"{attribute_of(PLAIN, 'Bucket', 'Arn')}/v1/north/{key}", each)
    }
    assert (found == {"Allow"}) == {"owner": owner, "everyone": everyone}[results]
    allowed = {
        a for n, s in statements(template) if n == "PersonPolicy" and s["Effect"] == "Allow" for a in s["Action"]
    }
    assert {action for action in allowed if action.startswith("s3:")} == {"s3:GetObject", "s3:ListBucket"}
    keyed = [s for n, s in statements(template) if n == "PersonPolicy" and "kms:GenerateDataKey" in s["Action"]]
    assert [s["Condition"] for s in keyed] == [{"StringEquals": {"kms:ViaService": ["sqs.eu-central-1.amazonaws.com"]}}]


def test_the_state_machine_may_call_its_functions_and_itself() -> None:
    found = rights(PLAIN, "MachineRole")
    stem = "arn:aws:lambda:eu-central-1:123456789012:function:hanse-north-"
    assert found["lambda:InvokeFunction"] == {f"{stem}{h}" for h in ("step", "timer", "reduce", "evaluate")}
    assert found["states:StartExecution"] == {"arn:aws:states:eu-central-1:123456789012:stateMachine:hanse-north"}
    assert set(found) - WITHOUT_RESOURCE_LEVEL == {"lambda:InvokeFunction", "states:StartExecution"}


# ---- who is trusted ----


def trust_of(template: dict[str, Any], role: str) -> dict[str, Any]:
    (statement,) = of_kind(template, "IAM::Role")[role]["AssumeRolePolicyDocument"]["Statement"]
    found: dict[str, Any] = resolved(template, statement, {"ExternalIdBergen": "e" * 16})
    return found


def test_a_site_of_another_account_is_trusted_as_one_principal_with_its_external_id() -> None:
    assert trust_of(PLAIN, "BergenRole") == {
        "Effect": "Allow",
        "Principal": {"AWS": "arn:aws:iam::111122223333:root"},
        "Action": "sts:AssumeRole",  # no sts:TagSession: whoever comes cannot call itself something else
        "Condition": {
            "StringEquals": {"sts:ExternalId": "e" * 16},
            "ArnEquals": {"aws:PrincipalArn": "arn:aws:iam::111122223333:role/hanse-north-agent-bergen"},
        },
    }
    assert PLAIN["Parameters"]["ExternalIdBergen"]["MinLength"] >= 16
    assert "Default" not in PLAIN["Parameters"]["ExternalIdBergen"]
    assert trust_of(PLAIN, "LuebeckRole")["Principal"] == {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}


def test_a_certificate_is_trusted_for_its_kind_and_name() -> None:
    found = trust_of(PLAIN, "RigaRole")
    assert found["Principal"] == {"Service": "rolesanywhere.amazonaws.com"}
    assert found["Condition"]["StringEquals"] == {
        "aws:PrincipalTag/x509SAN/URI": "hanse://north/site/riga",
        "aws:SourceAccount": ACCOUNT,
    }
    assert "aws:SourceArn" in found["Condition"]["ArnEquals"]


def test_services_are_trusted_by_name_only() -> None:
    for name, properties in of_kind(PLAIN, "IAM::Role").items():
        for statement in properties["AssumeRolePolicyDocument"]["Statement"]:
            principal = resolved(PLAIN, statement["Principal"])
            assert set(principal) in ({"Service"}, {"AWS"}), name
            assert principal != {"AWS": "*"}
            if "AWS" in principal:
                assert statement["Condition"], name


def test_a_site_s_own_stack_gives_nobody_outside_a_right() -> None:
    found = deployment()
    template = site_stack(found, found.site("bergen"))
    text = render(template)
    assert ACCOUNT not in text
    roles = of_kind(template, "IAM::Role")
    assert list(roles) == ["Agent"]
    (trusted,) = roles["Agent"]["AssumeRolePolicyDocument"]["Statement"]
    assert trusted["Principal"] == {"Service": ["ec2.amazonaws.com", "ecs-tasks.amazonaws.com"]}
    ((name, allowed),) = statements(template)
    assert allowed["Action"] == ["sts:AssumeRole"]
    assert allowed["Resource"] == "arn:aws:iam::parameter-FederationAccount:role/hanse-north-site-bergen"
    assert allowed["Condition"] == {"StringEquals": {"sts:ExternalId": "parameter-ExternalId"}}
    # What the agent takes on here is the role that the other stack makes, and that one trusts this role.
    assert roles[name]["RoleName"] in trust_of(PLAIN, "BergenRole")["Condition"]["ArnEquals"]["aws:PrincipalArn"]
    made = of_kind(PLAIN, "IAM::Role")["BergenRole"]["RoleName"]
    assert allowed["Resource"].endswith(f"/{made}")
    private = {r["Type"] for r in template["Resources"].values() if r.get("Condition") == "IsPrivate"}
    assert private == {"AWS::EC2::SecurityGroup", "AWS::EC2::VPCEndpoint"}


# ---- what is kept, and how ----


@STACKS
def test_everything_is_encrypted_and_nothing_comes_in_clear(template: dict[str, Any]) -> None:
    key = {"Fn::GetAtt": ["Key", "Arn"]}
    denied = {
        name
        for kind, field in (("S3::BucketPolicy", "Bucket"), ("SQS::QueuePolicy", "Queues"))
        for properties in of_kind(template, kind).values()
        for name in re.findall(r"'Ref': '(\w+)'", str(properties[field]))
        if any(
            statement["Effect"] == "Deny"
            and statement["Principal"] == "*"
            and statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
            for statement in properties["PolicyDocument"]["Statement"]
        )
    }
    assert denied == {*of_kind(template, "S3::Bucket"), *of_kind(template, "SQS::Queue")}
    assert all(properties["KmsMasterKeyId"] == key for properties in of_kind(template, "SQS::Queue").values())
    assert all(properties["KmsKeyId"] == key for properties in of_kind(template, "Logs::LogGroup").values())
    assert all(properties["KmsKeyArn"] == key for properties in of_kind(template, "Lambda::Function").values())
    assert all("KmsMasterKeyId" in properties for properties in of_kind(template, "SNS::Topic").values())
    (table,) = of_kind(template, "DynamoDB::Table").values()
    assert table["SSESpecification"]["KMSMasterKeyId"] == key
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert table["TimeToLiveSpecification"] == {"AttributeName": "x", "Enabled": True}
    for bucket in of_kind(template, "S3::Bucket").values():
        assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
        assert all(bucket["PublicAccessBlockConfiguration"].values())
    assert of_kind(template, "KMS::Key")["Key"]["EnableKeyRotation"] is True


def test_what_is_kept_ends() -> None:
    template = server_stack(deployment(keep_days=30, log_days=14))
    rules = of_kind(template, "S3::Bucket")["Bucket"]["LifecycleConfiguration"]["Rules"]
    assert {rule.get("ExpirationInDays") for rule in rules} == {None, 30}
    assert any("AbortIncompleteMultipartUpload" in rule for rule in rules)
    assert {p["RetentionInDays"] for p in of_kind(template, "Logs::LogGroup").values()} == {14}
    assert all(p["MessageRetentionPeriod"] == 14 * 86400 for p in of_kind(template, "SQS::Queue").values())


@STACKS
def test_cost_tags_are_on_everything_that_can_bear_them(template: dict[str, Any]) -> None:
    bare = {"AWS::EC2::VPCEndpoint", "AWS::IAM::ManagedPolicy", "AWS::KMS::Alias", "AWS::Lambda::EventSourceMapping"}
    for name, resource in template["Resources"].items():
        if resource["Type"] in bare or resource["Type"].endswith(("Policy", "Subscription")):
            continue
        tags = {tag["Key"]: tag["Value"] for tag in resource["Properties"]["Tags"]}
        assert tags["hanse:federation"] == "north", name
    (tags,) = [p["Tags"] for n, p in of_kind(template, "SQS::Queue").items() if n == "BergenQueue"]
    assert {"Key": "hanse:site", "Value": "bergen"} in tags


# ---- messages and alarms ----


@STACKS
def test_every_queue_has_its_dead_letters_and_these_an_alarm(template: dict[str, Any]) -> None:
    queues = of_kind(template, "SQS::Queue")
    alarms = [a["Dimensions"][0]["Value"] for a in of_kind(template, "CloudWatch::Alarm").values()]
    for owner in ("server", "luebeck", "bergen", "riga"):
        redrive = queues[f"{logical(owner)}Queue"]["RedrivePolicy"]
        assert redrive == {
            "deadLetterTargetArn": {"Fn::GetAtt": [f"{logical(owner)}Dead", "Arn"]},
            "maxReceiveCount": 5 if owner == "server" else 20,  # an agent that is stopped twice a day keeps its task
        }
        assert {"Fn::GetAtt": [f"{logical(owner)}Dead", "QueueName"]} in alarms
        if owner != "server":
            assert {"Fn::GetAtt": [f"{logical(owner)}Queue", "QueueName"]} in alarms
    # AWS asks for six times the function's timeout.
    assert queues["ServerQueue"]["VisibilityTimeout"] >= 6 * SHAPES["collect"].timeout_s
    targets = [a["AlarmActions"] for a in of_kind(template, "CloudWatch::Alarm").values()]
    assert all(target == [{"Ref": "Alarms"}] for target in targets)


def test_the_topic_hands_each_site_its_own_and_is_the_only_one_that_may_send() -> None:
    subscriptions = {n: p for n, p in of_kind(FULL, "SNS::Subscription").items() if p["Protocol"] == "sqs"}
    assert {p["Endpoint"]["Fn::GetAtt"][0]: p["FilterPolicy"] for p in subscriptions.values()} == {
        f"{logical(site)}Queue": {"recipient": [site]} for site in ("luebeck", "bergen", "riga")
    }
    assert all(p["RawMessageDelivery"] for p in subscriptions.values())
    policies = of_kind(FULL, "SQS::QueuePolicy")
    (allowed,) = [s for s in policies["BergenQueuePolicy"]["PolicyDocument"]["Statement"] if s["Effect"] == "Allow"]
    assert allowed["Principal"] == {"Service": "sns.amazonaws.com"}
    assert allowed["Condition"] == {"ArnEquals": {"aws:SourceArn": {"Ref": "Topic"}}}
    for name, properties in policies.items():
        if name != "BergenQueuePolicy" and not name.startswith(("Luebeck", "Riga")):
            assert all(s["Effect"] == "Deny" for s in properties["PolicyDocument"]["Statement"])
    assert not of_kind(PLAIN, "SNS::Subscription")


def test_functions_are_told_what_the_contract_says() -> None:
    for template in (PLAIN, FULL):
        for name, properties in of_kind(template, "Lambda::Function").items():
            told = properties["Environment"]["Variables"]
            keys = {contract.KEYS} if properties["Handler"].rpartition(".")[2] in contract.SIGNING else set()
            assert {*contract.REQUIRED, *keys} <= set(told) <= {*contract.REQUIRED, *keys, *contract.OPTIONAL}, name
    handlers = {p["Handler"] for p in of_kind(PLAIN, "Lambda::Function").values()}
    assert handlers == {f"hanse.serverless.handlers.{name}" for name in contract.HANDLERS}
    (pattern,) = [
        p["FilterCriteria"]["Filters"]
        for p in of_kind(FULL, "Lambda::EventSourceMapping").values()
        if "FilterCriteria" in p
    ]
    assert contract.STREAM in of_kind(FULL, "Lambda::Function")["StepFunction"]["Environment"]["Variables"]
    assert contract.STREAM not in of_kind(PLAIN, "Lambda::Function")["StepFunction"]["Environment"]["Variables"]
    assert pattern == [{"Pattern": render(NEWS, small=True)}]
    assert NEWS["dynamodb"]["NewImage"]["t"]["S"] == list(LOOKED_AT)  # type: ignore[index]  # a plain value


@pytest.mark.parametrize("handler", contract.HANDLERS)
def test_a_function_may_do_what_it_does(handler: str) -> None:
    for template in (PLAIN, FULL):
        (policies,) = of_kind(template, "IAM::Role")[f"{handler.capitalize()}Role"]["Policies"]
        allowed = {a for s in policies["PolicyDocument"]["Statement"] for a in s["Action"]}
        signs = handler in contract.SIGNING
        assert ("secretsmanager:GetSecretValue" in allowed) == signs
        assert ("sqs:SendMessage" in allowed) == signs
        assert ("dynamodb:DeleteItem" in allowed) == signs
        assert ("states:StartExecution" in allowed) == signs
        assert ("sqs:ReceiveMessage" in allowed) == (handler == "collect")
        assert ("s3:GetObject" in allowed) == (handler != "timer")
        assert ("states:SendTaskSuccess" in allowed) == (handler != "reduce")
        assert "dynamodb:Scan" not in allowed


def test_certificates_that_hold_no_more_are_a_parameter() -> None:
    sites = ["luebeck", {"name": "riga", "access": "certificate"}]
    template = server_stack(deployment(sites))
    crl = template["Resources"]["RevokedList"]
    assert crl["Type"] == "AWS::RolesAnywhere::CRL"
    assert crl["Properties"]["CrlData"] == {"Ref": "RevokedCertificates"}
    assert crl["Properties"]["TrustAnchorArn"] == {"Fn::GetAtt": ["Anchor", "TrustAnchorArn"]}
    assert template["Parameters"]["RevokedCertificates"]["Default"] == ""
    assert template["Conditions"][crl["Condition"]] == {
        "Fn::Not": [{"Fn::Equals": [{"Ref": "RevokedCertificates"}, ""]}]
    }
    without = server_stack(deployment(["luebeck"]))
    assert "RevokedList" not in without["Resources"]
    assert "Conditions" not in without


# ---- a site more ----


def test_a_site_more_leaves_the_others_as_they_are() -> None:
    before, after = server_stack(deployment(["luebeck"])), server_stack(deployment(["luebeck", "turku"]))
    added = set(after["Resources"]) - set(before["Resources"])
    assert all(name.startswith("Turku") for name in added)
    assert set(before["Resources"]) <= set(after["Resources"])
    changed = {n for n, r in before["Resources"].items() if r != after["Resources"][n]}
    assert changed == {"CollectRole", "StepRole", "EvaluateRole"}  # who may send to it


def test_names_that_look_alike_stay_apart() -> None:
    names = ["a-b", "a_b", "ab", "aB".lower() + "-", "a-b-c", "x-", "x_", "x"]
    assert len({logical(name) for name in names}) == len(set(names))
    server_stack(deployment(list(dict.fromkeys(names))))


def test_the_most_sites_fit_into_a_stack() -> None:
    template = server_stack(deployment([f"site-{n}" for n in range(50)], topic=True, vpc=VPC))
    assert len(template["Resources"]) <= 500
    assert len(template["Parameters"]) <= 200
    assert len(template["Outputs"]) <= 200
    assert len(render(template, small=True).encode()) <= 1_000_000
    policies = of_kind(template, "IAM::Role").values()
    assert all(
        len(render(p["Policies"][0]["PolicyDocument"], small=True)) < 10_240 for p in policies if "Policies" in p
    )


def test_a_template_is_the_same_whenever_it_is_made() -> None:
    assert render(server_stack(deployment())) == render(PLAIN)
    assert render(code_stack(deployment())) == render(code_stack(deployment()))
