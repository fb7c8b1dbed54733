"""The agent over real gRPC and mutual TLS, against the transport's own server side and a handler that notes things."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from hanse.backends.grpc.inbox import SessionInbox
from hanse.backends.grpc.protocol import SERVER_OPTIONS
from hanse.backends.grpc.service import Service
from hanse.backends.local import LocalStore
from hanse.core.arrays import Arrays
from hanse.core.blobs import manifest_of, split
from hanse.core.codec import decode, encode
from hanse.core.errors import TrustError
from hanse.core.ids import TaskId, upload_scope
from hanse.core.proto import hanse_pb2 as pb
from hanse.core.records import BlobRef, Envelope, Reply, Task
from hanse.site.agent import Agent
from hanse.trust.certificates import Identity, current_ms, peer_identity
from hanse.trust.envelopes import verify_envelope
from hanse.trust.identity import SigningRequest
from hanse.trust.membership import Membership
from hanse.workers import launcher
from hanse.workers.launcher import Launcher
from tests.nursery import LAUNCHER, forks
from tests.patience import WAIT_S
from tests.unit.site.bench import ADD_ONE, JOB, SITE, Town, bundle_of, large_model

DAY_MS = 86_400_000


class Harbour:
    """A server that only notes what comes. Its port stays the same over restarts."""

    def __init__(self, town: Town, store: LocalStore) -> None:
        self.town, self.store = town, store
        self.inbox = SessionInbox()
        self.port = 0
        self.taken: list[Envelope] = []
        self.hellos: list[pb.Hello] = []
        self.serials: list[str] = []
        self.revoked = False
        self.downloads = 0
        self.changed = asyncio.Event()
        self._server: Any = None
        self._member: Any = None

    async def start(self) -> None:
        keys_request = self._server_identity()
        server = grpc.aio.server(options=SERVER_OPTIONS)
        handler: Any = self
        service = Service(handler, self.inbox, self.store.blobs, self.store.links)
        server.add_generic_rpc_handlers((service.federation(),))
        keys, issued = keys_request
        authority = self.town.authority.certificate_pem
        secrets = grpc.ssl_server_credentials(
            [(keys.tls_pem(), issued.certificate_pem + authority)], authority, require_client_auth=True
        )
        self.port = server.add_secure_port(f"127.0.0.1:{self.port}", secrets)
        await server.start()
        self._server = server

    def _server_identity(self) -> Any:
        if self._member is None:
            keys = type(self.town.site.keys).generate()
            request = SigningRequest.request(keys, federation="lubeck", kind="server", name="server")
            issued = self.town.authority.issue(request, kind="server", name="server", hosts=("127.0.0.1",))
            self._member = (keys, issued)
        return self._member

    async def stop(self) -> None:
        await self._server.stop(0)

    # ---- Handler ----

    def admit(self, certificate: bytes) -> Identity:
        identity = peer_identity(certificate)
        if self.revoked:
            raise TrustError(f"{identity.name} was revoked")
        return identity

    def opened(self, site: str, hello: pb.Hello) -> None:
        self.hellos.append(hello)
        self.changed.set()

    def heard(self, site: str) -> None: ...

    def closed(self, site: str) -> None: ...

    def reported(self, site: str, report: pb.TaskReport) -> None: ...

    async def take(self, site: str, envelope: Envelope) -> tuple[str, str]:
        verify_envelope(self.town.site.keys.signing.public_key(), envelope)
        again = envelope in self.taken
        self.taken.append(envelope)
        self.changed.set()
        return ("duplicate", "") if again else ("received", "")

    async def may_upload(self, caller: Identity, offer: pb.UploadOffer) -> str:
        return caller.name

    async def may_download(self, caller: Identity, request: pb.DownloadRequest) -> str:
        self.downloads += 1
        self.changed.set()
        return caller.name

    async def renew(self, caller: Identity, request: pb.RenewRequest) -> pb.JoinReply:
        issued = self.town.authority.issue(
            SigningRequest.parse(request.signing_request), kind=caller.kind, name=caller.name
        )
        self.serials.append(issued.identity.serial)
        return pb.JoinReply(certificate=issued.certificate_pem.decode(), member_record=issued.record)

    # ---- what a server does ----

    async def until(self, condition: Callable[[], Any]) -> Any:
        async with asyncio.timeout(WAIT_S):
            while not (found := condition()):
                self.changed.clear()
                await self.changed.wait()
            return found

    async def put(self, scope: str, content: bytes) -> BlobRef:
        manifest = manifest_of(content)
        await self.store.blobs.put(scope, manifest, split(content))
        self.store.links.grant(SITE, read=[(scope, manifest.id)])
        return BlobRef(manifest, scope)

    async def send(self, kind: str, id: str, body: bytes, **fields: Any) -> None:
        await self.inbox.send(SITE, Envelope("server", SITE, id, kind, body, "lubeck", JOB, **fields))

    async def propose(self) -> str:
        bundle = bundle_of(ADD_ONE)
        await self.put(f"{JOB}/bundle", bundle.content)
        await self.send("propose", f"propose/{JOB}", json.dumps(self.town.proposal(bundle)).encode())
        await self.until(lambda: [e for e in self.taken if e.kind == "decision"])
        decision = json.loads(self.taken[-1].body)
        assert decision["decision"] == "accept", decision
        return bundle.id

    async def task(self, app: str, model: Arrays, ordinal: int) -> Task:
        ref = await self.put(f"{JOB}/main/{ordinal}/model", encode(model))
        task = Task(TaskId(JOB, "main", 1, "train", ordinal), SITE, "train", app=app, model=ref)
        self.store.links.grant(SITE, write=[upload_scope(task.id, SITE)])
        await self.send("task", str(task.id), task.pack(), component="main")
        return task

    def replies(self, task: Task) -> list[Reply]:
        return [Reply.unpack(e.body) for e in self.taken if (e.kind, e.id) == ("reply", str(task.id))]

    async def arrays(self, task: Task) -> Arrays:
        reply = (await self.until(lambda: self.replies(task)))[0]
        assert reply.update is not None, reply.error
        ref = reply.update
        assert await self.store.blobs.missing(ref.scope, ref.manifest) == []
        return decode(bytes(self.store.blobs.read(ref.scope, ref.id, 0, ref.manifest.size)))


@contextlib.asynccontextmanager
async def harbour(tmp_path: Path, town: Town) -> AsyncIterator[tuple[Harbour, Path]]:
    with LocalStore.open(tmp_path / "server", "process") as store:
        server = Harbour(town, store)
        await server.start()
        site = town.settle(tmp_path / "site", config=f"server: 127.0.0.1:{server.port}\n")
        try:
            yield server, site
        finally:
            await server.stop()


@contextlib.asynccontextmanager
async def agent(directory: Path) -> AsyncIterator["asyncio.Task[None]"]:
    with forks(launcher, LAUNCHER):
        site = Agent(directory, launcher=Launcher.start())
    main = asyncio.ensure_future(site.run())
    try:
        yield main
    finally:
        site.stop()
        with contextlib.suppress(TrustError):
            await asyncio.wait_for(main, WAIT_S)


async def test_a_large_model_there_and_back(tmp_path: Path, town: Town) -> None:
    async with harbour(tmp_path, town) as (server, site), agent(site):
        app, model = await server.propose(), large_model(20)
        for ordinal in range(2):
            arrays = await server.arrays(await server.task(app, model, ordinal))
            assert np.array_equal(arrays["w"], np.asarray(model["w"]) + 1)


@pytest.mark.parametrize("after", ["task", "download", "reply"])
async def test_a_server_that_ends_at_any_moment(tmp_path: Path, town: Town, after: str) -> None:
    async with harbour(tmp_path, town) as (server, site), agent(site):
        app, model = await server.propose(), large_model(40)
        before = server.downloads
        task = await server.task(app, model, 0)
        if after == "download":
            await server.until(lambda: server.downloads > before)
        if after == "reply":
            await server.until(lambda: server.replies(task))
        await server.stop()
        await server.start()
        arrays = await server.arrays(task)
        assert np.array_equal(arrays["w"], np.asarray(model["w"]) + 1)
        assert len({reply.pack() for reply in server.replies(task)}) == 1
        following = await server.arrays(await server.task(app, model, 1))
        assert np.array_equal(following["w"], np.asarray(model["w"]) + 1)


async def test_a_certificate_is_renewed_and_used(tmp_path: Path, town: Town) -> None:
    async with harbour(tmp_path, town) as (server, site):
        request = SigningRequest.request(town.site.keys, federation="lubeck", kind="site", name=SITE)
        old = town.authority.issue(request, kind="site", name=SITE, days=30, now_ms=current_ms() - 25 * DAY_MS)
        now = Membership.load(site)
        replaced = replace(now, certificate_pem=old.certificate_pem, signed_record=old.record)
        replaced.save(site)
        async with agent(site):
            await server.until(lambda: len(server.hellos) >= 2)
            assert len(server.serials) == 1
            assert Membership.load(site).identity.serial == server.serials[0]
            await server.propose()


async def test_a_revoked_site_ends(tmp_path: Path, town: Town) -> None:
    async with harbour(tmp_path, town) as (server, site):
        server.revoked = True
        async with agent(site) as main:
            with pytest.raises(TrustError, match="revoked"):
                await asyncio.wait_for(asyncio.shield(main), WAIT_S)
