"""The seams as a site has them: a real `Service` on loopback with mutual TLS, over a local store, and its clients.

What a site does with a seam goes over the wire here; what only the server does (grants, deleting) is done at the
server. A site sends blobs that it has whole; what is put in part lies at both ends as a broken upload would leave it.
What comes through a site's link lies in its inbox in memory until the site is done with it. No ledger: a site has none.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from hanse.backends.grpc.client import Connection, Credentials, _Ended
from hanse.backends.grpc.inbox import SessionInbox
from hanse.backends.grpc.link import Link as SiteLink
from hanse.backends.grpc.protocol import SERVER_OPTIONS, error_of
from hanse.backends.grpc.service import Service
from hanse.backends.local import LocalStore
from hanse.backends.memory import MemoryBlobs, MemoryInbox, puller
from hanse.core.blobs import Chunk, Manifest, pieces_of
from hanse.core.ids import check_scope
from hanse.core.proto import hanse_pb2 as pb
from hanse.core.records import Envelope
from hanse.core.seams import BlobWriter, Delivery, Link, UploadTicket
from hanse.trust.authority import Authority
from hanse.trust.certificates import Identity, peer_identity
from hanse.trust.identity import MemberKeys, SigningRequest
from tests.patience import WAIT_S

FEDERATION = "conformance"
SENDER = "sender"
"""The site that puts blobs; those of the suite's own names have the rights that it gives them."""


class Handler:
    """A server that lets every member in and asks `Links` for the rest."""

    def __init__(self, came: MemoryInbox) -> None:
        self._came = came

    def admit(self, certificate: bytes) -> Identity:
        return peer_identity(certificate)

    def opened(self, site: str, hello: pb.Hello) -> None: ...

    def heard(self, site: str) -> None: ...

    def closed(self, site: str) -> None: ...

    def reported(self, site: str, report: pb.TaskReport) -> None: ...

    async def take(self, site: str, envelope: Envelope) -> tuple[str, str]:
        await self._came.send("server", envelope)
        return "received", ""

    async def may_upload(self, caller: Any, offer: pb.UploadOffer) -> str:
        return str(caller.name)

    async def may_download(self, caller: Any, request: pb.DownloadRequest) -> str:
        return str(caller.name)

    async def ask(self, caller: Any, call: pb.Call) -> pb.Answer:
        raise NotImplementedError

    def watch(self, caller: Any, call: pb.Call) -> AsyncIterator[pb.Answer]:
        raise NotImplementedError

    async def renew(self, caller: Any, request: pb.RenewRequest) -> pb.JoinReply:
        raise NotImplementedError

    async def join(self, request: pb.JoinRequest) -> pb.JoinReply:
        raise NotImplementedError


