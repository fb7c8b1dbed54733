"""Manifests, chunks and ids."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.core import blobs
from hanse.core.blobs import CHUNK_BYTES, MAX_BLOB_BYTES, Manifest, content_hash, manifest_of, rechunk, split
from hanse.core.errors import CodecError, IntegrityError

CONTENT = random.Random(1).randbytes(2 * CHUNK_BYTES + 100)
MANIFEST = manifest_of(CONTENT)


def test_the_hash_is_blake3() -> None:
    # The first test vector of the BLAKE3 specification.
    assert content_hash(b"").hex() == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"


def test_golden_ids() -> None:
    """Ids of version 1: whoever changes them changes every federation's store."""
    assert manifest_of(b"").id == "2fb8b7ff7110a6b323c48fe0cfa1a0abbba7f559dfa0218e658499ed87916ea1"
    assert manifest_of(b"hanse").id == "dc4ee32fc8fce74565da99becc66f77c11ecf357102a660b51778e217cd6236c"
    assert manifest_of(bytes(CHUNK_BYTES + 1)).id == "b7ad311a4e7b70778033abfaf2e08b8087f0a512fb2968805a56acfb94ca874c"


def test_chunks_and_spans() -> None:
    assert MANIFEST.num_chunks == 3
    assert [MANIFEST.span(index) for index in range(3)] == [
        (0, CHUNK_BYTES),
        (CHUNK_BYTES, 2 * CHUNK_BYTES),
        (2 * CHUNK_BYTES, 2 * CHUNK_BYTES + 100),
    ]
    assert manifest_of(b"").num_chunks == 0
    assert manifest_of(bytes(CHUNK_BYTES)).num_chunks == 1


def test_right_chunks_verify() -> None:
    for index, chunk in split(CONTENT):
        MANIFEST.verify(index, chunk)
        assert MANIFEST.hash_of(index) == content_hash(chunk)


@pytest.mark.parametrize("index", [-1, -3, 3, 2**40])
def test_impossible_indexes_do_not_verify(index: int) -> None:
    for chunk in (b"", CONTENT[-100:], CONTENT[:CHUNK_BYTES]):
        with pytest.raises(IntegrityError):
            MANIFEST.verify(index, chunk)


def test_wrong_chunks_do_not_verify() -> None:
    last = CONTENT[-100:]
    for wrong in (last[:-1], last + b"x", bytes(100), b""):
        with pytest.raises(IntegrityError):
            MANIFEST.verify(2, wrong)
    with pytest.raises(IntegrityError):
        MANIFEST.verify(1, CONTENT[:CHUNK_BYTES])


@pytest.mark.parametrize(
    ("size", "num_hash_bytes"),
    [
        (-1, 0),
        (0, 32),
        (1, 0),
        (1, 31),
        (1, 33),
        (1, 64),
        (CHUNK_BYTES + 1, 32),
        (MAX_BLOB_BYTES + 1, 32),
        (2**64 - 1, 32),
    ],
)
def test_impossible_manifests_are_refused(size: int, num_hash_bytes: int) -> None:
    with pytest.raises(CodecError):
        Manifest(size, bytes(num_hash_bytes))


def test_the_id_depends_on_size_and_on_every_hash() -> None:
    hashes = bytearray(MANIFEST.hashes)
    hashes[-1] ^= 1
    ids = {MANIFEST.id, Manifest(MANIFEST.size, bytes(hashes)).id, Manifest(MANIFEST.size - 1, MANIFEST.hashes).id}
    assert len(ids) == 3


@given(st.lists(st.binary(max_size=40), max_size=12), st.integers(1, 17))
def test_rechunking_changes_no_byte(parts: list[bytes], chunk_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blobs, "CHUNK_BYTES", chunk_bytes)
        chunks = list(rechunk(parts))
        assert chunks == list(split(b"".join(parts)))
        assert [index for index, _ in chunks] == list(range(len(chunks)))


def test_rechunking_does_not_copy_whole_chunks() -> None:
    ((_, first), *_rest) = rechunk([CONTENT])
    assert isinstance(first, memoryview)
    assert first.obj is CONTENT
