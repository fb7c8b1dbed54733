"""Role programs over channels: order, repetition, deadlines with causes, refusals, counters; every backend."""

import asyncio
import contextlib
import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.channels.frames import Frame
from hanse.channels.local import ROOM, local_channels, run_local
from hanse.channels.party import MAX_WAITING_FRAMES, Party, run_role
from hanse.channels.protocol import Guarantee, Message, Protocol, Reveal, compose
from hanse.channels.schedule import run_scheduled
from hanse.channels.stream import StreamChannel
from hanse.core.arrays import Arrays
from hanse.core.codec import canonical_json, decode, encode
from hanse.core.errors import CodecError, ConfigError, HanseError, RefusedError, TooLargeError, UnavailableError
from tests.patience import NEVER_S, WAIT_S

GUARANTEE = Guarantee("none", 0, 0, 0, ())
SUMS = Protocol(
    "sums",
    ("guest", "host"),
    (
        Message("numbers", "guest", "host", "int64", (None,)),
        Message("scale", "guest", "host", "float64", ()),
        Message("sums", "host", "guest", "float64", (2,)),
    ),
    GUARANTEE,
    (Reveal("host", "guest", "numbers", "all of them"),),
)
ROUNDS = 5


async def guest(party: Party) -> list[list[float]]:
    for i in range(ROUNDS):
        await party.send("host", "numbers", np.arange(i + 1))
        await party.send("host", "scale", np.array(0.5 * i))
    return [(await party.recv("host", "sums")).tolist() for _ in range(ROUNDS)]


async def host(party: Party) -> str:
    for _ in range(ROUNDS):
        scale = await party.recv("guest", "scale")
        numbers = await party.recv("guest", "numbers")
        await party.send("guest", "sums", np.array([numbers.sum(), numbers.sum() * scale]))
    return "done"


EXPECTED = [[i * (i + 1) / 2, i * (i + 1) / 2 * 0.5 * i] for i in range(ROUNDS)]


def test_every_interleaving_gives_the_same() -> None:
    for seed in range(200):
        outcome = run_scheduled(SUMS, {"guest": guest, "host": host}, seed, repeats=0.3)
        assert outcome.errors == {}
        assert outcome.results == {"guest": EXPECTED, "host": "done"}
        counters = outcome.parties["host"].counters
        assert (counters.sent_messages, counters.received_messages) == (ROUNDS, 2 * ROUNDS)
        assert counters.received_bytes == outcome.parties["guest"].counters.sent_bytes
        assert counters.turns == ROUNDS - 1


def test_the_scheduler_reorders_and_repeats() -> None:
    """Without Party's order and its dropping of repetitions the test above would see wrong sums."""
    arrivals: set[tuple[int, ...]] = set()
    for seed in range(50):
        seen: list[int] = []

        async def listen(party: Party, seen: list[int] = seen) -> None:
            while (frame := await party._channel.receive(1.0)) is not None:
                seen.append(frame.seq)

        async def talk(party: Party) -> None:
            for _ in range(3):
                await party.send("host", "scale", np.array(1.0))

        run_scheduled(SUMS, {"guest": talk, "host": listen}, seed, repeats=0.3)
        arrivals.add(tuple(seen))
    assert {(0, 1, 2), (2, 1, 0), (1, 0, 2)} <= arrivals
    assert any(len(each) > 3 for each in arrivals)


def test_one_seed_is_one_interleaving() -> None:
    first, second = (run_scheduled(SUMS, {"guest": guest, "host": host}, 7) for _ in range(2))
    assert first.parties["guest"].counters == second.parties["guest"].counters


async def test_in_one_process() -> None:
    assert await run_local(SUMS, {"guest": guest, "host": host}) == {"guest": EXPECTED, "host": "done"}


async def test_over_a_pair_of_sockets() -> None:
    ends = [StreamChannel(end) for end in socket.socketpair()]
    found = await asyncio.gather(guest(Party("guest", SUMS, ends[0])), host(Party("host", SUMS, ends[1])))
    assert found == [EXPECTED, "done"]
    for end_ in ends:
        await end_.close()


# ---- deadlines and ends ----


