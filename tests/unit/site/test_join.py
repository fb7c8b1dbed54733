"""Joining over a real TLS server, and what is refused on the way."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest

from hanse.backends.grpc.enrol import enrol, shown_chain
from hanse.backends.grpc.inbox import SessionInbox
from hanse.backends.grpc.service import Service
from hanse.core.errors import ConfigError, ConflictError, TrustError, UnavailableError
from hanse.core.proto import hanse_pb2 as pb
from hanse.site.config import read_config
from hanse.site.join import join_site
from hanse.site.policy import read_policy
from hanse.trust.authority import Authority
from hanse.trust.certificates import fingerprint
from hanse.trust.identity import MemberKeys, SigningRequest
from hanse.trust.joining import join
from hanse.trust.membership import Membership
from hanse.trust.tokens import JoinToken, TokenRecord, make_token, redeem


class Gate:
    """The server's part: one token, used once."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.record: TokenRecord | None = None
        self.lost_answers = 0
        self.asked = 0

    async def join(self, request: pb.JoinRequest) -> pb.JoinReply:
        self.asked += 1
        assert self.record is not None
        asked = SigningRequest.parse(request.signing_request)
        self.record = redeem(
            self.record, request.token_secret, kind=request.kind, name=request.name, request_digest=asked.digest
        )
        if self.lost_answers:
            self.lost_answers -= 1
            raise UnavailableError("the answer got lost")
        issued = self.authority.issue(asked, kind=request.kind, name=request.name)
        return pb.JoinReply(
            certificate=issued.certificate_pem.decode(), member_record=issued.record, address="127.0.0.1:7400"
        )


@contextlib.asynccontextmanager
async def serving(authority: Authority, gate: Gate) -> AsyncIterator[str]:
    keys = MemberKeys.generate()
    request = SigningRequest.request(keys, federation=authority.federation, kind="server", name="server")
    issued = authority.issue(request, kind="server", name="server", hosts=("127.0.0.1",))
    server = grpc.aio.server()
    handler: Any = gate
    unused: Any = SimpleNamespace()
    server.add_generic_rpc_handlers((Service(handler, SessionInbox(), unused, unused).enrolment(),))
    chain = issued.certificate_pem + authority.certificate_pem
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(keys.tls_pem(), chain)]))
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("lubeck")


def invite(gate: Gate, address: str, **changes: Any) -> str:
    arguments: dict[str, Any] = {
        "address": address,
        "federation": "lubeck",
        "authority_sha256": gate.authority.sha256,
        "kind": "site",
        "name": "hospital-a",
    }
    token, gate.record = make_token(**(arguments | changes))
    return token.encode()


async def test_a_site_joins_and_gets_its_two_files(authority: Authority, tmp_path: Path) -> None:
    gate, site = Gate(authority), tmp_path / "site"
    async with serving(authority, gate) as address:
        token = invite(gate, address)
        membership = await join_site(site, token)
        assert (membership.identity.name, membership.address) == ("hospital-a", "127.0.0.1:7400")
        assert Membership.load(site).identity == membership.identity
        assert read_config(site / "site.yaml").name == "hospital-a"
        policy = read_policy(site / "policy.yaml")
        assert policy is not None
        assert policy.unlisted_apps == "hold"
        assert all(path.stat().st_mode & 0o777 == 0o600 for path in (site / "keys").iterdir())
        assert not (site / "signing-request.json").exists()
        (site / "policy.yaml").write_text("people: []\n")
        again = await join_site(site, token)
        assert again.identity == membership.identity
        assert gate.asked == 1
        assert (site / "policy.yaml").read_text() == "people: []\n"


async def test_an_answer_that_got_lost_is_asked_for_again(authority: Authority, tmp_path: Path) -> None:
    gate = Gate(authority)
    gate.lost_answers = 1
    async with serving(authority, gate) as address:
        token = invite(gate, address)
        with pytest.raises(UnavailableError):
            await join_site(tmp_path / "site", token)
        assert not (tmp_path / "site" / "site.yaml").exists()
        assert (await join_site(tmp_path / "site", token)).identity.name == "hospital-a"
        with pytest.raises(TrustError, match="used before"):
            await join_site(tmp_path / "other", token)


