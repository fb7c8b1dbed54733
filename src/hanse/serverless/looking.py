"""One look at a job: visit its run, tell people, end what is over, and say what the state machine does next.

    wait/JOB    {token, until_ms, turns, generation}: the state machine waits, and for how long
                {token: "", look_ms}: it does not, and should not wait longer than until then (null: as it was told)

Whoever looks and finds that the state machine should do something else than wait calls it back. If it does not wait
just now it was told something before this look, and may be about to wait for too long: so that is noted, and it looks
again instead. A row is replaced by its version, so nobody's note or token is written over.
"""

import asyncio
import json
import math
from typing import Any, cast

import structlog

from hanse.core.errors import HanseError, NotFoundError, UnavailableError
from hanse.core.records import BlobRef
from hanse.pipeline.offering import end_of, job_end, job_row, keep_end
from hanse.pipeline.removal import is_gone
from hanse.pipeline.request import JobRequest
from hanse.rounds.driver.visit import PATIENCE_MS, Outcome, visit
from hanse.rounds.keeping import round_records
from hanse.rounds.outgoing import RunInfo
from hanse.serverless.contract import MAX_TURNS, Input, Instruction, execution_name
from hanse.serverless.host import FunctionHost
from hanse.serverless.place import Place
from hanse.serverless.presence import Presence, presence
from hanse.serverless.roles import RolesOutcome, forget_roles, visit_roles
from hanse.serverless.shards import forget

LONGEST_WAIT_S = 24 * 3600
SLACK_MS = 500
log = structlog.get_logger("hanse.serverless")


async def row_of(place: Place, job: str, *, fresh: bool = False) -> dict[str, Any]:
    """A job's row.

    Args:
        fresh: read it again: another function may have removed the job since.

    Raises:
        NotFoundError: there is no such job.
    """
    if fresh:
        place.rows.pop(job, None)
    if job not in place.rows:
        place.rows[job] = await job_row(job, place.ledger)
    return place.rows[job]


async def look(
    place: Place,
    job: str,
    turn: Input,
    *,
    cancelled_by: str = "",
    patience_ms: int = PATIENCE_MS,
    host: FunctionHost | None = None,
) -> tuple[Instruction, bool]:
    """Look at a job.

    Args:
        turn: of the state machine, for its next instruction.
        patience_ms: 0 where what was decided is known to be unperformed.
        host: of a function that can do more than others.

    Returns:
        What the state machine does next, and whether anything has been decided.

    Raises:
        NotFoundError: there is no such job. StorageError, UnavailableError: look again.
    """
    row = await row_of(place, job)
    request = JobRequest.from_json(row["request"])
    there = await presence(place.ledger, job, row["asked"], row["taken_at_ms"], place.now_ms())
    doing = host or FunctionHost(place, job, request.component, request.spec)
    told: dict[str, Any] = {
        "cancelled_by": cancelled_by,
        "failed": there.refused_by_all(row["asked"]),
        "patience_ms": patience_ms,
    }
    try:
        outcome: Outcome | RolesOutcome
        if request.roles is not None:
            outcome = await visit_roles(place, request, there, **told)
        else:
            outcome = await visit(
                job,
                request.component,
                place.seams,
                place.now_ms,
                lambda _spec: doing,
                RunInfo(place.federation, request.app),
                sites=there.there,
                undecided=there.undecided,
                unwilling=there.unwilling,
                enrolled=len(row["asked"]),
                **told,
            )
    except UnavailableError:
        left = doing.elsewhere
        if left is None:
            raise
        return _said(turn, left.kind, **({"shards": list(left.shards)} if left.shards else {})), True
    if outcome.state.over:
        await _end(place, request, row, outcome)
    if outcome.moved or outcome.state.over:
        await tell(place, request, row, outcome, there)
        if outcome.state.over and await is_gone(job, place.ledger):  # removed as soon as somebody faster had told it
            await place.documents.delete(job)
        if not outcome.state.over and await is_over(place, job):
            # Somebody was faster, and what was just told may lie over its end. (The end is in the ledger first.)
            return await look(place, job, turn, patience_ms=patience_ms, host=host)
    return _next(outcome, there, turn, place.now_ms()), outcome.moved


