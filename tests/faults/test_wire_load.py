"""Callers that open and do not go on: they are dropped, and keep nobody else waiting."""

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from hanse.backends.grpc import link, protocol, service, turns
from hanse.backends.grpc.client import Connection
from hanse.backends.grpc.turns import MAX_TRANSFERS, MAX_WAITING, PER_CALLER, Turn, Turns
from hanse.core.blobs import CHUNK_BYTES, manifest_of
from hanse.core.errors import UnavailableError
from hanse.core.ids import bundle_scope, new_job_id
from hanse.core.proto import hanse_pb2 as pb
from hanse.server import server
from tests.faults.wire_federation import Wire, federation, upload
from tests.patience import NEVER_S, WAIT_S, until

CONTENT = random.Random(3).randbytes(CHUNK_BYTES + 5)
MANIFEST = manifest_of(CONTENT)


@pytest.fixture
async def wire(tmp_path: Path) -> AsyncIterator[Wire]:
    async with federation(tmp_path) as wire:
        yield wire


async def test_two_hundred_sessions_that_never_say_hello(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "HELLO_S", 1.5)
    await wire.enrol("site", "silent")
    connections = [wire.connect(wire.sites["silent"]) for _ in range(20)]
    calls = [connection.open_session() for connection in connections for _ in range(10)]
    await asyncio.gather(
        *(call.wait_for_connection() for call in calls), return_exceptions=True
    )  # the first may be over
    await wire.check_health()
    codes = await asyncio.wait_for(asyncio.gather(*(call.code() for call in calls)), WAIT_S)
    assert set(codes) == {grpc.StatusCode.FAILED_PRECONDITION}
    await asyncio.gather(*(connection.close() for connection in connections))


async def test_connections_without_a_handshake_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = [
        ("grpc.server_handshake_timeout_ms", 500) if o[0].endswith("handshake_timeout_ms") else o
        for o in protocol.SERVER_OPTIONS
    ]
    assert options != protocol.SERVER_OPTIONS
    monkeypatch.setattr("hanse.server.server.SERVER_OPTIONS", options)
    async with federation(tmp_path) as wire:
        sockets = [socket.create_connection(("127.0.0.1", wire.server.port), WAIT_S) for _ in range(200)]
        try:
            for each in sockets:
                each.settimeout(WAIT_S)
                assert await asyncio.to_thread(each.recv, 1000) == b""
        finally:
            for each in sockets:
                each.close()


class Stuck:
    """Uploads that are begun and left."""

    def __init__(self, connection: Connection, place: str) -> None:
        self.connection, self.place = connection, place
        self.call = connection._upload()

    async def begin(self, piece: bytes = b"x" * 100) -> None:
        """Come as far as the server's patience lets it."""
        manifest = pb.Manifest(size=MANIFEST.size, hashes=MANIFEST.hashes)
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
            await self.call.write(pb.UploadOffer(scope=self.place, manifest=manifest).SerializeToString())
            await self.call.read()
            await self.call.write(piece)


async def stick(wire: Wire, count: int) -> list[Stuck]:
    found = []
    for number in range(count):
        name = f"stuck{number}"
        await wire.enrol("site", name)
        place = f"job/main/1/up/{name}"
        wire.server._store.links.grant(name, write=[place])
        for _ in range(PER_CALLER):
            stuck = Stuck(wire.connect(wire.sites[name]), place)
            await asyncio.wait_for(stuck.begin(), WAIT_S)
            found.append(stuck)
    return found


def standing(wire: Wire) -> list[Turn]:
    """The server's transfers that have waited for the network for `STILL_S` by now."""
    return [turn for each in wire.server._service._turns._open.values() for turn in each if turn._stands_still()]


