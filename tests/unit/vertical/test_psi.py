"""Private set intersection: against Python's sets, under many interleavings, with bad input, and its view simulated."""

import asyncio
import itertools
import socket
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.channels.frames import Frame
from hanse.channels.local import run_local
from hanse.channels.party import MAX_WAITING_FRAMES, Party
from hanse.channels.protocol import Protocol
from hanse.channels.schedule import Outcome, run_scheduled
from hanse.channels.stream import StreamChannel
from hanse.core.arrays import Array
from hanse.core.errors import ConfigError, RefusedError
from hanse.crypto import base_ot, curve25519
from hanse.crypto.curve25519 import Encoder
from hanse.crypto.oprf import choose_parameters, digest_bytes
from hanse.vertical.psi import chase_miao, diffie_hellman
from hanse.vertical.psi.ids import kind_of, secret_order
from tests.patience import WAIT_S

pytest.importorskip("gmpy2", reason="the fallback needs gmpy2 (extra `vertical`)")

JOINS: list[Any] = [pytest.param(chase_miao, id="chase-miao"), pytest.param(diffie_hellman, id="diffie-hellman")]


def run(module: Any, guest_ids: Any, host_ids: Any, seed: int = 0) -> Outcome:
    programs = {"guest": lambda p: module.guest(p, guest_ids), "host": lambda p: module.host(p, host_ids)}
    return run_scheduled(module.PROTOCOL, programs, seed)


def joined(outcome: Outcome, guest_ids: Any, host_ids: Any) -> set[Any]:
    """The common identifiers, once both results are seen to name the same in the same order."""
    assert outcome.errors == {}
    mine = [guest_ids[at] for at in outcome.results["guest"]]
    assert mine == [host_ids[at] for at in outcome.results["host"]]
    assert len(set(mine)) == len(mine)
    return set(mine)


@pytest.mark.parametrize("module", JOINS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_it_is_the_intersection(module: Any, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([st.integers(-(2**70), 2**70), st.text(max_size=5), st.binary(max_size=5)]))
    pool = data.draw(st.lists(kind, unique=True, max_size=12))
    guest_ids = data.draw(st.lists(st.sampled_from(pool), unique=True) if pool else st.just([]))
    host_ids = data.draw(st.lists(st.sampled_from(pool), unique=True) if pool else st.just([]))
    outcome = run(module, guest_ids, host_ids, data.draw(st.integers(0, 1000)))
    assert joined(outcome, guest_ids, host_ids) == set(guest_ids) & set(host_ids)


@pytest.mark.parametrize("module", JOINS)
@pytest.mark.parametrize("sizes", [(5000, 900), (900, 5000)])
def test_several_batches_and_unequal_sizes(module: Any, sizes: tuple[int, int]) -> None:
    guest_ids = np.arange(sizes[0])
    host_ids = np.arange(sizes[1]) * 3 + 1
    outcome = run(module, guest_ids, host_ids)
    assert joined(outcome, guest_ids.tolist(), host_ids.tolist()) == set(guest_ids.tolist()) & set(host_ids.tolist())


@pytest.mark.parametrize("module", JOINS)
def test_every_interleaving_ends_well(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffie_hellman, "MIN_BATCH", 3)
    guest_ids, host_ids = [f"id{i}" for i in range(10)], [f"id{i}" for i in range(5, 22)]
    for seed in range(20):
        outcome = run(module, guest_ids, host_ids, seed)
        assert joined(outcome, guest_ids, host_ids) == set(guest_ids) & set(host_ids)


@pytest.mark.parametrize("module", JOINS)
@pytest.mark.parametrize(("guest_ids", "host_ids"), [([], ["a"]), (["a"], []), ([], []), (["a"], ["b"]), ([], [1])])
def test_no_intersection_is_a_clear_end(module: Any, guest_ids: Any, host_ids: Any) -> None:
    outcome = run(module, guest_ids, host_ids)
    assert joined(outcome, guest_ids, host_ids) == set()
    assert outcome.elapsed_s == 0


@pytest.mark.parametrize("module", JOINS)
def test_the_common_order_is_random(module: Any) -> None:
    """Of 100 common identifiers in table order; the same order in two runs would be a chance of 1 in 100!."""
    ids = list(range(100))
    orders = {tuple(run(module, ids, ids, seed).results["guest"].tolist()) for seed in range(2)}
    assert len(orders) == 2
    assert tuple(ids) not in orders


def test_the_number_alone() -> None:
    for guest_ids, host_ids in ((list(range(40)), list(range(30, 90))), ([1], [2]), ([], [1])):
        outcome = run_scheduled(
            diffie_hellman.COUNTING,
            {
                "guest": lambda p, ids=guest_ids: diffie_hellman.count_guest(p, ids),
                "host": lambda p, ids=host_ids: diffie_hellman.count_host(p, ids),
            },
            1,
        )
        assert outcome.errors == {}
        assert outcome.results == {"guest": len(set(guest_ids) & set(host_ids)), "host": None}


async def test_batches_beyond_the_socket_s_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffie_hellman, "MIN_BATCH", 8192)  # 256 KiB: more than both ends' buffers together
    sockets = socket.socketpair()
    for each in sockets:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ends = [StreamChannel(each) for each in sockets]
    parties = [
        Party(role, diffie_hellman.PROTOCOL, end, timeout_s=WAIT_S)
        for role, end in zip(("guest", "host"), ends, strict=True)
    ]
    ids = list(range(9000))
    async with asyncio.timeout(WAIT_S):
        mine, theirs = await asyncio.gather(diffie_hellman.guest(parties[0], ids), diffie_hellman.host(parties[1], ids))
    assert np.array_equal(mine, theirs)
    assert sorted(mine) == ids
    for end in ends:
        await end.close()