def _next(outcome: Outcome | RolesOutcome, there: Presence, turn: Input, now_ms: int) -> Instruction:
    state = outcome.state
    if state.over and outcome.wake_ms is None:
        return _said(turn, "Finish", status=state.status, error=state.error[:1000])
    if turn["turns"] >= MAX_TURNS:
        following: Input = {**turn, "turns": 0, "generation": turn["generation"] + 1}
        name = execution_name(turn["job"], turn["component"], following["generation"])
        return _said(turn, "Step", name=name, input=following)
    ahead = [at for at in (outcome.wake_ms, None if state.over else there.changes_ms) if at is not None]
    until_ms = max(min(ahead, default=now_ms + LONGEST_WAIT_S * 1000), now_ms + 1000)
    timeout_s = min(math.ceil((until_ms - now_ms) / 1000), LONGEST_WAIT_S)
    return _said(turn, "Wait", until_ms=until_ms, timeout_s=timeout_s)


def _said(turn: Input, kind: str, **more: Any) -> Instruction:
    return cast(Instruction, {**turn, "kind": kind, **more})


# ---- the state machine waits ----


async def wait(place: Place, token: str, instruction: Instruction) -> None:
    """Note that the state machine waits with `token`; if it was called before it waited, it is called now."""
    key, until_ms = f"wait/{instruction['job']}", instruction["until_ms"]
    told = {"turns": instruction["turns"], "generation": instruction["generation"]}
    content = json.dumps({"token": token, "until_ms": until_ms, **told}).encode()
    while not await place.ledger.create(key, content):
        row, version = await place.ledger.get(key)
        look_ms = json.loads(row).get("look_ms")
        is_due = look_ms is not None and look_ms < until_ms - SLACK_MS
        if is_due:  # before it is noted, as in `_call`: twice is harmless, never is not
            await place.machine.succeed(token, _said(_turn_of(instruction), "Again"))
        if await place.ledger.compare_and_set(key, _awake(None) if is_due else content, version):
            return


async def look_and_call(place: Place, job: str, *, cancelled_by: str = "", surely: bool = False) -> None:
    """Look at a job because of news, and call the state machine back if it is to do something else than wait.

    Args:
        surely: somebody may have looked before, and died before calling.
    """
    component = JobRequest.from_json((await row_of(place, job))["request"]).component
    turn: Input = {"job": job, "component": component, "turns": 0, "generation": 0}
    instruction, moved = await look(place, job, turn, cancelled_by=cancelled_by)
    if moved or surely or instruction["kind"] != "Wait":
        await _call(place, instruction)


async def _call(place: Place, instruction: Instruction) -> None:
    """Call the state machine back if it waits for too long; if it does not wait just now, note until when it may.

    A token whose time is over, or that somebody else has used, wakes nobody: the state machine is between two waits,
    told something before this look, and what this look found must be noted.
    """
    key, look_ms = f"wait/{instruction['job']}", instruction["until_ms"] if instruction["kind"] == "Wait" else 0
    while True:
        try:
            content, version = await place.ledger.get(key)
        except NotFoundError:
            if await place.ledger.create(key, _awake(look_ms)):
                return
            continue
        row = json.loads(content)
        until_ms = row["until_ms"] if row["token"] else row["look_ms"]
        is_over = bool(row["token"]) and until_ms <= place.now_ms()
        if until_ms is not None and not is_over and look_ms >= until_ms - SLACK_MS:
            return
        is_told = False
        if row["token"]:
            instruction["turns"], instruction["generation"] = row["turns"] + 1, row["generation"]
            is_told = await place.machine.succeed(row["token"], instruction)  # before it is noted: twice is harmless
        if await place.ledger.compare_and_set(key, _awake(None if is_told else look_ms), version):
            return


def _awake(look_ms: int | None) -> bytes:
    """The row while the state machine does not wait."""
    return json.dumps({"token": "", "look_ms": look_ms}).encode()