def test_a_deadline_names_who_what_and_when() -> None:
    async def waits(party: Party) -> None:
        party.iteration = 7
        await party.recv("host", "sums")

    outcome = run_scheduled(SUMS, {"guest": waits}, 0, names={"host": "shop"})
    assert isinstance(outcome.errors["guest"], UnavailableError)
    assert str(outcome.errors["guest"]) == (
        "host shop has not sent `sums` of iteration 7 for 30 s; last heard 30 s ago"
    )
    assert outcome.elapsed_s == 31  # a second for asking whom the shop waits for


def test_a_lost_message_is_a_deadline_on_both_sides() -> None:
    outcome = run_scheduled(SUMS, {"guest": guest, "host": host}, 3, lost=lambda frame: frame.seq == 2)
    assert set(outcome.errors) == {"guest", "host"}
    assert all(isinstance(error, UnavailableError) for error in outcome.errors.values())


def test_a_role_that_fails_ends_the_others_at_once() -> None:
    async def fails(party: Party) -> None:
        raise ValueError("own trouble")

    outcome = run_scheduled(SUMS, {"guest": guest, "host": fails}, 1)
    assert str(outcome.errors["guest"]) == "host stopped before it sent `sums`"
    assert outcome.elapsed_s == 0


async def test_run_local_raises_the_first_error() -> None:
    async def fails(party: Party) -> None:
        raise ValueError("own trouble")

    with pytest.raises(ValueError, match="own trouble"):
        await run_local(SUMS, {"guest": guest, "host": fails})
    with pytest.raises(ConfigError, match="expected programs for"):
        await run_local(SUMS, {"guest": guest})


async def pair() -> list[StreamChannel]:
    """Two ends whose pipe holds far less than a megabyte."""
    return [StreamChannel(end) for end in socket.socketpair()]


BIG = np.zeros(1 << 20)
TALK = Protocol(
    "talk",
    ("guest", "host"),
    (Message("big", "guest", "host", "float64", (None,)), Message("big", "host", "guest", "float64", (None,))),
    GUARANTEE,
    (),
)


async def test_two_that_send_at_once_do_not_wait_for_each_other() -> None:
    async def talk(party: Party, peer: str) -> int:
        for _ in range(3):
            await party.send(peer, "big", BIG)
        return sum([len(await party.recv(peer, "big")) for _ in range(3)])

    ends = await pair()
    parties = [Party(role, TALK, end, timeout_s=WAIT_S) for role, end in zip(TALK.roles, ends, strict=True)]
    async with asyncio.timeout(WAIT_S):
        found = await asyncio.gather(talk(parties[0], "host"), talk(parties[1], "guest"))
    assert found == [3 * len(BIG)] * 2
    for end in ends:
        await end.close()


async def test_a_send_has_a_deadline_that_names_who_and_what() -> None:
    words = r"host shop has not taken `big` for 0.2 s; last heard \d+ s ago"
    async with asyncio.timeout(WAIT_S):
        ends = await pair()
        party = Party("guest", TALK, ends[0], names={"host": "shop"}, timeout_s=0.2)
        with pytest.raises(UnavailableError, match=words):
            await party.send("host", "big", BIG)
        party = Party("guest", TALK, local_channels(TALK.roles)["guest"], names={"host": "shop"}, timeout_s=0.2)
        for _ in range(ROOM):
            await party.send("host", "big", np.zeros(1))
        with pytest.raises(UnavailableError, match=words):
            await party.send("host", "big", np.zeros(1))


async def fill(party: Party) -> None:
    while True:
        await party.send("host", "big", np.zeros(1000))


@pytest.mark.parametrize("over_sockets", [True, False])
async def test_a_full_pipe_does_not_hold_back_the_first_error(over_sockets: bool) -> None:
    """By its deadline or by cancellation, although `timeout_s` is far longer."""
    for cancelled in (False, True):
        ends: Any = await pair() if over_sockets else list(local_channels(TALK.roles).values())
        party = Party("guest", TALK, ends[0], timeout_s=NEVER_S)

        async def fails(party: Party) -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.3):
                    await fill(party)
            raise ValueError("own trouble")

        task = asyncio.create_task(run_role(party, fill if cancelled else fails))
        if cancelled:
            await asyncio.sleep(0.3)
            task.cancel()
        done, _ = await asyncio.wait([task], timeout=WAIT_S)
        assert done
        with pytest.raises(asyncio.CancelledError if cancelled else ValueError):
            task.result()


