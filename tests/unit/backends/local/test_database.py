"""The writing thread: group commit, failures that stay alone, and what happens when the database refuses."""

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hanse.backends.local import database as sql
from hanse.backends.local.database import Database
from hanse.core.errors import StorageError, place_of
from tests.patience import NEVER_S, WAIT_S


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    database = Database(path, durable=False)
    yield database
    database.close()


def commits(database: Database) -> list[str]:
    """Every COMMIT from now on."""
    seen: list[str] = []
    database._writer.set_trace_callback(lambda statement: seen.append(statement) if statement == "COMMIT" else None)
    return seen


async def test_what_is_queued_together_is_committed_together(database: Database) -> None:
    seen = commits(database)
    answers = await asyncio.gather(*(database.write(sql.create(f"k{n}", b"")) for n in range(500)))
    assert answers == [True] * 500
    assert len(seen) < 250  # as many as the writer's thread was let in between


async def test_a_failing_operation_fails_alone(database: Database) -> None:
    def fails(_: sqlite3.Connection) -> bool:
        raise sqlite3.OperationalError("made up")

    def breaks(db: sqlite3.Connection) -> bool:
        db.execute("INSERT INTO ledger VALUES (x'00', x'00', 1)")
        raise KeyError("a bug")

    hold = threading.Event()
    first = asyncio.ensure_future(database.write(lambda _: hold.wait(WAIT_S)))
    await asyncio.sleep(0)
    rest = [
        asyncio.ensure_future(database.write(operation))
        for operation in (sql.create("a", b"1"), fails, sql.create("b", b"2"), breaks, sql.create("a", b"3"))
    ]
    await asyncio.sleep(0)
    hold.set()
    await first
    a, failed, b, broken, again = await asyncio.gather(*rest, return_exceptions=True)
    assert (a, b, again) == (True, True, False)
    assert isinstance(failed, StorageError)
    assert isinstance(broken, StorageError)
    assert "a bug" not in str(broken)
    assert [key for key, _, _ in database.query("", None, 10)] == ["a", "b"]


async def test_a_full_database_refuses_and_goes_on_when_there_is_room(database: Database, path: Path) -> None:
    assert await database.write(sql.create("before", b"1"))
    (pages,) = database._writer.execute("PRAGMA page_count").fetchone()
    database._writer.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StorageError, match="free space") as refused:
        await database.write(sql.create("large", bytes(60_000)))
    assert place_of(refused.value) == {"folder": str(path.parent)}
    assert await database.write(sql.compare_and_set("before", b"2", 1))
    database._writer.execute("PRAGMA max_page_count = 1000000")
    assert await database.write(sql.create("large", bytes(60_000)))
    assert database.get("before") == (b"2", 2)


async def test_late_writes_come_by_themselves_and_before_closing(path: Path) -> None:
    database = Database(path, durable=False)
    done = asyncio.Event()
    loop = asyncio.get_running_loop()

    def late(db: sqlite3.Connection) -> None:
        sql.create("late", b"")(db)
        loop.call_soon_threadsafe(done.set)

    database.write_late(late)
    await asyncio.wait_for(done.wait(), WAIT_S)
    database.write_late(sql.create("last", b""))
    database.close()
    again = Database(path, durable=False)
    assert [key for key, _, _ in again.query("", None, 10)] == ["last", "late"]
    again.close()


async def test_late_writes_ride_with_the_next_commit(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "_IDLE_S", NEVER_S)
    await database.write(sql.create("first", b""))
    seen = commits(database)
    database.write_late(sql.create("late", b""))
    await database.write(sql.create("second", b""))
    assert database.get("late") == (b"", 1)
    assert len(seen) == 1


async def test_who_gives_up_waiting_harms_nobody(database: Database) -> None:
    hold = threading.Event()
    first = asyncio.ensure_future(database.write(lambda _: hold.wait(WAIT_S)))
    abandoned = asyncio.ensure_future(database.write(sql.create("a", b"")))
    other = asyncio.ensure_future(database.write(sql.create("b", b"")))
    await asyncio.sleep(0)
    abandoned.cancel()
    hold.set()
    assert await other
    await first
    assert abandoned.cancelled()


def test_an_event_loop_that_ended_harms_nobody(database: Database) -> None:
    hold = threading.Event()

    async def leave() -> None:
        asyncio.ensure_future(database.write(lambda _: hold.wait(WAIT_S)))  # noqa: RUF006  # left behind on purpose
        await asyncio.sleep(0)

    asyncio.run(leave())
    hold.set()
    assert asyncio.run(_write(database)) is True


