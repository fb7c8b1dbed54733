"""One process of the benchmark `channel`: `python -m benchmarks._channel_process KIND …`, told what to do on stdin.

server DIRECTORY                    the real gRPC service with mutual TLS, for nothing but a relay; prints its port
site DIRECTORY ROLE PORT            an agent: seals, opens and relays for the worker that it starts
worker ROLE DESCRIPTOR              a role program: answers `ping N` and `send BYTES`
tls DIRECTORY send|receive PORT     one end of a plain TLS connection
"""

import asyncio
import json
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hanse.backends.grpc.client import Connection, Credentials
from hanse.backends.grpc.inbox import SessionInbox
from hanse.backends.grpc.protocol import SERVER_OPTIONS
from hanse.backends.grpc.relay import Relays
from hanse.backends.grpc.service import Service
from hanse.backends.memory import Grants, MemoryBlobs
from hanse.channels.party import Party
from hanse.channels.protocol import Guarantee, Message, Protocol
from hanse.channels.stream import StreamChannel
from hanse.core.loops import run
from hanse.site.relay import Bridge, worker_pair
from hanse.trust.certificates import Identity, peer_identity
from hanse.trust.sessions import SessionContext, SessionEnd

ROLES = ("guest", "host")
TIMEOUT_S = 120.0
PROTOCOL = Protocol(
    "bench",
    ROLES,
    tuple(Message("bytes", one, other, "uint8", (None,)) for one, other in (ROLES, ROLES[::-1])),
    Guarantee("none", 0, 0, 0, ()),
    (),
)


class Handler:
    """A server with members and nothing else."""

    def admit(self, certificate: bytes) -> Identity:
        return peer_identity(certificate)

    async def watch(self, caller: Any, call: Any) -> AsyncIterator[Any]:
        raise NotImplementedError
        yield

    def __getattr__(self, name: str) -> Any:
        raise NotImplementedError(name)


async def serve(directory: Path) -> None:
    """The relay, until stdin closes."""
    blobs, relays = MemoryBlobs(), Relays()
    relays.open("bench", {role: role for role in ROLES})
    server = grpc.aio.server(options=SERVER_OPTIONS)
    handler: Any = Handler()
    server.add_generic_rpc_handlers((Service(handler, SessionInbox(), blobs, Grants(blobs), relays).federation(),))
    own = _credentials(directory, "server")
    secrets = grpc.ssl_server_credentials([(own.key, own.certificate)], own.authority, require_client_auth=True)
    print(server.add_secure_port("127.0.0.1:0", secrets), flush=True)
    await server.start()
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


async def site(directory: Path, role: str, port: str) -> None:
    """An agent, and its worker, which has our stdin and stdout."""
    keys = {each: X25519PrivateKey.from_private_bytes((directory / f"{each}.x25519").read_bytes()) for each in ROLES}
    ends = {each: SessionEnd(each, each, key.public_key().public_bytes_raw()) for each, key in keys.items()}
    ours, theirs = worker_pair()
    with theirs:
        command = [sys.executable, "-m", "benchmarks._channel_process", "worker", role, str(theirs.fileno())]
        worker = subprocess.Popen(command, pass_fds=[theirs.fileno()])
    connection = Connection(f"127.0.0.1:{port}", _credentials(directory, role))
    try:
        stream = await connection.relay("bench", role)
        context = SessionContext("bench", "bench", "main", "bench", "00" * 32)
        await Bridge(stream, ours, PROTOCOL, role, ends=ends, context=context, key=keys[role]).run()
    finally:
        await connection.close()
        worker.wait(10)


async def work(role: str, descriptor: int) -> None:
    """The role program: the guest is told what to do, the host answers."""
    channel = StreamChannel(socket.socket(fileno=descriptor))
    party = Party(role, PROTOCOL, channel, timeout_s=TIMEOUT_S)
    if role == "host":
        await _answer(party)
    else:
        print("ready", flush=True)
        for line in iter(sys.stdin.readline, ""):
            print(json.dumps(await _ask(party, *line.split())), flush=True)
        await party.send("host", "bytes", np.zeros(0, np.uint8))
    await channel.close()


async def _ask(party: Party, what: str, count: str) -> list[float]:
    """Seconds of each round trip of 1 kB, or of the whole transfer until the host has said that it is there."""
    times, payload = [], np.arange(1000 if what == "ping" else int(count), dtype=np.uint8)
    for _ in range(int(count) if what == "ping" else 1):
        start = time.perf_counter()
        await party.send("host", "bytes", payload)
        answer = await party.recv("host", "bytes")
        times.append(time.perf_counter() - start)
        expected = payload if what == "ping" else payload[:: 1 << 20]
        if not np.array_equal(answer, expected):
            raise RuntimeError("the answer is not what was sent")
    return times


async def _answer(party: Party) -> None:
    while len(value := await party.recv("guest", "bytes")):
        await party.send("guest", "bytes", value if len(value) == 1000 else value[:: 1 << 20].copy())


def tls(directory: Path, end: str, port: str) -> None:
    """Sends as many bytes as each line of stdin says, or receives them and answers one byte."""
    own = _files(directory, end="server" if end == "receive" else "guest")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if end == "receive" else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(own[0], own[1])
    context.load_verify_locations(own[2])
    context.verify_mode = ssl.CERT_REQUIRED
    if end == "receive":
        with socket.create_server(("127.0.0.1", 0)) as listening:
            print(listening.getsockname()[1], flush=True)
            plain, _ = listening.accept()
        with context.wrap_socket(plain, server_side=True) as connection:
            while len(raw := connection.recv(8)) == 8:
                _receive(connection, int.from_bytes(raw, "little"))
        return
    with context.wrap_socket(socket.create_connection(("127.0.0.1", int(port))), server_hostname="127.0.0.1") as sock:
        print("ready", flush=True)
        for line in iter(sys.stdin.readline, ""):
            payload = np.arange(int(line.split()[1]), dtype=np.uint8)
            start = time.perf_counter()
            sock.sendall(len(payload).to_bytes(8, "little"))
            sock.sendall(payload.data)
            if sock.recv(1) != b"\1":
                raise RuntimeError("expected an answer")
            print(json.dumps([time.perf_counter() - start]), flush=True)


def _receive(connection: ssl.SSLSocket, size: int) -> None:
    content = memoryview(bytearray(size))
    taken = 0
    while taken < size:
        taken += connection.recv_into(content[taken:])
    if content[-1] != (size - 1) % 256:
        raise RuntimeError("the content is not what was sent")
    connection.sendall(b"\1")


def _files(directory: Path, end: str) -> tuple[Path, Path, Path]:
    return directory / f"{end}.pem", directory / f"{end}.key", directory / "authority.pem"


def _credentials(directory: Path, name: str) -> Credentials:
    certificate, key, authority = (path.read_bytes() for path in _files(directory, name))
    return Credentials(certificate, key, authority)


def main(kind: str, *words: str) -> None:
    """See the module's text."""
    if kind == "server":
        run(serve(Path(words[0])))
    elif kind == "site":
        run(site(Path(words[0]), words[1], words[2]))
    elif kind == "worker":
        asyncio.run(work(words[0], int(words[1])))
    else:
        tls(Path(words[0]), words[1], words[2])


if __name__ == "__main__":
    main(*sys.argv[1:])