async def test_trouble_with_telling_others_does_not_hide_the_error() -> None:
    class Broken:
        def expect(self, check: Any) -> None: ...

        async def send(self, frame: Frame, wait_s: float) -> bool:
            raise RuntimeError("closed")

        def now(self) -> float:
            return 0.0

    async def fails(party: Party) -> None:
        raise ValueError("own trouble")

    with pytest.raises(ValueError, match="own trouble"):
        await run_role(Party("guest", TALK, Broken()), fails)  # type: ignore[arg-type]  # it only sends


async def test_run_local_takes_its_roles_with_it_when_cancelled() -> None:
    begun, ended = {role: asyncio.Event() for role in ("guest", "host")}, []

    async def waits(party: Party) -> None:
        begun[party.role].set()
        try:
            await party.recv("host" if party.role == "guest" else "guest", "big")
        finally:
            ended.append(party.role)

    task = asyncio.create_task(run_local(TALK, {"guest": waits, "host": waits}))
    async with asyncio.timeout(WAIT_S):
        await asyncio.gather(*(each.wait() for each in begun.values()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(ended) == ["guest", "host"]


async def test_run_local_where_a_role_cancels_itself() -> None:
    async def cancels(party: Party) -> None:
        raise asyncio.CancelledError

    async def waits(party: Party) -> None:
        await party.recv("guest", "big")

    with pytest.raises(UnavailableError, match="guest stopped before"):
        await run_local(TALK, {"guest": cancels, "host": waits})


async def test_what_is_read_ahead_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hanse.channels.stream.MAX_AHEAD_BYTES", 1)
    ends = await pair()
    guest, host = (Party(role, TALK, end, timeout_s=s) for role, end, s in zip(TALK.roles, ends, (1, 120), strict=True))
    sending = asyncio.create_task(guest.send("host", "big", BIG))  # nobody takes it
    for _ in range(3):
        await host.send("guest", "big", np.zeros(4))
    with pytest.raises(UnavailableError):
        await sending
    assert len(ends[0]._ahead) == 1
    assert [len(await guest.recv("host", "big")) for _ in range(3)] == [4, 4, 4]


async def test_a_closed_connection_is_an_end() -> None:
    mine, theirs = socket.socketpair()
    channel = StreamChannel(mine)
    assert await channel.receive(0.01) is None
    theirs.close()
    with pytest.raises(UnavailableError, match="closed the connection"):
        await channel.receive(1.0)
    await channel.close()


# ---- what is refused ----


@pytest.mark.parametrize(
    ("to", "name", "value"),
    [
        ("host", "sums", np.zeros(2)),
        ("arbiter", "numbers", np.arange(3)),
        ("host", "numbers", np.arange(3.0)),
        ("host", "numbers", np.zeros((2, 2), np.int64)),
        ("host", "scale", np.zeros(1)),
    ],
)
async def test_what_is_not_declared_is_not_sent(to: str, name: str, value: Any) -> None:
    party = Party("guest", SUMS, local_channels(SUMS.roles)["guest"])
    with pytest.raises(ConfigError, match="protocol sums"):
        await party.send(to, name, value)


async def test_what_is_not_declared_is_not_awaited() -> None:
    party = Party("guest", SUMS, local_channels(SUMS.roles)["guest"])
    with pytest.raises(ConfigError, match="guest receives no message 'numbers' from 'host'"):
        await party.recv("host", "numbers")
    with pytest.raises(ConfigError, match="expected a role"):
        Party("arbiter", SUMS, local_channels(SUMS.roles)["guest"])
    with pytest.raises(ConfigError, match="timeout_s > 0"):
        Party("guest", SUMS, local_channels(SUMS.roles)["guest"], timeout_s=0)


def content(name: str, value: Any) -> bytes:
    return encode(Arrays({name: value}))


SECRET = 424242


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (Frame("guest", "host", "gradients", 0, content("gradients", np.array([SECRET]))), RefusedError),
        (Frame("guest", "host", "numbers", 0, content("scale", np.array([SECRET]))), RefusedError),
        (Frame("guest", "host", "numbers", 0, content("numbers", np.array([SECRET + 0.5]))), RefusedError),
        (Frame("guest", "host", "numbers", 0, content("numbers", np.array([[SECRET]]))), RefusedError),
        (Frame("guest", "host", "numbers", 0, b"424242"), RefusedError),
        (Frame("guest", "guest", "numbers", 0, content("numbers", np.array([SECRET]))), RefusedError),
        (Frame("arbiter", "host", "numbers", 0, content("numbers", np.array([SECRET]))), RefusedError),
        (Frame("guest", "host", "numbers", MAX_WAITING_FRAMES, content("numbers", np.array([SECRET]))), TooLargeError),
    ],
)
async def test_what_does_not_fit_is_refused_whatever_is_awaited(frame: Frame, error: type[Exception]) -> None:
    ends = local_channels(SUMS.roles)
    party = Party("host", SUMS, ends["host"], timeout_s=WAIT_S)
    ends["host"]._queues["host"].put_nowait(frame)
    with pytest.raises(error) as caught:
        await party.recv("guest", "scale")
    assert str(SECRET) not in str(caught.value)