async def _write(database: Database) -> bool:
    return await database.write(sql.create("after", b""))


@pytest.mark.parametrize(("durable", "level"), [(True, 2), (False, 1)])
def test_durability_decides_the_fsync(path: Path, durable: bool, level: int) -> None:
    database = Database(path, durable=durable)
    assert database._writer.execute("PRAGMA synchronous").fetchone() == (level,)
    assert database._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()


async def test_a_closed_database_says_so(path: Path) -> None:
    database = Database(path, durable=False)
    database.close()
    database.close()
    with pytest.raises(StorageError, match="closed"):
        database.get("k")
    with pytest.raises(StorageError, match="closed"):
        await database.write(sql.create("k", b""))


def test_a_file_of_another_kind_or_version_is_refused(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)
    with pytest.raises(StorageError, match="database"):
        Database(path, durable=False)
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 99")
    with pytest.raises(StorageError, match="expected schema version 1, found 99") as refused:
        Database(path, durable=False)
    assert place_of(refused.value) == {"folder": str(path.parent)}


async def test_what_is_in_no_hurry_goes_with_the_next_that_is(database: Database) -> None:
    await database.write(sql.create("first", b""))
    seen = commits(database)
    patient = [asyncio.ensure_future(database.write(sql.create(f"p{n}", b""), patience_s=NEVER_S)) for n in range(3)]
    await asyncio.sleep(0)
    await database.write(sql.create("urgent", b""))
    assert await asyncio.gather(*patient) == [True] * 3
    assert len(seen) == 1


async def test_what_is_in_no_hurry_does_not_wait_for_ever(database: Database) -> None:
    assert await asyncio.wait_for(database.write(sql.create("alone", b""), patience_s=0.01), WAIT_S)


def _refuse(_: sqlite3.Connection) -> bool:
    raise sqlite3.OperationalError("made up")


@pytest.mark.parametrize("together", [True, False])
async def test_a_fenced_write_is_refused_behind_a_failure(database: Database, together: bool) -> None:
    """In one batch and in batches of their own; until the failure is known, and no longer."""
    hold = threading.Event()
    first = asyncio.ensure_future(database.write(lambda _: hold.wait(WAIT_S)))
    await asyncio.sleep(0)
    failed = database.begin(_refuse)
    assert failed.future is not None
    if not together:
        hold.set()
        await asyncio.wait([failed.future])
    free = asyncio.ensure_future(database.write(sql.create("free", b"")))
    fenced = asyncio.ensure_future(database.write(sql.create("fenced", b""), fenced=True))
    await asyncio.sleep(0)
    behind = database.begin(sql.create("behind", b""), fenced=True)  # stands on what is refused itself
    assert behind.future is not None
    hold.set()
    await first
    assert await free
    with pytest.raises(StorageError, match="stands on"):
        await fenced
    with pytest.raises(StorageError, match="stands on"):
        await behind.future
    assert isinstance(failed.future.exception(), StorageError)
    with pytest.raises(StorageError, match="stands on"):
        await database.write(sql.create("fenced", b""), fenced=True)
    database.forgive(failed)
    database.forgive(behind)
    assert await database.write(sql.create("fenced", b""), fenced=True)
    assert [key for key, _, _ in database.query("", None, 10)] == ["fenced", "free"]


async def test_forgiving_opens_for_what_comes_after_it_only(database: Database) -> None:
    """Also where the batch is done again one by one, because of another failure behind it."""
    hold = threading.Event()
    first = asyncio.ensure_future(database.write(lambda _: hold.wait(WAIT_S)))
    await asyncio.sleep(0)
    failed = database.begin(_refuse)
    before = database.begin(sql.create("before", b""), fenced=True)
    database.forgive(failed)
    database.forgive(before)
    after = database.begin(sql.create("after", b""), fenced=True)
    last = database.begin(_refuse)
    hold.set()
    await first
    futures = [write.future for write in (failed, before, after, last) if write.future is not None]
    await asyncio.wait(futures)
    assert [future.exception() is None for future in futures] == [False, False, True, False]


async def test_a_failure_that_nobody_waits_for_any_more_is_forgiven(database: Database) -> None:
    hold = threading.Event()
    first = asyncio.ensure_future(database.write(lambda _: hold.wait(WAIT_S)))
    abandoned = asyncio.ensure_future(database.write(_refuse))
    await asyncio.sleep(0)
    abandoned.cancel()
    hold.set()
    await first
    await database.write(sql.create("a", b""))  # behind it, so the loop has heard of the failure
    await asyncio.sleep(0)
    assert await database.write(sql.create("b", b""), fenced=True)
