"""Who gets in: certificates that do not hold, join tokens used wrongly, revocation in the middle of a session."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from hanse.backends.grpc.client import Connection, Credentials, join
from hanse.backends.grpc.enrol import enrol
from hanse.backends.grpc.protocol import CLIENT_OPTIONS, SERVICE
from hanse.core.errors import ConfigError, HanseError, PolicyError, TrustError, UnavailableError
from hanse.core.proto import hanse_pb2 as pb
from hanse.trust.authority import DAY_MS, Authority
from hanse.trust.certificates import current_ms
from hanse.trust.identity import MemberKeys, SigningRequest
from hanse.trust.joining import join as join_with_token
from hanse.trust.membership import Membership
from hanse.trust.tokens import JoinToken
from tests.faults.wire_federation import Site, Wire, certify, credentials_of, federation, submit
from tests.patience import WAIT_S


@pytest.fixture
async def wire(tmp_path: Path) -> AsyncIterator[Wire]:
    async with federation(tmp_path) as wire:
        yield wire


async def ask_as(wire: Wire, credentials: Credentials) -> None:
    connection = Connection(wire.address, credentials)
    try:
        await connection.ask(pb.Call(v=1, body=b'{"op": "sites"}'), timeout_s=WAIT_S)
    finally:
        await connection.close()


async def session_as(wire: Wire, credentials: Credentials) -> None:
    """Open a session; returns if the server welcomes it."""
    connection = Connection(wire.address, credentials)
    call = connection.open_session()
    try:
        await call.write(pb.SiteFrame(hello=pb.Hello(v=1)))
        if await asyncio.wait_for(call.read(), WAIT_S) is grpc.aio.EOF:
            raise asyncio.InvalidStateError
    except (asyncio.InvalidStateError, grpc.RpcError):
        kind = TrustError if await call.code() == grpc.StatusCode.UNAUTHENTICATED else UnavailableError
        raise kind(await call.details()) from None
    finally:
        call.cancel()
        await connection.close()


# ---- certificates ----


async def test_no_certificate(wire: Wire) -> None:
    channel = grpc.aio.secure_channel(
        wire.address, grpc.ssl_channel_credentials(wire.authority.certificate_pem), options=CLIENT_OPTIONS
    )
    async with channel:
        ask = channel.unary_unary(f"/{SERVICE}/Ask")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(pb.Call(v=1, body=b"{}").SerializeToString(), timeout=WAIT_S)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_no_tls(wire: Wire) -> None:
    async with grpc.aio.insecure_channel(wire.address, options=CLIENT_OPTIONS) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary(f"/{SERVICE}/Ask")(b"", timeout=WAIT_S)


@pytest.mark.parametrize("name", ["healthy", "researcher"])
async def test_a_foreign_authority_s_certificate(wire: Wire, name: str) -> None:
    kind = "site" if name == "healthy" else "person"
    foreign, _ = certify(Authority.create("wire"), kind, name, wire.address)
    credentials = Credentials(foreign.certificate_pem, foreign.keys.tls_pem(), wire.authority.certificate_pem)
    with pytest.raises(UnavailableError):
        await ask_as(wire, credentials)
    with pytest.raises(UnavailableError):
        await session_as(wire, credentials)


async def test_a_certificate_with_another_s_key(wire: Wire) -> None:
    mine, other = wire.sites["healthy"], wire.people["researcher"]
    with pytest.raises(UnavailableError):
        await ask_as(wire, Credentials(other.certificate_pem, mine.keys.tls_pem(), mine.authority_pem))


async def test_an_expired_certificate(wire: Wire) -> None:
    past = current_ms() - 40 * DAY_MS
    authority = wire.authority
    expired, _ = certify(authority, "person", "researcher", wire.address, days=1.0, now_ms=past)
    with pytest.raises(UnavailableError):
        await ask_as(wire, credentials_of(expired))


async def test_a_certificate_of_the_authority_for_nobody_enrolled(wire: Wire) -> None:
    stranger, _ = certify(wire.authority, "person", "stranger", wire.address)
    with pytest.raises(TrustError, match="not enrolled"):
        await ask_as(wire, credentials_of(stranger))


async def test_the_server_s_certificate_as_a_client_s(wire: Wire) -> None:
    server = Membership.load(wire.server.directory / "server")
    for attempt in (ask_as, session_as):
        with pytest.raises((UnavailableError, TrustError)):
            await attempt(wire, credentials_of(server))


async def test_a_person_holds_no_session_and_a_site_asks_nothing(wire: Wire) -> None:
    with pytest.raises(TrustError, match="expected a site"):
        await session_as(wire, credentials_of(wire.people["researcher"]))
    with pytest.raises(PolicyError):
        await ask_as(wire, credentials_of(wire.sites["healthy"]))


async def test_members_methods_are_not_on_the_open_port(wire: Wire) -> None:
    """The enrolment port asks for no certificate, so it must offer nothing but joining."""
    credentials = grpc.ssl_channel_credentials(wire.authority.certificate_pem)
    address = f"127.0.0.1:{wire.server.enrolment_port}"
    async with grpc.aio.secure_channel(address, credentials, options=CLIENT_OPTIONS) as channel:
        for method in ("Ask", "Renew", "Watch", "Session", "Upload", "Download"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(f"/{SERVICE}/{method}")(b"", timeout=WAIT_S)
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


# ---- revocation ----


async def test_a_revoked_site_s_session_ends_and_it_does_not_come_back(wire: Wire) -> None:
    await wire.enrol("site", "gone")
    site = Site(wire, "gone")
    running = asyncio.ensure_future(site.link.run())
    await asyncio.wait_for(site.link.connected.wait(), WAIT_S)
    async with wire.session("admin") as admin:
        await admin.ask("revoke", kind="site", name="gone")
        with pytest.raises(TrustError, match="revoked"):
            await asyncio.wait_for(running, WAIT_S)
        sites = {each["site"]: each["state"] for each in (await admin.ask("sites"))["sites"]}
    assert sites["gone"] == "revoked"
    with pytest.raises(TrustError, match="revoked"):
        await session_as(wire, credentials_of(site.member))


async def test_a_revoked_site_that_does_not_read_is_cut_off(wire: Wire) -> None:
    """Its end of the stream is full, so that nothing the server says goes out: the session ends all the same."""
    await wire.enrol("site", "gone")
    connection = wire.connect(wire.sites["gone"])
    call = connection.open_session()
    await call.write(pb.SiteFrame(hello=pb.Hello(v=1)))
    assert (await call.read()).HasField("welcome")
    outgoing = wire.server._inbox.session("gone")
    assert outgoing is not None
    for _ in range(400):  # more than the stream's window takes
        outgoing.put(pb.ServerFrame(accepted=pb.Accepted(reason="x" * 100_000)))
    async with wire.session("admin") as admin:
        await admin.ask("revoke", kind="site", name="gone")
    async with asyncio.timeout(WAIT_S):
        while wire.server._inbox.session("gone") is not None:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.02)
        with pytest.raises(grpc.aio.AioRpcError):  # noqa: PT012 - what had gone out before, then the end
            while await call.read() is not grpc.aio.EOF:
                pass
    assert await call.code() == grpc.StatusCode.UNAUTHENTICATED
    await connection.close()


async def test_a_revoked_person_is_refused_per_call_and_stops_watching(wire: Wire) -> None:
    await wire.enrol("person", "leaver", ("researcher",))
    async with wire.session("leaver") as leaver, wire.session("admin") as admin:
        job = await submit(leaver, wire.people["leaver"], sites=("absent",))
        watching = leaver.watch(job)

        async def watch() -> None:
            async for _ in watching:
                pass

        task = asyncio.ensure_future(watch())
        await leaver.ask("sites")
        await admin.ask("revoke", kind="person", name="leaver")
        with pytest.raises(TrustError, match="revoked"):
            await leaver.ask("sites")
        await admin.ask("cancel", job=job)  # an event that the watcher must not see
        with pytest.raises(TrustError, match="revoked"):
            await asyncio.wait_for(task, WAIT_S)


# ---- joining ----


async def token_for(wire: Wire, name: str, kind: str = "site", **body: Any) -> JoinToken:
    async with wire.session("admin") as admin:
        return JoinToken.decode((await admin.ask("invite", kind=kind, name=name, **body))["token"])


def signing(kind: str, name: str, keys: MemberKeys | None = None) -> bytes:
    return SigningRequest.request(keys or MemberKeys.generate(), federation="wire", kind=kind, name=name).content


async def try_join(wire: Wire, token: JoinToken, request: bytes, **changed: object) -> pb.JoinReply:
    values: dict[str, Any] = {
        "token_secret": token.secret,
        "kind": token.kind,
        "name": token.name,
        "signing_request": request,
    }
    message = pb.JoinRequest(**{**values, **changed})
    return await join(token.address, wire.authority.certificate_pem, message)


async def test_joining_over_the_wire(wire: Wire, tmp_path: Path) -> None:
    token = await token_for(wire, "newcomer")
    member = await join_with_token(tmp_path / "newcomer", token.encode(), kind="site", enrol=enrol)
    await session_as(wire, credentials_of(member))


async def test_a_token_serves_once(wire: Wire) -> None:
    token = await token_for(wire, "once")
    request = signing("site", "once")
    first = await try_join(wire, token, request)
    again = await try_join(wire, token, request)  # the answer was lost: the same request is answered again
    assert first.federation == again.federation
    with pytest.raises(TrustError, match="used before"):
        await try_join(wire, token, signing("site", "once"))


async def test_two_at_once_with_one_token(wire: Wire) -> None:
    token = await token_for(wire, "race")
    results = await asyncio.gather(
        *(try_join(wire, token, signing("site", "race")) for _ in range(8)), return_exceptions=True
    )
    assert sum(isinstance(each, pb.JoinReply) for each in results) == 1
    assert all(isinstance(each, (pb.JoinReply, TrustError)) for each in results)


async def test_two_tokens_for_one_name_make_one_member(wire: Wire) -> None:
    """Who is invited twice joins once: the second token must not put another's keys in the first one's place."""
    first, second = await token_for(wire, "twice"), await token_for(wire, "twice")
    await try_join(wire, first, signing("site", "twice"))
    with pytest.raises(TrustError, match="enrolled already"):
        await try_join(wire, second, signing("site", "twice"))


async def test_a_revoked_member_does_not_come_back_by_itself(wire: Wire) -> None:
    """Neither by sending its old request again, nor with a token it had kept."""
    used, kept = await token_for(wire, "gone"), await token_for(wire, "gone")
    request = signing("site", "gone")
    await try_join(wire, used, request)
    async with wire.session("admin") as admin:
        await admin.ask("revoke", kind="site", name="gone")
    for token, content in ((used, request), (kept, signing("site", "gone"))):
        with pytest.raises(TrustError):
            await try_join(wire, token, content)
    fresh = await token_for(wire, "gone")
    assert (await try_join(wire, fresh, signing("site", "gone"))).federation == "wire"


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "healthy"},
        {"kind": "person"},
        {"kind": "server", "name": "server"},
        {"name": "../x"},
        {"kind": "", "name": ""},
        {"token_secret": b""},
        {"token_secret": b"x" * 32},
        {"token_secret": b"x" * 60_000},
        {"signing_request": b""},
        {"signing_request": b"{}"},
        {"signing_request": b"[" * 60_000},
    ],
)
async def test_a_token_for_something_else(wire: Wire, changed: dict[str, object]) -> None:
    token = await token_for(wire, "mine")
    with pytest.raises(HanseError) as caught:
        await try_join(wire, token, signing("site", "mine"), **changed)
    assert not isinstance(caught.value, UnavailableError)
    assert (await try_join(wire, token, signing("site", "mine"))).federation == "wire"  # it was not used up


async def test_another_s_signing_request(wire: Wire) -> None:
    token = await token_for(wire, "mine")
    with pytest.raises(TrustError):
        await try_join(wire, token, signing("site", "other"))
    keys = MemberKeys.generate()
    altered = SigningRequest.request(keys, federation="wire", kind="site", name="mine").content.replace(
        keys.signing_public.hex().encode(), MemberKeys.generate().signing_public.hex().encode()
    )
    with pytest.raises(TrustError):
        await try_join(wire, token, altered)


async def test_an_expired_token(wire: Wire) -> None:
    token = await token_for(wire, "late", hours=0.0000003)
    await asyncio.sleep(0.01)
    with pytest.raises(TrustError, match="expired"):
        await try_join(wire, token, signing("site", "late"))


@pytest.mark.parametrize(
    "damage", [lambda t: t[:-1], lambda t: t[:20], lambda t: "", lambda t: t[:-9] + "2" * 9, lambda t: t + t]
)
async def test_a_damaged_token_never_leaves_the_machine(
    wire: Wire, tmp_path: Path, damage: Callable[[str], str]
) -> None:
    token = await token_for(wire, "mine")
    with pytest.raises(ConfigError):
        await join_with_token(tmp_path / "m", damage(token.encode()), kind="site", enrol=enrol)


async def test_another_server_at_the_token_s_address_gets_no_secret(wire: Wire, tmp_path: Path) -> None:
    async with federation(tmp_path / "impostor") as impostor:
        token = await token_for(wire, "mine")
        false = JoinToken(
            f"127.0.0.1:{impostor.server.enrolment_port}",
            token.federation,
            token.kind,
            token.name,
            token.expires_at_ms,
            token.authority_sha256,
            token.secret,
        )
        with pytest.raises(TrustError, match="do not go on"):
            await join_with_token(tmp_path / "m", false.encode(), kind="site", enrol=enrol)
        assert not any(entry.get("reason") for entry in impostor.logs.entries if "join" in str(entry))


# ---- renewal ----


async def test_renewal_is_for_oneself_and_for_the_same_keys(wire: Wire) -> None:
    member = wire.sites["healthy"]
    connection = wire.connect(member)
    try:
        same = SigningRequest.request(member.keys, federation="wire", kind="site", name="healthy")
        assert (await connection.renew(same.content)).certificate
        for content in (
            signing("site", "healthy"),  # who has stole the TLS key must not replace the others
            signing("site", "other"),
            signing("person", "researcher"),
            SigningRequest.request(member.keys, federation="other", kind="site", name="healthy").content,
            b"",
            b"\xff" * 1000,
        ):
            with pytest.raises(HanseError):
                await connection.renew(content)
    finally:
        await connection.close()