class Members:
    """Certificates and connections, made as they are asked for."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._connections: dict[str, Connection] = {}
        self._credentials: dict[str, Credentials] = {}
        self.address = ""

    def credentials(self, name: str, kind: str = "site", **more: Any) -> Credentials:
        if name not in self._credentials:
            keys = MemberKeys.generate()
            request = SigningRequest.request(keys, federation=FEDERATION, kind=kind, name=name)
            issued = self._authority.issue(request, kind=kind, name=name, **more)
            self._credentials[name] = Credentials(
                issued.certificate_pem, keys.tls_pem(), self._authority.certificate_pem
            )
        return self._credentials[name]

    def connect(self, name: str) -> Connection:
        return Connection(self.address, self.credentials(name))

    def connection(self, name: str) -> Connection:
        if name not in self._connections:
            self._connections[name] = self.connect(name)
        return self._connections[name]

    async def close(self) -> None:
        for connection in self._connections.values():
            await connection.close()


class GrpcBlobs:
    """`BlobStore` of a site: what is put is uploaded, what is read was downloaded."""

    def __init__(self, members: Members, store: LocalStore) -> None:
        self._members = members
        self._store = store
        self._ours, self._got = MemoryBlobs(), MemoryBlobs()

    @property
    def _connection(self) -> Connection:
        return self._members.connection(SENDER)

    async def put(
        self,
        scope: str,
        manifest: Manifest,
        chunks: Iterable[tuple[int, Chunk]] | AsyncIterable[tuple[int, Chunk]],
    ) -> None:
        taken: list[tuple[int, Chunk]] = []
        draw = puller(chunks)

        async def noted() -> AsyncIterator[tuple[int, Chunk]]:
            while (pair := await draw()) is not None:
                taken.append((pair[0], b"".join(pieces_of(pair[1]))))
                yield pair

        await self._ours.put(scope, manifest, noted())
        if await self._ours.missing(scope, manifest):
            await self._store.blobs.put(scope, manifest, taken)  # as an upload that broke off would have left it
            return
        self._store.links.grant(SENDER, write=[scope], read=[(scope, manifest.id)])
        await self._connection.upload(self._ours, scope, manifest, place=scope)
        await self._connection.download(self._got, scope, manifest)

    async def missing(self, scope: str, manifest: Manifest) -> list[int]:
        if await self._ours.missing(scope, manifest):
            return await self._ours.missing(scope, manifest)
        self._store.links.grant(SENDER, write=[scope])
        return list((await ticket(self._connection, scope, manifest)).missing)

    async def manifest(self, scope: str, id: str) -> Manifest:
        return await self._got.manifest(scope, id)

    def read(self, scope: str, id: str, start: int, stop: int) -> memoryview:
        return self._got.read(scope, id, start, stop)

    def create(self, scope: str, size: int) -> BlobWriter:
        check_scope(scope)
        raise NotImplementedError("a site makes its blobs in a store of its own")

    def path(self, scope: str, id: str) -> Path | None:
        return None

    async def delete_scope(self, scope: str) -> None:
        check_scope(scope)
        for each in (self._store.blobs, self._ours, self._got):
            await each.delete_scope(scope)


class GrpcLinks:
    """`Links` as members meet them: rights are granted at the server, used from outside."""

    def __init__(self, members: Members, store: LocalStore) -> None:
        self._members = members
        self._store = store

    def grant(self, who: str, *, read: Iterable[tuple[str, str]] = (), write: Iterable[str] = ()) -> None:
        self._store.links.grant(who, read=read, write=write)

    def revoke(self, who: str, *, scope_prefix: str) -> None:
        self._store.links.revoke(who, scope_prefix=scope_prefix)

    async def get(self, who: str, scope: str, id: str) -> Link:
        call = self._members.connection(who)._download(pb.DownloadRequest(scope=scope, id=id))
        try:
            await _first(call)
        finally:
            call.cancel()
        return Link(scope, id)

    async def put(self, who: str, scope: str, manifest: Manifest) -> UploadTicket:
        return await ticket(self._members.connection(who), scope, manifest)


async def ticket(connection: Connection, scope: str, manifest: Manifest) -> UploadTicket:
    """Offer a blob; what the server lacks of it."""
    call = connection._upload()
    message = pb.UploadOffer(scope=scope, manifest=pb.Manifest(size=manifest.size, hashes=manifest.hashes))
    try:
        with contextlib.suppress(asyncio.InvalidStateError):  # the answer is there already
            await call.write(message.SerializeToString())
        answer = pb.UploadTicket.FromString(await _first(call))
    finally:
        call.cancel()
    return UploadTicket(scope, manifest, tuple(answer.missing))


async def _first(call: Any) -> bytes:
    try:
        content = await call.read()
    except grpc.RpcError as error:
        raise error_of(error) from None
    if content is grpc.aio.EOF:
        raise error_of(_Ended(await call.code(), await call.details()))
    return bytes(content)


class GrpcInbox:
    """`Inbox`: to a site through its session, to the server through the link of the site `site`."""

    def __init__(self, members: Members, sessions: SessionInbox, came: MemoryInbox) -> None:
        self._members = members
        self._sessions = sessions
        self._came = came
        self._links: dict[str, SiteLink] = {}
        self._running: list[asyncio.Task[None]] = []
        self._arrived: dict[tuple[str, str, str], asyncio.Event] = {}

    async def _link(self, who: str) -> SiteLink:
        if who not in self._links:

            async def deliver(envelope: Envelope, count: int) -> None:
                await self._came.send(who, envelope)
                self._sign((who, envelope.kind, envelope.id)).set()

            link = self._links[who] = SiteLink(
                lambda: self._members.connect(who),
                deliver=deliver,
                accepted=lambda id, outcome, reason: self._sign(("server", "", id)).set(),
            )
            self._running.append(asyncio.ensure_future(link.run()))
        await asyncio.wait_for(self._links[who].connected.wait(), WAIT_S)
        return self._links[who]

    def _sign(self, key: tuple[str, str, str]) -> asyncio.Event:
        return self._arrived.setdefault(key, asyncio.Event())

    async def send(self, to: str, envelope: Envelope, *, durable: bool = True) -> None:
        """Returns when the message is at the other end, so that the suite need not wait for it."""
        link = await self._link("site" if to == "server" else to)
        key = ("server", "", envelope.id) if to == "server" else (to, envelope.kind, envelope.id)
        self._sign(key).clear()
        if to == "server":
            link.send(envelope)
        else:
            await self._sessions.send(to, envelope, durable=durable)
        await asyncio.wait_for(self._sign(key).wait(), WAIT_S)

    async def receive(self, who: str, max: int = 1, wait_s: float = 20.0) -> list[Delivery]:
        return await self._came.receive(who, max, wait_s)

    async def extend(self, receipts: Sequence[str], seconds: float) -> None:
        await self._came.extend(receipts, seconds)

    async def ack(self, receipts: Sequence[str]) -> None:
        for message in self._came.remove(receipts):
            if message.to in self._links:
                self._links[message.to].done(message.envelope.kind, message.envelope.id)

    async def close(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


@asynccontextmanager
async def seams(
    directory: Path, *, visibility_s: float, now_ms: Callable[[], int], max_blob_bytes: int
) -> AsyncIterator[tuple[GrpcBlobs, GrpcInbox, GrpcLinks]]:
    """A server and what its members have of the seams."""
    async with AsyncExitStack() as stack:
        store = stack.enter_context(LocalStore.open(directory / "store", "process", max_blob_bytes=max_blob_bytes))
        authority = Authority.create(FEDERATION)
        members = Members(authority)
        stack.push_async_callback(members.close)
        own = members.credentials("server", "server", hosts=("127.0.0.1",))
        came, sessions = MemoryInbox(visibility_s=visibility_s, now_ms=now_ms), SessionInbox()
        service = Service(Handler(came), sessions, store.blobs, store.links)
        server = grpc.aio.server(options=SERVER_OPTIONS)
        server.add_generic_rpc_handlers((service.federation(),))
        secrets = grpc.ssl_server_credentials(
            [(own.key, own.certificate + own.authority)], own.authority, require_client_auth=True
        )
        members.address = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', secrets)}"
        await server.start()
        stack.push_async_callback(server.stop, 0.1)
        inbox = GrpcInbox(members, sessions, came)
        stack.push_async_callback(inbox.close)
        yield GrpcBlobs(members, store), inbox, GrpcLinks(members, store)
