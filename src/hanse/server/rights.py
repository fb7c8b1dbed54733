"""Who may do what: roles, whose job it is, and what may be written and read over a transfer."""

from hanse.backends.grpc.service import Caller
from hanse.backends.memory import Grants
from hanse.core.errors import PolicyError, TooLargeError, TrustError
from hanse.core.ids import bundle_scope, check_job_owner, check_name, model_scope
from hanse.core.proto import hanse_pb2 as pb
from hanse.server.config import EVERYONE
from hanse.server.jobs import Jobs
from hanse.server.members import ADMIN, RESEARCHER, Members
from hanse.trust.bundle import DEFAULT_LIMITS
from hanse.trust.certificates import Identity


class Rights:
    """Asked before anything is done for a member; a no is a `PolicyError` or a `TrustError`.

    Args:
        links: where a person's transfer is granted.
        results: `owner` or `everyone`: whose results people may read.
    """

    def __init__(self, members: Members, jobs: Jobs, links: Grants, results: str) -> None:
        self._members = members
        self._jobs = jobs
        self._links = links
        self.results = results

    def require(self, caller: Caller, role: str) -> None:
        """A member with that role."""
        self._members.require(identity_of(caller), role)

    async def require_own(self, caller: Caller, job: str, what: str) -> None:
        """Who has submitted a job, admins, and everyone where the federation shares results."""
        owner = await self._jobs.owner(job)
        if owner == caller.name or self.results == EVERYONE:
            return
        try:
            self.require(caller, ADMIN)
        except PolicyError:
            raise PolicyError(f"job {job}: only {owner} and admins may {what}") from None

    async def require_end(self, caller: Caller, job: str) -> None:
        """To cancel or remove a job: who has submitted it, and admins."""
        if await self._jobs.owner(job) != caller.name:
            self.require(caller, ADMIN)

    async def may_upload(self, caller: Caller, offer: pb.UploadOffer) -> str:
        """Sites write where a task allows; people write what a new job needs."""
        if caller.kind == "site":
            return caller.name
        self.require(caller, RESEARCHER)
        job, _, _ = offer.scope.partition("/")
        check_job_owner(check_name(job, "job"), caller.name)
        allowed = {bundle_scope(job), model_scope(job, "main", 0)}
        if offer.scope not in allowed or await self._jobs.is_known(job):
            raise PolicyError("upload: people may send a new job's bundle and initial model, nothing else")
        if offer.scope == bundle_scope(job) and offer.manifest.size > DEFAULT_LIMITS.total_bytes * 2:
            raise TooLargeError(f"bundle: expected at most {DEFAULT_LIMITS.total_bytes} bytes")
        who = f"person/{caller.name}"
        self._links.grant(who, write=[offer.scope])
        return who

    async def may_download(self, caller: Caller, request: pb.DownloadRequest) -> str:
        """Sites read what their tasks name; people read models of their own jobs."""
        if caller.kind == "site":
            return caller.name
        self.require(caller, RESEARCHER)
        who = f"person/{caller.name}"
        if not request.scope.endswith("/model"):
            raise PolicyError("download: people may read models, nothing else")
        await self.require_own(caller, request.scope.partition("/")[0], "read its models")
        self._links.grant(who, read=[(request.scope, request.id)])
        return who


def identity_of(caller: Caller) -> Identity:
    """The member that a caller is.

    Raises:
        TrustError: it is none.
    """
    if not isinstance(caller, Identity):
        raise TrustError("expected a member")
    return caller
