"""The index of one-time material: nothing is used twice, whenever the process is killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.core.errors import ConflictError, StorageError
from hanse.site.material import MaterialIndex
from tests.patience import WAIT_S


def test_a_name_is_taken_once_for_good(tmp_path: Path) -> None:
    with MaterialIndex(tmp_path / "m.db") as index:
        index.take("job/main/1")
        with pytest.raises(ConflictError, match="used before"):
            index.take("job/main/1")
    with MaterialIndex(tmp_path / "m.db") as again, pytest.raises(ConflictError):
        again.take("job/main/1")
    assert (tmp_path / "m.db").stat().st_mode & 0o077 == 0


def test_what_was_recorded_is_sent_again_and_never_made_anew(tmp_path: Path) -> None:
    with MaterialIndex(tmp_path / "m.db") as index:
        assert index.record("a", b"first") == b"first"
        assert index.record("a", b"second") == b"first"
        with pytest.raises(ConflictError):
            index.take("a")
        index.take("b")
        with pytest.raises(ConflictError):
            index.record("b", b"late")


def test_erased_bytes_are_gone_and_the_names_are_not(tmp_path: Path) -> None:
    secret = b"mask " * 100
    with MaterialIndex(tmp_path / "m.db") as index:
        index.record("job1/main/1/mask", secret)
        index.record("job2/main/1/mask", b"another")
        index.erase("job1/")
        with pytest.raises(ConflictError):
            index.record("job1/main/1/mask", b"x")
        assert index.record("job2/main/1/mask", b"x") == b"another"
    assert secret not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_a_disk_that_refuses_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        MaterialIndex(tmp_path / "nowhere" / "m.db")


CHILD = """
import os, signal, sys
from pathlib import Path
from hanse.site.material import MaterialIndex

index = MaterialIndex(Path(sys.argv[1]))
points = iter(range(100))

def point():
    if next(points) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

for number in range(3):
    point()
    content = index.record(f"mask/{number}", os.urandom(16))
    point()
    print(number, content.hex(), flush=True)  # the bytes leave
    point()
"""


@pytest.mark.parametrize("kill_at", range(9))
def test_killed_anywhere_the_same_bytes_leave(tmp_path: Path, kill_at: int) -> None:
    """Each run makes fresh bytes; whatever has left in the first is what leaves in the second."""
    path = tmp_path / "m.db"
    runs = []
    for point in (kill_at, 99):
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(path), str(point)],
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        assert done.returncode == (0 if point == 99 else -signal.SIGKILL), done.stderr
        runs.append([line.split() for line in done.stdout.splitlines()])
    first, second = runs
    assert len(second) == 3
    assert second[: len(first)] == first


@given(st.lists(st.tuples(st.sampled_from(["take", "record"]), st.sampled_from("abc")), max_size=12))
def test_it_is_that_of_a_dictionary(plays: list[tuple[str, str]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder, MaterialIndex(Path(folder) / "m.db") as index:
        used: dict[str, bytes | None] = {}
        for play, name in plays:
            fresh = os.urandom(4)
            if play == "take":
                if name in used:
                    with pytest.raises(ConflictError):
                        index.take(name)
                else:
                    index.take(name)
                    used[name] = None
            elif used.get(name, b"") is None:
                with pytest.raises(ConflictError):
                    index.record(name, fresh)
            else:
                assert index.record(name, fresh) == used.setdefault(name, fresh)


def test_names_that_were_taken_are_found_by_their_beginning(tmp_path: Path) -> None:
    with MaterialIndex(tmp_path / "material.db") as index:
        for name in ("j/main/1", "j/main/2", "jj/main/1", "j/mainly/1"):
            index.take(name)
        index.erase("j/")
        assert sorted(index.taken("j/main/")) == ["j/main/1", "j/main/2"]
        assert index.taken("j_main/") == []
