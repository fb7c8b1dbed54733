"""Bytes that nobody sends on purpose: on the ports, in TLS, and where each method expects a message."""

import asyncio
import contextlib
import random
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hanse.backends.grpc.protocol import CLIENT_OPTIONS, ENROLMENT, SERVICE, identity
from hanse.core.proto import hanse_pb2 as pb
from hanse.core.records import Envelope
from tests.faults.wire_federation import SECRET, Wire, federation
from tests.patience import WAIT_S

in_module_loop = pytest.mark.asyncio(loop_scope="module")
OURS = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
METHODS = {
    "Ask": "researcher",
    "Watch": "researcher",
    "Renew": "evil",
    "Download": "evil",
    "Upload": "evil",
    "Session": "evil",
}
VALID = {
    "Ask": pb.Call(v=1, body=b'{"op": "job", "job": "unknown"}').SerializeToString(),
    "Watch": pb.Call(v=1, body=b'{"op": "follow", "job": "unknown"}').SerializeToString(),
    "Renew": pb.RenewRequest(signing_request=b'{"v": 1}').SerializeToString(),
    "Download": pb.DownloadRequest(scope="a/b/0/model", id="0" * 64, chunks=[1, 2]).SerializeToString(),
    "Upload": pb.UploadOffer(scope="a/b/0/up/evil", manifest=pb.Manifest(size=5, hashes=bytes(32))).SerializeToString(),
    "Session": pb.SiteFrame(
        envelope=pb.Envelope.FromString(
            Envelope("evil", "server", "j/main/1/train/0", "reply", SECRET.encode(), federation="wire").pack()
        )
    ).SerializeToString(),
    "Join": pb.JoinRequest(token_secret=bytes(32), kind="site", name="x", signing_request=b"{}").SerializeToString(),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Wire]:
    async with federation(tmp_path_factory.mktemp("garbage")) as wire:
        await wire.enrol("site", "evil")
        yield wire


@pytest_asyncio.fixture(loop_scope="module")
async def wire(shared: Wire) -> AsyncIterator[Wire]:
    yield shared
    await shared.check_health()
    await shared.check_job()


async def check_outcome(wire: Wire, method: str, content: bytes) -> None:
    """A call whose message is `content` ends in one of our words."""
    if method == "Join":
        secrets = grpc.ssl_channel_credentials(wire.authority.certificate_pem)
        address, service = f"127.0.0.1:{wire.server.enrolment_port}", ENROLMENT
        channel = grpc.aio.secure_channel(address, secrets, options=CLIENT_OPTIONS)
    else:
        member = {**wire.people, **wire.sites}[METHODS[method]]
        channel, service = wire.connect(member)._channel, SERVICE
    async with channel:
        call = channel.stream_stream(f"/{service}/{method}", identity, identity)(timeout=WAIT_S)
        try:
            if method == "Session":
                await call.write(pb.SiteFrame(hello=pb.Hello(v=1)).SerializeToString())
            await call.write(content)
            await call.done_writing()
            while await call.read() is not grpc.aio.EOF:
                pass
        except (grpc.RpcError, asyncio.InvalidStateError):
            pass
        code: grpc.StatusCode = await call.code()
        assert code in OURS, (code, await call.details())


@st.composite
def damaged(draw: st.DrawFn, valid: bytes) -> bytes:
    """Random bytes, or a valid message cut short, with bits flipped, or with something put into it."""
    kind = draw(st.sampled_from(["random", "cut", "flip", "insert"]))
    if kind == "random":
        return draw(st.binary(max_size=300))
    at = draw(st.integers(0, len(valid) - 1))
    if kind == "cut":
        return valid[:at]
    if kind == "flip":
        content = bytearray(valid)
        content[at] ^= 1 << draw(st.integers(0, 7))
        return bytes(content)
    return valid[:at] + draw(st.binary(min_size=1, max_size=40)) + valid[at:]


@pytest.mark.parametrize("method", list(VALID))
def test_messages_that_were_damaged(tmp_path: Path, method: str) -> None:
    """One federation for all examples of a method; whatever comes ends in one of our words, not in a crash.

    UNAVAILABLE, UNKNOWN and INTERNAL are what gRPC says where the server has not said anything.
    """
    with asyncio.Runner() as runner:
        entered = federation(tmp_path)
        wire = runner.run(entered.__aenter__())
        runner.run(wire.enrol("site", "evil"))

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(damaged(VALID[method]))
        def attack(content: bytes) -> None:
            runner.run(check_outcome(wire, method, content))

        attack()
        runner.run(wire.check_health())
        runner.run(wire.check_job())
        runner.run(entered.__aexit__(None, None, None))


@pytest.mark.parametrize("open_port", [False, True], ids=["members", "enrolment"])
@in_module_loop
async def test_garbage_on_the_port(wire: Wire, open_port: bool) -> None:
    port = wire.server.enrolment_port if open_port else wire.server.port
    random_ = random.Random(5)
    greetings = [
        b"",
        b"\x00" * 100,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\xff\xff" + b"\x00" * 1000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random_.randbytes(500),
        random_.randbytes(100_000),
    ]
    for greeting in greetings:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(greeting)
            await writer.drain()
            writer.write_eof()
            await asyncio.wait_for(reader.read(), WAIT_S)
        except OSError:
            pass
        finally:
            writer.close()


@pytest.mark.parametrize("open_port", [False, True], ids=["members", "enrolment"])
@in_module_loop
async def test_garbage_inside_tls(wire: Wire, tmp_path: Path, open_port: bool) -> None:
    """After a handshake that holds, bytes that are no HTTP/2, or frames of it that nobody sends."""
    member = wire.sites["evil"]
    for name, content in (("c", member.certificate_pem), ("k", member.keys.tls_pem()), ("a", member.authority_pem)):
        (tmp_path / name).write_bytes(content)
    context = ssl.create_default_context(cafile=str(tmp_path / "a"))
    context.load_cert_chain(tmp_path / "c", tmp_path / "k")
    context.set_alpn_protocols(["h2"])
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    for content in (
        b"GET / HTTP/1.1\r\n\r\n",
        preface + b"\xff" * 1000,
        preface + b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + b"pingping" * 1000,
        preface + b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x7f\xff\xff\xff" * 100,
        preface + (b"\x00\x00\x00\x04\x00\x00\x00\x00\x00") * 10_000,
        preface + b"\x00\x40\x00\x01\x04\x00\x00\x00\x01" + b"\xff" * 0x4000,
    ):
        port = wire.server.enrolment_port if open_port else wire.server.port
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
        try:
            writer.write(content)
            await writer.drain()
            async with asyncio.timeout(1):
                while await reader.read(65536):
                    pass
        except (OSError, TimeoutError):
            pass
        finally:
            writer.transport.abort()


@in_module_loop
async def test_half_open_connections_do_not_keep_others_out(wire: Wire) -> None:
    """Two hundred connections that say nothing, or one byte after another; then everybody is served as before."""
    sockets = []
    for port in (wire.server.port, wire.server.enrolment_port):
        for _ in range(100):
            each = socket.create_connection(("127.0.0.1", port), WAIT_S)
            each.setblocking(False)
            sockets.append(each)
    try:
        for byte in b"\x16\x03\x01":
            for each in sockets[::2]:
                with contextlib.suppress(OSError):  # the server may have lost its patience by now
                    each.send(bytes([byte]))
            await wire.check_health()
        await wire.check_job()
    finally:
        for each in sockets:
            each.close()