async def test_stuck_uploads_do_not_keep_others_waiting(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times as many as there are turns: each steps aside in its time, and the honest one is served."""
    monkeypatch.setattr(turns, "PATIENCE_S", 0.3)
    monkeypatch.setattr(turns, "IDLE_S", NEVER_S)
    stuck = await stick(wire, 3 * MAX_TRANSFERS // PER_CALLER)
    async with wire.session("researcher") as session:
        await upload(session.connection, bundle_scope(new_job_id("researcher")), CONTENT)
    assert not any(each.call.done() for each in stuck)
    for each in stuck:
        each.call.cancel()
        await each.connection.close()


async def test_a_stuck_upload_ends_and_goes_on_later(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "IDLE_S", 0.5)
    (stuck, other) = await stick(wire, 1)
    for each in (stuck, other):
        assert await asyncio.wait_for(each.call.code(), WAIT_S) == grpc.StatusCode.UNAVAILABLE
        assert "resumes" in await each.call.details()
    assert not wire.server._service._turns._open
    await upload(stuck.connection, stuck.place, CONTENT)
    for each in (stuck, other):
        await each.connection.close()


async def test_who_comes_again_takes_over_from_its_own_transfers_that_stand_still(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that swallows packets leaves both turns with connections of which the server does not know the end."""
    monkeypatch.setattr(turns, "IDLE_S", NEVER_S)
    monkeypatch.setattr(turns, "STILL_S", 0.1)
    stuck, other = await stick(wire, 1)
    await until(lambda: len(standing(wire)) == 2)
    await asyncio.wait_for(upload(stuck.connection, stuck.place, CONTENT), WAIT_S)
    for each in (stuck, other):
        assert await asyncio.wait_for(each.call.code(), WAIT_S) == grpc.StatusCode.UNAVAILABLE
    assert not wire.server._service._turns._open
    for each in (stuck, other):
        await each.connection.close()


async def test_empty_pieces_do_not_keep_an_upload_alive(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "IDLE_S", 0.5)
    stuck, other = await stick(wire, 1)

    async def drip() -> None:
        while True:
            await stuck.call.write(b"")
            await asyncio.sleep(0.01)

    dripping = asyncio.ensure_future(drip())
    # INTERNAL is what gRPC makes of any end that a write runs into.
    ends = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)
    assert await asyncio.wait_for(stuck.call.code(), WAIT_S) in ends
    dripping.cancel()
    await asyncio.gather(dripping, return_exceptions=True)
    await stuck.connection.close()
    await other.connection.close()


async def test_a_download_that_nobody_reads_ends(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "IDLE_S", 0.5)
    monkeypatch.setattr(turns, "PATIENCE_S", 0.2)
    await wire.enrol("site", "lazy")
    content = random.Random(4).randbytes(6 * CHUNK_BYTES)
    manifest = manifest_of(content)
    chunks = [(n, content[n * CHUNK_BYTES : (n + 1) * CHUNK_BYTES]) for n in range(6)]
    await wire.server._store.blobs.put("job/main/1/model", manifest, chunks)
    wire.server._store.links.grant("lazy", read=[("job/main/1/model", manifest.id)])
    connection = wire.connect(wire.sites["lazy"])
    call = connection._download(pb.DownloadRequest(scope="job/main/1/model", id=manifest.id))
    await call.read()
    await until(lambda: wire.server._service._turns._slots._value == MAX_TRANSFERS)
    async with wire.session("researcher") as session:
        await upload(session.connection, bundle_scope(new_job_id("researcher")), CONTENT)
    opened = [turn for each in wire.server._service._turns._open.values() for turn in each]
    await until(lambda: not any(turn._has_mine for turn in opened))  # the server has lost its patience altogether
    with pytest.raises(grpc.aio.AioRpcError):  # noqa: PT012 - what had gone out before, then the end
        async with asyncio.timeout(WAIT_S):
            while await call.read() is not grpc.aio.EOF:
                pass
    await connection.close()


# ---- a process that stands still ----