async def test_digests_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """10^8 identifiers have 1.2 GB of them, more than may wait: the guest takes each batch's while the next is away."""
    monkeypatch.setattr(diffie_hellman, "MIN_BATCH", 64)
    peaks: list[int] = []

    class Watched(Party):
        def _take(self, frame: Frame) -> None:
            super()._take(frame)
            peaks.append(sum(len(each) for (_, name), each in self._waiting.items() if name == "digests"))

    monkeypatch.setattr("hanse.channels.local.Party", Watched)
    ids = list(range(64 * 20))
    programs = {"guest": lambda p: diffie_hellman.guest(p, ids), "host": lambda p: diffie_hellman.host(p, ids)}
    found = await run_local(diffie_hellman.PROTOCOL, programs, timeout_s=WAIT_S)
    assert sorted(found["guest"]) == ids
    assert max(peaks) <= 2
    assert len(list(diffie_hellman._batches(10**8, 10**8))) < MAX_WAITING_FRAMES


# ---- bad input ----


@pytest.mark.parametrize("module", JOINS)
def test_repeated_identifiers_are_refused_without_being_named(module: Any) -> None:
    outcome = run(module, ["anna", "berta", "anna"], ["anna"])
    assert isinstance(outcome.errors["guest"], ConfigError)
    assert "found 1 that repeat another" in str(outcome.errors["guest"])
    assert "anna" not in str(outcome.errors["guest"])
    assert str(outcome.errors["host"]) == "guest stopped before it sent `hello`"


@pytest.mark.parametrize("module", JOINS)
def test_different_kinds_are_refused_by_both(module: Any) -> None:
    outcome = run(module, ["1", "2"], [1, 2])
    for role in ("guest", "host"):
        assert isinstance(outcome.errors[role], RefusedError)
        assert "text at" in str(outcome.errors[role])
        assert "whole numbers at" in str(outcome.errors[role])


def test_mixed_kinds_are_refused() -> None:
    with pytest.raises(ConfigError, match="found int, str"):
        kind_of([1, "a"])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="found float"):
        kind_of(np.array([1.5]))
    with pytest.raises(ConfigError, match="found bool"):
        kind_of([True])


