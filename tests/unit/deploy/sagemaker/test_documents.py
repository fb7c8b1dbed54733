"""Roles and stacks as documents: narrow, conditioned, and what an emulator that enforces IAM makes of them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from hanse.deploy.sagemaker.documents import (
    account_template,
    assume_policy,
    execution_trust,
    kickoff_policy,
    kickoff_trust,
    server_template,
)
from hanse.deploy.sagemaker.settings import Settings, read_settings

EXAMPLE = Path(__file__).resolve().parents[4] / "examples" / "medicare_fraud" / "sagemaker" / "federation.yaml"
ROLE = "arn:aws:iam::111111111111:role/FL-execution"


@pytest.fixture
def settings() -> Settings:
    return read_settings(EXAMPLE)


def statements(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for value in document["Resources"].values():
        properties = value["Properties"]
        found = [properties.get("AssumeRolePolicyDocument"), properties.get("PolicyDocument")]
        inline = (each["Fn::If"][1] if "Fn::If" in each else each for each in properties.get("Policies", ()))
        found.extend(each["PolicyDocument"] for each in inline)
        for policy in filter(None, found):
            yield from policy["Statement"]


def test_the_kickoff_role_starts_this_federations_jobs_and_passes_one_role() -> None:
    jobs, look, passing = kickoff_policy("fl-medicare-", ROLE, region="eu-central-1", account="111111111111")[
        "Statement"
    ]
    assert jobs["Resource"]["Fn::Join"][1][-1] == ":training-job/fl-medicare-*"
    assert jobs["Action"] == [
        "sagemaker:CreateTrainingJob",
        "sagemaker:DescribeTrainingJob",
        "sagemaker:StopTrainingJob",
        "sagemaker:UpdateTrainingJob",
        "sagemaker:AddTags",
        "sagemaker:ListTags",
    ]
    assert (look["Action"], look["Resource"]) == (["iam:GetRole"], ROLE)
    assert passing["Action"] == ["iam:PassRole"]
    assert passing["Resource"] == ROLE
    assert passing["Condition"] == {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}


def test_trusts_name_one_launcher_and_ask_for_the_external_id() -> None:
    (trust,) = kickoff_trust("arn:aws:iam::999999999999:role/launcher", "north-7f3a")["Statement"]
    assert trust["Principal"] == {"AWS": "arn:aws:iam::999999999999:role/launcher"}
    assert trust["Condition"] == {"StringEquals": {"sts:ExternalId": "north-7f3a"}}
    (trust,) = execution_trust("111111111111")["Statement"]
    assert trust["Condition"] == {"StringEquals": {"aws:SourceAccount": "111111111111"}}


@pytest.fixture
def serverless(settings: Settings) -> Settings:
    return replace(settings, queues=Path("aws"))


def test_no_statement_allows_everything(settings: Settings, serverless: Settings) -> None:
    (north, *_) = settings.accounts
    made = [make for each in (settings, serverless) for make in (account_template(each, north), server_template(each))]
    for template in made:
        for statement in statements(template):
            if statement["Effect"] != "Allow":
                continue
            actions = statement["Action"]
            for action in [actions] if isinstance(actions, str) else actions:
                assert "*" not in action
            if statement.get("Resource") == "*":
                assert statement.get("Condition"), f"{actions}: everything needs a condition"
            assert statement.get("Principal") not in ("*", {"AWS": "*"})
    assert assume_policy(settings.accounts)["Statement"][0]["Resource"] == [
        f"arn:aws:iam::{account.account}:role/FL-kickoff-client-job" for account in settings.accounts
    ]


def test_jobs_reach_out_and_nothing_comes_in(settings: Settings) -> None:
    group = account_template(settings, settings.accounts[0])["Resources"]["SecurityGroup"]["Properties"]
    assert "SecurityGroupIngress" not in group
    assert [(rule["FromPort"], rule["ToPort"]) for rule in group["SecurityGroupEgress"]] == [(7400, 7401), (443, 443)]


def test_without_a_server_jobs_reach_aws_and_the_execution_role_becomes_its_site(serverless: Settings) -> None:
    made = account_template(serverless, serverless.accounts[0])
    group = made["Resources"]["SecurityGroup"]["Properties"]
    assert [rule["FromPort"] for rule in group["SecurityGroupEgress"]] == [443]
    come = made["Resources"]["ExecutionRole"]["Properties"]["Policies"][1]["PolicyDocument"]["Statement"]
    assert [(each["Action"], each["Resource"]) for each in come] == [
        (["secretsmanager:GetSecretValue"], {"Ref": "SiteSecretArn"}),
        (["sts:AssumeRole"], {"Ref": "FederationRoleArn"}),
    ]
    assert not {"ServerCidr", "ServerVpcId", "TokenSecretArn"} & set(made["Parameters"])
    assert set(server_template(serverless)["Resources"]) == {"AssumeKickoffRoles"}


def test_a_subnet_for_jobs_has_no_way_to_the_internet(settings: Settings) -> None:
    resources = account_template(settings, settings.accounts[0])["Resources"]
    assert resources["Subnet"]["Properties"]["MapPublicIpOnLaunch"] is False
    routes = [each for each in resources.values() if each["Type"] == "AWS::EC2::Route"]
    assert {each["Properties"]["DestinationCidrBlock"]["Ref"] for each in routes} == {"ServerCidr"}
    assert not {each["Type"] for each in resources.values()} & {"AWS::EC2::InternetGateway", "AWS::EC2::NatGateway"}
    for name in ("Subnet", "Routes", "SubnetRoutes", "S3Endpoint"):
        assert resources[name]["Condition"] == "MakesSubnet", "nothing is made that nobody asked for"


def test_the_server_leads_back_to_each_site_that_peers_and_to_no_other(settings: Settings) -> None:
    made = server_template(settings)
    for site in ("North", "East", "South"):
        route = made["Resources"][f"Route{site}"]
        assert route["Condition"] == f"Peers{site}"
        assert route["Properties"]["VpcPeeringConnectionId"] == {"Ref": f"PeeringId{site}"}
        assert route["Properties"]["DestinationCidrBlock"] == {"Ref": f"Cidr{site}"}
    role = made["Resources"]["PeeringRole"]
    assert role["Condition"] == "HasDeployers"
    (trust,) = role["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Principal"] == {"AWS": {"Ref": "DeployerArns"}}


def test_a_notebook_is_made_only_where_a_subnet_is_named_and_is_shut_off(settings: Settings) -> None:
    made = server_template(settings)
    assert made["Conditions"]["HasNotebook"] == {"Fn::Not": [{"Fn::Equals": [{"Ref": "NotebookSubnetId"}, ""]}]}
    notebook = made["Resources"]["Notebook"]
    assert (notebook["Condition"], made["Resources"]["NotebookKey"]["Condition"]) == ("HasNotebook", "HasNotebook")
    assert notebook["Properties"]["DirectInternetAccess"] == notebook["Properties"]["RootAccess"] == "Disabled"


def tool(name: str) -> str:
    """A command of an environment of its own, since these pin what we do not."""
    beside = Path(sys.executable).with_name(name)
    found = os.environ.get(f"HANSE_{name.upper().replace('-', '_')}") or (beside if beside.exists() else which(name))
    if not found:
        pytest.skip(f"needs {name}: put it on the path or set HANSE_{name.upper().replace('-', '_')}")
    return str(found)


@pytest.mark.parametrize("queues", [None, Path("aws")])
@pytest.mark.parametrize("whose", ["site", "server"])
def test_cfn_lint_has_nothing_to_say(settings: Settings, whose: str, queues: Path | None, tmp_path: Path) -> None:
    settings = replace(settings, queues=queues)
    made = account_template(settings, settings.accounts[0]) if whose == "site" else server_template(settings)
    path = tmp_path / "template.json"
    path.write_text(json.dumps(made))
    command = [tool("cfn-lint")]
    told = subprocess.run([*command, "--regions", "eu-central-1", "--", str(path)], capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr


@pytest.mark.slow
def test_checkov_has_nothing_to_say(settings: Settings, tmp_path: Path) -> None:
    for name, made in (
        ("site", account_template(settings, settings.accounts[0])),
        ("server", server_template(settings)),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(made))
    command = [tool("checkov"), "-d", str(tmp_path), "--skip-download"]
    told = subprocess.run([*command, "--framework", "cloudformation", "--compact"], capture_output=True, text=True)
    assert "Failed checks: 0" in told.stdout, told.stdout[-3000:]
    assert told.returncode == 0


def test_an_emulator_that_enforces_iam_shows_the_data_denied(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    moto = pytest.importorskip("moto", reason="moto is not installed")
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
    from botocore.exceptions import ClientError
    from moto.core import set_initial_no_auth_action_count

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    region, account = "eu-central-1", "123456789012"
    plain = kickoff_policy("fl-medicare-", f"arn:aws:iam::{account}:role/FL-execution", region=region, account=account)
    plain["Statement"][0]["Resource"] = "*"  # moto asks for "*" whatever is named; the scope is asserted above

    @set_initial_no_auth_action_count(4)
    def enforced() -> None:
        iam, s3 = boto3.client("iam", region_name=region), boto3.client("s3", region_name=region)
        trust = json.dumps(kickoff_trust(f"arn:aws:iam::{account}:root", "north-7f3a"))
        role = iam.create_role(RoleName="FL-kickoff-client-job", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
        iam.put_role_policy(RoleName="FL-kickoff-client-job", PolicyName="p", PolicyDocument=json.dumps(plain))
        s3.create_bucket(Bucket="north-data", CreateBucketConfiguration={"LocationConstraint": region})
        sts = boto3.client("sts", region_name=region)
        given = sts.assume_role(RoleArn=role, RoleSessionName="launch", ExternalId="north-7f3a")["Credentials"]
        keys = {
            "region_name": region,
            "aws_access_key_id": given["AccessKeyId"],
            "aws_secret_access_key": given["SecretAccessKey"],
            "aws_session_token": given["SessionToken"],
        }
        for call in (
            lambda: boto3.client("s3", **keys).list_objects_v2(Bucket="north-data"),
            lambda: boto3.client("s3", **keys).get_object(Bucket="north-data", Key="providers/providers.csv"),
            lambda: boto3.client("sagemaker", **keys).list_training_jobs(),
        ):
            with pytest.raises(ClientError) as caught:
                call()
            code = caught.value.response["Error"]["Code"]
            assert code == "403" or code.startswith("AccessDenied")
        made = boto3.client("sagemaker", **keys).create_training_job(
            TrainingJobName="fl-medicare-a1-north-1",
            AlgorithmSpecification={"TrainingImage": "x", "TrainingInputMode": "File"},
            RoleArn=f"arn:aws:iam::{account}:role/FL-execution",
            OutputDataConfig={"S3OutputPath": "s3://north-models/"},
            ResourceConfig={"InstanceType": "ml.m5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 10},
            StoppingCondition={"MaxRuntimeInSeconds": 60},
        )
        assert made["TrainingJobArn"].endswith("fl-medicare-a1-north-1")

    with moto.mock_aws():
        enforced()


def test_a_template_is_of_its_federation(settings: Settings) -> None:
    other = replace(settings, federation="bank")
    text = json.dumps(account_template(other, settings.accounts[0]))
    assert ":training-job/fl-bank-*" in text
    assert "medicare" not in text