async def test_what_waits_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hanse.channels.party.MAX_WAITING_BYTES", 800)
    ends = local_channels(SUMS.roles)
    sender, party = Party("guest", SUMS, ends["guest"]), Party("host", SUMS, ends["host"])
    for _ in range(5):  # taken one by one, they may be many, and one may be long
        await sender.send("host", "numbers", np.arange(101))
        assert len(await party.recv("guest", "numbers")) == 101
    for _ in range(2):
        await sender.send("host", "numbers", np.arange(60))
    with pytest.raises(TooLargeError, match="more than 800 bytes wait for host"):
        await party.recv("guest", "scale")


def test_a_peer_s_text_does_not_enter_our_error() -> None:
    header = canonical_json({"secret 424242": {"dtype": "X", "shape": [], "data_offsets": [0, 0]}})
    header += b" " * (-(8 + len(header)) % 64)
    raw = len(header).to_bytes(8, "little") + header
    with pytest.raises(CodecError, match="secret 424242"):  # the codec's own error quotes it
        decode(raw)
    party = Party("host", SUMS, local_channels(SUMS.roles)["host"], names={"guest": "clinic"})
    with pytest.raises(RefusedError) as caught:
        party._take(Frame("guest", "host", "numbers", 0, raw))
    assert str(caught.value) == "guest clinic sent numbers: not canonical arrays"


@given(st.binary(max_size=200))
def test_garbage_is_refused(raw: bytes) -> None:
    party = Party("host", SUMS, local_channels(SUMS.roles)["host"])
    with pytest.raises(RefusedError):
        party._take(Frame("guest", "host", "numbers", 0, raw))


@given(st.one_of(st.binary(max_size=100), st.lists(st.one_of(st.integers(), st.text(max_size=3)), max_size=6)))
async def test_a_stream_of_garbage_is_refused(value: Any) -> None:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    mine, theirs = socket.socketpair()
    theirs.sendall(len(raw).to_bytes(4, "little") + raw)
    theirs.close()
    channel = StreamChannel(mine)
    party = Party("host", SUMS, channel)
    with pytest.raises(HanseError):
        await party.recv("guest", "numbers")
    await channel.close()


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (["guest", "host", "gradients", 0, 1 << 30], "does not declare"),
        (["host", "guest", "sums", 0, 1 << 30], "not in this channel"),
        (["guest", "host", "scale", 0, 1 << 30], "more bytes than its message holds"),
        (["guest", "host", "!stopped", 0, 1 << 30], "more bytes than its message holds"),
        (["guest", "host", "numbers", 0, 1 << 50], "expected content of at most"),
    ],
)
async def test_a_head_is_refused_before_its_content_is_read(head: list[Any], words: str) -> None:
    """Nothing of the content ever comes here."""
    mine, theirs = socket.socketpair()
    raw = json.dumps(head).encode()
    theirs.sendall(len(raw).to_bytes(4, "little") + raw)
    channel = StreamChannel(mine)
    with pytest.raises(RefusedError, match=words):
        await Party("host", SUMS, channel, timeout_s=WAIT_S).recv("guest", "numbers")
    await channel.close()
    theirs.close()


