"""The link to a server that is there: one stream over mutual TLS, which this site opens."""

from collections.abc import Callable
from typing import Any

from hanse.backends.grpc.client import Connection, Credentials
from hanse.backends.grpc.link import Link
from hanse.site.links import OpenLink, SiteLink
from hanse.trust.membership import Membership


def over_grpc(address: str = "") -> OpenLink:
    """Makes links to a server.

    Args:
        address: `host:port`; by default where the server said it is.
    """

    def open_link(member: Callable[[], Membership], **callbacks: Any) -> SiteLink:
        def connect() -> Connection:
            membership = member()
            membership.identity.check_time()  # said here: the server would only break off the handshake
            credentials = Credentials(membership.certificate_pem, membership.keys.tls_pem(), membership.authority_pem)
            return Connection(address or membership.address, credentials)

        return Link(connect, **callbacks)

    return open_link
