"""From a folder to a federation on AWS, and back to nothing.

FOLDER/federation.yaml   what is wanted, see `settings`
FOLDER/authority/        the certificate authority; its key never leaves this folder
FOLDER/server/           the server's keys: a copy goes into the secret that the functions read
FOLDER/admin/            the first person: keys, and the `federation.yaml` that `hanse run` is given
"""

import contextlib
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanse.core.errors import ConfigError, HanseError, NotFoundError
from hanse.deploy.aws import cloudformation
from hanse.deploy.aws.account import Account, calling
from hanse.deploy.aws.cloudformation import Change, StackView, Tell
from hanse.deploy.aws.enrolling import (
    HOSTS,
    MEMBER_DAYS,
    least_known,
    revoked_certificates,
    server_of,
    write_people,
    write_secret,
)
from hanse.deploy.aws.identity import AUTHORITY, REVOKED
from hanse.deploy.aws.package import Package
from hanse.deploy.aws.settings import Deployment
from hanse.deploy.aws.stacks import code_stack, server_stack
from hanse.deploy.aws.storage import BUCKET, LOG_BUCKET
from hanse.server.init import SERVER_DAYS, certify
from hanse.server.members import ROLES
from hanse.serverless.keys import pack
from hanse.trust.authority import Authority
from hanse.trust.membership import Membership

_DELETED_AT_ONCE = 1000
_TRIALS = 3


@dataclass(frozen=True, slots=True)
class Deployed:
    """A federation that is there."""

    account: str
    region: str
    bucket: str
    table: str
    outputs: Mapping[str, str]
    changes: Sequence[Change]


def init(path: Path, deployment: Deployment, text: str, *, person: str = "admin") -> Path:
    """Make a federation's folder: authority, the server's keys, the first person, and `federation.yaml`.

    Raises:
        ConfigError: there is one already.
    """
    folder = path.parent
    if path.exists() or (folder / "authority").exists():
        raise ConfigError(f"{folder}: there is a federation already; edit {path.name} and run: hanse deploy aws deploy")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    authority = Authority.create(deployment.federation).save(folder / "authority")
    for kind, name in (("server", "server"), ("person", person)):
        (folder / name).mkdir(mode=0o700)
        hosts = HOSTS if kind == "server" else ()
        days = SERVER_DAYS if kind == "server" else MEMBER_DAYS
        roles = ROLES if kind == "person" else None
        membership, _ = certify(authority, deployment.federation, "", kind, name, hosts=hosts, days=days, roles=roles)
        membership.save(folder / name)
    path.write_text(text)
    return folder / person


def planned(account: Account, deployment: Deployment) -> list[Change]:
    """What `deploy` would change in the server stack, apart from code.

    Raises:
        NotFoundError: nothing is deployed.
    """
    view = cloudformation.look_at(account, deployment.stack)
    if view is None:
        raise NotFoundError(f"{deployment.stack}: not deployed yet; run: hanse deploy aws deploy")
    template = server_stack(deployment)
    parameters = _parameters(template, view, {})
    bucket = _code_bucket(account, deployment)
    name, found = cloudformation.changes(
        account, deployment.stack, template, parameters, upload=lambda text: _upload_template(account, bucket, text)
    )
    if name:
        cloudformation.forget(account, deployment.stack, name)
    return found


def deploy(account: Account, deployment: Deployment, folder: Path, package: Package, tell: Tell) -> Deployed:
    """Make or change everything, and write down how members reach it.

    Raises:
        HanseError: what AWS says, in one line. What was there before is there still: a stack that fails rolls back.
    """
    authority = Authority.load(folder / "authority")
    server = server_of(folder, authority)
    account_id = account.id()
    bucket = _code_bucket(account, deployment, tell, make=True)
    _upload(account, bucket, package.key, package.content, tell)
    template = server_stack(deployment)
    view = cloudformation.look_at(account, deployment.stack)
    if view is not None and view.status == "ROLLBACK_COMPLETE":
        # The first attempt failed: such a stack is empty, and can only be deleted.
        cloudformation.delete(account, deployment.stack, tell)
        view = None
    known = {"CodeBucket": bucket, "CodeKey": package.key, AUTHORITY: authority.certificate_pem.decode()}
    if view is not None and REVOKED in template["Parameters"]:
        before = view.parameters.get(REVOKED, "")
        least = least_known(account, view.outputs["SecretArn"])
        known[REVOKED] = revoked_certificates(
            account, deployment, view.outputs["TableName"], authority, before, least=least
        )
    parameters = _parameters(template, view, known)
    name, found = cloudformation.changes(
        account, deployment.stack, template, parameters, upload=lambda text: _upload_template(account, bucket, text)
    )
    if name:
        view = cloudformation.execute(account, deployment.stack, name, tell)
    else:
        tell(f"{deployment.stack}: nothing to change")
    assert view is not None
    view = cloudformation.look_at(account, deployment.stack) or view
    return _hand_over(account, deployment, folder, authority, server, account_id, view, found, tell)


def hand_over(account: Account, deployment: Deployment, folder: Path, tell: Tell) -> Deployed:
    """What `deploy` does besides the stack, for one that something else made from our template.

    Raises:
        NotFoundError: there is no such stack.
    """
    authority = Authority.load(folder / "authority")
    server, account_id = server_of(folder, authority), account.id()
    view = cloudformation.look_at(account, deployment.stack)
    if view is None:
        raise NotFoundError(
            f"{deployment.stack}: expected a stack of this name, made from server.template.json, found none"
        )
    return _hand_over(account, deployment, folder, authority, server, account_id, view, [], tell)


