"""A reduction past one function's time: the same walk over ranges, each range by a function of its own.

    JOB/COMPONENT/shards    (blobs) what is to be reduced, JSON; its id is the reduction's
    shard/JOB/COMPONENT/ID/OF/N    {parts: [{size, hashes}], refused: {ordinal: reason}}

A shard writes whole chunks of every output, each under its own hash, and says which. Whoever looks next and finds all
rows writes the heads. Done twice, or by a function that was thought dead, a shard writes the same chunks and row.
"""

import base64
import ctypes
import json
from collections.abc import Mapping
from typing import Any

from hanse.aggregation.shares import Share
from hanse.core.blobs import Manifest, manifest_of, rechunk
from hanse.core.records import Reply
from hanse.pipeline.request import JobRequest
from hanse.rounds.hosts.host import Member, ReduceAnswer, ReduceRequest
from hanse.rounds.hosts.local import LocalHost, Part
from hanse.serverless.contract import Shard
from hanse.serverless.place import Place
from hanse.strategies import named

MAX_SHARDS = 256
_M_MMAP_THRESHOLD, _LARGE = -3, 1 << 20


async def share_out(place: Place, job: str, component: str, request: ReduceRequest, num_bytes: int) -> list[Shard]:
    """Write down what is to be reduced; the shards that do it."""
    content = _packed(request)
    manifest = manifest_of(content)
    await place.blobs.put(_scope(job, component), manifest, rechunk([content]))
    count = min(-(-num_bytes // place.shard_bytes), MAX_SHARDS)
    about = {"job": job, "component": component, "id": manifest.id, "shards": count}
    return [Shard(shard=number, **about) for number in range(count)]  # type: ignore[typeddict-item]


async def joined(place: Place, host: LocalHost, request: ReduceRequest, shards: list[Shard]) -> ReduceAnswer | None:
    """The answer, if every shard has been reduced."""
    first = shards[0]
    rows = await place.ledger.query(_prefix(first), limit=len(shards) + 1)
    if len(rows) < len(shards):
        return None
    found = [json.loads(value) for _, value, _ in rows]
    refused = {int(ordinal): reason for row in found for ordinal, reason in row["refused"].items()}
    if refused:
        return ReduceAnswer(None, refused=refused)
    keys = []
    for parts in zip(*(row["parts"] for row in found), strict=True):
        manifest = Manifest(parts[0]["size"], b"".join(bytes.fromhex(part["hashes"]) for part in parts))
        await place.blobs.commit(request.scope, manifest)
        keys.append((request.scope, manifest.id))
    return ReduceAnswer(keys[0], tuple(keys[1:]), memory=host.memory_after(request))


async def forget(place: Place, job: str, component: str) -> None:
    """Nothing of this job will be reduced any more."""
    await place.ledger.delete(f"shard/{job}/")
    await place.blobs.delete_scope(_scope(job, component))


async def reduce_shard(place: Place, shard: Shard, row: Mapping[str, Any]) -> None:
    """Reduce one shard, unless it has been.

    Args:
        row: the job's.

    Raises:
        StorageError, UnavailableError: call again. NotFoundError: the whole reduction has been joined.
    """
    scope, id = _scope(shard["job"], shard["component"]), shard["id"]
    manifest = await place.blobs.manifest(scope, id)
    request = _unpacked(bytes(place.blobs.read(scope, id, 0, manifest.size)))
    spec = JobRequest.from_json(row["request"]).spec
    _return_what_is_freed()
    host = LocalHost(named(spec.strategy, spec.params), spec, place.blobs, chunks=place.blobs)
    refused, parts = await host.reduce_share(request, Share(shard["shard"], shard["shards"]))
    value = {"parts": [_part_json(part) for part in parts], "refused": refused}
    await place.ledger.create(f"{_prefix(shard)}{shard['shard']:04d}", json.dumps(value).encode())


def _return_what_is_freed() -> None:
    """Have glibc give chunks back to the system; by itself it learns to keep them, twice over, in holes."""
    try:
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)
    except (OSError, AttributeError):
        return  # another C library


def _part_json(part: Part) -> dict[str, Any]:
    size, hashes = part
    return {"size": size, "hashes": b"".join(hashes[index] for index in sorted(hashes)).hex()}


def _scope(job: str, component: str) -> str:
    return f"{job}/{component}/shards"


def _prefix(shard: Shard) -> str:
    return f"shard/{shard['job']}/{shard['component']}/{shard['id']}/{shard['shards']}/"


def _packed(request: ReduceRequest) -> bytes:
    """Canonical: the same reduction has the same name."""
    value = {
        "round": request.round,
        "phase": request.phase,
        "kind": request.kind,
        "size": request.size,
        "model": request.model,
        "state": list(request.state),
        "scope": request.scope,
        "memory": dict(request.memory),
        "members": [
            [m.ordinal, base64.b64encode(m.reply.pack()).decode(), m.position, m.staleness, m.seconds, m.group]
            for m in request.members
        ],
    }
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _unpacked(content: bytes) -> ReduceRequest:
    value = json.loads(content)
    return ReduceRequest(
        value["round"],
        value["phase"],
        value["kind"],
        tuple(
            Member(ordinal, Reply.unpack(base64.b64decode(reply)), *rest) for ordinal, reply, *rest in value["members"]
        ),
        value["size"],
        None if value["model"] is None else tuple(value["model"]),
        tuple(tuple(key) for key in value["state"]),
        value["scope"],
        value["memory"],
    )
