"""Roles through a relay: in any order and size, sealed, bounded, and with a server that does what it likes."""

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.backends.grpc import relay as wire
from hanse.backends.grpc.relay import Relays, RelaySession, read_opening
from hanse.channels.party import Party
from hanse.channels.protocol import Guarantee, Message, Protocol
from hanse.core.errors import ConflictError, HanseError, NotFoundError, PolicyError, TrustError, UnavailableError
from hanse.vertical import correlation
from hanse.vertical.psi import chase_miao
from tests.patience import NEVER_S, WAIT_S
from tests.unit.site.relayed import CONTEXT, MemoryStream, Sites

TALK = Protocol(
    "talk",
    ("guest", "host"),
    (
        Message("numbers", "guest", "host", "int64", (None,)),
        Message("numbers", "host", "guest", "int64", (None,)),
        Message("flag", "guest", "host", "uint8", ()),
    ),
    Guarantee("none", 0, 0, 0, ()),
    (),
)


async def test_a_real_protocol_has_its_result() -> None:
    sites = Sites(chase_miao.PROTOCOL)
    mine, theirs = list(range(0, 3000, 2)), list(range(0, 3000, 3))
    found = await sites.play(
        {"guest": lambda p: chase_miao.guest(p, mine), "host": lambda p: chase_miao.host(p, theirs)}
    )
    assert [mine[at] for at in found["guest"]] == [theirs[at] for at in found["host"]]
    assert sorted(mine[at] for at in found["guest"]) == list(range(0, 3000, 6))


async def test_three_roles() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.random((60, 2)), rng.random((60, 3))
    programs = {
        "guest": lambda p: correlation.guest(p, x),
        "host": lambda p: correlation.host(p, y),
        "arbiter": correlation.arbiter,
    }
    found = await Sites(correlation.PROTOCOL).play(programs)
    assert np.abs(found["guest"] - np.corrcoef(x.T, y.T)[:2, 2:]).max() < 1e-5
    assert found["arbiter"] is None


@settings(max_examples=10, deadline=None)
@given(st.lists(st.sampled_from([0, 1, 7, 100, 131_071, 131_072, 131_073, 400_000]), min_size=1, max_size=6))
async def test_every_size_both_ways_at_once(sizes: list[int]) -> None:
    """Around a piece's 2^17 numbers of 8 bytes, too; both send all before they receive."""

    async def talks(party: Party) -> list[int]:
        other = "host" if party.role == "guest" else "guest"
        for size in sizes:
            await party.send(other, "numbers", np.arange(size))
        received = [await party.recv(other, "numbers") for _ in sizes]
        assert all((each == np.arange(len(each))).all() for each in received)
        return [len(each) for each in received]

    assert await Sites(TALK).play({"guest": talks, "host": talks}) == {"guest": sizes, "host": sizes}


async def test_a_slow_recipient_stops_the_sender_and_memory_is_bounded() -> None:
    sites = Sites(TALK)
    taken = asyncio.Event()

    async def sends(party: Party) -> int:
        done = 0
        for _ in range(40):  # 40 MB
            await party.send("host", "numbers", np.zeros(131_072, np.int64))
            done += 1
            progress[0] = done
        return done

    async def sleeps(party: Party) -> int:
        await taken.wait()
        return sum([len(await party.recv("guest", "numbers")) for _ in range(40)])

    progress = [0]
    running = asyncio.ensure_future(sites.play({"guest": sends, "host": sleeps}, timeout_s=NEVER_S))
    peak = 0
    for _ in range(30):
        await asyncio.sleep(0.02)
        peak = max(peak, sites.session.waiting_bytes)
    assert progress[0] < 20  # the windows and the sockets' buffers hold the rest up
    assert peak <= wire.WINDOW_BYTES
    taken.set()
    assert await running == {"guest": 40, "host": 40 * 131_072}


async def test_the_deadline_of_a_send_names_who_has_not_taken() -> None:
    over = asyncio.Event()

    async def sends(party: Party) -> None:
        try:
            for _ in range(60):
                await party.send("host", "numbers", np.zeros(131_072, np.int64))
        finally:
            over.set()

    async def sleeps(party: Party) -> None:
        await over.wait()

    found = await Sites(TALK).play({"guest": sends, "host": sleeps}, timeout_s=1.0, names={"host": "shop"})
    assert "host shop has not taken `numbers` for 1 s" in str(found["guest"])


async def test_a_lost_peer_is_named_at_once() -> None:
    sites = Sites(TALK)
    streams = {role: sites.stream(role) for role in TALK.roles}

    async def waits(party: Party) -> None:
        await party.recv("guest", "numbers")

    async def dies(party: Party) -> None:
        await party.send("host", "flag", np.array(1, np.uint8))
        streams["guest"].cancel()
        await party.recv("host", "numbers")

    async with asyncio.timeout(WAIT_S):
        found = await sites.play({"guest": dies, "host": waits}, streams)
    assert str(found["host"]) == "guest was lost before it sent `numbers`"
    assert isinstance(found["guest"], HanseError)


