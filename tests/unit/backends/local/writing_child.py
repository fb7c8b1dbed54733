"""A process that writes into a local store as fast as it can and tells what was acknowledged; made to be killed.

    python writing_child.py DIRECTORY DURABILITY LIFE

One line of standard output for each acknowledgement: what, then its key.
"""

import asyncio
import os
import random
import sys
from itertools import count

from hanse.backends.local import LocalStore
from hanse.core.blobs import CHUNK_BYTES, manifest_of, split
from hanse.core.records import Envelope


def content_of(seed: str, size: int) -> bytes:
    """Content that the parent can make again."""
    return random.Random(seed).randbytes(size)


def said(*words: object) -> None:
    """One write to the pipe, so that a line is whole or not there."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def records(store: LocalStore, life: str) -> None:
    for n in count():
        key = f"{life}/{n}"
        if n % 3:
            await store.ledger.create(key, key.encode())
        else:
            await store.ledger.create_many([(key, key.encode()), (key + "/b", key.encode())])
        said("created", key)
        if n % 2:
            await store.ledger.compare_and_set(key, b"set " + key.encode(), 1)
            said("set", key)


async def messages(store: LocalStore, life: str) -> None:
    for n in count():
        id = f"{life}/{n}"
        await store.inbox.send("site", Envelope("server", "site", id, "task", id.encode()))
        said("sent", id)


async def small_blobs(store: LocalStore, life: str) -> None:
    for n in count():
        content = content_of(f"{life}/{n}", 3000)
        await store.blobs.put(f"small/{life}", manifest_of(content), split(content))
        said("small", f"{life}/{n}")


async def large_blobs(store: LocalStore, life: str) -> None:
    for n in count():
        seed = f"{life}/{n}"
        content = content_of(seed, CHUNK_BYTES + 10_000)
        said("coming", seed)
        if n % 2:
            writer = store.blobs.create(f"large/{life}", len(content))
            writer.write(0, content)
            await writer.seal()
        else:
            await store.blobs.put(f"large/{life}", manifest_of(content), split(content))
        said("large", seed)
        # Deleted blobs' files are overwritten by later ones.
        await store.blobs.put(f"gone/{life}", manifest_of(content), split(content))
        await store.blobs.delete_scope(f"gone/{life}")


async def main() -> None:
    directory, durability, life = sys.argv[1:]
    store = LocalStore.open(directory, durability)  # type: ignore[arg-type]  # checked by open
    said("open", life)
    await asyncio.gather(*(work(store, life) for work in (records, messages, small_blobs, large_blobs)))


if __name__ == "__main__":
    asyncio.run(main())
