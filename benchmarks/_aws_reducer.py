"""The function of `aws_reduce`, and what it works on."""

import asyncio
import json
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hanse.aggregation import BlobSource
from hanse.backends.objectstore import ObjectBlobs, Objects
from hanse.backends.objectstore.ledger import ObjectLedger
from hanse.core.arrays import Arrays
from hanse.core.blobs import CHUNK_BYTES, Manifest
from hanse.core.codec import encode_parts
from hanse.core.ids import TaskId, model_scope, upload_scope
from hanse.core.records import BlobRef, Reply
from hanse.core.spec import RunSpec
from hanse.pipeline.request import JobRequest
from hanse.rounds.hosts.host import Member, ReduceRequest
from hanse.serverless import functions, shards
from hanse.serverless.contract import Shard
from hanse.serverless.place import Place

JOB = "bench"
PERIOD = 7_999_993


def objects(folder: Path) -> Objects:
    """Objects in a folder."""
    from obstore.store import LocalStore

    return Objects(LocalStore(str(folder), mkdir=True), "v1/bench")


def place(folder: Path, count: int) -> Place:
    """Where the function runs, its reductions in `count` shards."""
    found: Any = objects(folder)
    blobs = ObjectBlobs(found)
    nothing: Any = None
    request = JobRequest(
        JOB, "bench", "bench", "anna", 1, "", Manifest(0, b""), "", "app.py", "app", RunSpec(rounds=1, initial="given")
    )
    return Place(
        federation="bench",
        ledger=ObjectLedger(found),
        blobs=blobs,
        inbox=nothing,
        links=nothing,
        documents=nothing,
        machine=nothing,
        identity=nothing,
        roster=nothing,
        now_ms=lambda: 0,
        shard_bytes=-(-request_bytes(folder) // count),
        rows={JOB: {"request": request.to_json()}},
    )


def request_bytes(folder: Path) -> int:
    """Of all updates."""
    return int((folder / "bytes").read_text())


async def fill(folder: Path, updates: int, elements: int) -> None:
    """Write a base of zeros and updates of which number n is `pattern` + n + 1, and what is to be reduced."""
    blobs = ObjectBlobs(objects(folder))
    members: list[Member] = []
    total = 0
    base = await _write(blobs, model_scope(JOB, "main", 0), np.zeros(elements, np.float32))
    for number in range(updates):
        task = TaskId(JOB, "main", 1, "train", number)
        site = f"site-{number}"
        manifest = await _write(blobs, upload_scope(task, site), pattern(0, elements) + np.float32(number + 1))
        reply = Reply(task, site, num_examples=1, update=BlobRef(manifest, upload_scope(task, site)), base=base.id)
        members.append(Member(number, reply, number, 0))
        total += manifest.size
    (folder / "bytes").write_text(str(total))
    request = ReduceRequest(
        1,
        "train",
        "fold",
        tuple(members),
        updates,
        (model_scope(JOB, "main", 0), base.id),
        (),
        model_scope(JOB, "main", 1),
    )
    shared = await shards.share_out(place(folder, 1), JOB, "main", request, total)
    (folder / "id").write_text(shared[0]["id"])


def pattern(start: int, stop: int) -> "np.typing.NDArray[np.float32]":
    """Whole numbers that no two chunks share, and whose means are exact."""
    return (np.arange(start, stop) % PERIOD).astype(np.float32)


async def _write(blobs: ObjectBlobs, scope: str, array: "np.typing.NDArray[np.float32]") -> Manifest:
    arrays = Arrays({"w": array})
    writer = blobs.create(scope, sum(len(memoryview(part).cast("B")) for part in encode_parts(arrays)))
    at = 0
    for part in encode_parts(arrays):
        view = memoryview(part).cast("B")
        for start in range(0, len(view), CHUNK_BYTES):
            writer.write(at, view[start : start + CHUNK_BYTES])
            at += len(view[start : start + CHUNK_BYTES])
    return await writer.seal()


def main(folder: str, number: str, count: str) -> None:
    """One function's life: what it read, how long it took, and what it needed at most.

    It has one processor. With all of this machine's, its threads that fetch and hash ahead would take two, and leave
    none to a second function, which on AWS brings its own.
    """
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {processors[int(number) % len(processors)]})
    here = place(Path(folder), int(count))
    read = 0
    fetch = here.blobs._objects.get_now  # type: ignore[attr-defined]

    def counted(key: str) -> bytes:
        nonlocal read
        content: bytes = fetch(key)
        read += len(content) if "/up/" in key else 0
        return content

    here.blobs._objects.get_now = counted  # type: ignore[attr-defined]
    shard: Shard = {
        "job": JOB,
        "component": "main",
        "id": (Path(folder) / "id").read_text(),
        "shard": int(number),
        "shards": int(count),
    }
    begin, cpu = time.perf_counter(), time.process_time()
    asyncio.run(functions.reduce(here, shard))
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    print(json.dumps({"read": read, "seconds": seconds, "cpu": cpu, "peak_mb": _peak_mb()}))


def _peak_mb() -> float:
    """This process's own peak: `ru_maxrss` counts that of the process that started it, up to the moment of starting."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise AssertionError("expected Linux")


async def check(folder: Path, updates: int, elements: int) -> bool:
    """Whether two shards have written the mean."""
    here = place(folder, 2)
    shard_id = (folder / "id").read_text()
    rows = sorted(await here.ledger.query(f"shard/{JOB}/main/{shard_id}/2/"))  # a folder is listed in any order
    parts = [json.loads(value)["parts"][0] for _, value, _ in rows]
    size, scope = parts[0]["size"], model_scope(JOB, "main", 1)
    manifest = Manifest(size, b"".join(bytes.fromhex(part["hashes"]) for part in parts))
    await here.blobs.commit(scope, manifest)
    mean, seen = np.float32((updates + 1) / 2), 0
    size_of_step = 1 << 20
    source = BlobSource(partial(here.blobs.read, scope, manifest.id), size)
    for start in range(0, elements, size_of_step):
        stop = min(start + size_of_step, elements)
        values = source.block(0, start, stop)
        if not np.array_equal(values, pattern(start, stop) + mean):
            return False
        seen += len(values)
    return seen == elements
