"""The journal: what is kept together, what survives kill -9, and what a disk that refuses says."""

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hanse.core.blobs import manifest_of
from hanse.core.errors import ConfigError, StorageError
from hanse.site.journal import Journal, KeptState


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def test_decisions(path: Path) -> None:
    with Journal(path) as journal:
        journal.decide("j2", b"{}", "hold", "why")
        journal.decide("j1", b"{}", "accept")
        journal.told("j2")
    with Journal(path) as journal:
        assert [(row.job, row.decision, row.told) for row in journal.jobs()] == [
            ("j1", "accept", False),
            ("j2", "hold", True),
        ]
        journal.decide("j2", b"ignored", "accept", "approved")
        row = journal.job("j2")
        assert row is not None
        assert (row.decision, row.reason, row.told, row.proposal) == ("accept", "approved", False, b"{}")
        assert journal.job("j3") is None
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_job_that_ended_is_remembered_by_name_also_in_a_journal_of_an_older_hanse(path: Path) -> None:
    with Journal(path) as journal:
        journal.decide("j1", b"{}", "accept")
        for change in ("DROP TABLE ended", "ALTER TABLE states DROP COLUMN file", "PRAGMA user_version = 1"):
            journal._db.execute(change)
    with Journal(path) as journal:
        assert not journal.has_ended("j1")
        journal.forget("j1")
        journal.forget("j1")
        assert journal.job("j1") is None
    with Journal(path) as journal:
        assert journal.has_ended("j1")
        assert not journal.has_ended("j2")


def test_replies_and_state(path: Path) -> None:
    with Journal(path) as journal:
        journal.keep("j/m/1/train/0", "j", "m", b"zero", state=b"s0")
        journal.keep("j/m/1/train/1", "j", "m", b"one", out="out-0")
        journal.keep("j/n/1/train/0", "j", "n", b"other", state=b"n0")
        journal.settle("j/m/1/train/0")
    with Journal(path) as journal:
        kept, settled = journal.replies()
        assert {(row.task, row.envelope, row.out) for row in kept} == {
            ("j/m/1/train/1", b"one", "out-0"),
            ("j/n/1/train/0", b"other", None),
        }
        assert settled == {"j/m/1/train/0"}
        assert (journal.state("j", "m"), journal.state("j", "n"), journal.state("k", "m")) == (b"s0", b"n0", None)
        journal.keep("k/m/1/train/0", "k", "m", b"", state=b"k")
        journal.decide("j", b"", "accept")
        journal.forget("j")
        assert journal.jobs() == []
        assert [row.job for row in journal.replies()[0]] == ["k"]
        assert (journal.state("j", "m"), journal.state("k", "m")) == (None, b"k")


def test_a_state_in_a_file_is_named(path: Path) -> None:
    kept = KeptState("state-m-1", manifest_of(b"x" * 70_000))
    with Journal(path) as journal:
        journal.keep("j/m/1/train/0", "j", "m", b"zero", state=kept)
        journal.keep("j/n/1/train/0", "j", "n", b"zero", state=KeptState("state-n-0", manifest_of(b"")))
    with Journal(path) as journal:
        assert journal.state("j", "m") == kept
        journal.keep("j/m/2/train/1", "j", "m", b"one", state=b"small again")
        assert (journal.state("j", "m"), journal.state("j", "n")) == (
            b"small again",
            KeptState("state-n-0", manifest_of(b"")),
        )


def test_a_journal_of_version_1_goes_on(path: Path) -> None:
    """As it was before states could be files."""
    Journal(path).close()
    database = sqlite3.connect(path)
    database.executescript(
        "DROP TABLE states; CREATE TABLE states(job TEXT NOT NULL, component TEXT NOT NULL, state BLOB NOT NULL,"
        " PRIMARY KEY(job, component)) WITHOUT ROWID; INSERT INTO states VALUES('j', 'm', x'7330');"
        " PRAGMA user_version = 1;"
    )
    database.close()
    with Journal(path) as journal:
        assert journal.state("j", "m") == b"s0"
        journal.keep("j/m/1/train/0", "j", "m", b"zero", state=KeptState("f", manifest_of(b"x")))
    with Journal(path) as journal:
        assert journal.state("j", "m") == KeptState("f", manifest_of(b"x"))


@pytest.mark.parametrize("kills", range(3))
def test_kill_9_keeps_answer_and_state_together(path: Path, kills: int) -> None:
    child = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("writing_child.py")), str(path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    said = -1
    for line in child.stdout:
        said = int(line)
        if said >= 40 + 97 * kills:
            child.kill()
            break
    said = max([said, *(int(line) for line in child.stdout if line.endswith("\n"))])
    child.wait()
    child.stdout.close()
    with Journal(path) as journal:
        kept, settled = journal.replies()
        ids = sorted(int(row.task.rpartition("/")[2]) for row in kept)
        last = max(ids)
        assert last >= said  # what was written is there
        assert last <= said + 1
        assert journal.state("j", "main") == str(last).encode()  # and the state is that answer's, none other
        every = set(ids) | {int(task.rpartition("/")[2]) for task in settled}
        assert every == set(range(last + 1))
        for row in kept:
            assert row.envelope == row.task.rpartition("/")[2].encode() * 200


def test_an_answer_that_cannot_be_written_leaves_the_state_before_it(path: Path) -> None:
    with Journal(path) as journal:
        journal.keep("j/m/1/train/0", "j", "m", b"zero", state=b"s0")
        (pages,) = journal._db.execute("PRAGMA page_count").fetchone()
        journal._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StorageError, match="journal"):
            journal.keep("j/m/1/train/1", "j", "m", b"x" * 100_000, state=b"s1")
        assert journal.state("j", "m") == b"s0"
        assert [row.task for row in journal.replies()[0]] == ["j/m/1/train/0"]
        journal._db.execute("PRAGMA max_page_count = 100000")
        journal.keep("j/m/1/train/1", "j", "m", b"x" * 100_000, state=b"s1")
        assert journal.state("j", "m") == b"s1"


def test_syncing_from_another_thread_while_writing(path: Path) -> None:
    with Journal(path) as journal:
        failures: list[BaseException] = []
        stop = threading.Event()

        def sync() -> None:
            while not stop.is_set():
                try:
                    journal.sync()
                except BaseException as error:
                    failures.append(error)
                    return

        thread = threading.Thread(target=sync)
        thread.start()
        for number in range(3000):  # over several checkpoints
            journal.keep(f"j/m/1/train/{number}", "j", "m", b"x" * 3000, state=b"%d" % number)
        stop.set()
        thread.join()
        assert failures == []
        assert journal.state("j", "m") == b"2999"


def test_a_journal_of_a_newer_version(path: Path) -> None:
    Journal(path).close()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 9")
    database.close()
    with pytest.raises(ConfigError, match="version 2, found 9"):
        Journal(path)


def test_no_database(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(StorageError, match="journal"):
        Journal(path)
