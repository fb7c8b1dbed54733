"""Checkpoints of roles: what stays, what a common one is, and what belongs to another table."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.channels.checkpoints import FileCheckpoints, newest_common
from hanse.core.arrays import Arrays
from hanse.core.errors import CodecError


def some(number: int) -> Arrays:
    return Arrays({"x": np.arange(number)})


def test_the_first_and_the_last_two_stay(tmp_path: Path) -> None:
    kept = FileCheckpoints(tmp_path, b"a table \0")
    assert kept.have() == []
    for number in range(5):
        kept.keep(number, some(number))
    assert kept.have() == [(0, 0), (3, 3), (4, 4)]
    assert kept.load(3)["x"].tolist() == [0, 1, 2]
    kept.keep(9, some(9), since=2)
    assert kept.have() == [(0, 0), (4, 4), (2, 9)]
    assert len(kept.load(7)["x"]) == 9
    with pytest.raises(CodecError, match="expected one for 1"):
        kept.load(1)
    assert FileCheckpoints(tmp_path, b"another").have() == []
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors"}
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs /proc/self/io")
def test_keeping_does_not_read_what_is_kept(tmp_path: Path) -> None:
    """A large model is written once a round, and not read three times."""

    def read_bytes() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])  # rchar

    kept, model = FileCheckpoints(tmp_path), Arrays({"x": np.zeros(1 << 18)})
    for number in range(3):
        kept.keep(number, model)
    before = read_bytes()
    kept.keep(3, model)
    assert kept.have() == [(0, 0), (2, 2), (3, 3)]
    assert read_bytes() - before < model["x"].nbytes // 2


def test_what_one_party_reached_alone_is_dropped_and_does_not_push_out_what_follows(tmp_path: Path) -> None:
    kept = FileCheckpoints(tmp_path)
    for number in (0, 1, 7, 8):
        kept.keep(number, some(number))
    kept.drop_after(1)
    assert kept.have() == [(0, 0)]  # 1 had gone already
    kept.keep(1, some(1))
    assert kept.have() == [(0, 0), (1, 1)]
    kept.keep(5, some(5), since=2)
    kept.drop_after(3)  # which lies in the range
    assert kept.have() == [(0, 0), (1, 1), (2, 5)]
    kept.drop_after(-1)
    assert kept.have() == []


RANGES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)).map(lambda pair: (min(pair), max(pair))), max_size=4)


@given(st.lists(RANGES, min_size=1, max_size=4))
def test_the_newest_that_all_have(parties: list[list[tuple[int, int]]]) -> None:
    sets = [{number for since, last in ranges for number in range(since, last + 1)} for ranges in parties]
    assert newest_common(parties) == max(set.intersection(*sets), default=-1)
