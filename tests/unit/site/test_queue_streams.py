"""Roles through queues and blobs in memory: what is lost, repeated and out of order on the way changes no result."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hanse.backends.aws import AwsStore
from hanse.backends.grpc import relay as wire
from hanse.backends.memory import MemoryBlobs, MemoryInbox
from hanse.backends.objectstore import ObjectStore
from hanse.channels import packets
from hanse.channels.packets import CHANNEL, INLINE_BYTES, Packet
from hanse.channels.party import Party
from hanse.core.blobs import Manifest, manifest_of, rechunk
from hanse.core.errors import HanseError, NotFoundError, UnavailableError
from hanse.core.ids import SERVER
from hanse.core.records import Envelope
from hanse.site.queue_streams import MAX_EARLY, QueueStream, Streams
from hanse.vertical import correlation
from hanse.vertical.psi import chase_miao
from tests.conformance.emulator import Session, emulated
from tests.patience import WAIT_S, until
from tests.unit.site.relayed import CONTEXT, Sites
from tests.unit.site.test_relay import TALK

SESSION = CONTEXT.session
QUEUES = {"guest": "a", "host": "b", "arbiter": "c"}
"""Each role's site's, as places have them."""


class Post:
    """The queues, the bucket, and somebody who passes packets on; a seed decides what becomes of each."""

    def __init__(
        self,
        sites: Sites,
        *,
        seed: int = 0,
        loses: float = 0.0,
        repeats: float = 0.0,
        late_s: float = 0.0,
        place: Any = None,
        resend_s: float = 0.05,
    ) -> None:
        self.inbox: Any = MemoryInbox() if place is None else place.inbox
        self.blobs: Any = MemoryBlobs() if place is None else place.blobs
        self.sites = {role: end.site for role, end in sites.ends.items()}
        self.random, self.loses, self.repeats, self.late_s = random.Random(seed), loses, repeats, late_s
        self.seen: Counter[str] = Counter()
        self.dropped: set[int] = set()
        self.ends = {role: Streams(self, resend_s=resend_s, answer_s=0.01) for role in self.sites}
        self.works = [asyncio.ensure_future(self._pass_on())]
        self.works += [asyncio.ensure_future(self._receive(role)) for role in self.sites]
        self.number = 0

    def streams(self) -> dict[str, QueueStream]:
        return {role: self.ends[role].open(SESSION, role, self.sites) for role in self.sites}

    async def close(self) -> None:
        for end in self.ends.values():
            end.close()
        for work in self.works:
            work.cancel()
        for done in await asyncio.gather(*self.works, return_exceptions=True):
            if isinstance(done, Exception):
                raise done

    # ---- `Carry` ----

    async def send_packet(self, packet: Packet) -> None:
        self.dropped |= set(packet.dropped)
        self.number += 1
        await self.inbox.send(SERVER, Envelope("site", SERVER, f"{self.number}", CHANNEL, packet.pack(), "f"))

    async def put_blob(self, scope: str, content: bytes) -> Manifest:
        self.seen["blobs"] += 1
        if self.random.random() < self.loses / 2:
            raise UnavailableError("the bucket is away")
        manifest = manifest_of(content)
        await self.blobs.put(scope, manifest, rechunk([content]))
        return manifest

    async def get_blob(self, packet: Packet) -> bytes:
        if self.random.random() < self.loses / 2:
            raise UnavailableError("the link has expired")
        assert packet.blob is not None
        return bytes(self.blobs.read(packet.links[0][0], packet.blob.id, 0, packet.blob.size))

    # ---- what the server's function does, and the sites' agents ----

    async def _pass_on(self) -> None:
        while True:
            for delivery in await self.inbox.receive(SERVER, 10):
                await self.inbox.ack([delivery.receipt])
                packet = Packet.unpack(delivery.envelope.body)
                self.seen["packets"] += 1
                if packet.blob is not None:
                    scope = f"{SESSION}/channel/{packet.sender}/{packet.recipient}/{packet.seq}"
                    packet = replace(packet, links=((scope, ()),))
                for _ in range(self._copies()):
                    self.works.append(asyncio.ensure_future(self._deliver(packet)))

    def _copies(self) -> int:
        if self.random.random() < self.loses or (self.loses and self.seen["packets"] == 1):
            self.seen["lost"] += 1
            return 0
        return 2 if self.random.random() < self.repeats else 1

    async def _deliver(self, packet: Packet) -> None:
        await asyncio.sleep(self.random.random() * self.late_s)
        self.number += 1
        to = QUEUES[packet.recipient]
        await self.inbox.send(to, Envelope(SERVER, to, f"{self.number}", CHANNEL, packet.pack(), "f"))

    async def _receive(self, role: str) -> None:
        while True:
            for delivery in await self.inbox.receive(QUEUES[role], 10):
                await self.inbox.ack([delivery.receipt])
                packet = Packet.unpack(delivery.envelope.body)
                self.seen["largest"] = max(self.seen["largest"], len(packet.content))
                self.ends[role].take(packet)


async def played(sites: Sites, programs: Mapping[str, Any], post: Post) -> dict[str, Any]:
    try:
        return await sites.play(programs, post.streams())
    finally:
        await post.close()


async def exchange(sizes: list[int], **befalls: Any) -> tuple[dict[str, Any], Post]:
    async def talks(party: Party) -> list[int]:
        other = "host" if party.role == "guest" else "guest"
        for size in sizes:
            await party.send(other, "numbers", np.arange(size))
        received = [await party.recv(other, "numbers") for _ in sizes]
        assert all((each == np.arange(len(each))).all() for each in received)
        return [len(each) for each in received]

    sites = Sites(TALK)
    post = Post(sites, **befalls)
    return await played(sites, {"guest": talks, "host": talks}, post), post


SIZES = [0, 1, 131_071, 100, 131_072, 131_073, 400_000]


async def test_two_roles_exchange_arrays_of_every_size() -> None:
    found, post = await exchange(SIZES)
    assert found == {"guest": SIZES, "host": SIZES}
    assert post.seen["blobs"] >= 2
    assert 0 < post.seen["largest"] <= INLINE_BYTES


@contextmanager
def stored(name: str) -> Iterator[Any]:
    """Seams of a place that is no server."""
    if name == "objectstore":
        objects = pytest.importorskip("obstore.store", reason="needs the extra `objectstore`").MemoryStore()
        yield ObjectStore.open(objects, "federations/f")
    else:
        with emulated() as config:
            store = AwsStore.open(config, Session())
            yield store
            store.close()


@pytest.mark.parametrize("name", ["objectstore", "aws"])
async def test_over_every_kind_of_queue_and_bucket(name: str) -> None:
    with stored(name) as place:
        sizes = [0, 1000, 40_000]
        found, post = await exchange(sizes, place=place, resend_s=20.0)
        assert found == {"guest": sizes, "host": sizes}
        assert post.seen["blobs"] == 2


@pytest.mark.parametrize("seed", range(6))
async def test_losses_repetitions_and_disorder_change_nothing(seed: int) -> None:
    rng = random.Random(seed)
    befalls = {"loses": rng.choice((0.1, 0.3)), "repeats": rng.choice((0.2, 0.5)), "late_s": rng.choice((0.0, 0.03))}
    sizes = [rng.choice((0, 1, 1000, 40_000)) for _ in range(rng.randrange(5, 12))]
    found, post = await exchange(sizes, seed=seed, **befalls)
    assert found == {"guest": sizes, "host": sizes}
    assert post.seen["lost"] > 0


async def test_a_real_protocol_of_three_has_its_result() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.random((60, 2)), rng.random((60, 3))
    programs = {
        "guest": lambda p: correlation.guest(p, x),
        "host": lambda p: correlation.host(p, y),
        "arbiter": correlation.arbiter,
    }
    sites = Sites(correlation.PROTOCOL)
    found = await played(sites, programs, Post(sites, seed=3, loses=0.1, repeats=0.2, late_s=0.01))
    assert np.abs(found["guest"] - np.corrcoef(x.T, y.T)[:2, 2:]).max() < 1e-5


async def test_an_intersection_has_the_rows_that_it_has_in_process() -> None:
    sites = Sites(chase_miao.PROTOCOL)
    mine, theirs = list(range(0, 3000, 2)), list(range(0, 3000, 3))
    programs = {"guest": lambda p: chase_miao.guest(p, mine), "host": lambda p: chase_miao.host(p, theirs)}
    found = await played(sites, programs, Post(sites))
    assert sorted(mine[at] for at in found["guest"]) == list(range(0, 3000, 6))
    assert [mine[at] for at in found["guest"]] == [theirs[at] for at in found["host"]]


async def test_a_program_that_fails_ends_the_others_by_name() -> None:
    async def fails(party: Party) -> None:
        raise ValueError("no")

    async def waits(party: Party) -> None:
        await party.recv("guest", "numbers")

    sites = Sites(TALK)
    found = await played(sites, {"guest": fails, "host": waits}, Post(sites))
    assert "guest" in str(found["host"])
    assert isinstance(found["host"], HanseError)


async def test_a_bridge_that_breaks_tells_its_peers_that_it_is_lost() -> None:
    sites = Sites(TALK)
    post = Post(sites, loses=0.3, seed=5)
    streams = post.streams()

    async def waits(party: Party) -> None:
        await party.recv("guest", "numbers")

    waiting = asyncio.ensure_future(sites.play({"host": waits}, {"host": streams["host"]}))
    streams["guest"].cancel()
    found = (await asyncio.wait_for(waiting, WAIT_S))["host"]
    assert "lost" in str(found)
    await post.close()


async def test_the_server_ends_a_session() -> None:
    sites = Sites(TALK)
    post = Post(sites)
    streams = post.streams()

    async def waits(party: Party) -> None:
        await party.recv("guest", "numbers")

    waiting = asyncio.ensure_future(sites.play({"host": waits}, {"host": streams["host"]}))
    await asyncio.sleep(0.05)
    post.ends["host"].end(SESSION)
    assert isinstance((await asyncio.wait_for(waiting, WAIT_S))["host"], HanseError)
    with pytest.raises(NotFoundError):
        post.ends["host"].open(SESSION, "host", post.sites)
    await post.close()


async def test_a_later_session_ends_an_earlier_one_and_no_earlier_one_begins_again() -> None:
    post = Post(Sites(TALK))
    end = post.ends["guest"]
    first = end.open("j/main/9", "guest", post.sites)
    end.open("j/main/10", "guest", post.sites)
    assert await first.read() is None
    with pytest.raises(NotFoundError):
        end.open("j/main/9", "guest", post.sites)
    await post.close()


async def test_what_comes_early_is_kept_in_bounds() -> None:
    post = Post(Sites(TALK))
    end = post.ends["host"]
    for session in range(40):
        for seq in range(MAX_EARLY + 9):
            end.take(Packet(f"j{session}/main/1", "guest", "host", seq, 0))
    assert sum(map(len, end._early.values())) <= 16 * MAX_EARLY
    await post.close()


async def test_a_peer_speaks_for_itself_alone() -> None:
    post = Post(Sites(correlation.PROTOCOL))
    stream = post.ends["host"].open(SESSION, "host", post.sites)
    forged = bytes((4, 0, 2))  # END of the arbiter, in the guest's packet
    stream.take(Packet(SESSION, "guest", "host", 0, 0, len(forged).to_bytes(4, "little") + forged))
    with pytest.raises(HanseError, match="not its own"):
        await stream.read()
    await post.close()


async def test_a_blob_for_which_there_was_no_room_is_not_said_to_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes again, and must be there then."""
    monkeypatch.setattr(packets, "MAX_EARLY_BYTES", 12)
    message = bytes((wire.DATA, 0, 1, 7))
    content = len(message).to_bytes(4, "little") + message

    class Carry:
        dropped: tuple[int, ...] = ()

        async def send_packet(self, packet: Packet) -> None:
            self.dropped += packet.dropped

        async def put_blob(self, scope: str, content: bytes) -> Manifest:
            raise UnavailableError("nothing is put here")

        async def get_blob(self, packet: Packet) -> bytes:
            return content

    carry = Carry()
    stream = QueueStream("j/c/1", "host", {"guest": "a", "host": "b"}, carry, answer_s=0.0)

    async def comes(seq: int, told: tuple[int, ...], *, as_blob: bool = True) -> None:
        """A packet comes; what is said to be read by then, and a while later."""
        blob, links = (manifest_of(content), (("u", ()),)) if as_blob else (None, ())
        stream.take(Packet("j/c/1", "guest", "host", seq, 0, b"" if as_blob else content, blob, (), links))
        await until(lambda: carry.dropped == told)
        for _ in range(3):
            await asyncio.sleep(0.01)
        assert carry.dropped == told

    await comes(1, (1,))
    await comes(2, (1,))
    await comes(0, (1,), as_blob=False)
    await comes(2, (1, 2))
    assert [await stream.read() for _ in range(3)] == [message] * 3
    stream.close()


async def test_what_was_read_is_said_by_the_next_packet_where_one_could_not_be_sent() -> None:
    message = bytes((wire.DATA, 0, 1, 7))
    content = len(message).to_bytes(4, "little") + message

    class Carry:
        def __init__(self) -> None:
            self.tried: asyncio.Queue[tuple[int, ...]] = asyncio.Queue()
            self.works = False

        async def send_packet(self, packet: Packet) -> None:
            self.tried.put_nowait(packet.dropped)
            if not self.works:
                raise UnavailableError("the queue is away")

        async def put_blob(self, scope: str, content: bytes) -> Manifest:
            raise UnavailableError("nothing is put here")

        async def get_blob(self, packet: Packet) -> bytes:
            return content

    carry = Carry()
    stream = QueueStream("j/c/1", "host", {"guest": "a", "host": "b"}, carry, answer_s=0.0)
    for seq, said in ((0, (0,)), (1, (0, 1)), (2, (2,))):
        stream.take(Packet("j/c/1", "guest", "host", seq, 0, b"", manifest_of(content), (), (("u", ()),)))
        assert await asyncio.wait_for(carry.tried.get(), WAIT_S) == said
        carry.works = True
    stream.close()
