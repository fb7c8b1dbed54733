"""From a folder to a federation on AWS, and back to nothing.

FOLDER/federation.yaml   what is wanted, see `settings`
FOLDER/authority/        the certificate authority; its key never leaves this folder
FOLDER/server/           the server's keys: a copy goes into the secret that the functions read
FOLDER/admin/            the first person: keys, and the `federation.yaml` that `hanse run` is given
"""

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509

from hanse.backends.aws.table import TableLedger
from hanse.core.errors import ConfigError, HanseError, NotFoundError, TrustError
from hanse.deploy.aws import cloudformation
from hanse.deploy.aws.account import Account, calling
from hanse.deploy.aws.cloudformation import Change, StackView, Tell
from hanse.deploy.aws.identity import AUTHORITY, REVOKED, external_id, role
from hanse.deploy.aws.package import Package
from hanse.deploy.aws.settings import Deployment
from hanse.deploy.aws.stacks import code_stack, server_stack
from hanse.deploy.aws.storage import BUCKET, LOG_BUCKET
from hanse.person.by_hand import write_aws_file
from hanse.server.init import SERVER_DAYS, certify, server_membership
from hanse.server.members import RESEARCHER, ROLES, Members
from hanse.serverless.keys import least_of, pack
from hanse.trust.authority import Authority, Issued
from hanse.trust.certificates import current_ms
from hanse.trust.identity import SigningRequest
from hanse.trust.member_record import issued_at_ms
from hanse.trust.membership import Membership

HOSTS = ("serverless.invalid",)
"""Names in the server's certificate, which needs one: nobody dials it."""
MEMBER_DAYS = 90.0
"""Without a server nobody renews a certificate: a member asks its operator again before this is over."""
_DELETED_AT_ONCE = 1000
_TRIALS = 3
_PARAMETER_BYTES = 4096
"""CloudFormation's limit."""


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
    server = _server(folder, authority)
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
        least = _least(account, view.outputs["SecretArn"])
        known[REVOKED] = _revoked(account, deployment, view.outputs["TableName"], authority, before, least=least)
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
    server, account_id = _server(folder, authority), account.id()
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
    least = _least(account, view.outputs["SecretArn"])
    least = _write_people(account, deployment, folder, authority, deployed, least)
    _write_secret(account, view.outputs["SecretArn"], pack(server, least), tell)
    return deployed


def admit(
    account: Account, deployment: Deployment, folder: Path, request: bytes, *, days: float = MEMBER_DAYS
) -> tuple[str, dict[str, Any]]:
    """Let a member in whose signing request has come: certified here, enrolled in the ledger. Again if revoked.

    With new keys, all its certificates of before are revoked in the same step.

    Returns:
        The member's name, and what it is to be given back; nothing in it is secret.

    Raises:
        TrustError: a request that does not hold. ConfigError: a site that `federation.yaml` does not name.
    """
    asked = SigningRequest.parse(request)
    if asked.kind == "site":
        deployment.site(asked.name)
    elif asked.kind != "person":
        raise ConfigError(f"request: expected a site's or a person's, found one of a {asked.kind}")
    view = cloudformation.look_at(account, deployment.stack)
    if view is None:
        raise NotFoundError(f"{deployment.stack}: not deployed yet; run: hanse deploy aws deploy")
    authority = Authority.load(folder / "authority")
    least = _least(account, view.outputs["SecretArn"])
    issued = authority.issue(asked, kind=asked.kind, name=asked.name, days=days)
    members = [(issued, _roles(asked.kind))]
    table = view.outputs["TableName"]
    (issued,), least = _enrol(account, deployment, table, authority, members, admit=True, least=least)
    _write_secret(account, view.outputs["SecretArn"], pack(_server(folder, authority), least))
    reach = {"region": deployment.region} | _endpoint(account)
    if asked.kind == "person":
        reach["bucket"] = view.outputs["BucketName"]
    elif deployment.site(asked.name).access == "role" and not account.is_emulated:
        reach["role"] = view.outputs[f"{role(asked.name)}Arn"]
        reach["external_id"] = view.parameters[external_id(asked.name)]
    return asked.name, {
        "v": 1,
        "certificate": issued.certificate_pem.decode(),
        "authority": authority.certificate_pem.decode(),
        "record": issued.record.decode(),
        "server_record": _server(folder, authority).signed_record.decode(),
        "aws": reach,
    }


