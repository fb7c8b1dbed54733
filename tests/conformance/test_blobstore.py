"""What every blob store promises: `hanse.core.seams.BlobStore` and `BlobWriter`, sentence by sentence."""

import asyncio
import mmap
import random
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from hanse.core.blobs import CHUNK_BYTES, INLINE_BYTES, Buffer, Manifest, manifest_of, split
from hanse.core.errors import ConfigError, IntegrityError, NotFoundError
from hanse.core.seams import BlobStore
from tests.conformance.places import Place

SCOPE = "job/main/1/model"
SIZES = [1, 1000, INLINE_BYTES, INLINE_BYTES + 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES + 12345]
_SOURCE = random.Random(1).randbytes(CHUNK_BYTES + 54321)


def content_of(size: int, seed: int = 0) -> bytes:
    """Bytes in which no two chunks are equal."""
    return (_SOURCE[seed:] * (size // len(_SOURCE) + 2))[:size]


async def put(blobs: BlobStore, content: Buffer, scope: str = SCOPE) -> Manifest:
    manifest = manifest_of(content)
    await blobs.put(scope, manifest, split(content))
    return manifest


def whole(blobs: BlobStore, manifest: Manifest, scope: str = SCOPE) -> memoryview:
    return blobs.read(scope, manifest.id, 0, manifest.size)


async def assert_absent(blobs: BlobStore, manifest: Manifest, scope: str = SCOPE) -> None:
    with pytest.raises(NotFoundError):
        await blobs.manifest(scope, manifest.id)
    with pytest.raises(NotFoundError):
        blobs.read(scope, manifest.id, 0, 1)
    assert blobs.path(scope, manifest.id) is None


@pytest.mark.parametrize("size", SIZES)
async def test_what_is_put_is_read(blobs: BlobStore, size: int) -> None:
    content = content_of(size)
    manifest = manifest_of(content)
    assert await blobs.missing(SCOPE, manifest) == list(range(manifest.num_chunks))
    await assert_absent(blobs, manifest)
    await blobs.put(SCOPE, manifest, split(content))
    assert await blobs.missing(SCOPE, manifest) == []
    assert await blobs.manifest(SCOPE, manifest.id) == manifest
    assert whole(blobs, manifest) == content


async def test_the_empty_blob_is_everywhere(blobs: BlobStore) -> None:
    empty = manifest_of(b"")
    assert await blobs.missing(SCOPE, empty) == []
    await blobs.put(SCOPE, empty, [])
    assert await blobs.manifest(SCOPE, empty.id) == empty
    assert bytes(blobs.read(SCOPE, empty.id, 0, 0)) == b""


@pytest.mark.parametrize("size", [1000, 2 * CHUNK_BYTES + 12345])
async def test_ranges(blobs: BlobStore, size: int) -> None:
    content = content_of(size)
    manifest = await put(blobs, content)
    edges = [0, 1, size // 2, size - 1, size, *(e for e in (CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1) if e < size)]
    for start in edges:
        for stop in edges:
            if start <= stop:
                assert blobs.read(SCOPE, manifest.id, start, stop) == content[start:stop]
    for start, stop in ((-1, 1), (0, size + 1), (2, 1), (size + 1, size + 1)):
        with pytest.raises(NotFoundError):
            blobs.read(SCOPE, manifest.id, start, stop)


@pytest.mark.parametrize("size", [1000, 2 * CHUNK_BYTES])
async def test_views_are_read_only(blobs: BlobStore, size: int) -> None:
    manifest = await put(blobs, content_of(size))
    assert whole(blobs, manifest).readonly


async def test_chunks_in_any_order_and_repeated(blobs: BlobStore) -> None:
    content = content_of(3 * CHUNK_BYTES + 7)
    manifest = manifest_of(content)
    chunks = list(split(content))
    await blobs.put(SCOPE, manifest, [chunks[n] for n in (3, 1, 1, 0, 3, 2, 2)])
    assert whole(blobs, manifest) == content
    await blobs.put(SCOPE, manifest, chunks)
    assert whole(blobs, manifest) == content


async def test_chunks_may_come_asynchronously_and_from_any_buffer(blobs: BlobStore) -> None:
    content = content_of(2 * CHUNK_BYTES + 9)

    async def come() -> AsyncIterator[tuple[int, Buffer]]:
        reused = bytearray(CHUNK_BYTES)
        for index, chunk in split(content):
            await asyncio.sleep(0)
            reused[: len(chunk)] = chunk
            yield index, memoryview(reused)[: len(chunk)]

    manifest = manifest_of(content)
    await blobs.put(SCOPE, manifest, come())
    assert whole(blobs, manifest) == content


@pytest.mark.parametrize("size", [3000, 2 * CHUNK_BYTES + 9])
async def test_chunks_may_come_in_pieces(blobs: BlobStore, size: int) -> None:
    content = content_of(size)
    manifest = manifest_of(content)
    chunks: list[tuple[int, list[bytes]]] = []
    for index, chunk in split(content):
        cut = len(chunk) // 3
        chunks.append((index, [bytes(chunk[:cut]), b"", bytes(chunk[cut:])]))
    for wrong in (chunks[0][1][::-1], chunks[0][1][:1], [*chunks[0][1], b"x"]):
        with pytest.raises(IntegrityError):
            await blobs.put(SCOPE, manifest, [(0, wrong)])
    assert await blobs.missing(SCOPE, manifest) == list(range(manifest.num_chunks))
    await blobs.put(SCOPE, manifest, chunks)
    assert whole(blobs, manifest) == content


async def test_a_small_buffer_may_be_reused_after_put(blobs: BlobStore) -> None:
    buffer = bytearray(b"original")
    manifest = manifest_of(buffer)
    await blobs.put(SCOPE, manifest, [(0, buffer)])
    buffer[:] = b"changed!"
    assert bytes(whole(blobs, manifest)) == b"original"


async def test_a_sender_that_stops_half_way_goes_on_later(blobs: BlobStore) -> None:
    content = content_of(40 * 1024 * 1024)
    manifest = manifest_of(content)
    chunks = list(split(content))

    async def broken() -> AsyncIterator[tuple[int, Buffer]]:
        yield chunks[0]
        yield chunks[3]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await blobs.put(SCOPE, manifest, broken())
    assert await blobs.missing(SCOPE, manifest) == [1, 2, 4]
    await assert_absent(blobs, manifest)
    await blobs.put(SCOPE, manifest, [chunks[2]])
    assert await blobs.missing(SCOPE, manifest) == [1, 4]
    await blobs.put(SCOPE, manifest, [chunks[4], chunks[1]])
    assert await blobs.missing(SCOPE, manifest) == []
    assert whole(blobs, manifest) == content


async def test_an_interrupted_40_mb_put_resumes_after_reopening(place: Place, blobs: BlobStore) -> None:
    if place.reopen is None:
        pytest.skip("this place keeps nothing")
    content = content_of(40 * 1024 * 1024)
    manifest = manifest_of(content)
    chunks = list(split(content))
    await blobs.put(SCOPE, manifest, [chunks[1], chunks[4]])
    place.reopen()
    assert place.blobs is not None
    await assert_absent(place.blobs, manifest)
    assert await place.blobs.missing(SCOPE, manifest) == [0, 2, 3]
    sent: list[int] = []

    def rest() -> Iterator[tuple[int, Buffer]]:
        for index in (0, 2, 3):
            sent.append(index)
            yield chunks[index]

    await place.blobs.put(SCOPE, manifest, rest())
    assert sent == [0, 2, 3]
    assert whole(place.blobs, manifest) == content


@pytest.mark.parametrize("size", [1000, 3 * CHUNK_BYTES])
async def test_a_chunk_that_does_not_match_is_refused_and_those_before_it_stay(blobs: BlobStore, size: int) -> None:
    content = content_of(size)
    manifest = manifest_of(content)
    chunks = list(split(content))
    wrong = bytearray(chunks[-1][1])
    wrong[-1] ^= 1
    with pytest.raises(IntegrityError):
        await blobs.put(SCOPE, manifest, [*chunks[:-1], (len(chunks) - 1, wrong)])
    assert await blobs.missing(SCOPE, manifest) == [len(chunks) - 1]
    await assert_absent(blobs, manifest)
    await blobs.put(SCOPE, manifest, [chunks[-1]])
    assert whole(blobs, manifest) == content


@pytest.mark.parametrize("size", [1000, 2 * CHUNK_BYTES])
async def test_impossible_chunks_are_refused(blobs: BlobStore, size: int) -> None:
    content = content_of(size)
    manifest = manifest_of(content)
    first = content[:CHUNK_BYTES]
    for bad in ((-1, first), (manifest.num_chunks, first), (10**9, b""), (0, first[:-1]), (0, first + b"x"), (0, b"")):
        with pytest.raises(IntegrityError):
            await blobs.put(SCOPE, manifest, [bad])
    assert await blobs.missing(SCOPE, manifest) == list(range(manifest.num_chunks))


@pytest.mark.parametrize("size", [1000, 100_000])
async def test_two_senders_at_once(blobs: BlobStore, size: int) -> None:
    content = content_of(size)
    await asyncio.gather(*(put(blobs, content) for _ in range(5)))
    assert whole(blobs, manifest_of(content)) == content


async def test_two_senders_share_the_chunks_of_one_large_blob(blobs: BlobStore) -> None:
    content = content_of(4 * CHUNK_BYTES)
    manifest = manifest_of(content)
    chunks = list(split(content))
    await asyncio.gather(
        blobs.put(SCOPE, manifest, [chunks[n] for n in (0, 2)]),
        blobs.put(SCOPE, manifest, [chunks[n] for n in (3, 1)]),
        blobs.put(SCOPE, manifest, [chunks[n] for n in (1, 0)]),
    )
    assert await blobs.missing(SCOPE, manifest) == []
    assert whole(blobs, manifest) == content


@pytest.mark.parametrize("size", [1000, 100_000])
async def test_scopes_are_apart(blobs: BlobStore, size: int) -> None:
    content = content_of(size)
    manifest = await put(blobs, content, "a/b")
    for other in ("a", "a/b/c", "a/bb", "b"):
        await assert_absent(blobs, manifest, other)
        assert await blobs.missing(other, manifest) == [0]


@pytest.mark.parametrize("size", [1000, 100_000, CHUNK_BYTES + 1])
async def test_delete_scope_is_by_whole_names(blobs: BlobStore, size: int) -> None:
    content = content_of(size)
    scopes = ["j", "j/c/1", "j/c/1/up/a", "j/c/1/up/b", "j/c/10/up/a", "j/c/2", "j2/c"]
    for scope in scopes:
        await put(blobs, content, scope)
    manifest = manifest_of(content)
    await blobs.put("j/c/1/up/c", manifest_of(content + b"1"), [])
    await blobs.delete_scope("j/c/1")
    for scope in scopes:
        if scope in ("j/c/1", "j/c/1/up/a", "j/c/1/up/b"):
            await assert_absent(blobs, manifest, scope)
            assert await blobs.missing(scope, manifest) == list(range(manifest.num_chunks))
        else:
            assert whole(blobs, manifest, scope) == content
    await blobs.delete_scope("j/c/1")
    await blobs.delete_scope("nothing/here")
    await put(blobs, content, "j/c/1")
    assert whole(blobs, manifest, "j/c/1") == content


async def test_deleting_forgets_what_had_come_of_an_unfinished_blob(blobs: BlobStore) -> None:
    content = content_of(3 * CHUNK_BYTES)
    manifest = manifest_of(content)
    await blobs.put(SCOPE, manifest, [next(split(content))])
    await blobs.delete_scope("job")
    assert await blobs.missing(SCOPE, manifest) == [0, 1, 2]


async def test_views_outlive_their_blob(blobs: BlobStore) -> None:
    """A view that somebody still holds never changes, whatever is written afterwards."""
    size = CHUNK_BYTES + 5
    content = content_of(size)
    for round_ in range(2):
        scope = f"j/{round_}"
        manifest = await put(blobs, content, scope)
        array = np.frombuffer(whole(blobs, manifest, scope), dtype=np.uint8)
        await blobs.delete_scope(scope)
        other = content_of(size, seed=round_ + 1)
        await put(blobs, other, f"k/{round_}")
        assert array.tobytes() == content


async def test_a_reused_place_never_shows_old_content(blobs: BlobStore) -> None:
    """After deletion, a new blob of the same size has only its own bytes, at every stage of its coming."""
    size = 2 * CHUNK_BYTES + 5
    old = content_of(size)
    for round_ in range(2):
        await put(blobs, old, f"old/{round_}")
        await blobs.delete_scope("old")
        new = content_of(size, seed=100 + round_)
        manifest = manifest_of(new)
        chunks = list(split(new))
        scope = f"new/{round_}"
        await blobs.put(scope, manifest, [chunks[1]])
        assert await blobs.missing(scope, manifest) == [0, 2]
        await assert_absent(blobs, manifest, scope)
        await blobs.put(scope, manifest, chunks)
        assert whole(blobs, manifest, scope) == new


@pytest.mark.parametrize("scope", ["", "/", "..", "a/../b", "a//b", "/a", "a/", "A", "a b", "a/b/c/d/e/f/g/h/i", "a\0"])
async def test_unsafe_scopes_are_refused(blobs: BlobStore, scope: str) -> None:
    manifest = manifest_of(b"x")
    for attempt in (blobs.put(scope, manifest, split(b"x")), blobs.missing(scope, manifest)):
        with pytest.raises(ConfigError):
            await attempt
    with pytest.raises(ConfigError):
        blobs.create(scope, 10)
    with pytest.raises(NotFoundError):
        blobs.read(scope, manifest.id, 0, 1)


@pytest.mark.parametrize("id", ["", "..", "x" * 64, "../../../../etc/passwd", "A" * 64, "0" * 63, "0" * 64])
async def test_unknown_or_impossible_ids_are_not_found(blobs: BlobStore, id: str) -> None:
    await put(blobs, b"x")
    with pytest.raises(NotFoundError):
        blobs.read(SCOPE, id, 0, 0)
    with pytest.raises(NotFoundError):
        await blobs.manifest(SCOPE, id)
    assert blobs.path(SCOPE, id) is None


async def test_reading_from_many_threads(blobs: BlobStore) -> None:
    content = content_of(3 * CHUNK_BYTES + 1)
    small = await put(blobs, b"small" * 100)
    manifest = await put(blobs, content)
    spans = [(start, min(start + 999_983, len(content))) for start in range(0, len(content), 999_983)]
    with ThreadPoolExecutor(8) as threads:
        views = threads.map(lambda span: (span, bytes(blobs.read(SCOPE, manifest.id, *span))), spans * 4)
        smalls = threads.map(lambda _: bytes(whole(blobs, small)), range(50))
        assert all(view == content[start:stop] for (start, stop), view in views)
        assert set(smalls) == {b"small" * 100}


async def test_the_file_holds_exactly_the_content(blobs: BlobStore) -> None:
    for size in (1000, 2 * CHUNK_BYTES + 1):
        content = content_of(size)
        manifest = await put(blobs, content)
        path = blobs.path(SCOPE, manifest.id)
        if path is not None:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
                assert mapping[:] == content


async def test_blobs_outlast_the_store(place: Place, blobs: BlobStore) -> None:
    if place.reopen is None:
        pytest.skip("this place keeps nothing")
    contents = [content_of(size) for size in SIZES]
    for content in contents:
        await put(blobs, content)
    place.reopen()
    assert place.blobs is not None
    for content in contents:
        manifest = manifest_of(content)
        assert await place.blobs.missing(SCOPE, manifest) == []
        assert await place.blobs.manifest(SCOPE, manifest.id) == manifest
        assert whole(place.blobs, manifest) == content


@pytest.mark.parametrize("offset", [0, CHUNK_BYTES + 3, 3 * CHUNK_BYTES - 1])
async def test_changed_content_is_never_read_and_can_be_sent_again(place: Place, blobs: BlobStore, offset: int) -> None:
    if place.reopen is None or place.damage is None:
        pytest.skip("nobody can change content behind this place's back")
    content = content_of(3 * CHUNK_BYTES)
    manifest = await put(blobs, content)
    place.damage(SCOPE, manifest.id, offset)
    place.reopen()
    assert place.blobs is not None
    chunk = offset // CHUNK_BYTES
    for index in range(3):
        if index != chunk:
            start, stop = manifest.span(index)
            assert place.blobs.read(SCOPE, manifest.id, start, stop) == content[start:stop]
    with pytest.raises(IntegrityError):
        place.blobs.read(SCOPE, manifest.id, offset, offset + 1)
    assert await place.blobs.missing(SCOPE, manifest) == [chunk]
    await place.blobs.put(SCOPE, manifest, split(content))
    assert whole(place.blobs, manifest) == content


async def test_path_never_names_a_changed_file(place: Place, blobs: BlobStore) -> None:
    if place.reopen is None or place.damage is None:
        pytest.skip("nobody can change content behind this place's back")
    manifest = await put(blobs, content_of(2 * CHUNK_BYTES))
    if blobs.path(SCOPE, manifest.id) is None:
        pytest.skip("nothing is a file at this place")
    place.damage(SCOPE, manifest.id, 2 * CHUNK_BYTES - 1)
    place.reopen()
    assert place.blobs is not None
    with pytest.raises(IntegrityError):
        place.blobs.path(SCOPE, manifest.id)


@pytest.fixture
def making(place: Place, blobs: BlobStore) -> BlobStore:
    if not place.creates:
        pytest.skip("no blob is made at this place")
    return blobs


@pytest.mark.parametrize("size", [0, *SIZES])
async def test_a_blob_that_is_made_has_the_id_of_its_content(making: BlobStore, size: int) -> None:
    content = content_of(size)
    writer = making.create(SCOPE, size)
    step = max(1, size // 3)
    for start in reversed(range(0, size, step)):
        writer.write(start, content[start : start + step])
    assert await writer.seal() == manifest_of(content)
    assert whole(making, manifest_of(content)) == content
    assert await making.missing(SCOPE, manifest_of(content)) == []


async def test_many_threads_make_one_blob(making: BlobStore) -> None:
    content = content_of(3 * CHUNK_BYTES + 77)
    writer = making.create(SCOPE, len(content))
    step = 100_003
    with ThreadPoolExecutor(8) as threads:
        starts = range(0, len(content), step)
        list(threads.map(lambda start: writer.write(start, memoryview(content)[start : start + step]), starts))
    assert await writer.seal() == manifest_of(content)
    assert whole(making, manifest_of(content)) == content


@pytest.mark.parametrize("size", [1000, 2 * CHUNK_BYTES])
async def test_a_blob_with_a_hole_is_not_sealed(making: BlobStore, size: int) -> None:
    old = content_of(size)
    await put(making, old, "old")
    await making.delete_scope("old")
    writer = making.create(SCOPE, size)
    writer.write(0, old[:10])
    writer.write(5, old[5 : size // 2])
    writer.write(size // 2 + 1, old[size // 2 + 1 :])
    with pytest.raises(IntegrityError):
        await writer.seal()
    writer.write(size // 2, old[size // 2 : size // 2 + 1])
    assert await writer.seal() == manifest_of(old)


@pytest.mark.parametrize("size", [1000, 100_000])
async def test_writing_outside_is_refused(making: BlobStore, size: int) -> None:
    writer = making.create(SCOPE, size)
    for start, content in ((-1, b"x"), (size, b"x"), (size - 1, b"xy"), (0, bytes(size + 1))):
        with pytest.raises(ValueError, match="expected bytes within"):
            writer.write(start, content)
    writer.abort()


@pytest.mark.parametrize("size", [1000, 100_000])
async def test_abort_leaves_nothing_and_is_harmless_after_seal(making: BlobStore, size: int) -> None:
    content = content_of(size)
    writer = making.create(SCOPE, size)
    writer.write(0, content)
    writer.abort()
    writer.abort()
    await assert_absent(making, manifest_of(content))
    with pytest.raises(ValueError, match="neither sealed nor aborted"):
        writer.write(0, content)
    second = making.create(SCOPE, size)
    second.write(0, content)
    manifest = await second.seal()
    second.abort()
    assert whole(making, manifest) == content
    with pytest.raises(ValueError, match="neither sealed nor aborted"):
        await second.seal()


@pytest.mark.parametrize("size", [1000, 2 * CHUNK_BYTES])
async def test_making_what_is_there_already(making: BlobStore, size: int) -> None:
    content = content_of(size)
    manifest = await put(making, content)
    view = whole(making, manifest)
    for _ in range(2):
        writer = making.create(SCOPE, size)
        writer.write(0, content)
        assert await writer.seal() == manifest
    assert view == content
    assert whole(making, manifest) == content


async def test_made_blobs_outlast_the_store(place: Place, making: BlobStore) -> None:
    if place.reopen is None:
        pytest.skip("this place keeps nothing")
    contents = [content_of(size, seed=5) for size in (10, 3 * CHUNK_BYTES + 1)]
    for content in contents:
        writer = making.create(SCOPE, len(content))
        writer.write(0, content)
        await writer.seal()
    unsealed = making.create(SCOPE, CHUNK_BYTES)
    unsealed.write(0, b"never sealed")
    place.reopen()
    assert place.blobs is not None
    for content in contents:
        assert whole(place.blobs, manifest_of(content)) == content
