"""Names that nobody holds: every sequence against the plain tuple that it stands for."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.rounds.names import Listed, Names, Numbered, Picked, Without

COUNTS = st.integers(1, 120)


def same(names: Names, expected: tuple[str, ...]) -> None:
    assert len(names) == len(expected)
    assert tuple(names) == expected
    assert [names[i] for i in range(len(expected))] == list(expected)
    assert names[1:7:2] == expected[1:7:2]
    assert expected == tuple(sorted(expected))
    for name in expected:
        assert name in names
    if expected:
        assert names[-1] == expected[-1]
    with pytest.raises(IndexError):
        names[len(expected)]


@settings(deadline=None)
@given(COUNTS)
def test_numbered(count: int) -> None:
    width = len(str(count - 1))
    names = Numbered(count, "s")
    same(names, tuple(f"s-{n:0{width}d}" for n in range(count)))
    for other in (f"s-{count:0{width}d}", "s-", "t-0", 3, f"s-{0:0{width + 1}d}"):
        assert other not in names


@settings(deadline=None)
@given(COUNTS, st.data())
def test_without_and_picked(count: int, data: Any) -> None:
    names = Numbered(count, "s")
    out = data.draw(st.sets(st.sampled_from([*names, "stranger"])))
    without = Without(names, out)
    same(without, tuple(name for name in names if name not in out))
    assert not any(name in without for name in out)
    places = sorted(data.draw(st.sets(st.integers(0, count - 1))))
    picked = Picked(names, np.array(places, np.int64))
    same(picked, tuple(names[place] for place in places))
    assert not any(names[place] in picked for place in set(range(count)) - set(places))
    same(Without(picked, out), tuple(name for name in picked if name not in out))


def test_listed_are_sorted() -> None:
    same(Listed(["b", "a", "c"]), ("a", "b", "c"))
    assert "d" not in Listed(["a"])


def test_a_million_names_cost_nothing() -> None:
    names = Without(Numbered(10**9, "s"), ["s-000000000", "s-999999999"])
    assert len(names) == 10**9 - 2
    assert names[0] == "s-000000001"
    assert names[-1] == "s-999999998"
