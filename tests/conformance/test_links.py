"""What every `Links` promises: a site reads exactly what it was granted and writes only its own scope."""

import random

import pytest

from hanse.core.blobs import CHUNK_BYTES, Manifest, manifest_of, split
from hanse.core.errors import ConfigError, NotFoundError, PolicyError, TooLargeError
from hanse.core.seams import BlobStore, Links
from tests.conformance.places import MAX_BLOB_BYTES

CONTENT = bytes(range(250)) * 4
MANIFEST = manifest_of(CONTENT)
MODEL = "j/c/1/model"
UP = "j/c/1/up/site"


async def test_nothing_is_granted_by_default(blobs: BlobStore, links: Links) -> None:
    await blobs.put(MODEL, MANIFEST, split(CONTENT))
    with pytest.raises(PolicyError):
        await links.get("site", MODEL, MANIFEST.id)
    with pytest.raises(PolicyError):
        await links.put("site", UP, MANIFEST)


async def test_a_granted_blob_can_be_read_by_who_was_granted(blobs: BlobStore, links: Links) -> None:
    await blobs.put(MODEL, MANIFEST, split(CONTENT))
    links.grant("site", read=[(MODEL, MANIFEST.id)])
    link = await links.get("site", MODEL, MANIFEST.id)
    assert (link.scope, link.id) == (MODEL, MANIFEST.id)
    with pytest.raises(PolicyError):
        await links.get("other", MODEL, MANIFEST.id)


async def test_a_grant_covers_that_blob_in_that_scope_only(blobs: BlobStore, links: Links) -> None:
    other = manifest_of(b"other")
    await blobs.put(MODEL, MANIFEST, split(CONTENT))
    await blobs.put(MODEL, other, split(b"other"))
    await blobs.put("j/c/2/model", MANIFEST, split(CONTENT))
    links.grant("site", read=[(MODEL, MANIFEST.id)])
    for scope, id in ((MODEL, other.id), ("j/c/2/model", MANIFEST.id), ("j/c/1", MANIFEST.id)):
        with pytest.raises(PolicyError):
            await links.get("site", scope, id)


async def test_reading_what_does_not_exist(links: Links) -> None:
    links.grant("site", read=[(MODEL, MANIFEST.id)])
    with pytest.raises(NotFoundError):
        await links.get("site", MODEL, MANIFEST.id)


async def test_a_right_to_read_is_none_to_write_and_the_reverse(blobs: BlobStore, links: Links) -> None:
    await blobs.put(UP, MANIFEST, split(CONTENT))
    links.grant("reader", read=[(UP, MANIFEST.id)])
    links.grant("writer", write=[UP])
    with pytest.raises(PolicyError):
        await links.put("reader", UP, MANIFEST)
    with pytest.raises(PolicyError):
        await links.get("writer", UP, MANIFEST.id)


@pytest.mark.parametrize("scope", ["j/c/1/up/site2", "j/c/1/up", "j/c/1/up/site/below", "j/c/2/up/site", "../x", ""])
async def test_writing_stays_in_the_granted_scope(links: Links, scope: str) -> None:
    links.grant("site", write=[UP])
    with pytest.raises(PolicyError):
        await links.put("site", scope, MANIFEST)


async def test_a_ticket_names_what_is_missing_each_time_it_is_asked(blobs: BlobStore, links: Links) -> None:
    content = random.Random(1).randbytes(2 * CHUNK_BYTES + 1)
    manifest = manifest_of(content)
    links.grant("site", write=[UP])
    ticket = await links.put("site", UP, manifest)
    assert (ticket.scope, ticket.manifest, ticket.missing) == (UP, manifest, (0, 1, 2))
    chunks = list(split(content))
    await blobs.put(UP, manifest, [chunks[1]])
    assert (await links.put("site", UP, manifest)).missing == (0, 2)
    await blobs.put(UP, manifest, [chunks[0], chunks[2]])
    assert (await links.put("site", UP, manifest)).missing == ()


async def test_a_blob_over_the_limit_is_refused(links: Links) -> None:
    links.grant("site", write=[UP])
    hashes = bytes(32 * (MAX_BLOB_BYTES // CHUNK_BYTES + 1))
    with pytest.raises(TooLargeError):
        await links.put("site", UP, Manifest(MAX_BLOB_BYTES + 1, hashes))
    assert (await links.put("site", UP, Manifest(MAX_BLOB_BYTES, hashes[32:]))).missing != ()


async def test_grants_add_up_and_revoking_ends_them_below_a_scope(blobs: BlobStore, links: Links) -> None:
    later = "j/c/10/model"
    for scope in (MODEL, later):
        await blobs.put(scope, MANIFEST, split(CONTENT))
        links.grant("site", read=[(scope, MANIFEST.id)])
    links.grant("site", write=[UP, "j/c/10/up/site"])
    links.grant("other", write=[UP])
    links.revoke("site", scope_prefix="j/c/1")
    with pytest.raises(PolicyError):
        await links.get("site", MODEL, MANIFEST.id)
    with pytest.raises(PolicyError):
        await links.put("site", UP, MANIFEST)
    assert (await links.get("site", later, MANIFEST.id)).id == MANIFEST.id
    assert (await links.put("site", "j/c/10/up/site", MANIFEST)).missing == (0,)
    assert (await links.put("other", UP, MANIFEST)).missing == (0,)
    links.revoke("site", scope_prefix="j")
    with pytest.raises(PolicyError):
        await links.get("site", later, MANIFEST.id)
    links.revoke("nobody", scope_prefix="j")


async def test_only_safe_scopes_can_be_granted_for_writing(links: Links) -> None:
    with pytest.raises(ConfigError):
        links.grant("site", write=["../outside"])
