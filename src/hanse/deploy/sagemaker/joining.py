"""How a site in a container proves who it is: by a join token that it fetches itself, or by its AWS identity.

Where there is no server, nobody could answer: it comes with the identity that its owner keeps in a secret.
"""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse.core.errors import ConfigError, MissingExtraError, TrustError
from hanse.trust.aws_identity import Proof, prove
from hanse.trust.certificates import SITE
from hanse.trust.identity import SigningRequest
from hanse.trust.joining import Enrol
from hanse.trust.tokens import JoinToken

if TYPE_CHECKING:
    from hanse.deploy.sagemaker.entry import Told

FAR_MS = 2**53 - 1
PACKED = "packed:"
"""Before the place of a site's whole identity, in `Told.join`."""


def invitation(told: "Told", enrol: Enrol, *, sign: Callable[[bytes], Proof] | None = None) -> tuple[JoinToken, Enrol]:
    """What to join with, and the way there.

    Args:
        told: the hyperparameters.
        enrol: the network.
        sign: makes the proof for a signing request; by default with the container's own role.

    Raises:
        ConfigError: the hyperparameter `join` is another one. TrustError: the secret is not a token for this site.
    """
    if told.join == "identity":
        authority = bytes.fromhex(told.authority)
        token = JoinToken(told.enrolment, told.federation, SITE, told.site, FAR_MS, authority, b"")

        async def by_identity(asked: JoinToken, request: bytes) -> Any:
            digest = SigningRequest.parse(request).digest
            proof = (sign or _signed_here)(_bound(told, digest))
            return await enrol(dataclasses.replace(asked, secret=proof.encode()), request)

        return token, by_identity
    token = JoinToken.decode(kept_text(told.join))
    if (token.federation, token.name, token.authority_sha256.hex()) != (told.federation, told.site, told.authority):
        raise TrustError(f"the join token is for {token.name} of {token.federation}, expected one for {told.site}")
    return dataclasses.replace(token, address=told.enrolment), enrol


def kept_text(place: str) -> str:
    """What is kept for this site: `secret:ARN` in Secrets Manager, `file:PATH` on this machine.

    Raises:
        ConfigError: it is neither, or is not there. PolicyError: this role may not read it.
    """
    way, _, where = place.partition(":")
    if way == "file" and where:
        return Path(where).read_text()
    if way == "secret" and where:
        return _secret(where)
    raise ConfigError(f"hanse-join: expected identity, secret:ARN or file:PATH, found {place[:60]!r}")


def _bound(told: "Told", digest: str) -> bytes:
    return f"{told.federation}/{told.authority}/{told.site}/{digest}".encode()


def _signed_here(bound: bytes) -> Proof:
    try:
        import boto3
    except ImportError:
        raise MissingExtraError("boto3", "aws") from None
    session = boto3.Session()
    credentials = session.get_credentials()
    if credentials is None:
        raise TrustError("joining by AWS identity: this container has no credentials; give the job an execution role")
    frozen = credentials.get_frozen_credentials()
    region = session.region_name or os.environ.get("AWS_REGION", "us-east-1")
    return prove(frozen.access_key, frozen.secret_key, frozen.token or "", region=region, bound=bound)


def _secret(arn: str) -> str:
    try:
        import boto3
    except ImportError:
        raise MissingExtraError("boto3", "aws") from None
    region = arn.split(":")[3] if arn.count(":") >= 6 else None
    found: str = boto3.client("secretsmanager", region_name=region).get_secret_value(SecretId=arn)["SecretString"]
    return found