def revoke(account: Account, deployment: Deployment, folder: Path, kind: str, name: str) -> None:
    """Let a member in no more; functions that are warm know it within a minute.

    Raises:
        NotFoundError: no such member. ConfigError: it is the last admin.
    """
    view = cloudformation.look_at(account, deployment.stack)
    if view is None:
        raise NotFoundError(f"{deployment.stack}: not deployed yet; run: hanse deploy aws deploy")
    authority = Authority.load(folder / "authority")
    table, least = view.outputs["TableName"], _least(account, view.outputs["SecretArn"])

    async def write() -> int:
        book = await _book(account, deployment, table, authority, least)
        await book.revoke(kind, name)
        return book.revocations.version

    least = asyncio.run(write())
    _write_secret(account, view.outputs["SecretArn"], pack(_server(folder, authority), least))


def members(account: Account, deployment: Deployment, folder: Path) -> list[dict[str, Any]]:
    """Every site that `federation.yaml` names or the ledger knows, and every person.

    Returns:
        Of each `kind`, `name`, `roles`, `until_ms` (its certificate's end; 0 where there is none) and `state`:
        `enrolled`, `expired`, `revoked`, `not admitted` (named, and nothing valid on record), or `not in
        federation.yaml`.

    Raises:
        TrustError: see `_book`. NotFoundError: nothing is deployed.
    """
    view = cloudformation.look_at(account, deployment.stack)
    if view is None:
        raise NotFoundError(f"{deployment.stack}: not deployed yet; run: hanse deploy aws deploy")
    authority = Authority.load(folder / "authority")
    table, least = view.outputs["TableName"], _least(account, view.outputs["SecretArn"])
    book = asyncio.run(_book(account, deployment, table, authority, least))
    return _listed(book, [site.name for site in deployment.sites], current_ms())


def _listed(book: Members, named: Sequence[str], now_ms: int) -> list[dict[str, Any]]:
    found = []
    for kind in ("site", "person"):
        known = {member.name: member for member in book.of_kind(kind)}
        for name in sorted(known.keys() | (set(named) if kind == "site" else set())):
            member = known.get(name)
            if f"{kind}/{name}" in book.revocations.names or (member is not None and member.revoked):
                state = "revoked"
            elif member is None:
                state = "not admitted"
            elif now_ms >= member.not_after_ms:
                state = "expired"
            elif kind == "site" and name not in named:
                state = "not in federation.yaml"
            else:
                state = "enrolled"
            roles, until_ms = ([], 0) if member is None else (list(member.roles), member.not_after_ms)
            found.append({"kind": kind, "name": name, "roles": roles, "until_ms": until_ms, "state": state})
    return found


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


def _server(folder: Path, authority: Authority) -> Membership:
    return server_membership(folder, authority, address="", hosts=HOSTS)


def _endpoint(account: Account) -> dict[str, str]:
    return {"endpoint": account.endpoint} if account.endpoint else {}


def _roles(kind: str) -> list[str]:
    return [RESEARCHER] if kind == "person" else []


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


def _write_secret(account: Account, secret: str, text: str, tell: Tell = lambda _: None) -> None:
    client = account.client("secretsmanager")
    with calling("writing the server's keys into their secret"):
        try:
            if client.get_secret_value(SecretId=secret).get("SecretString") == text:
                return
        except client.exceptions.ResourceNotFoundException:
            pass  # it is there and empty
        client.put_secret_value(SecretId=secret, SecretString=text)
    tell("the server's keys are in their secret")


def _least(account: Account, secret: str) -> int:
    """The version of the revocation list that was written beside the server's keys last; 0 for none."""
    client = account.client("secretsmanager")
    with calling("reading the version of the revocation list from the secret of the server's keys"):
        try:
            text = client.get_secret_value(SecretId=secret).get("SecretString", "")
        except client.exceptions.ResourceNotFoundException:
            return 0  # it is there and empty
    return least_of(text)


def _delete_secret(account: Account, name: str) -> None:
    """At once, and not in thirty days, so that a federation of this name can be made again."""
    client = account.client("secretsmanager")
    with calling("deleting the server's keys"), contextlib.suppress(client.exceptions.ResourceNotFoundException):
        client.delete_secret(SecretId=name, ForceDeleteWithoutRecovery=True)


