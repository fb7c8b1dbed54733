"""A CDK app around the SageMaker templates: `cdk deploy` for those who run everything else with it.

    pip install hanse aws-cdk-lib
    npx aws-cdk@^2.1147 deploy hanse-medicare-north --app "python app.py" \\
        -c federation=../../examples/medicare_fraud/sagemaker/federation.yaml -c parameters=parameters.json

Nothing is decided here: `hanse.deploy.sagemaker.documents` makes the templates, and this app takes them in as they are.
`parameters.json` holds what the templates ask for, by stack: {"server": {"VpcId": …}, "north": {"LauncherArn": …}}.
Each stack belongs to one account; its owner deploys it. `cdk destroy` takes away everything but the models' bucket.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import aws_cdk as cdk
from aws_cdk.cloudformation_include import CfnInclude

from hanse.deploy.sagemaker.documents import account_template, server_template
from hanse.deploy.sagemaker.settings import Account, Settings, read_settings


class ServerStack(cdk.Stack):
    """The server's account. Further resources of yours may refer to what `template` holds."""

    def __init__(self, scope: cdk.App, settings: Settings, parameters: dict[str, str]) -> None:
        super().__init__(scope, stack_name(settings, "server"))
        self.template = _included(self, server_template(settings), parameters)


class AccountStack(cdk.Stack):
    """One organisation's account."""

    def __init__(self, scope: cdk.App, settings: Settings, account: Account, parameters: dict[str, str]) -> None:
        where = cdk.Environment(account=account.account, region=account.region)
        super().__init__(scope, stack_name(settings, account.site), env=where)
        self.template = _included(self, account_template(settings, account), parameters)


def stack_name(settings: Settings, whose: str) -> str:
    """A stack's name: the federation's, and whose it is."""
    return f"hanse-{settings.federation}-{whose}".replace("_", "-")


def _included(scope: cdk.Stack, template: object, parameters: dict[str, str]) -> CfnInclude:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(template, file)
        file.flush()
        return CfnInclude(scope, "Hanse", template_file=file.name, parameters=parameters, preserve_logical_ids=True)


def main() -> None:
    """Synthesise the stacks that `federation.yaml` and `parameters.json` ask for."""
    app = cdk.App()
    settings = read_settings(Path(app.node.try_get_context("federation") or "federation.yaml"))
    told = app.node.try_get_context("parameters")
    given: dict[str, Any] = json.loads(Path(told).read_text()) if told else {}
    ServerStack(app, settings, given.get("server", {}))
    for account in settings.accounts:
        AccountStack(app, settings, account, given.get(account.site, {}))
    app.synth()


if __name__ == "__main__":
    main()
