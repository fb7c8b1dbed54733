"""Who belongs to a federation on AWS: admitted, revoked and listed by its operator, who alone has the authority's key.

What is decided here is written into the ledger's table, and which list of the revoked is the newest into the secret of
the server's keys, where no function can write.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography import x509

from hanse.backends.aws.table import TableLedger
from hanse.core.errors import ConfigError, NotFoundError, TrustError
from hanse.deploy.aws import cloudformation
from hanse.deploy.aws.account import Account, calling
from hanse.deploy.aws.cloudformation import Tell
from hanse.deploy.aws.identity import external_id, role
from hanse.deploy.aws.settings import Deployment
from hanse.person.by_hand import write_aws_file
from hanse.server.init import server_membership
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
_PARAMETER_BYTES = 4096
"""CloudFormation's limit."""


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
    least = least_known(account, view.outputs["SecretArn"])
    issued = authority.issue(asked, kind=asked.kind, name=asked.name, days=days)
    members = [(issued, _roles(asked.kind))]
    table = view.outputs["TableName"]
    (issued,), least = enrol(account, deployment, table, authority, members, admit=True, least=least)
    write_secret(account, view.outputs["SecretArn"], pack(server_of(folder, authority), least))
    reach = {"region": deployment.region} | endpoint_of(account)
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
        "server_record": server_of(folder, authority).signed_record.decode(),
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
    table, least = view.outputs["TableName"], least_known(account, view.outputs["SecretArn"])

    async def write() -> int:
        book = await book_of(account, deployment, table, authority, least)
        await book.revoke(kind, name)
        return book.revocations.version

    least = asyncio.run(write())
    write_secret(account, view.outputs["SecretArn"], pack(server_of(folder, authority), least))


def members(account: Account, deployment: Deployment, folder: Path) -> list[dict[str, Any]]:
    """Every site that `federation.yaml` names or the ledger knows, and every person.

    Returns:
        Of each `kind`, `name`, `roles`, `until_ms` (its certificate's end; 0 where there is none) and `state`:
        `enrolled`, `expired`, `revoked`, `not admitted` (named, and nothing valid on record), or `not in
        federation.yaml`.

    Raises:
        TrustError: see `book_of`. NotFoundError: nothing is deployed.
    """
    view = cloudformation.look_at(account, deployment.stack)
    if view is None:
        raise NotFoundError(f"{deployment.stack}: not deployed yet; run: hanse deploy aws deploy")
    authority = Authority.load(folder / "authority")
    table, least = view.outputs["TableName"], least_known(account, view.outputs["SecretArn"])
    book = asyncio.run(book_of(account, deployment, table, authority, least))
    return listed(book, [site.name for site in deployment.sites], current_ms())


def listed(book: Members, named: Sequence[str], now_ms: int) -> list[dict[str, Any]]:
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


# ---- parts ----


def server_of(folder: Path, authority: Authority) -> Membership:
    """The server's membership, renewed when its time has come."""
    return server_membership(folder, authority, address="", hosts=HOSTS)


def endpoint_of(account: Account) -> dict[str, str]:
    """What members are told of an emulator's address; nothing for AWS."""
    return {"endpoint": account.endpoint} if account.endpoint else {}


def _roles(kind: str) -> list[str]:
    return [RESEARCHER] if kind == "person" else []


def write_secret(account: Account, secret: str, text: str, tell: Tell = lambda _: None) -> None:
    """Put the server's keys into their secret, unless that is what it holds."""
    client = account.client("secretsmanager")
    with calling("writing the server's keys into their secret"):
        try:
            if client.get_secret_value(SecretId=secret).get("SecretString") == text:
                return
        except client.exceptions.ResourceNotFoundException:
            pass  # it is there and empty
        client.put_secret_value(SecretId=secret, SecretString=text)
    tell("the server's keys are in their secret")


def least_known(account: Account, secret: str) -> int:
    """The version of the revocation list that was written beside the server's keys last; 0 for none."""
    client = account.client("secretsmanager")
    with calling("reading the version of the revocation list from the secret of the server's keys"):
        try:
            text = client.get_secret_value(SecretId=secret).get("SecretString", "")
        except client.exceptions.ResourceNotFoundException:
            return 0  # it is there and empty
    return least_of(text)


def write_people(
    account: Account, deployment: Deployment, folder: Path, authority: Authority, bucket: str, table: str, least: int
) -> int:
    """Enrol the people whose folders lie here, and write their `federation.yaml`; as `enrol`."""
    enrolled: list[tuple[Issued, Sequence[str]]] = []
    for path in sorted(folder.glob("*/membership.json")):
        person = Membership.load(path.parent)
        if person.identity.kind != "person":
            continue
        issued = Issued(person.identity, person.certificate_pem, person.signed_record)
        # A folder of an earlier version says nothing of roles; who has it beside the authority's key is an admin.
        enrolled.append((issued, ROLES if person.record.roles is None else person.record.roles))
        reach = {"region": deployment.region, "bucket": bucket}
        write_aws_file(path.parent, deployment.federation, reach | endpoint_of(account))
    return enrol(account, deployment, table, authority, enrolled, least=least)[1]


def enrol(
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
        least: see `book_of`.

    Returns:
        The members, with their roles signed, and the version of the revocation list.

    Raises:
        TrustError: see `book_of`.
    """

    async def write() -> tuple[list[Issued], int]:
        book = await book_of(account, deployment, table, authority, least)
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


async def book_of(account: Account, deployment: Deployment, table: str, authority: Authority, least: int) -> Members:
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


def revoked_certificates(
    account: Account, deployment: Deployment, table: str, authority: Authority, before: str, *, least: int = 0
) -> str:
    """The certificates, still in time, of sites that come with them, that were revoked: a list for AWS; "" for none.

    Args:
        before: the list that AWS has, which is kept while it names the same: a signature is another one each time.
        least: see `book_of`.

    Raises:
        ConfigError: more than a parameter of CloudFormation holds. TrustError: see `book_of`.
    """

    async def read() -> frozenset[str]:
        return (await book_of(account, deployment, table, authority, least)).revocations.serials

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