async def test_what_a_party_takes_no_more_of_is_refused_before_its_content_is_read() -> None:
    mine, theirs = socket.socketpair()
    raw = json.dumps(["guest", "host", "numbers", 0, 10_000]).encode()
    theirs.sendall(len(raw).to_bytes(4, "little") + raw)
    channel = StreamChannel(mine)
    party = Party("host", SUMS, channel, timeout_s=WAIT_S)
    party.limit("guest", "numbers", 5_000)
    with pytest.raises(TooLargeError, match="guest sent more of numbers than is taken here: 10000 bytes of 6024"):
        await party.recv("guest", "numbers")
    await channel.close()
    theirs.close()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads its own memory from /proc")
async def test_a_head_alone_costs_no_memory() -> None:
    """A peer may announce 1 GiB where its message has no bound; it must send them, too."""

    def resident_pages() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1])

    mine, theirs = socket.socketpair()
    raw = json.dumps(["guest", "host", "numbers", 0, 1 << 30]).encode()
    theirs.sendall(len(raw).to_bytes(4, "little") + raw + b"a few bytes")
    before = resident_pages()
    channel = StreamChannel(mine)
    with pytest.raises(UnavailableError, match="has not sent"):
        await Party("host", SUMS, channel, timeout_s=0.3).recv("guest", "numbers")
    assert resident_pages() - before < 25_000  # 100 MB
    await channel.close()
    theirs.close()


async def test_an_end_speaks_for_its_own_role_only() -> None:
    three = Protocol(
        "three", ("guest", "host", "arbiter"), (Message("m", "arbiter", "host", "uint8", ()),), GUARANTEE, ()
    )
    mine, theirs = (
        StreamChannel(end, peers) for end, peers in zip(socket.socketpair(), (["guest"], None), strict=True)
    )
    await Party("arbiter", three, theirs).send("host", "m", np.array(1, np.uint8))
    with pytest.raises(RefusedError, match="a role that is not its own"):
        await Party("host", three, mine).recv("arbiter", "m")
    await mine.close()
    await theirs.close()


async def test_a_lost_peer_is_named_and_a_silent_one_was_heard() -> None:
    ends = local_channels(SUMS.roles)
    party = Party("host", SUMS, ends["host"], names={"guest": "bank"}, timeout_s=0.2)
    queue = ends["host"]._queues["host"]
    await party._channel.receive(0.01)
    asyncio.get_running_loop().call_later(0.15, queue.put_nowait, Frame("guest", "host", "!alive", 0, b""))
    with pytest.raises(UnavailableError, match=r"guest bank has not sent `scale` for 0.2 s; last heard \d+ s ago"):
        await party.recv("guest", "scale")
    queue.put_nowait(Frame("guest", "host", "!lost", 0, b""))
    with pytest.raises(UnavailableError, match="guest bank was lost before it sent `scale`"):
        await party.recv("guest", "scale")


async def test_a_sent_array_may_be_changed_and_a_received_one_may_not() -> None:
    ends = local_channels(SUMS.roles)
    value = np.arange(3)
    await Party("guest", SUMS, ends["guest"]).send("host", "numbers", value)
    value[:] = 9
    received = await Party("host", SUMS, ends["host"]).recv("guest", "numbers")
    assert received.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="read-only"):
        received[0] = 1


# ---- declarations ----


def test_a_declaration_is_checked() -> None:
    twice = (SUMS.messages[0], SUMS.messages[0])
    with pytest.raises(ConfigError, match="declared twice"):
        Protocol("x", ("guest", "host"), twice, GUARANTEE, ())
    with pytest.raises(ConfigError, match="two distinct roles"):
        Protocol("x", ("guest", "host"), (Message("m", "guest", "guest", "uint8", ()),), GUARANTEE, ())
    with pytest.raises(ConfigError, match="two distinct roles"):
        Protocol("x", ("guest", "host"), (), GUARANTEE, (Reveal("guest", "arbiter", "size", ""),))
    with pytest.raises(ConfigError, match="does not travel"):
        Protocol("x", ("guest", "host"), (Message("m", "guest", "host", "object", ()),), GUARANTEE, ())


def test_reveals_are_data_and_compose() -> None:
    other = Protocol("y", ("guest", "host"), (), GUARANTEE, (*SUMS.reveals, Reveal("guest", "host", "size", "")))
    assert [each.what for each in compose([SUMS, other, SUMS])] == ["numbers", "size"]
    assert json.loads(json.dumps(SUMS.describe()))["reveals"][0]["what"] == "numbers"
