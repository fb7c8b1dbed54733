"""The certificates as gRPC sees them: mutual TLS on loopback, and who is let in."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from hanse.trust.authority import Authority
from hanse.trust.certificates import Identity, current_ms, peer_identity
from tests.patience import WAIT_S
from tests.unit.trust.conftest import Member, enrol


def _answer(request: bytes, context: grpc.ServicerContext) -> bytes:
    (certificate,) = context.auth_context()["x509_pem_cert"]
    return str(peer_identity(certificate)).encode()


@pytest.fixture(scope="module")
def federation() -> Authority:
    return Authority.create("lubeck")


def now_enrol(authority: Authority, kind: str, name: str, **options: object) -> Member:
    return enrol(authority, kind, name, now_ms=current_ms(), **options)


@pytest.fixture(scope="module")
def port(federation: Authority) -> Iterator[int]:
    server = now_enrol(federation, "server", "server")
    yield from _serve(federation, server)


def _serve(authority: Authority, member: Member) -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(2))
    handler = grpc.unary_unary_rpc_method_handler(_answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", {"Who": handler}),))
    chain = member.issued.certificate_pem + authority.certificate_pem
    credentials = grpc.ssl_server_credentials(
        [(member.keys.tls_pem(), chain)], authority.certificate_pem, require_client_auth=True
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield port
    server.stop(None).wait()


def call(port: int, authority: Authority, member: Member | None, host: str = "127.0.0.1") -> str:
    credentials = grpc.ssl_channel_credentials(
        authority.certificate_pem,
        member and member.keys.tls_pem(),
        member and member.issued.certificate_pem,
    )
    with grpc.secure_channel(f"{host}:{port}", credentials) as channel:
        answer: bytes = channel.unary_unary("/test/Who")(b"", timeout=WAIT_S)
        return answer.decode()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize(("kind", "name"), [("site", "hospital-a"), ("person", "anna")])
def test_members_are_let_in_and_known(federation: Authority, port: int, kind: str, name: str, host: str) -> None:
    assert call(port, federation, now_enrol(federation, kind, name), host) == f"{kind} {name} of lubeck"


def test_others_are_not(federation: Authority, port: int) -> None:
    foreign = Authority.create("lubeck")
    expired = now_enrol(federation, "site", "a", days=1e-7)
    for authority, member in (
        (federation, None),
        (federation, now_enrol(foreign, "site", "hospital-a")),
        (foreign, now_enrol(federation, "site", "hospital-a")),
        (federation, expired),
        (federation, now_enrol(federation, "server", "server")),  # serves only
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call(port, authority, member)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_no_site_poses_as_the_server(federation: Authority) -> None:
    """A site cannot get a certificate with a host name; and one for clients serves nobody."""
    impostor = now_enrol(federation, "site", "server-2")
    for port in _serve(federation, impostor):
        with pytest.raises(grpc.RpcError) as caught:
            call(port, federation, now_enrol(federation, "site", "hospital-a"))
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_asking_again_who_it_is_costs_no_parsing(federation: Authority) -> None:
    pem = now_enrol(federation, "site", "a").issued.certificate_pem
    first: Identity = peer_identity(pem)
    assert peer_identity(bytes(pem)) is first