def _turn_of(instruction: Instruction) -> Input:
    return {
        "job": instruction["job"],
        "component": instruction["component"],
        "turns": instruction["turns"],
        "generation": instruction["generation"],
    }


# ---- people, and the end ----


async def tell(
    place: Place, request: JobRequest, row: dict[str, Any], outcome: Outcome | RolesOutcome, there: Presence
) -> None:
    """Write down for people what is true now: rounds first, so that whoever reads of the end finds all of them."""
    state = outcome.state
    after = 0 if state.over else max(0, state.round - 2)
    if isinstance(outcome, RolesOutcome):
        records = list(outcome.records)
    else:
        records = await round_records(place.ledger, request.job, request.component, after, blobs=place.blobs)
    kept = set(await place.documents.round_numbers(request.job)) if state.over else set()
    new = [record.to_json() for record in records if record.number and record.number not in kept]
    readers = await place.roster.readers(request.person, row["person_record"].encode()) if place.private else None
    await asyncio.gather(*(place.documents.put_round(request.job, record, readers) for record in new))
    await place.documents.put_about(request.job, _about(place, request, row, outcome, there), readers)


def _about(
    place: Place, request: JobRequest, row: dict[str, Any], outcome: Outcome | RolesOutcome, there: Presence
) -> dict[str, Any]:
    state = outcome.state
    sites = {
        site: {
            "decision": there.said.get(site, {"decision": "asked"})["decision"],
            "reason": there.said.get(site, {"reason": ""})["reason"],
            "there": site in there.there,
            "stage": "",
        }
        for site in row["asked"]
    }
    now = place.now_ms()
    return about_request(request) | {
        "status": state.status,
        "round": state.round,
        "phase": state.phase,
        "stage": state.stage,
        "error": state.error,
        "sites": sites,
        "model": None if state.model is None else list(state.model),
        "fingerprints": dict(outcome.fingerprints),
        "taken_at_ms": row["taken_at_ms"],
        "told_at_ms": now,
        "federation": place.federation,
    }


def about_request(request: JobRequest) -> dict[str, Any]:
    """What a request says of its job."""
    roles = request.roles
    played = {} if roles is None else {"roles": dict(roles.roles), "protocol": roles.protocol.name}
    return {
        "job": request.job,
        "name": request.name,
        "person": request.person,
        "app": request.app,
        "submitted_at_ms": request.submitted_at_ms,
        "rounds": request.spec.rounds,
        "strategy": request.spec.strategy,
        "component": request.component,
        **played,
    }


async def _end(place: Place, request: JobRequest, row: dict[str, Any], outcome: Outcome | RolesOutcome) -> None:
    """Sites first: while there is no row of the end, whoever looks tells them."""
    if await is_over(place, request.job):
        return
    status = outcome.state.status
    if request.roles is not None:
        await forget_roles(place, request, outcome.state.round)
    else:
        await forget(place, request.job, request.component)
    model = await _last_model(place, outcome) if place.models_to_sites else None
    await asyncio.gather(*(dismiss(place, site, request, status, model) for site in row["asked"]))
    end = {
        "status": status,
        "error": outcome.state.error,
        "ended_at_ms": place.now_ms(),
        "fingerprints": dict(outcome.fingerprints),
    }
    await keep_end(request.job, end, place.ledger)


async def is_over(place: Place, job: str) -> bool:
    """Whether the job has ended."""
    return await job_end(job, place.ledger) is not None


async def _last_model(place: Place, outcome: Outcome | RolesOutcome) -> BlobRef | None:
    if isinstance(outcome, RolesOutcome) or outcome.state.status != "finished" or outcome.state.model is None:
        return None
    scope, id = outcome.state.model
    return BlobRef(await place.blobs.manifest(scope, id), scope)


async def dismiss(place: Place, site: str, request: JobRequest, status: str, model: BlobRef | None = None) -> None:
    """Tell a site that a job is over, and where its last model is if the site is to have it.

    One that has left the federation has no queue any more.
    """
    try:
        await place.inbox.send(site, end_of(site, request.federation, request.job, status, model))
    except NotFoundError as error:
        log.warning("site not told", site=site, job=request.job, reason=str(error))
    except HanseError:
        raise
