"""A CDK app around the templates: `cdk deploy` for those who run everything else with it.

    pip install 'hanse[aws]' aws-cdk-lib
    npx aws-cdk@^2.1147 deploy --app "python app.py" -c federation=../../north/federation.yaml -c code=out/hanse-….zip

Nothing is decided here: `hanse.deploy.aws` makes the templates, and this app takes them in as they are. The zip comes
from `hanse deploy aws package`, and is uploaded by CDK as an asset.
"""

import json
import tempfile
from pathlib import Path

import aws_cdk as cdk
from aws_cdk import aws_s3_assets as assets
from aws_cdk.cloudformation_include import CfnInclude

from hanse.deploy.aws.settings import Deployment, SitePlan, load
from hanse.deploy.aws.stacks import server_stack, site_stack


class ServerStack(cdk.Stack):
    """The federation's own account. Further resources of yours may refer to what `template` holds."""

    def __init__(self, scope: cdk.App, deployment: Deployment, code: Path) -> None:
        super().__init__(
            scope,
            deployment.stack,
            env=cdk.Environment(region=deployment.region),
            synthesizer=cdk.DefaultStackSynthesizer(generate_bootstrap_version_rule=False),
        )
        zipped = assets.Asset(self, "Package", path=str(code))
        given = {"CodeBucket": zipped.s3_bucket_name, "CodeKey": zipped.s3_object_key}
        self.template = _included(self, server_stack(deployment), given)


class SiteStack(cdk.Stack):
    """A site's own account."""

    def __init__(self, scope: cdk.App, deployment: Deployment, site: SitePlan) -> None:
        super().__init__(scope, f"{deployment.stack}-site-{site.name}", env=cdk.Environment(region=deployment.region))
        self.template = _included(self, site_stack(deployment, site), {})


def _included(scope: cdk.Stack, template: object, given: dict[str, str]) -> CfnInclude:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(template, file)
        file.flush()
        return CfnInclude(scope, "Hanse", template_file=file.name, parameters=given, preserve_logical_ids=True)


def main() -> None:
    """Synthesise the stacks that `federation.yaml` asks for."""
    app = cdk.App()
    deployment = load(Path(app.node.try_get_context("federation") or "federation.yaml"))
    code = app.node.try_get_context("code")
    if code:
        ServerStack(app, deployment, Path(code))
    for site in deployment.sites:
        if site.access == "role":
            SiteStack(app, deployment, site)
    app.synth()


if __name__ == "__main__":
    main()
