"""The templates under AWS's own linter, a security scanner and CDK, none of which needs AWS.

Each comes from an environment of its own, since they pin what we do not: `cfn-lint` and `checkov` on the path or named
by HANSE_CFN_LINT and HANSE_CHECKOV, a Python with aws-cdk-lib (and Node) by HANSE_CDK.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hanse.deploy.aws.settings import Deployment, read
from hanse.deploy.aws.stacks import code_stack, server_stack, site_stack
from hanse.deploy.aws.template import render
from hanse.deploy.sagemaker.documents import account_template, server_template
from hanse.deploy.sagemaker.settings import read_settings

pytestmark = pytest.mark.long
ROOT = Path(__file__).resolve().parents[2]
PLAIN: dict[str, Any] = {"region": "eu-central-1", "sites": ["luebeck", {"name": "bergen", "account": "111122223333"}]}
FULL = PLAIN | {
    "sites": [*PLAIN["sites"], {"name": "riga-2", "access": "certificate"}],
    "topic": True,
    "stream": True,
    "alarms": "ops@example.org",
    "tags": {"cost-centre": "42"},
    "vpc": {
        "id": "vpc-0a1b2c3d4e5f60718",
        "cidr": "10.0.0.0/16",
        "subnets": ["subnet-0a1b2c3d4e5f60718"],
        "route_tables": ["rtb-0a1b2c3d4e5f60718"],
    },
}


def deployment(section: dict[str, Any]) -> Deployment:
    return read({"federation": "north", "aws": section})


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("templates")
    plain, full = deployment(PLAIN), deployment(FULL)
    made = {
        "plain": server_stack(plain),
        "full": server_stack(full),
        "site": site_stack(plain, plain.site("bergen")),
        "code": code_stack(plain),
    }
    for name, template in made.items():
        (folder / f"{name}.template.json").write_text(render(template))
    return folder


def tool(name: str) -> str:
    found = os.environ.get(f"HANSE_{name.upper().replace('-', '_')}") or shutil.which(name)
    if not found:
        pytest.skip(f"needs {name}: put it on the path or set HANSE_{name.upper().replace('-', '_')}")
    return found


def test_cfn_lint_finds_nothing(templates: Path) -> None:
    files = sorted(map(str, templates.glob("*.json")))
    ended = subprocess.run([tool("cfn-lint"), *files], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "")


def test_checkov_finds_nothing(templates: Path) -> None:
    words = ["-d", str(templates), "--framework", "cloudformation", "--compact", "--quiet", "--skip-download"]
    ended = subprocess.run([tool("checkov"), *words, "-o", "json"], capture_output=True, text=True, check=False)
    found = json.loads(ended.stdout)
    assert [(f["check_id"], f["resource"]) for f in found["results"]["failed_checks"]] == []
    assert found["summary"]["passed"] > 250


def test_a_cdk_app_takes_the_templates_in_as_they_are(tmp_path: Path) -> None:
    python = os.environ.get("HANSE_CDK")
    if not python:
        pytest.skip("needs aws-cdk-lib: set HANSE_CDK to a Python that has it")
    (tmp_path / "federation.yaml").write_text(json.dumps({"federation": "north", "aws": PLAIN}))
    (tmp_path / "code.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    context = {"federation": str(tmp_path / "federation.yaml"), "code": str(tmp_path / "code.zip")}
    environment = os.environ | {"CDK_CONTEXT_JSON": json.dumps(context), "CDK_OUTDIR": str(tmp_path / "out")}
    environment["PYTHONPATH"] = str(ROOT / "src")
    subprocess.run([python, str(ROOT / "deploy/aws/app.py")], env=environment, check=True, capture_output=True)
    found = json.loads((tmp_path / "out/hanse-north.template.json").read_text())["Resources"]
    expected = server_stack(deployment(PLAIN))["Resources"]
    assert set(found) - {"CDKMetadata"} == set(expected)
    assert found["LuebeckRole"]["Properties"]["Policies"] == expected["LuebeckRole"]["Properties"]["Policies"]
    assert (tmp_path / "out/hanse-north-site-bergen.template.json").exists()


def test_a_cdk_app_takes_the_sagemaker_templates_in_as_they_are(tmp_path: Path) -> None:
    python = os.environ.get("HANSE_CDK")
    if not python:
        pytest.skip("needs aws-cdk-lib: set HANSE_CDK to a Python that has it")
    example = ROOT / "examples/medicare_fraud/sagemaker/federation.yaml"
    settings = read_settings(example)
    (tmp_path / "parameters.json").write_text(json.dumps({"north": {"SubnetCidr": "10.1.0.0/24"}}))
    context = {"federation": str(example), "parameters": str(tmp_path / "parameters.json")}
    environment = os.environ | {"CDK_CONTEXT_JSON": json.dumps(context), "CDK_OUTDIR": str(tmp_path / "out")}
    environment["PYTHONPATH"] = str(ROOT / "src")
    subprocess.run([python, str(ROOT / "deploy/sagemaker/app.py")], env=environment, check=True, capture_output=True)
    for whose, expected in (
        ("server", server_template(settings)),
        *((account.site, account_template(settings, account)) for account in settings.accounts),
    ):
        found = json.loads((tmp_path / f"out/hanse-medicare-{whose}.template.json").read_text())
        assert set(found["Resources"]) - {"CDKMetadata"} == set(expected["Resources"])
        roles = [name for name, each in expected["Resources"].items() if each["Type"] == "AWS::IAM::Role"]
        for name in roles:
            assert "AssumeRolePolicyDocument" in found["Resources"][name]["Properties"]
        assert ("SubnetCidr" in found["Parameters"]) == (whose in ("east", "south")), "north's was given"
    subnet = json.loads((tmp_path / "out/hanse-medicare-north.template.json").read_text())["Resources"]["Subnet"]
    assert subnet["Properties"]["CidrBlock"] == "10.1.0.0/24"


def terraform(*words: str, cwd: Path, **more: str) -> str:
    """A command of Terraform with the provider that HANSE_TERRAFORM_PLUGINS names; nothing is downloaded."""
    environment = os.environ | {
        "TF_CLI_CONFIG_FILE": os.devnull,
        "TF_IN_AUTOMATION": "1",
        "CHECKPOINT_DISABLE": "1",
        **more,
    }
    ended = subprocess.run(
        [tool("terraform"), *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_terraform_makes_the_stacks_from_the_package(tmp_path: Path) -> None:
    plugins = os.environ.get("HANSE_TERRAFORM_PLUGINS")
    if not plugins:
        pytest.skip("needs Terraform's AWS provider: set HANSE_TERRAFORM_PLUGINS to a folder that has it")
    sites = ["luebeck", {"name": "riga", "access": "certificate"}]
    made = read({"federation": "north_sea", "aws": {"region": "eu-central-1", "sites": sites}})
    package, module = tmp_path / "package", tmp_path / "module"
    package.mkdir()
    (package / "server.template.json").write_text(render(server_stack(made)))
    (package / "code.template.json").write_text(render(code_stack(made)))
    (package / "hanse-0123.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    shutil.copytree(ROOT / "deploy/aws/terraform", module)
    terraform("fmt", "-check", "-recursive", cwd=module)
    terraform("init", "-input=false", "-backend=false", f"-plugin-dir={plugins}", cwd=module)
    terraform("validate", cwd=module)
    told = terraform("test", "-no-color", cwd=module, TF_VAR_package=str(package))
    assert "3 passed, 0 failed" in told
