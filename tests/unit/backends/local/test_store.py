"""What only the local store has: its lock, its files, recycling, refusals of the disk."""

import asyncio
import errno
import fcntl
import os
import random
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import pytest

from hanse.backends.local import LocalStore, arrival, blobs, files
from hanse.backends.local import database as sql
from hanse.cli.main import describe
from hanse.core.blobs import CHUNK_BYTES, Buffer, Chunk, Manifest, manifest_of, split
from hanse.core.errors import ConfigError, ConflictError, IntegrityError, NotFoundError, StorageError, place_of
from hanse.core.records import Envelope
from tests.patience import NEVER_S, WAIT_S

SIZE = 3 * CHUNK_BYTES
CONTENT = random.Random(1).randbytes(SIZE)
MANIFEST = manifest_of(CONTENT)
CHUNKS = list(split(CONTENT))
OTHER = random.Random(2).randbytes(SIZE)
OTHER_MANIFEST = manifest_of(OTHER)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalStore]:
    with LocalStore.open(tmp_path / "store", "process") as store:
        yield store


def file_of(root: Path, scope: str, manifest: Manifest = MANIFEST, ending: str = "") -> Path:
    return root / "store" / "blobs" / scope / (manifest.id + ending)


async def put(store: LocalStore, scope: str, content: bytes = CONTENT) -> Manifest:
    manifest = manifest_of(content)
    await store.blobs.put(scope, manifest, split(content))
    return manifest


def test_a_second_opening_is_refused(tmp_path: Path) -> None:
    with LocalStore.open(tmp_path / "store"), pytest.raises(ConflictError, match="the only one"):
        LocalStore.open(tmp_path / "store")
    LocalStore.open(tmp_path / "store").close()


def test_an_unknown_durability_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'power' or 'process'"):
        LocalStore.open(tmp_path / "store", "always")  # type: ignore[arg-type]


def test_a_directory_that_cannot_be_is_refused_with_its_path_beside_the_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError) as refused:
        LocalStore.open(tmp_path / "file" / "store")
    assert str(tmp_path) not in str(refused.value)  # which others may be told
    assert place_of(refused.value) == {"folder": str(tmp_path / "file" / "store")}
    assert describe(refused.value)[0].endswith(f"(in {tmp_path}/file/store)")  # and the owner is


