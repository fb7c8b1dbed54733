"""The edge's own person: certified by the authority that the same process holds, and so for as long as it runs."""

from pathlib import Path

from hanse.core.errors import PolicyError, TrustError
from hanse.core.proto import hanse_pb2 as pb
from hanse.server.members import RESEARCHER, Members
from hanse.trust.membership import Membership

LOOK_S = 3600.0
"""Between two looks at the certificate: by the hour, since a machine that was asleep has not counted the time."""


async def renew_if_due(directory: Path, members: Members, now_ms: int) -> bool:
    """Renew a person's certificate when two thirds of its time are over.

    Args:
        directory: the person's folder.

    Returns:
        Whether it was due.

    Raises:
        TrustError: it has expired, or the person was revoked. ConfigError, StorageError.
    """
    member = Membership.load(directory, now_ms=now_ms)
    if now_ms < member.identity.renew_at_ms:
        return False

    async def ask(signing_request: bytes) -> pb.JoinReply:
        return await members.renew(member.identity, pb.RenewRequest(signing_request=signing_request))

    renewed = await member.renewed(ask)
    renewed.save(directory)
    return True


def check_may_submit(member: Membership, members: Members) -> None:
    """Return if the group lets its edge's person submit now. It comes over no connection, where this is looked at.

    Raises:
        PolicyError: the person was revoked, has expired, is not enrolled, or has not got the role.
    """
    try:
        members.require(members.admit(member.certificate_pem), RESEARCHER)
    except TrustError as error:
        raise PolicyError(f"the edge's person may not submit within the group: {error}") from None