def _hand_over(
    account: Account,
    deployment: Deployment,
    folder: Path,
    authority: Authority,
    server: Membership,
    account_id: str,
    view: StackView,
    changes: Sequence[Change],
    tell: Tell,
) -> Deployed:
    """Enrol the people whose folders lie here, and write the server's keys into their secret."""
    deployed = Deployed(
        account_id, deployment.region, view.outputs["BucketName"], view.outputs["TableName"], view.outputs, changes
    )
    least = least_known(account, view.outputs["SecretArn"])
    least = write_people(account, deployment, folder, authority, deployed.bucket, deployed.table, least)
    write_secret(account, view.outputs["SecretArn"], pack(server, least), tell)
    return deployed


def destroy(account: Account, deployment: Deployment, tell: Tell) -> list[str]:
    """Remove everything, models too.

    Returns:
        What AWS keeps for a while by its own rules, in words.
    """
    view = cloudformation.look_at(account, deployment.stack)
    stays: list[str] = []
    if view is not None:
        _delete_secret(account, f"hanse/{deployment.federation}/server")
        for trial in range(_TRIALS):
            for name in (BUCKET, LOG_BUCKET):
                _empty(account, _physical(account, deployment.stack, name), tell)
            try:
                cloudformation.delete(account, deployment.stack, tell)
                break
            except HanseError as error:
                if trial == _TRIALS - 1 or "not empty" not in str(error):
                    raise  # otherwise AWS has delivered access logs meanwhile
        if key := view.outputs.get("KeyArn"):
            stays.append(f"the key {key.rpartition('/')[2]}, which AWS deletes in seven days")
        if not account.is_emulated:
            stays.append("the table's last backup, which AWS keeps for 35 days")
    with contextlib.suppress(NotFoundError):
        _empty(account, _code_bucket(account, deployment), tell)
        cloudformation.delete(account, f"{deployment.stack}-code", tell)
    return stays


# ---- parts ----


def _code_bucket(account: Account, deployment: Deployment, tell: Tell = lambda _: None, *, make: bool = False) -> str:
    stack = f"{deployment.stack}-code"
    view = cloudformation.look_at(account, stack)
    if view is None and not make:
        raise NotFoundError(f"{stack}: not deployed yet; run: hanse deploy aws deploy")
    if make:
        name, _ = cloudformation.changes(account, stack, code_stack(deployment), {})
        if name:
            view = cloudformation.execute(account, stack, name, tell)
    assert view is not None
    return view.outputs["Bucket"]


def _parameters(template: Mapping[str, Any], view: StackView | None, known: Mapping[str, str]) -> dict[str, str]:
    """Known ones; then those that the stack has; external ids of new sites are drawn."""
    before = {} if view is None else view.parameters
    values: dict[str, str] = {}
    for key in template["Parameters"]:
        drawn = secrets.token_hex(16) if key.startswith("ExternalId") else ""
        values[key] = known.get(key) or before.get(key) or drawn
    return values


def _upload(account: Account, bucket: str, key: str, content: bytes, tell: Tell) -> None:
    import botocore.exceptions

    client = account.client("s3")
    with calling(f"looking into s3 bucket {bucket}"):
        try:
            client.head_object(Bucket=bucket, Key=key)
            return
        except botocore.exceptions.ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                raise
    tell(f"uploading {len(content) / 2**20:.1f} MiB")
    with calling(f"uploading to s3 bucket {bucket}"):
        client.put_object(Bucket=bucket, Key=key, Body=content, ContentType="application/zip")


def _upload_template(account: Account, bucket: str, text: str) -> str:
    key = f"templates/{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
    with calling(f"uploading to s3 bucket {bucket}"):
        account.client("s3").put_object(Bucket=bucket, Key=key, Body=text.encode(), ContentType="application/json")
    if account.endpoint:
        return f"{account.endpoint.rstrip('/')}/{bucket}/{key}"
    suffix = ".cn" if account.region.startswith("cn-") else ""
    return f"https://{bucket}.s3.{account.region}.amazonaws.com{suffix}/{key}"


def _delete_secret(account: Account, name: str) -> None:
    """At once, and not in thirty days, so that a federation of this name can be made again."""
    client = account.client("secretsmanager")
    with calling("deleting the server's keys"), contextlib.suppress(client.exceptions.ResourceNotFoundException):
        client.delete_secret(SecretId=name, ForceDeleteWithoutRecovery=True)


def _physical(account: Account, stack: str, name: str) -> str:
    with calling(f"looking at stack {stack}"):
        found = account.client("cloudformation").describe_stack_resource(StackName=stack, LogicalResourceId=name)
    return str(found["StackResourceDetail"]["PhysicalResourceId"])


def _empty(account: Account, bucket: str, tell: Tell) -> None:
    """Remove every version of every object."""
    client = account.client("s3")
    count = 0
    with calling(f"emptying s3 bucket {bucket}"):
        for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket):
            found = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
            keys = [{"Key": item["Key"], "VersionId": item["VersionId"]} for item in found]
            for start in range(0, len(keys), _DELETED_AT_ONCE):
                client.delete_objects(
                    Bucket=bucket, Delete={"Objects": keys[start : start + _DELETED_AT_ONCE], "Quiet": True}
                )
            count += len(keys)
    if count:
        tell(f"{bucket}: {count} objects removed")