async def test_one_that_has_ended_is_named_at_once() -> None:
    async def ends(party: Party) -> None:
        await party.send("host", "flag", np.array(1, np.uint8))

    async def waits(party: Party) -> None:
        assert int(await party.recv("guest", "flag")) == 1
        await party.recv("guest", "numbers")

    async with asyncio.timeout(WAIT_S):
        found = await Sites(TALK).play({"guest": ends, "host": waits})
    assert found["guest"] is None
    assert str(found["host"]) == "guest stopped before it sent `numbers`"


async def test_a_silent_program_s_site_is_still_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second that passes without it says nothing where the whole machine stood still: then once more."""
    monkeypatch.setattr(MemoryStream, "alive_s", 0.05)

    async def tell() -> str:
        over = asyncio.Event()

        async def silent(party: Party) -> None:
            await over.wait()

        async def waits(party: Party) -> str:
            try:
                await party.recv("guest", "numbers")
            except UnavailableError as error:
                over.set()
                return str(error)
            return ""

        found = await Sites(TALK).play({"guest": silent, "host": waits}, timeout_s=1.4)
        return str(found["host"])

    for _ in range(10):
        if "last heard 0 s" in (told := await tell()):
            break
    assert told == "guest has not sent `numbers` for 1.4 s; last heard 0 s ago"


# ---- a server that does what it likes ----


async def one_message(tamper: Any, guest_context: Any = CONTEXT, *, refused: bool = True) -> list[Any]:
    """Results or errors of both bridges after one frame from the guest, which the host's refuses or passes on."""
    sites = Sites(TALK)
    async with (
        sites.bridged("guest", sites.stream("guest", tamper), context=guest_context) as (guest, sending),
        sites.bridged("host", sites.stream("host"), timeout_s=WAIT_S) as (host, receiving),
    ):
        await guest.send("host", "numbers", np.array([424242]))
        receiving_all = asyncio.ensure_future(host.recv("guest", "numbers"))
        await asyncio.wait((receiving if refused else receiving_all,), timeout=WAIT_S)
        outcome: list[Any] = [task.exception() if task.done() else None for task in (sending, receiving)]
        outcome += await asyncio.gather(receiving_all, return_exceptions=True)
        return outcome


def is_data(message: bytes) -> bool:
    return message[0] == wire.DATA


async def test_the_server_sees_nothing() -> None:
    seen: list[bytes] = []

    def watch(message: bytes) -> list[bytes]:
        seen.append(message)
        return [message]

    outcome = await one_message(watch, refused=False)
    assert outcome[:2] == [None, None]
    assert outcome[2].tolist() == [424242]
    text = b"".join(seen)
    assert b"numbers" not in text
    assert np.array([424242]).tobytes() not in text


@pytest.mark.parametrize(
    "tamper",
    [
        pytest.param(lambda m: [m[:-1] + bytes([m[-1] ^ 1])] if is_data(m) else [m], id="altered"),
        pytest.param(lambda m: [m, m] if is_data(m) else [m], id="repeated"),
        pytest.param(lambda m: [m[:3] + bytes(len(m) - 3)] if is_data(m) else [m], id="made up"),
        pytest.param(lambda m: [m[:3] + b"\x09" + bytes(31)] if m[0] == wire.HELLO else [m], id="another's hello"),
        pytest.param(lambda m: [m[:3] + bytes(32)] if m[0] == wire.HELLO else [m], id="a hello of small order"),
    ],
)
async def test_what_the_server_changes_is_refused(tamper: Any) -> None:
    outcome = await one_message(tamper)
    assert isinstance(outcome[1], TrustError)
    assert "424242" not in str(outcome[1])


async def test_sites_that_accepted_different_jobs_do_not_understand_each_other() -> None:
    from dataclasses import replace

    outcome = await one_message(lambda m: [m], replace(CONTEXT, agreement="cd" * 32))
    assert isinstance(outcome[1], TrustError)
    assert "has accepted another job" in str(outcome[1])


async def test_a_piece_that_is_lost_is_noticed_with_the_next() -> None:
    dropped: list[int] = []

    def drop_first(message: bytes) -> list[bytes]:
        if is_data(message) and not dropped:
            dropped.append(1)
            return []
        return [message]

    sites = Sites(TALK)
    async with (
        sites.bridged("guest", sites.stream("guest", drop_first)) as (guest, _),
        sites.bridged("host", sites.stream("host"), timeout_s=WAIT_S) as (host, receiving),
    ):
        for _ in range(2):
            await guest.send("host", "numbers", np.array([1]))
        with pytest.raises(UnavailableError):
            await host.recv("guest", "numbers")
        await asyncio.wait((receiving,), timeout=WAIT_S)
        assert isinstance(receiving.exception(), TrustError)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=4), st.integers(0, 5))
