"""Intersection part by part: the same result, sizes that follow from the totals alone, streams, and what goes wrong."""

import math
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from hanse.channels.party import Party
from hanse.channels.schedule import Outcome, run_scheduled
from hanse.core.arrays import Array
from hanse.core.errors import ConfigError, RefusedError
from hanse.core.stream import Stream
from hanse.vertical.psi import chase_miao, parts
from hanse.vertical.psi.parts import capacity, hashed, lay_out


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART", 220)
    monkeypatch.setattr(parts, "_CHUNK", 70)


def run(guest_ids: Any, host_ids: Any, party: type[Party] = Party) -> tuple[Outcome, dict[str, list[Any]]]:
    """A run, and what each role received in it."""
    seen: dict[str, list[Any]] = {"guest": [], "host": []}

    class Recording(party):  # type: ignore[valid-type, misc]  # a class that is given
        async def recv(self, sender: str, name: str) -> Array:
            value: Array = await super().recv(sender, name)
            seen[self.role].append((name, value))
            return value

    def program(own: str, ids: Any) -> Any:
        async def body(party: Party) -> Any:
            party.__class__ = Recording
            return await getattr(chase_miao, own)(party, ids)

        return body

    programs = {"guest": program("guest", guest_ids), "host": program("host", host_ids)}
    return run_scheduled(chase_miao.PROTOCOL, programs, 3), seen


def stream_of(ids: list[Any], size: int = 64) -> Stream:
    def pieces() -> Iterator[Any]:
        yield from (ids[start : start + size] for start in range(0, len(ids), size))

    return Stream(pieces)


@pytest.mark.parametrize(("num_guest", "num_host"), [(400, 400), (400, 6), (6, 400), (221, 0)])
@pytest.mark.parametrize("streamed", [False, True])
def test_it_is_the_intersection_in_one_common_order(num_guest: int, num_host: int, streamed: bool) -> None:
    guest_ids = [f"id{at}" for at in range(num_guest)]
    host_ids = [f"id{at}" for at in range(3, 3 + num_host)][::-1]
    given: list[Any] = [stream_of(each) if streamed else each for each in (guest_ids, host_ids)]
    outcome, _ = run(given[0], given[1])
    assert outcome.errors == {}
    mine = [guest_ids[at] for at in outcome.results["guest"]]
    assert mine == [host_ids[at] for at in outcome.results["host"]]
    assert len(mine) == len(set(mine))
    assert set(mine) == set(guest_ids) & set(host_ids)


def test_what_travels_has_a_size_that_follows_from_the_totals() -> None:
    schemas = []
    for offset in (0, 10**6):
        ids = list(range(offset, offset + 400))
        outcome, seen = run(ids, [7 * each + 1 for each in ids])
        assert outcome.errors == {}
        schemas.append([(role, name, a.shape) for role in seen for name, a in seen[role] if name != "matches"])
    assert schemas[0] == schemas[1]
    assert sum(name == "digests" for _, name, _ in schemas[0]) == lay_out(400, 400).num_parts > 1


@pytest.mark.parametrize(("count", "num_parts"), [(10**7, 10), (10**4, 3), (400, 5), (50, 20), (1, 4)])
def test_the_capacity_is_enough_and_not_much_more(count: int, num_parts: int) -> None:
    """Against the exact binomial tail, summed term by term."""
    room, p = capacity(count, num_parts), 1 / num_parts

    def log_term(k: int) -> float:
        choose = math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        return choose + k * math.log(p) + (count - k) * math.log1p(-p)

    def tail(above: int) -> float:
        return math.fsum(math.exp(log_term(k)) for k in range(above + 1, min(count, above + 3000) + 1))

    assert num_parts * tail(room) <= 2.0**-40
    smaller = count / num_parts + 0.8 * (room - count / num_parts)
    if room > 2:
        assert num_parts * tail(int(smaller)) > 2.0**-40  # a fifth less would not be
    assert room <= count


def test_no_part_is_larger_than_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART", 1 << 20)
    for sizes in [(10**6, 10**6), (1 << 20, 1), ((1 << 20) + 1, 1), (10**7, 10**7), (3, 10**8)]:
        layout = lay_out(*sizes)
        assert max(layout.guest, layout.host) <= 1 << 20
        assert layout.num_parts * layout.guest >= sizes[0]
        assert (layout.num_parts == 1) == (max(sizes) <= 1 << 20)
    assert lay_out(10**7, 10**7).num_parts == 10
    assert chase_miao.parameters_of(lay_out(10**7, 10**7)).digest_bytes * 8 >= 40 + 2 * math.log2(10**7)


@pytest.mark.parametrize("sizes", [(400, 40), (40, 400)])
def test_the_view_is_made_from_own_input_and_what_is_revealed(sizes: tuple[int, int]) -> None:
    guest_ids, host_ids = list(range(sizes[0])), list(range(20, 20 + sizes[1]))
    outcome, seen = run(guest_ids, host_ids)
    for role, own, peer in (("guest", guest_ids, host_ids), ("host", host_ids, guest_ids)):
        common = outcome.results[role]
        simulated = chase_miao.simulate_view(role, own, {"size": len(peer), "intersection": common})
        assert [(n, a.dtype, a.shape) for n, a in simulated if n != "matches"] == [
            (n, a.dtype, a.shape) for n, a in seen[role] if n != "matches"
        ]
        assert sum(len(a) for n, a in simulated if n == "matches") == (len(common) if role == "host" else 0)


# ---- what goes wrong ----


def test_repeated_ones_are_refused_before_any_part_leaves() -> None:
    outcome, seen = run([*range(400), 17, 18], list(range(400)))
    assert isinstance(outcome.errors["guest"], ConfigError)
    assert "found 2 that repeat another" in str(outcome.errors["guest"])
    assert {name for name, _ in seen["host"]} <= {"hello", "parts_key"}


def test_a_peer_s_number_does_not_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """2^31 identifiers of the peer are 4,000 parts of this side's ten, in one file."""
    monkeypatch.setattr(parts, "PART", 1 << 19)
    layout = lay_out(1 << 31, 10)
    assert layout.num_parts > 4096
    plain, opened = tempfile.TemporaryFile, []

    def counted() -> Any:
        opened.append(plain())
        return opened[-1]

    monkeypatch.setattr(tempfile, "TemporaryFile", counted)
    found = [row for part in hashed(list(range(10))).parts(layout, "host", parts.new_key()) for row in part.rows]
    assert sorted(found) == list(range(10))
    assert len(opened) == 1


def test_two_kinds_in_one_stream() -> None:
    with pytest.raises(ConfigError, match="one kind in all pieces"):
        hashed(Stream(lambda: iter([["a"], [1]])))


def test_a_part_that_overflows_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "capacity", lambda count, num_parts: count // num_parts - 20)
    outcome, _ = run(list(range(400)), list(range(400)))
    assert any("start anew" in str(error) for error in outcome.errors.values())


def test_a_guest_that_names_what_stands_for_nobody() -> None:
    class Deviating(Party):
        async def send(self, to: str, name: str, value: Array) -> None:
            every = np.arange(lay_out(400, 400).host)
            await super().send(to, name, every if name == "matches" else value)

    outcome, _ = run(list(range(400)), list(range(400)), Deviating)
    assert isinstance(outcome.errors["host"], RefusedError)
    assert "stands for none" in str(outcome.errors["host"])