async def test_somebody_else_answers(authority: Authority, tmp_path: Path) -> None:
    stranger = Authority.create("lubeck")
    gate = Gate(authority)
    async with serving(stranger, Gate(stranger)) as address:
        with pytest.raises(TrustError, match="does not show the authority"):
            await join_site(tmp_path / "site", invite(gate, address))
    assert gate.asked == 0  # the secret never went out


async def test_what_comes_back_must_fit(authority: Authority, tmp_path: Path) -> None:
    token = make_token(
        address="127.0.0.1:1", federation="lubeck", authority_sha256=authority.sha256, kind="site", name="hospital-a"
    )[0]

    def answering(name: str, by: Authority, content: bytes | None = None) -> Any:
        async def answer(token: JoinToken, request: bytes) -> tuple[bytes, pb.JoinReply]:
            asked = SigningRequest.parse(content or request)
            issued = by.issue(asked, kind=asked.kind, name=name)
            reply = pb.JoinReply(certificate=issued.certificate_pem.decode(), member_record=issued.record)
            return authority.certificate_pem, reply

        return answer

    foreign = SigningRequest.request(MemberKeys.generate(), federation="lubeck", kind="site", name="hospital-a")
    for number, enrolling in enumerate(
        (
            answering("hospital-a", Authority.create("lubeck")),  # another authority's certificate
            answering("hospital-a", authority, foreign.content),  # for other keys
        )
    ):
        with pytest.raises(TrustError):
            await join(tmp_path / str(number), token.encode(), kind="site", enrol=enrolling)
        assert not (tmp_path / str(number) / "membership.json").exists()
    membership = await join(tmp_path / "good", token.encode(), kind="site", enrol=answering("hospital-a", authority))
    assert membership.address == "127.0.0.1:1"  # the token's, where the server names none


async def test_tokens_that_are_not_for_this(authority: Authority, tmp_path: Path) -> None:
    gate = Gate(authority)
    async with serving(authority, gate) as address:
        with pytest.raises(ConfigError, match="person"):
            await join_site(tmp_path / "site", invite(gate, address, kind="person", name="anna"))
        with pytest.raises(TrustError, match="expired"):
            await join_site(tmp_path / "site", invite(gate, address, now_ms=1, valid_ms=1))
        with pytest.raises(ConfigError, match="join token"):
            await join_site(tmp_path / "site", "hello")
        assert gate.asked == 0
        await join_site(tmp_path / "site", invite(gate, address))
        with pytest.raises(ConflictError, match="belongs to"):
            await join_site(tmp_path / "site", invite(gate, address, name="hospital-b"))


async def test_a_damaged_request_of_an_earlier_attempt(authority: Authority, tmp_path: Path) -> None:
    gate = Gate(authority)
    async with serving(authority, gate) as address:
        (tmp_path / "signing-request.json").write_text("{}")
        with pytest.raises(ConfigError, match=r"signing-request\.json"):
            await join_site(tmp_path, invite(gate, address))


async def test_nobody_there(authority: Authority) -> None:
    token = make_token(
        address="127.0.0.1:1", federation="lubeck", authority_sha256=authority.sha256, kind="site", name="a"
    )[0]
    with pytest.raises(UnavailableError, match="127"):
        await enrol(token, b"")


async def test_the_chain_holds_the_authority(authority: Authority) -> None:
    async with serving(authority, Gate(authority)) as address:
        chain = await asyncio.to_thread(shown_chain, address)
    assert [fingerprint(each) for each in chain][-1] == authority.sha256
    assert len(chain) == 2


async def test_no_tls_there() -> None:
    server = await asyncio.start_server(lambda _, writer: writer.write(b"hello\r\n" * 10), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        with pytest.raises((TrustError, UnavailableError)):
            await asyncio.to_thread(shown_chain, f"127.0.0.1:{port}")
    finally:
        server.close()