Tamper = Callable[[Array], Array]


@pytest.mark.parametrize(
    ("module", "role", "name", "tamper", "words"),
    [
        (chase_miao, "host", "hello", lambda a: a * 0 + 9, "version"),
        (chase_miao, "host", "hello", lambda a: a * [1, 1, -1], "a number up to"),
        (chase_miao, "host", "ot_choices", lambda a: a[1:], "expected an array of"),
        (chase_miao, "host", "ot_choices", lambda a: a * 0, "uncompressed point"),
        (chase_miao, "host", "digests", lambda a: a[:, 1:], "expected an array of"),
        (chase_miao, "guest", "columns", lambda a: a[:, 8:], "expected an array of"),
        (chase_miao, "guest", "ot_points", lambda a: a * 0, "uncompressed point"),
        (chase_miao, "guest", "matches", lambda a: a * 0, "each place once"),
        (chase_miao, "guest", "matches", lambda a: a + 10**6, "expected places"),
        (diffie_hellman, "guest", "points", lambda a: a * 0, "large order"),
        (diffie_hellman, "host", "points", lambda a: a[1:], "a batch of"),
        (diffie_hellman, "host", "points", lambda a: a * 0 + np.eye(1, 32, dtype=np.uint8), "large order"),
        (diffie_hellman, "host", "digests", lambda a: a[1:], "expected digests"),
        (diffie_hellman, "host", "digests", lambda a: a[:, 1:], "expected digests"),
        (diffie_hellman, "guest", "matches", lambda a: a - 10**6, "expected places"),
    ],
)
def test_a_peer_that_deviates_is_refused(module: Any, role: str, name: str, tamper: Tamper, words: str) -> None:
    class Deviating(Party):
        async def send(self, to: str, name_: str, value: Array) -> None:
            await super().send(to, name_, tamper(value) if (self.role, name_) == (role, name) else value)

    def program(own: str, ids: Any) -> Any:
        async def body(party: Party) -> Any:
            party.__class__ = Deviating
            return await getattr(module, own)(party, ids)

        return body

    programs = {"guest": program("guest", list(range(40))), "host": program("host", list(range(20, 60)))}
    outcome = run_scheduled(module.PROTOCOL, programs, 3)
    honest = "guest" if role == "host" else "host"
    assert isinstance(outcome.errors[honest], RefusedError)
    assert words in str(outcome.errors[honest])


# ---- what is revealed ----


def views(module: Any, guest_ids: Any, host_ids: Any) -> tuple[Outcome, dict[str, list[tuple[str, Array]]]]:
    """A run, and what each role received in it."""
    seen: dict[str, list[tuple[str, Array]]] = {"guest": [], "host": []}

    class Recording(Party):
        async def recv(self, sender: str, name: str) -> Array:
            value = await super().recv(sender, name)
            seen[self.role].append((name, value))
            return value

    def program(own: str, ids: Any) -> Any:
        async def body(party: Party) -> Any:
            party.__class__ = Recording
            return await getattr(module, own)(party, ids)

        return body

    protocol: Protocol = module.PROTOCOL
    outcome = run_scheduled(protocol, {"guest": program("guest", guest_ids), "host": program("host", host_ids)}, 5)
    return outcome, seen


def schema(view: list[tuple[str, Array]]) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(name, str(value.dtype), value.shape) for name, value in view]


@pytest.mark.parametrize("module", JOINS)
@pytest.mark.parametrize("sizes", [(6000, 200), (200, 6000), (300, 300), (3, 0)])
def test_the_view_is_made_from_own_input_and_what_is_revealed(module: Any, sizes: tuple[int, int]) -> None:
    guest_ids, host_ids = list(range(sizes[0])), list(range(100, 100 + sizes[1]))
    outcome, seen = views(module, guest_ids, host_ids)
    for role, own, peer in (("guest", guest_ids, host_ids), ("host", host_ids, guest_ids)):
        reveals = {"size": len(peer), "kind": 2, "intersection": outcome.results[role]}
        simulated = module.simulate_view(role, own, reveals)
        assert schema(simulated) == schema(seen[role])
        assert simulated[0][1].tolist() == seen[role][0][1].tolist()


