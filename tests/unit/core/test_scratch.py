"""Large arrays in files without a name: the same arrays, and nothing left behind."""

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.core import scratch
from hanse.core.errors import UnavailableError


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(scratch, "LARGE_BYTES", 4096)
    monkeypatch.setattr(scratch, "BLOCK_BYTES", 1024)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def is_mapped(array: np.ndarray) -> bool:  # type: ignore[type-arg]
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base is not None


@pytest.mark.parametrize(("shape", "mapped"), [((8, 64), False), ((9, 64), True), ((3, 0), False)])
def test_large_arrays_lie_in_a_file_without_a_name(shape: tuple[int, int], mapped: bool, tmp_path: Path) -> None:
    made = scratch.empty(shape, np.float64)
    assert made.shape == shape
    assert made.flags.writeable
    assert made.flags.c_contiguous
    assert is_mapped(made) == scratch.is_large(made) == mapped
    made[...] = 7
    assert list(tmp_path.iterdir()) == []
    opened = [os.readlink(each) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()] if mapped else []
    maps = Path("/proc/self/maps").read_text()
    assert (str(tmp_path) in maps) == mapped
    assert all(str(tmp_path) not in each or "deleted" in each for each in opened)
    del made
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_a_disk_without_room_is_told_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*of: object) -> None:
        raise OSError(28, "no space")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UnavailableError, match=r"expected room for 8 MiB in the temporary folder, found less"):
        scratch.empty((1 << 20,), np.float64)


def test_objects_stay_in_memory() -> None:
    """Such as text of which some is missing: no file can hold them."""
    column = np.array(["a", None] * 400, object)
    assert scratch.is_large(column)
    assert scratch.take(column, np.arange(800)[::-1]).tolist() == column[::-1].tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 400), st.integers(1, 7), st.integers(0, 2**32), st.sampled_from(["f8", "i4", "U3", "?"]))
def test_taking_and_turning_are_those_of_numpy(rows: int, columns: int, seed: int, dtype: str) -> None:
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 100, (rows, columns)).astype(dtype)
    chosen = rng.integers(0, rows, rng.integers(0, 500)) if rows else np.empty(0, np.int64)
    assert np.array_equal(scratch.take(table, chosen), table[chosen])
    assert np.array_equal(scratch.take(table[:, 0], chosen), table[chosen, 0])
    assert np.array_equal(scratch.transposed(table), table.T)
    assert scratch.transposed(table).flags.c_contiguous
    every = np.concatenate([np.arange(rows)[block] for block in scratch.blocks(table)] or [np.empty(0)])
    assert every.tolist() == list(range(rows))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 300), max_size=6))
def test_growing_columns_are_their_pieces(sizes: list[int]) -> None:
    dtypes = {"a": "f8", "b": "i8", "c": "?", "d": "U4", "e": "O", "f": "f8"}
    pieces = {
        name: [np.arange(at, at + size).astype(dtype) for at, size in enumerate(sizes)]
        for name, dtype in dtypes.items()
    }
    growing = scratch.Growing(dtypes)
    for at in range(len(sizes)):
        growing.append({name: each[at] for name, each in pieces.items()})
    found = growing.columns()
    assert list(found) == list(dtypes)
    for name, each in pieces.items():
        expected = np.concatenate(each) if each else np.empty(0)
        assert found[name].dtype == expected.dtype
        assert np.array_equal(found[name], expected)
    assert is_mapped(found["a"]) == (16 * sum(sizes) > 4096)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("rows", [20, 1 << 16])
def test_growing_tells_of_a_disk_without_room(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    full = open("/dev/full", "r+b")  # noqa: SIM115  # it cannot be closed without an error
    monkeypatch.setattr(scratch, "LARGE_BYTES", 64)
    monkeypatch.setattr(scratch, "_nameless", lambda: full)
    try:
        scratch.Growing(["a"]).append({"a": np.zeros(rows)})
        found = ""
    except UnavailableError as error:
        found = str(error)
    finally:
        with contextlib.suppress(OSError):
            full.close()
    assert "expected room in the temporary folder, found none" in found


def test_text_after_numbers_is_noticed() -> None:
    growing = scratch.Growing(["a", "b"])
    growing.append({"a": np.zeros(1000), "b": np.array(["x"])})
    growing.append({"a": np.array(["a"]), "b": np.array(["xyz"])})
    growing.append({"a": np.zeros(3), "b": np.array(["y"])})
    assert growing.kinds == {"a": {"f", "U"}, "b": {"U"}}
