"""The five functions, over a place: what `handlers` calls, and what tests and the local walk-through call directly."""

import asyncio
import base64
from collections.abc import Mapping
from typing import Any

import structlog

from hanse.core.errors import CodecError, HanseError, NotFoundError
from hanse.core.records import Envelope
from hanse.pipeline.removal import is_gone
from hanse.rounds.driver.visit import PATIENCE_MS
from hanse.serverless.apps import Apps
from hanse.serverless.contract import Input, Instruction, Shard, is_stream
from hanse.serverless.intake import News, take
from hanse.serverless.looking import look, look_and_call, row_of, wait
from hanse.serverless.place import Place
from hanse.serverless.shards import reduce_shard

log = structlog.get_logger("hanse.serverless")
LOOKED_AT = ("reply", "decision")
"""Rows whose appearance in the table's stream makes somebody look."""
SURELY = ("duplicate", "leave")
"""News of which the state machine must be told though nothing follows from it now: somebody may have died before
telling, or it has to look earlier than it thinks."""


async def collect(place: Place, event: Mapping[str, Any]) -> dict[str, Any]:
    """Take a batch of the server's queue; then look, once, at every job that there is news of.

    Returns:
        The messages that must come again.
    """
    records: list[Mapping[str, Any]] = event["Records"]
    found = await asyncio.gather(*(_take(place, record) for record in records), return_exceptions=True)
    failed: set[str] = set()
    by_job: dict[str, list[tuple[str, News, bool]]] = {}
    for record, news in zip(records, found, strict=True):
        id = str(record["messageId"])
        if isinstance(news, BaseException):
            failed.add(id)
            log.error("message not taken", id=id, reason=f"{type(news).__name__}: {news}"[:500])
            continue
        came_again = int(record.get("attributes", {}).get("ApproximateReceiveCount", 1)) > 1
        for each in news:
            if not (place.watched and each.in_stream):
                by_job.setdefault(each.job, []).append((id, each, came_again))
    for job, many in by_job.items():
        cancelled_by = next((each.cancelled_by for _, each, _ in many if each.cancelled_by), "")
        surely = any(again or each.kind in SURELY for _, each, again in many)
        try:
            await look_and_call(place, job, cancelled_by=cancelled_by, surely=surely)
        except HanseError as error:
            if isinstance(error, NotFoundError) and await is_gone(job, place.ledger):
                continue
            failed |= {id for id, _, _ in many}
            log.error("not looked at", job=job, reason=f"{type(error).__name__}: {error}"[:500])
    return {"batchItemFailures": [{"itemIdentifier": id} for id in sorted(failed)]}


async def _take(place: Place, record: Mapping[str, Any]) -> list[News]:
    try:
        envelope = Envelope.unpack(base64.b64decode(record["body"], validate=True))
    except ValueError:
        raise CodecError("expected base 64") from None
    return await take(place, envelope)


async def step(place: Place, event: Mapping[str, Any]) -> dict[str, Any]:
    """The state machine's next instruction; or look, because of rows that have appeared."""
    if is_stream(dict(event)):
        return await _stream(place, event["Records"])
    # After a reduction what was decided is known to be unperformed.
    patience_ms = 0 if event.get("kind") == "Reduce" else PATIENCE_MS
    turn = turn_of(event)
    try:
        instruction, _ = await look(place, event["job"], turn, patience_ms=patience_ms)
    except NotFoundError:
        if not await is_gone(event["job"], place.ledger):
            raise
        return {**turn, "kind": "Finish", "status": "finished", "error": ""}  # it was over before it was removed
    return dict(instruction)


async def reduce(place: Place, event: Mapping[str, Any]) -> dict[str, Any]:
    """One shard of a reduction."""
    shard: Shard = {
        "job": event["job"],
        "component": event["component"],
        "id": event["id"],
        "shard": event["shard"],
        "shards": event["shards"],
    }
    try:
        await reduce_shard(place, shard, await row_of(place, shard["job"]))
    except NotFoundError as error:
        log.info("shard not needed any more", job=shard["job"], shard=shard["shard"], reason=str(error))
    return {}


async def evaluate(place: Place, event: Mapping[str, Any], apps: Apps) -> dict[str, Any]:
    """As `step`, where the app's own server side may run."""
    host = await apps.host(place, await row_of(place, event["job"]))
    instruction, _ = await look(place, event["job"], turn_of(event), patience_ms=0, host=host)
    return dict(instruction)


async def _stream(place: Place, records: list[Mapping[str, Any]]) -> dict[str, Any]:
    jobs: dict[str, list[str]] = {}
    for record in records:
        if record.get("eventName") != "INSERT":
            continue
        key = base64.b64decode(record["dynamodb"]["Keys"]["k"]["B"]).decode(errors="replace").split("/")
        if key[0] in LOOKED_AT and len(key) > 2:
            jobs.setdefault(key[1], []).append(str(record["dynamodb"]["SequenceNumber"]))
    failed: list[str] = []
    for job, numbers in jobs.items():
        try:
            await look_and_call(place, job, surely=True)
        except NotFoundError:
            continue
        except HanseError as error:
            failed += numbers
            log.error("not looked at", job=job, reason=f"{type(error).__name__}: {error}"[:500])
    return {"batchItemFailures": [{"itemIdentifier": number} for number in failed]}


async def timer(place: Place, event: Mapping[str, Any]) -> dict[str, Any]:
    """The state machine waits."""
    instruction: Instruction = event["instruction"]
    await wait(place, event["token"], instruction)
    return {}


def turn_of(event: Mapping[str, Any]) -> Input:
    """The next turn of the execution that an instruction or an input belongs to."""
    return {
        "job": str(event["job"]),
        "component": str(event["component"]),
        "turns": int(event["turns"]) + 1,
        "generation": int(event["generation"]),
    }