async def test_who_stood_still_itself_takes_nobody_s_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a machine sleeps or is moved: both find a lease's time passed, and nobody is lost."""
    monkeypatch.setattr(link, "HEARTBEAT_S", 0.1)
    for module in (link, server):
        monkeypatch.setattr(module, "LEASE_S", 1.5)
    async with federation(tmp_path) as wire:
        assert wire.healthy is not None
        time.sleep(2.5)  # noqa: ASYNC251 - nothing of both goes on meanwhile
        await wire.healthy.heartbeat()
        await asyncio.sleep(0.5)
        told = [(entry["event"], entry.get("reason")) for entry in wire.logs.entries]
        assert not [each for each in told if each[0] in ("site lost", "connection lost")]


# ---- turns by themselves ----


async def test_one_caller_holds_few_turns_and_opens_a_limited_number() -> None:
    all_turns = Turns()
    began: list[int] = []
    leave = asyncio.Event()

    async def transfer(caller: str, number: int) -> None:
        async with all_turns.enter(caller) as turn:
            await turn.begin(number)
            began.append(number)
            await leave.wait()

    greedy = [asyncio.ensure_future(transfer("greedy", n)) for n in range(MAX_WAITING)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(began) == PER_CALLER
    with pytest.raises(UnavailableError, match="at most"):
        await transfer("greedy", 99)
    others = [asyncio.ensure_future(transfer(f"other{n}", 100 + n)) for n in range(MAX_TRANSFERS - PER_CALLER)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(began) == MAX_TRANSFERS
    leave.set()
    await asyncio.gather(*greedy, *others)
    assert len(began) == MAX_WAITING + len(others)
    assert not all_turns._open
    assert not all_turns._mine


async def test_too_many_slow_ones_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "MAX_ASIDE", 3)
    monkeypatch.setattr(turns, "PATIENCE_S", 0.05)
    all_turns = Turns()
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def slow(caller: str) -> None:
        async with all_turns.enter(caller) as turn:
            await turn.begin(caller)
            await turn.wait(asyncio.shield(never))

    tasks = [asyncio.ensure_future(slow(f"s{n}")) for n in range(8)]
    pending = set(tasks)
    async with asyncio.timeout(WAIT_S):  # the three that are kept would wait for IDLE_S
        while len(pending) > 3:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    done = set(tasks) - pending
    assert (len(done), len(pending), all_turns.aside) == (5, 3, 3)
    assert all(isinstance(task.exception(), UnavailableError) for task in done)
    never.set_result(None)
    await asyncio.gather(*pending)
    assert all_turns.aside == 0


async def test_who_gives_up_waiting_gives_everything_back() -> None:
    all_turns = Turns()
    async with all_turns.enter("a") as first, all_turns.enter("a") as second:
        await first.begin(1)
        await second.begin(2)

        async def third() -> None:
            async with all_turns.enter("a") as turn:
                await turn.begin(3)

        waiting = asyncio.ensure_future(third())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    async with all_turns.enter("a") as turn:
        await asyncio.wait_for(turn.begin(4), WAIT_S)
    assert not all_turns._open


async def test_nobody_takes_over_from_one_that_moves_nor_from_another_blob(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "STILL_S", 0.0)
    all_turns, never = Turns(), asyncio.get_running_loop().create_future()
    async with all_turns.enter("a") as busy, all_turns.enter("b") as others, all_turns.enter("a") as new:
        for turn, blob in ((busy, "x"), (others, "y")):
            await turn.begin(blob)
        still = asyncio.ensure_future(others.wait(asyncio.shield(never)))
        await asyncio.sleep(0)
        await new.begin("x")  # `busy` writes to the disk, `others` is another's
        assert busy._has_slot
        async with all_turns.enter("b") as another:
            await another.begin("z")
        assert others._has_slot
        async with all_turns.enter("b") as again:
            await again.begin("y")
            assert not others._has_slot
        with pytest.raises(UnavailableError, match="resumes"):
            await still