async def test_everything_is_private(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir(mode=0o755)
    with LocalStore.open(tmp_path / "store") as store:
        await put(store, "a/b")
        await store.ledger.create("k", b"")
        for directory, _, names in os.walk(tmp_path / "store"):
            assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
            if Path(directory) != tmp_path / "store":
                assert all(stat.S_IMODE(Path(directory, name).stat().st_mode) == 0o600 for name in names)


async def test_small_blobs_are_rows_and_large_ones_single_files(tmp_path: Path, store: LocalStore) -> None:
    small = await put(store, "s", b"small")
    large = await put(store, "s")
    assert store.blobs.path("s", small.id) is None
    assert store.blobs.path("s", large.id) == file_of(tmp_path, "s")
    assert sorted(path.name for path in (tmp_path / "store/blobs/s").iterdir()) == [large.id, large.id + ".manifest"]


async def test_a_deleted_blobs_file_is_overwritten_by_the_next(tmp_path: Path, store: LocalStore) -> None:
    await put(store, "old")
    inode = file_of(tmp_path, "old").stat().st_ino
    await store.blobs.delete_scope("old")
    assert not (tmp_path / "store/blobs/old").exists()
    await put(store, "new", OTHER)
    assert file_of(tmp_path, "new", OTHER_MANIFEST).stat().st_ino == inode
    assert store.blobs.read("new", OTHER_MANIFEST.id, 0, SIZE) == OTHER
    await store.blobs.delete_scope("new")
    writer = store.blobs.create("made", SIZE - 5)
    writer.write(0, CONTENT[:-5])
    made = await writer.seal()
    assert file_of(tmp_path, "made", made).stat().st_ino == inode
    assert file_of(tmp_path, "made", made).read_bytes() == CONTENT[:-5]


async def test_a_file_with_live_views_is_not_overwritten(tmp_path: Path, store: LocalStore) -> None:
    await put(store, "old")
    view = store.blobs.read("old", MANIFEST.id, 5, SIZE)
    await store.blobs.delete_scope("old")
    assert list((tmp_path / "store/spare").iterdir()) == []
    await put(store, "new", OTHER)
    assert view == CONTENT[5:]


async def test_a_file_that_a_process_holds_is_not_overwritten(tmp_path: Path, store: LocalStore) -> None:
    await put(store, "old")
    path = store.blobs.path("old", MANIFEST.id)
    assert path is not None
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        await store.blobs.delete_scope("old")
        await put(store, "new", OTHER)
        assert held.read() == CONTENT


async def test_the_pool_is_bounded_and_emptied_at_opening(tmp_path: Path) -> None:
    with LocalStore.open(tmp_path / "store", "process", max_spare_files=2) as store:
        for n in range(4):
            await put(store, f"s/{n}")
        await store.blobs.delete_scope("s")
        assert len(list((tmp_path / "store/spare").iterdir())) == 2
    with LocalStore.open(tmp_path / "store", "process"):
        assert list((tmp_path / "store/spare").iterdir()) == []


async def test_the_pool_leaves_the_disk_free(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "free_bytes", lambda _: 4 * SIZE - 1)
    await put(store, "s")
    await store.blobs.delete_scope("s")
    assert list((tmp_path / "store/spare").iterdir()) == []


class Disk:
    """`os.pwrite` of a disk with so many bytes left."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: int, error: int = errno.ENOSPC) -> None:
        self.free = free
        self._error = error
        self._pwrite = os.pwrite
        monkeypatch.setattr(os, "pwrite", self)

    def __call__(self, file: int, content: Buffer, start: int) -> int:
        length = min(len(content), self.free)
        if not length:
            raise OSError(self._error, os.strerror(self._error), "/secret/path")
        self.free -= length
        return self._pwrite(file, memoryview(content)[:length], start)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS])
async def test_a_refusing_disk_corrupts_nothing(
    tmp_path: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    disk = Disk(monkeypatch, CHUNK_BYTES + 1000, error)
    with pytest.raises(StorageError, match=errno.errorcode[error]) as refused:
        await put(store, "s")
    assert "secret" not in str(refused.value)
    assert place_of(refused.value)["folder"].startswith(str(tmp_path / "store"))
    disk.free = 10**12
    assert await store.blobs.missing("s", MANIFEST) == [1, 2]
    with pytest.raises(NotFoundError):
        store.blobs.read("s", MANIFEST.id, 0, 1)
    await store.blobs.put("s", MANIFEST, CHUNKS[1:])
    assert store.blobs.read("s", MANIFEST.id, 0, SIZE) == CONTENT


async def test_a_full_disk_gets_the_pool_back_first(
    tmp_path: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = CONTENT[: 2 * 1024 * 1024]
    await put(store, "old", small)
    await store.blobs.delete_scope("old")
    disk = Disk(monkeypatch, CHUNK_BYTES)
    clear = files.Spares.clear

    def freeing(spares: files.Spares) -> bool:
        disk.free = 10**12
        return clear(spares)

    monkeypatch.setattr(files.Spares, "clear", freeing)
    await put(store, "s")
    assert list((tmp_path / "store/spare").iterdir()) == []
    assert store.blobs.read("s", MANIFEST.id, 0, SIZE) == CONTENT


async def test_a_writer_on_a_full_disk(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch, 1000)
    writer = store.blobs.create("s", SIZE)
    with pytest.raises(StorageError, match="ENOSPC"):
        writer.write(0, CONTENT)
    with pytest.raises(IntegrityError, match="written before sealing"):
        await writer.seal()
    disk.free = 10**12
    writer.write(0, CONTENT)
    assert await writer.seal() == MANIFEST


async def test_power_means_synced_before_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    fails = True

    def sync(file: int) -> None:
        if fails:
            raise OSError(errno.EIO, "made up")
        synced.append(os.fstat(file).st_ino)

    for module in (arrival, blobs):
        monkeypatch.setattr(module, "sync_content", sync)
    with LocalStore.open(tmp_path / "store", "power") as store:
        with pytest.raises(StorageError, match="EIO"):
            await put(store, "s")
        with pytest.raises(NotFoundError):
            store.blobs.read("s", MANIFEST.id, 0, 1)
        writer = store.blobs.create("w", SIZE)
        writer.write(0, CONTENT)
        with pytest.raises(StorageError, match="EIO"):
            await writer.seal()
        fails = False
        assert await writer.seal() == MANIFEST
        await put(store, "s")
        for scope in ("s", "w"):
            assert file_of(tmp_path, scope).stat().st_ino in synced
            assert store.blobs.read(scope, MANIFEST.id, 0, SIZE) == CONTENT


async def test_process_means_not_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sync(_: object) -> None:
        raise AssertionError("not asked for")

    for module, name in ((arrival, "sync_content"), (blobs, "sync_content"), (blobs, "sync_directory")):
        monkeypatch.setattr(module, name, sync)
    with LocalStore.open(tmp_path / "store", "process") as store:
        await put(store, "s")
        writer = store.blobs.create("w", SIZE)
        writer.write(0, CONTENT)
        await writer.seal()


async def test_a_mark_without_its_bytes_is_not_believed(tmp_path: Path) -> None:
    with LocalStore.open(tmp_path / "store") as store:
        await store.blobs.put("s", MANIFEST, [CHUNKS[0], CHUNKS[2]])
    with file_of(tmp_path, "s", ending=".part").open("r+b") as part:
        part.seek(2 * CHUNK_BYTES + 17)
        part.write(bytes(100))
    file_of(tmp_path, "s", ending=".marks").write_bytes(b"\1\1\1")
    with LocalStore.open(tmp_path / "store") as store:
        assert await store.blobs.missing("s", MANIFEST) == [1, 2]
        await store.blobs.put("s", MANIFEST, CHUNKS[1:])
        assert store.blobs.read("s", MANIFEST.id, 0, SIZE) == CONTENT


@pytest.mark.parametrize("marks", [b"", b"\1" * 100, b"\2\3\xff", None])
async def test_strange_marks(tmp_path: Path, marks: bytes | None) -> None:
    with LocalStore.open(tmp_path / "store") as store:
        await store.blobs.put("s", MANIFEST, [CHUNKS[1]])
    path = file_of(tmp_path, "s", ending=".marks")
    if marks is None:
        path.unlink()
    else:
        path.write_bytes(marks)
    with LocalStore.open(tmp_path / "store") as store:
        missing = await store.blobs.missing("s", MANIFEST)
        assert missing == ([0, 2] if marks == b"\1" * 100 else [0, 1, 2])
        await store.blobs.put("s", MANIFEST, [CHUNKS[index] for index in missing])
        assert store.blobs.read("s", MANIFEST.id, 0, SIZE) == CONTENT


async def test_a_whole_blob_that_was_not_yet_named_is_completed(tmp_path: Path) -> None:
    """Killed between the last mark and the rename."""
    with LocalStore.open(tmp_path / "store") as store:
        await put(store, "s")
    file_of(tmp_path, "s").rename(file_of(tmp_path, "s", ending=".part"))
    file_of(tmp_path, "s", ending=".marks").write_bytes(b"\1\1\1")
    with LocalStore.open(tmp_path / "store") as store:
        with pytest.raises(NotFoundError):
            store.blobs.read("s", MANIFEST.id, 0, 1)
        assert await store.blobs.missing("s", MANIFEST) == []
        assert store.blobs.read("s", MANIFEST.id, 0, SIZE) == CONTENT


@pytest.mark.parametrize("damage", ["torn", "gone", "foreign"])
async def test_without_its_manifest_a_file_is_no_blob(tmp_path: Path, damage: str) -> None:
    with LocalStore.open(tmp_path / "store") as store:
        await put(store, "s")
    path = file_of(tmp_path, "s", ending=".manifest")
    match damage:
        case "torn":
            path.write_bytes(path.read_bytes()[:-1])
        case "gone":
            path.unlink()
        case _:
            path.write_bytes(OTHER_MANIFEST.size.to_bytes(8, "little") + OTHER_MANIFEST.hashes)
    with LocalStore.open(tmp_path / "store") as store:
        with pytest.raises(NotFoundError):
            store.blobs.read("s", MANIFEST.id, 0, 1)
        assert await store.blobs.missing("s", MANIFEST) == [0, 1, 2]
        await put(store, "s")
        assert store.blobs.read("s", MANIFEST.id, 0, SIZE) == CONTENT


@pytest.mark.parametrize("damage", ["shorter", "gone"])
async def test_a_file_that_shrank_or_went_is_noticed_and_replaced(
    tmp_path: Path, store: LocalStore, damage: Literal["shorter", "gone"]
) -> None:
    await put(store, "s")
    if damage == "gone":
        file_of(tmp_path, "s").unlink()
    else:
        os.truncate(file_of(tmp_path, "s"), SIZE - 1000)
    with pytest.raises((IntegrityError, NotFoundError)):
        store.blobs.read("s", MANIFEST.id, 0, 1)
    assert await store.blobs.missing("s", MANIFEST) == ([2] if damage == "shorter" else [0, 1, 2])
    await put(store, "s")
    assert store.blobs.read("s", MANIFEST.id, 0, SIZE) == CONTENT


async def test_a_changed_small_blob_is_noticed_and_replaced(tmp_path: Path) -> None:
    with LocalStore.open(tmp_path / "store") as store:
        manifest = await put(store, "s", b"right")
        store._database._writer.execute("UPDATE blobs SET content = x'00'")
    with LocalStore.open(tmp_path / "store") as store:
        with pytest.raises(IntegrityError):
            store.blobs.read("s", manifest.id, 0, 1)
        await store.ledger.create("anything", b"")
        assert await store.blobs.missing("s", manifest) == [0]
        await put(store, "s", b"right")
        assert bytes(store.blobs.read("s", manifest.id, 0, 5)) == b"right"


async def make(store: LocalStore, scope: str, content: bytes) -> Manifest:
    writer = store.blobs.create(scope, len(content))
    writer.write(0, content)
    return await writer.seal()


async def test_a_small_blob_that_was_made_is_kept_with_the_next_write_to_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "SOON_S", NEVER_S)
    with LocalStore.open(tmp_path / "store") as store:
        assert await store.ledger.create("run", b"1")
        statements: list[str] = []
        store._database._writer.set_trace_callback(statements.append)
        manifest = await make(store, "s", b"model")
        assert bytes(store.blobs.read("s", manifest.id, 0, 5)) == b"model"
        row = asyncio.ensure_future(store.unhurried.create("row", b"1"))
        await asyncio.sleep(0)
        assert await store.ledger.compare_and_set("run", b"2", 1)
        assert await row
        assert statements.count("COMMIT") == 1
        store._database._writer.set_trace_callback(None)
        store.blobs._small.clear()
        assert bytes(store.blobs.read("s", manifest.id, 0, 5)) == b"model"  # from the database now


async def test_no_record_stands_on_a_small_blob_that_the_disk_refuses(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "_RETRY_S", 0.01)
    database = store._database
    assert await store.ledger.create("run", b"1")
    (pages,) = database._writer.execute("PRAGMA page_count").fetchone()
    database._writer.execute(f"PRAGMA max_page_count = {pages + 1}")
    manifest = await make(store, "s", bytes(60_000))
    assert store.blobs.read("s", manifest.id, 0, 60_000) == bytes(60_000)
    for _ in range(3):
        with pytest.raises(StorageError, match="stands on"):
            await store.ledger.compare_and_set("run", b"2", 1)
        await asyncio.sleep(0.03)
    assert await store.unhurried.create("of nothing", b"")  # a row that stands on nothing
    database._writer.execute("PRAGMA max_page_count = 1000000")
    while True:
        try:
            assert await store.ledger.compare_and_set("run", b"2", 1)
            break
        except StorageError:
            await asyncio.sleep(0.01)
    assert database.blob("s", manifest.id) == bytes(60_000)


async def test_deleting_takes_a_small_blob_that_is_not_kept_yet(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "_RETRY_S", 0.01)
    database = store._database
    await make(store, "s/a", b"one")
    await store.blobs.delete_scope("s")
    assert not database.has_blobs("s")
    (pages,) = database._writer.execute("PRAGMA page_count").fetchone()
    database._writer.execute(f"PRAGMA max_page_count = {pages + 1}")
    await make(store, "s/b", bytes(60_000))
    await store.blobs.delete_scope("s")
    await asyncio.sleep(0.05)
    assert await store.ledger.create("after", b"")  # nobody waits for what is gone
    assert not database.has_blobs("s")


async def test_opening_removes_what_nobody_can_use(tmp_path: Path) -> None:
    with LocalStore.open(tmp_path / "store") as store:
        await put(store, "s")
        await store.blobs.put("s", OTHER_MANIFEST, [(0, OTHER[:CHUNK_BYTES])])
    directory = tmp_path / "store/blobs/s"
    kept = {path.name for path in directory.iterdir()}
    for name in ("1" * 64 + ".part", "2" * 64 + ".marks", "3" * 64 + ".manifest", "4" * 64 + ".tmp"):
        (directory / name).write_bytes(b"left")
    (tmp_path / "store/making/7").write_bytes(b"left")
    with LocalStore.open(tmp_path / "store"):
        assert {path.name for path in directory.iterdir()} == kept
        assert list((tmp_path / "store/making").iterdir()) == []


async def test_deleting_while_a_blob_comes(store: LocalStore) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[tuple[int, Buffer]]:
        yield CHUNKS[0]
        started.set()
        await go_on.wait()
        for chunk in CHUNKS[1:]:
            yield chunk

    coming = asyncio.create_task(store.blobs.put("j/s", MANIFEST, slow()))
    await started.wait()
    await store.blobs.delete_scope("j")
    await put(store, "other", OTHER)
    go_on.set()
    with pytest.raises(NotFoundError, match="deleted while"):
        await coming
    assert store.blobs.read("other", OTHER_MANIFEST.id, 0, SIZE) == OTHER
    assert await store.blobs.missing("j/s", MANIFEST) == [0, 1, 2]


async def test_a_file_stays_open_until_the_thread_that_writes_is_done(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its descriptor may be another blob's file by then, which would get these bytes."""
    began, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    inodes = list[int]()
    write_all = files.write_all

    def slowly(file: int, content: Chunk, start: int) -> None:
        inodes.append(os.fstat(file).st_ino)
        began.set()
        go_on.wait()
        try:
            inodes.append(os.fstat(file).st_ino)
            write_all(file, content, start)
        finally:
            ended.set()

    monkeypatch.setattr(files, "write_all", slowly)
    coming = asyncio.ensure_future(put(store, "a"))
    try:
        await asyncio.to_thread(began.wait)
        coming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await coming
        monkeypatch.setattr(files, "write_all", write_all)
        other = await put(store, "b", OTHER)
    finally:
        go_on.set()
    await asyncio.to_thread(ended.wait)
    assert len(inodes) == 2
    assert inodes[0] == inodes[1]
    assert bytes(store.blobs.read("b", other.id, 0, SIZE)) == OTHER
    await put(store, "a")
    assert bytes(store.blobs.read("a", MANIFEST.id, 0, SIZE)) == CONTENT


async def test_the_next_chunk_comes_while_one_is_written(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no third one: what a transfer holds in memory is two chunks."""
    asked, go_on = list[int](), threading.Event()
    second_asked = asyncio.Event()
    write_all = files.write_all

    def slowly(file: int, content: Chunk, start: int) -> None:
        go_on.wait()
        write_all(file, content, start)

    async def chunks() -> AsyncIterator[tuple[int, Chunk]]:
        for index, chunk in CHUNKS:
            asked.append(index)
            if index == 1:
                second_asked.set()
            yield index, [bytes(chunk[:999]), bytes(chunk[999:])]

    monkeypatch.setattr(files, "write_all", slowly)
    coming = asyncio.ensure_future(store.blobs.put("a", MANIFEST, chunks()))
    try:
        await asyncio.wait_for(second_asked.wait(), WAIT_S)
        for _ in range(100):  # it has nothing to do but to wait for the first
            await asyncio.sleep(0)
        assert asked == [0, 1]
    finally:
        go_on.set()
    await coming
    assert asked == [0, 1, 2]
    assert bytes(store.blobs.read("a", MANIFEST.id, 0, SIZE)) == CONTENT


async def test_making_a_blob_that_is_coming_too(tmp_path: Path, store: LocalStore) -> None:
    async def slow() -> AsyncIterator[tuple[int, Buffer]]:
        yield CHUNKS[0]
        writer = store.blobs.create("s", SIZE)
        writer.write(0, CONTENT)
        assert await writer.seal() == MANIFEST
        for chunk in CHUNKS[1:]:
            yield chunk

    await store.blobs.put("s", MANIFEST, slow())
    assert store.blobs.read("s", MANIFEST.id, 0, SIZE) == CONTENT
    names = {path.name for path in (tmp_path / "store/blobs/s").iterdir()}
    assert names == {MANIFEST.id, MANIFEST.id + ".manifest"}


async def test_many_large_blobs_come_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than there are threads, each with writes to the medium on the way: nobody waits for ever."""
    monkeypatch.setattr(arrival, "FLUSH_BYTES", CHUNK_BYTES)
    with LocalStore.open(tmp_path / "store", "power") as store:
        contents = [CONTENT[n : n + 2 * CHUNK_BYTES] for n in range(12)]
        await asyncio.gather(*(put(store, f"s/{n}", content) for n, content in enumerate(contents)))
        for n, content in enumerate(contents):
            assert store.blobs.read(f"s/{n}", manifest_of(content).id, 0, len(content)) == content


async def test_how_often_a_message_came_is_remembered(tmp_path: Path) -> None:
    for count in (1, 2, 3):
        with LocalStore.open(tmp_path / "store") as store:
            if count == 1:
                await store.inbox.send("site", Envelope("server", "site", "1", "task"))
            (delivery,) = await store.inbox.receive("site", wait_s=1)
            assert delivery.count == count


async def test_many_open_parts_leave_no_descriptors_behind(store: LocalStore) -> None:
    before = len(os.listdir("/dev/fd"))
    for n in range(20):
        content = CONTENT[n : n + 2 * CHUNK_BYTES]
        await store.blobs.put("s", manifest_of(content), [next(split(content))])
        await store.blobs.missing("s", manifest_of(content))
    store.blobs.create("s", SIZE).abort()
    assert len(os.listdir("/dev/fd")) == before