async def test_garbage_from_the_server_is_refused_by_name(messages: list[bytes], kind: int) -> None:
    sites = Sites(TALK)

    class Garbage:
        alive_s = 2.5

        def __init__(self) -> None:
            self.left = [*messages, bytes((kind, 0, 1)) + b"".join(messages)]

        async def write(self, message: bytes) -> None: ...

        async def read(self) -> bytes | None:
            return self.left.pop(0) if self.left else None

        async def half_close(self) -> None: ...

        def cancel(self) -> None: ...

    async with sites.bridged("host", Garbage(), timeout_s=1.0) as (_, running):
        await asyncio.wait([running])
        assert isinstance(running.exception(), HanseError)


# ---- workers and sites that do what they like ----


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (["guest", "host", "gradients", 0, 8], "does not declare"),
        (["host", "guest", "numbers", 0, 8], "another role"),
        (["guest", "arbiter", "numbers", 0, 8], "not in this session"),
        (["guest", "host", "flag", 0, 1 << 20], "more bytes than is declared"),
        (["guest", "host", "flag", -1, 8], "negative"),
    ],
)
async def test_a_worker_sends_what_is_declared_or_nothing(head: list[Any], words: str) -> None:
    import json

    sites = Sites(TALK)
    async with sites.bridged("guest", sites.stream("guest")) as (_, running):
        raw = json.dumps(head).encode()
        sites.channels["guest"]._sock.send(len(raw).to_bytes(4, "little") + raw + bytes(8))
        await asyncio.wait([running], timeout=WAIT_S)
        assert words in str(running.exception())


def session() -> RelaySession:
    return RelaySession({"guest": "bank", "host": "shop"})


def test_streams_belong_to_the_role_s_site_and_are_opened_once() -> None:
    relays = Relays()
    relays.open("s", {"guest": "bank", "host": "shop"})
    with pytest.raises(PolicyError):
        relays.find("s").attach("guest", "shop")
    with pytest.raises(PolicyError):
        relays.find("s").attach("nobody", "shop")
    relays.find("s").attach("guest", "bank")
    with pytest.raises(ConflictError):
        relays.find("s").attach("guest", "bank")
    relays.close("s")
    with pytest.raises(NotFoundError):
        relays.find("s")


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x01\x00",
        wire.head(wire.DATA, 1, 0) + b"x",
        wire.head(wire.DATA, 0, 0) + b"x",
        wire.head(wire.DATA, 0, 2) + b"x",
        wire.head(wire.LOST, 0, 1),
        wire.head(99, 0, 1),
        wire.head(wire.DATA, 0, 1) + bytes(wire.MAX_PIECE_BYTES + 1),
        wire.head(wire.HELLO, 0, 1) + bytes(wire.MAX_HELLO_BYTES + 1),
        wire.head(wire.TAKEN, 0, 1) + bytes(7),
        wire.head(wire.TAKEN, 0, 1) + (1).to_bytes(8, "little"),
    ],
)
def test_the_server_refuses_what_is_no_message(message: bytes) -> None:
    end = session().attach("guest", "bank")
    with pytest.raises(HanseError):
        end.take(message)


def test_the_server_holds_a_window_for_a_pair_and_no_more() -> None:
    play = session()
    end = play.attach("guest", "bank")
    piece = wire.head(wire.DATA, 0, 1) + bytes(1 << 20)
    for _ in range(wire.WINDOW_BYTES >> 20):
        end.take(piece)
    with pytest.raises(HanseError, match="on their way"):
        end.take(piece)
    for message in (wire.head(wire.ALIVE, 0, 1), wire.head(wire.TAKEN, 0, 1) + bytes(8)):
        for _ in range(1000):
            end.take(message)
    assert len(play._alive[1]) == len(play._taken[1]) == 1


async def test_a_site_that_is_revoked_is_dropped_and_the_others_are_told() -> None:
    relays = Relays()
    play = relays.open("s", {"guest": "bank", "host": "shop"})
    bank, shop = play.attach("guest", "bank"), play.attach("host", "shop")
    bank.take(wire.head(wire.DATA, 0, 1) + b"said before the end")
    relays.drop("bank")
    assert await bank.next() is None
    with pytest.raises(HanseError):
        bank.take(wire.head(wire.DATA, 0, 1) + b"x")
    assert [await shop.next(), await shop.next()] == [
        wire.head(wire.DATA, 0, 1) + b"said before the end",
        wire.head(wire.LOST, 0, 1),
    ]
    relays.drop("shop")
    with pytest.raises(ConflictError):
        play.attach("host", "shop")


def test_nothing_follows_an_end() -> None:
    end = session().attach("guest", "bank")
    end.take(wire.head(wire.END, 0, 1))
    with pytest.raises(HanseError, match="nothing may follow"):
        end.take(wire.head(wire.DATA, 0, 1) + b"x")


@given(st.binary(max_size=50))
def test_openings_are_checked(content: bytes) -> None:
    with pytest.raises(HanseError):
        read_opening(content)
    assert read_opening(wire.opening("s", "guest")) == ("s", "guest")
