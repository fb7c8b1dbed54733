"""How a member joins with a token: keys made here, a request out, what comes back checked and saved.

The network is passed in (`hanse.backends.grpc.enrol.enrol`), so that this can be tested without one. Sites and people
join the same way.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from hanse.core.errors import CodecError, ConfigError, ConflictError, TrustError
from hanse.trust.certificates import Identity
from hanse.trust.identity import MemberKeys, SigningRequest
from hanse.trust.membership import Membership, member_keys
from hanse.trust.private_files import read_file, write_file
from hanse.trust.tokens import JoinToken

_REQUEST_FILE = "signing-request.json"


class JoinAnswer(Protocol):
    """What the server answers; `core.proto`'s `JoinReply` is one."""

    certificate: str
    member_record: bytes
    address: str


Enrol = Callable[[JoinToken, bytes], Awaitable[tuple[bytes, JoinAnswer]]]
"""Sends a signing request; gives the authority's certificate (PEM), found by the token's hash, and the answer."""


async def join(directory: Path, token_text: str, *, kind: str, enrol: Enrol) -> Membership:
    """Join the federation that made the token. Doing it again after a lost answer leads to the same membership.

    **Guarantee.** What is saved is from the authority that the token names, for this member and for keys made here.
    **Reveals.** To the server: the token's secret, public keys, the name.

    Args:
        directory: the member's own; made if need be.
        token_text: as the operator gave it.
        kind: `site` or `person`: what the caller expects to become.
        enrol: the network.

    Raises:
        ConfigError: no token, or one for something else. ConflictError: another member lives in `directory`.
        TrustError: the token does not hold, or somebody else answers. UnavailableError: nobody answers.
    """
    return await join_with(directory, JoinToken.decode(token_text), kind=kind, enrol=enrol)


async def join_with(directory: Path, token: JoinToken, *, kind: str, enrol: Enrol) -> Membership:
    """As `join`, with an invitation that was not handed over as a text.

    Raises:
        ConfigError, ConflictError, TrustError, UnavailableError: as `join`.
    """
    if token.kind != kind:
        raise ConfigError(
            f"join token: expected one for a {kind}, found one for a {token.kind}; use `hanse {token.kind}`"
        )
    if (directory / "membership.json").exists():
        return _already(directory, token)
    if not (directory / _REQUEST_FILE).exists():
        token.check_time()  # a clear word early; the server decides
    keys = member_keys(directory)
    request = _request(directory, keys, token)
    authority, answer = await enrol(token, request.content)
    token.check_authority(authority)
    membership = Membership.check(
        keys,
        certificate_pem=answer.certificate.encode(),
        authority_pem=authority,
        signed_record=answer.member_record,
        address=answer.address or token.address,
    )
    if _names(membership.identity) != (token.federation, token.kind, token.name):
        raise TrustError(f"expected a certificate for {token.kind} {token.name}, found one for {membership.identity}")
    membership.save(directory)
    (directory / _REQUEST_FILE).unlink(missing_ok=True)
    return membership


def _already(directory: Path, token: JoinToken) -> Membership:
    membership = Membership.load(directory)
    if _names(membership.identity) != (token.federation, token.kind, token.name):
        raise ConflictError(
            f"{directory} belongs to {membership.identity}; expected an empty place for {token.kind} {token.name}"
        )
    return membership


def _request(directory: Path, keys: MemberKeys, token: JoinToken) -> SigningRequest:
    """The request of an earlier attempt, if there is one: a token is used up for one request only."""
    path = directory / _REQUEST_FILE
    if path.exists():
        try:
            request = SigningRequest.parse(read_file(path))
        except (CodecError, TrustError):
            raise ConfigError(f"{path}: expected the request of an earlier attempt to join; remove the file") from None
        same_keys = (request.signing_key, request.sealing_key) == (keys.signing_public, keys.sealing_public)
        if same_keys and (request.federation, request.kind, request.name) == (token.federation, token.kind, token.name):
            return request
    request = SigningRequest.request(keys, federation=token.federation, kind=token.kind, name=token.name)
    write_file(path, request.content)
    return request


def _names(identity: Identity) -> tuple[str, str, str]:
    return identity.federation, identity.kind, identity.name