def bits_are_even(rows: Array, num_bits: int) -> bool:
    """Every bit position of `rows` is 1 in half of them.

    False alarm: 5 sigma at each of at most 300 positions, 2e-4.
    """
    bits = np.unpackbits(rows, axis=1, bitorder="little")[:, :num_bits]
    z = (bits.mean(axis=0) - 0.5) * 2 * np.sqrt(len(bits))
    return bool(np.abs(z).max() < 5)


def test_masked_elements_are_uniform_chase_miao() -> None:
    _, seen = views(chase_miao, list(range(3000)), list(range(1500, 4500)))
    columns = np.concatenate([value for name, value in seen["host"] if name == "columns"])
    assert bits_are_even(columns.reshape(-1, 32), 256)
    digests = dict(seen["guest"])["digests"]
    assert bits_are_even(digests, 8 * digests.shape[1])
    assert len(np.unique(digests, axis=0)) == len(digests)
    assert not bits_are_even(columns.reshape(-1, 32) | 1, 256)  # the test can fail


def test_masked_elements_are_uniform_diffie_hellman() -> None:
    """Points are points of the curve, not bit strings: even in all but their highest bits, and all on the curve."""
    _, seen = views(diffie_hellman, list(range(3000)), list(range(1500, 4500)))
    for role in ("guest", "host"):
        points = np.concatenate([value for name, value in seen[role] if name == "points"])
        assert bits_are_even(points, 250)
        for row in points[:50]:
            x, p = int.from_bytes(bytes(row), "little"), curve25519.P
            assert pow(x * (x * x + curve25519.A * x + 1), (p - 1) // 2, p) == 1
    digests = np.concatenate([value for name, value in seen["guest"] if name == "digests"])
    assert bits_are_even(digests, 8 * digests.shape[1])


@pytest.mark.parametrize("module", JOINS)
def test_keys_are_fresh_in_every_run(module: Any) -> None:
    first, second = (views(module, list(range(50)), list(range(50)))[1] for _ in range(2))
    for role in ("guest", "host"):
        for (name, a), (_, b) in zip(first[role], second[role], strict=True):
            if name not in ("hello", "matches"):
                rows = ({bytes(row) for row in np.atleast_2d(each)} for each in (a, b))
                assert set.isdisjoint(*rows), name


def record_orders(monkeypatch: pytest.MonkeyPatch, module: Any) -> list[list[int]]:
    """Every order that `module` draws from here on. That one of 40 is the identity is a chance of 1 in 40!."""
    drawn: list[list[int]] = []

    def recorded(count: int) -> Any:
        order = secret_order(count)
        drawn.append(order.tolist())
        return order

    monkeypatch.setattr(module, "secret_order", recorded)
    return drawn


def in_wire_order(seen: list[tuple[str, Array]], name: str) -> list[bytes]:
    return [bytes(row) for key, value in seen if key == name for row in value]


@pytest.mark.parametrize("module", JOINS)
def test_what_is_sent_lies_in_a_secret_order(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In table order, or in the peer's, places in a message would be rows of a table."""
    drawn = record_orders(monkeypatch, module)
    sent: dict[str, list[bytes]] = {}
    if module is diffie_hellman:
        real = diffie_hellman._prepare

        def prepared(ids: Any) -> Any:
            kind, order, points = real(ids)
            kept = list(points)
            encode = Encoder(diffie_hellman.TAG)
            sent[str(len(ids))] = kept
            assert kept == [encode(each) for each in diffie_hellman.encoded([ids[at] for at in order], kind)]
            assert order.tolist() != list(range(len(ids)))
            return kind, order, iter(kept)

        monkeypatch.setattr(diffie_hellman, "_prepare", prepared)
        outcome, _ = views(module, list(range(40)), list(range(45)))
        assert outcome.errors == {}
        assert sorted(sent) == ["40", "45"]
        assert sorted(map(len, drawn)) == [40, 40, 45]  # both sides' points, and the matches
    else:
        own: list[list[bytes]] = []
        plain = chase_miao.Matrix.digests

        def digests(self: Any) -> Array:
            value = plain(self)
            own.append([bytes(row) for row in value])
            return value

        monkeypatch.setattr(chase_miao.Matrix, "digests", digests)
        outcome, seen = views(module, list(range(40)), list(range(45)))
        assert outcome.errors == {}
        (table_order,) = (each for each in own if len(each) == 45)
        wire = in_wire_order(seen["guest"], "digests")
        assert sorted(wire) == sorted(table_order)
        assert wire != table_order
        assert sorted(map(len, drawn)) == [40, 45]  # the matches, and the host's digests
    assert all(order != list(range(len(order))) for order in drawn)


def test_counting_returns_the_guest_s_points_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the guest would learn which of its identifiers are common, and not their number alone."""
    drawn = record_orders(monkeypatch, diffie_hellman)
    monkeypatch.setattr(diffie_hellman, "MIN_BATCH", 16)
    arrived: list[bytes] = []
    plain = diffie_hellman._digests

    def digests(points: list[bytes], size: int) -> list[bytes]:
        value = plain(points, size)
        arrived.extend(value)
        return value

    received: list[bytes] = []

    class Recording(Party):
        async def recv(self, sender: str, name: str) -> Array:
            value = await super().recv(sender, name)
            if name == "digests":
                received.extend(bytes(row) for row in value)
            return value

    async def guest(party: Party) -> int:
        party.__class__ = Recording
        return await diffie_hellman.count_guest(party, list(range(40)))

    monkeypatch.setattr(diffie_hellman, "_digests", digests)
    programs: Any = {"guest": guest, "host": lambda p: diffie_hellman.count_host(p, list(range(100, 145)))}
    outcome = run_scheduled(diffie_hellman.COUNTING, programs, 2)
    assert outcome.errors == {}
    places = {each: place for place, each in enumerate(received)}
    order = [places[each] for each in arrived if each in places]  # in the order in which the guest sent its points
    assert sorted(order) == list(range(40))
    assert order != list(range(40))
    assert sorted(map(len, drawn)) == [40, 40, 45]  # both sides' points, and the digests


def test_the_host_s_choices_are_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Constant ones would let the guest compute the host's function."""
    made: list[Any] = []
    plain = base_ot.choose

    def choose(message: Array, choices: Any) -> Any:
        made.append(choices.copy())
        return plain(message, choices)

    monkeypatch.setattr(base_ot, "choose", choose)
    for _ in range(2):
        assert run(chase_miao, list(range(30)), list(range(30))).errors == {}
    assert len(made) == 2
    for choices in made:
        # 7 sigma: false alarm 3e-12.
        assert abs(choices.mean() - 0.5) < 3.5 / np.sqrt(len(choices))
    assert not np.array_equal(*made)


def test_digests_are_long_enough() -> None:
    for a, b in itertools.product((1, 1000, 10**6, 10**7), repeat=2):
        assert 2.0 ** (8 * digest_bytes(a, b)) >= 2.0**40 * a * b
        assert choose_parameters(a, b).digest_bytes == digest_bytes(a, b)


def test_declarations_say_what_the_host_learns() -> None:
    for protocol in (chase_miao.PROTOCOL, diffie_hellman.PROTOCOL):
        assert {(r.to, r.what) for r in protocol.reveals} == {
            (role, what) for role in ("guest", "host") for what in ("size", "intersection")
        }
    assert {(r.to, r.what) for r in diffie_hellman.COUNTING.reveals} == {
        ("guest", "size"),
        ("host", "size"),
        ("guest", "cardinality"),
    }
    assert base_ot.SEED_BYTES * 8 == 128
