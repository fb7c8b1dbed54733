"""Enrolment over the wire: the first connection to a server that nothing but a token vouches for.

The server's chain is read from a handshake that verifies nothing and sends nothing. The one certificate in it
whose SHA-256 the invitation holds becomes the only root of a second handshake, and only there the secret goes out.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterable
from typing import Any, Protocol

from hanse.backends.grpc.client import join
from hanse.core.errors import TrustError, UnavailableError
from hanse.core.proto import hanse_pb2 as pb

HANDSHAKE_S = 10.0


class Invitation(Protocol):
    """What `trust.tokens.JoinToken` is."""

    @property
    def address(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def secret(self) -> bytes: ...
    def find_authority(self, chain: Iterable[bytes]) -> bytes:
        """The authority's certificate in PEM.

        Raises:
            TrustError: it is not in `chain`.
        """
        ...


async def enrol(invitation: Invitation, signing_request: bytes) -> tuple[bytes, pb.JoinReply]:
    """Ask for a certificate.

    Returns:
        The authority's certificate (PEM) and the server's answer, which is still to be checked.

    Raises:
        TrustError: somebody else answers at that address, or the token does not hold.
        UnavailableError: nobody answers.
    """
    chain = await asyncio.to_thread(shown_chain, invitation.address)
    authority = invitation.find_authority(chain)
    request = pb.JoinRequest(
        token_secret=invitation.secret, kind=invitation.kind, name=invitation.name, signing_request=signing_request
    )
    return authority, await join(invitation.address, authority, request)


def shown_chain(address: str, *, timeout_s: float = HANDSHAKE_S) -> list[bytes]:
    """The certificates that a server shows, in DER. Nothing is verified and nothing is sent.

    Raises:
        UnavailableError: nobody answers. TrustError: who answers does not speak TLS.
    """
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    name = host.strip("[]")
    try:
        with (
            socket.create_connection((name, int(port)), timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=name) as secured,
        ):
            chain = _unverified_chain(secured)
            with contextlib.suppress(OSError):
                plain.shutdown(socket.SHUT_RDWR)
            return chain
    except ssl.SSLError as error:
        raise TrustError(f"the server at {address} does not speak TLS as expected: {error.reason}") from None
    except OSError as error:
        raise UnavailableError(f"the server at {address} cannot be reached: {error.strerror or error}") from None


def _unverified_chain(secured: ssl.SSLSocket) -> list[bytes]:
    public: Any = getattr(secured, "get_unverified_chain", None)
    if public is not None:  # Python 3.13 and later
        return [bytes(each) for each in public()]
    inner: Any = secured._sslobj  # type: ignore[attr-defined]  # no public way before 3.13
    return [ssl.PEM_cert_to_DER_cert(each.public_bytes()) for each in inner.get_unverified_chain()]