def _write_people(
    account: Account, deployment: Deployment, folder: Path, authority: Authority, to: Deployed, least: int
) -> int:
    """Enrol the people whose folders lie here, and write their `federation.yaml`; as `_enrol`."""
    enrolled: list[tuple[Issued, Sequence[str]]] = []
    for path in sorted(folder.glob("*/membership.json")):
        person = Membership.load(path.parent)
        if person.identity.kind != "person":
            continue
        issued = Issued(person.identity, person.certificate_pem, person.signed_record)
        # A folder of an earlier version says nothing of roles; who has it beside the authority's key is an admin.
        enrolled.append((issued, ROLES if person.record.roles is None else person.record.roles))
        reach = {"region": deployment.region, "bucket": to.bucket}
        write_aws_file(path.parent, deployment.federation, reach | _endpoint(account))
    return _enrol(account, deployment, to.table, authority, enrolled, least=least)[1]


def _enrol(
    account: Account,
    deployment: Deployment,
    table: str,
    authority: Authority,
    members: Sequence[tuple[Issued, Sequence[str]]],
    *,
    admit: bool = False,
    least: int = 0,
) -> tuple[list[Issued], int]:
    """Write members down, with the roles given, or those that they have: a new certificate changes nobody's role.

    Roles that nobody signed, as an earlier version wrote them, are none that a person has.

    Args:
        admit: the operator lets them in now, whether or not they were revoked; see `Members.readmit`.
        least: see `_book`.

    Returns:
        The members, with their roles signed, and the version of the revocation list.

    Raises:
        TrustError: see `_book`.
    """

    async def write() -> tuple[list[Issued], int]:
        book = await _book(account, deployment, table, authority, least)
        enrolled: list[Issued] = []
        for issued, roles in members:
            kind, name = issued.identity.kind, issued.identity.name
            before = next((m for m in book.of_kind(kind) if m.name == name), None)
            had = None if before is None or before.revoked else book.record(kind, name)[0].roles
            if admit:
                await book.readmit(issued)
            elif before is not None and had is not None and before.enrolled_at_ms >= issued_at_ms(issued.record):
                enrolled.append(issued)  # what lies there is as new: the folder's, or of an admission since
                continue
            enrolled.append(await book.enrol(issued, roles if had is None else had, others_write=True))
        return enrolled, book.revocations.version

    return asyncio.run(write())


async def _book(account: Account, deployment: Deployment, table: str, authority: Authority, least: int) -> Members:
    """Who belongs to the federation.

    Args:
        least: the newest version of the revocation list that is known. On top of an older one nothing is written: it
            would count as the newest, and who was revoked since would be back.

    Raises:
        TrustError: somebody has put back an older list, or removed it.
    """
    ledger = TableLedger(account.client("dynamodb"), table, deployment.federation)
    book = Members(authority, ledger, address="")
    try:
        await book.load(least_revocations=least, others_write=True)
    except TrustError as error:
        raise TrustError(
            f"table {table}: {error}; restore the table to a time before, or empty the secret of the server's keys, "
            "deploy, and revoke again who had been revoked"
        ) from None
    return book


def _revoked(
    account: Account, deployment: Deployment, table: str, authority: Authority, before: str, *, least: int = 0
) -> str:
    """The certificates, still in time, of sites that come with them, that were revoked: a list for AWS; "" for none.

    Args:
        before: the list that AWS has, which is kept while it names the same: a signature is another one each time.
        least: see `_book`.

    Raises:
        ConfigError: more than a parameter of CloudFormation holds. TrustError: see `_book`.
    """

    async def read() -> frozenset[str]:
        return (await _book(account, deployment, table, authority, least)).revocations.serials

    bearers = {site.name for site in deployment.sites if site.access == "certificate"}
    revoked, now = asyncio.run(read()), current_ms()
    serials = sorted(
        issued.serial
        for issued in authority.issued()
        if issued.kind == "site" and issued.name in bearers and issued.serial in revoked and issued.not_after_ms > now
    )
    if not serials:
        return ""
    if before and {f"{each.serial_number:x}" for each in x509.load_pem_x509_crl(before.encode())} == set(serials):
        return before
    text = authority.revoked_certificates(serials).decode()
    if len(text) > _PARAMETER_BYTES:
        raise ConfigError(
            f"revoked: {len(serials)} certificates of sites are more than AWS takes; wait for some to expire"
        )
    return text


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
