"""What the agent needs of whatever connects it with the server. `over_grpc` and `over_queues` are such links."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from hanse.core.blobs import Manifest
from hanse.core.records import Envelope
from hanse.core.seams import BlobStore
from hanse.trust.membership import Membership, Renewed

Deliver = Callable[[Envelope, int], Awaitable[None]]
Accepted = Callable[[str, str, str], None]


class Carrier(Protocol):
    """One connection, as far as it carries something else than messages."""

    async def download(self, store: BlobStore, scope: str, manifest: Manifest, *, into: str | None = None) -> None:
        """Bring a blob into `store`.

        Raises:
            PolicyError, NotFoundError, IntegrityError; UnavailableError: call again.
        """
        ...

    async def upload(self, store: BlobStore, scope: str, manifest: Manifest, *, place: str, task: str = "") -> None:
        """Bring a blob out of `store` to the scope `place` at the server.

        Raises:
            PolicyError, TooLargeError, IntegrityError; UnavailableError: call again.
        """
        ...

    async def renew(self, signing_request: bytes) -> Renewed:
        """A new certificate for this site.

        Raises:
            HanseError: there is none now.
        """
        ...

    async def relay(self, session: str, role: str, sites: Mapping[str, str]) -> Any:
        """This site's end of a channel between sites.

        Args:
            sites: the site of every role.

        Raises:
            HanseError: there is none.
        """
        ...


class Session(Protocol):
    """What transfers need of a link."""

    connected: asyncio.Event

    @property
    def connection(self) -> Carrier | None:
        """The connection, if there is one now."""
        ...


class Outgoing(Session, Protocol):
    """What answers need of a link."""

    def send(self, envelope: Envelope) -> None:
        """Send until accepted."""
        ...

    def done(self, kind: str, id: str) -> None:
        """A delivered message needs not come again."""
        ...

    def report(self, task: str, stage: str) -> None:
        """Progress, for people; may be lost."""
        ...

    def ask(self, job: str) -> bool:
        """Have the server propose a job that this site knows nothing of; False where it does so by itself."""
        ...


class SiteLink(Outgoing, Protocol):
    """A site's session with its server, for as long as the site runs."""

    last_error: str

    async def run(self) -> None:
        """Hold a session until cancelled.

        Raises:
            TrustError: the federation does not know this site any more.
        """
        ...

    async def leave(self) -> None:
        """Say that this site goes, after `run`. It takes seconds at most; what is not said is noticed later."""
        ...


class OpenLink(Protocol):
    """Makes a link.

    Args:
        member: who this site is; asked again for each connection, since certificates are renewed.
        deliver: takes one message of the server. It returns quickly.
        accepted: told the outcome of each message sent: id, outcome, reason.
        holding: task ids that the site has already, so that they need not be sent again.
        facts: what the site tells about itself.
    """

    def __call__(
        self,
        member: Callable[[], Membership],
        *,
        deliver: Deliver,
        accepted: Accepted,
        holding: Callable[[], Sequence[str]],
        facts: Callable[[], dict[str, str]],
        software: str,
    ) -> SiteLink: ...
