"""What only the memory backend has: its speed of waking, `reopen`, and the record of what was written."""

import asyncio
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.backends.memory import Coverage, MemoryBlobs, MemoryInbox, MemoryStore
from hanse.core.blobs import MAX_BLOB_BYTES, manifest_of
from hanse.core.errors import IntegrityError, TooLargeError
from hanse.core.records import Envelope
from hanse.core.seams import BlobStore, Inbox, Ledger, Links
from tests.patience import NEVER_S


def test_a_store_has_the_four_seams() -> None:
    store = MemoryStore.open()
    seams: tuple[Ledger, BlobStore, Inbox, Links] = (store.ledger, store.blobs, store.inbox, store.links)
    assert all(seams)
    store.close()


async def test_a_waiting_receiver_gets_a_message_when_it_comes_due() -> None:
    inbox = MemoryInbox(visibility_s=0.1)
    await inbox.send("site", Envelope("server", "site", "1", "task"))
    await inbox.receive("site")
    start = time.monotonic()
    (again,) = await inbox.receive("site", wait_s=NEVER_S)
    assert again.count == 2
    assert time.monotonic() - start > 0.05


async def test_a_waiting_receiver_sees_that_a_message_was_taken_and_comes_due() -> None:
    inbox = MemoryInbox(visibility_s=0.05)
    waiting = [asyncio.create_task(inbox.receive("site", wait_s=NEVER_S)) for _ in range(2)]
    await asyncio.sleep(0)
    await inbox.send("site", Envelope("server", "site", "1", "task"))
    first, second = await asyncio.gather(*waiting)
    assert sorted((first[0].count, second[0].count)) == [1, 2]


async def test_waiting_on_a_clock_that_stands_still_does_not_spin() -> None:
    inbox = MemoryInbox(visibility_s=30, now_ms=lambda: 0)
    await inbox.send("site", Envelope("server", "site", "1", "task"))
    assert len(await inbox.receive("site", wait_s=0)) == 1
    calls = 0
    take = inbox._take

    def counted(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        return take(*arguments)  # type: ignore[arg-type]

    inbox._take = counted  # type: ignore[method-assign, assignment]
    assert await inbox.receive("site", wait_s=0.1) == []
    assert calls < 5


async def test_reopen_is_what_a_restart_does() -> None:
    inbox = MemoryInbox()
    await inbox.send("site", Envelope("server", "site", "durable", "task"))
    await inbox.send("site", Envelope("server", "site", "volatile", "task"), durable=False)
    before = await inbox.receive("site", 10)
    inbox.reopen()
    await inbox.ack([delivery.receipt for delivery in before])
    after = await inbox.receive("site", 10, wait_s=0)
    assert [(delivery.envelope.id, delivery.count) for delivery in after] == [("durable", 2)]


async def test_a_receipt_names_its_recipient() -> None:
    inbox = MemoryInbox()
    await inbox.send("site", Envelope("server", "site", "1", "task"))
    (delivery,) = await inbox.receive("site")
    assert delivery.receipt.startswith("site/")


async def test_bytes_are_kept_without_a_copy() -> None:
    blobs = MemoryBlobs()
    content = random.Random(1).randbytes(100_000)
    manifest = manifest_of(content)
    await blobs.put("s", manifest, [(0, content)])
    assert blobs.read("s", manifest.id, 0, len(content)).obj is content


@given(st.integers(1, 60), st.data())
def test_coverage_is_whole_exactly_when_every_byte_was_written(size: int, data: st.DataObject) -> None:
    coverage, written = Coverage(size), [False] * size
    ranges = st.tuples(st.integers(0, size), st.integers(0, size)).map(sorted)
    for start, stop in data.draw(st.lists(ranges, max_size=20)):
        coverage.add(start, stop - start)
        written[start:stop] = [True] * (stop - start)
    if all(written):
        coverage.check_whole()
    else:
        with pytest.raises(IntegrityError, match=f"found {sum(written)}"):
            coverage.check_whole()


@pytest.mark.parametrize("size", [-1, MAX_BLOB_BYTES + 1])
def test_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(TooLargeError):
        MemoryBlobs().create("s", size)
