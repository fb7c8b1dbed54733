"""Components of roles where no server runs: each visit loads the state, decides, writes once and performs.

    roles/JOB/COMPONENT                  {performed, written_ms, state, fingerprints}
    reply/JOB/COMPONENT/ATTEMPT/ROLE     {kind, error, metrics, fingerprint, at_ms}: what a role has answered

As with rounds (`hanse.rounds.driver.visit`), any number of visits may overlap, die anywhere or be repeated: what counts
is one compare-and-set. What was decided and not performed is found again in the state itself (`machine.standing`):
whoever comes `PATIENCE_MS` later, or decides something more, performs all that it asks for. The rules are
`hanse.pipeline.roles` and `hanse.pipeline.sessions`, as at a server.
"""

import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hanse.core.errors import NotFoundError, TrustError, UnavailableError
from hanse.core.records import Reply
from hanse.pipeline import roles as machine
from hanse.pipeline.request import JobRequest
from hanse.pipeline.roles import Close, Open, Replied, RolesState, SitesChanged, Stopped, TimerFired
from hanse.pipeline.sessions import Seen, asks, judged, record_of, refusals, releases, session_name
from hanse.rounds.driver.visit import MAX_LOOKS, PATIENCE_MS
from hanse.rounds.keeping import PAGE
from hanse.rounds.record import RoundRecord
from hanse.serverless.place import Place
from hanse.serverless.presence import Presence


@dataclass(frozen=True, slots=True)
class RolesOutcome:
    """What a visit left behind; the same shape as `rounds.driver.visit.Outcome`."""

    state: Seen
    wake_ms: int | None
    moved: bool
    fingerprints: Mapping[str, str]
    records: Sequence[RoundRecord] = ()


@dataclass(frozen=True, slots=True)
class _Kept:
    """The record, as it was read."""

    state: RolesState
    performed: bool
    written_ms: int
    version: int
    fingerprints: Mapping[str, str] = field(default_factory=dict)


async def begin_roles(place: Place, request: JobRequest) -> None:
    """Write the first state, unless there is one. Nothing leaves before every role's site has accepted."""
    assert request.roles is not None
    kept = _Kept(RolesState(request.roles), True, place.now_ms(), 0)
    await place.ledger.create(_key(request), _packed(kept))


async def answered(place: Place, request: JobRequest, reply: Reply) -> tuple[str, str]:
    """A role's answer: durable when this returns. Somebody should visit then.

    Returns:
        `received`, `duplicate`, `late` or `refused`, and the reason.
    """
    now_ms = place.now_ms()
    outcome, reason, event = judged((await _load(place, request)).state, reply, now_ms)
    if event is None:
        return outcome, reason
    row = {
        "kind": event.kind,
        "error": event.error,
        "metrics": event.metrics,
        "fingerprint": reply.fingerprint[:200],
        "at_ms": now_ms,
    }
    key = f"{_rows(request, event.attempt)}{event.role}"
    created = await place.ledger.create(key, json.dumps(row, separators=(",", ":")).encode())
    return ("received" if created else "duplicate"), ""


async def visit_roles(
    place: Place,
    request: JobRequest,
    there: Presence,
    *,
    cancelled_by: str = "",
    failed: str = "",
    patience_ms: int = PATIENCE_MS,
) -> RolesOutcome:
    """Look at a component and do what follows; see `rounds.driver.visit.visit`.

    Raises:
        StorageError, UnavailableError: call again. NotFoundError: there is no such component.
    """
    for _ in range(MAX_LOOKS):
        kept = await _load(place, request)
        rows = await _answers(place, request, kept.state.attempt)
        now_ms = place.now_ms()
        state, instructions = kept.state, list[machine.Instruction]()
        for event in _news(kept.state, rows, there, cancelled_by, failed, now_ms):
            state, more = machine.step(state, event)
            instructions += more
        is_overdue = not kept.performed and now_ms >= kept.written_ms + patience_ms
        moved = state != kept.state or is_overdue
        if moved:
            if not kept.performed and (instructions or is_overdue):
                instructions = list(machine.standing(state))
            written_ms = now_ms if instructions else kept.written_ms
            written = _Kept(
                state, kept.performed and not instructions, written_ms, kept.version + 1, _fingerprints(kept, rows)
            )
            if not await place.ledger.compare_and_set(_key(request), _packed(written), kept.version):
                continue
            try:
                kept = await _performed(place, request, written, instructions) if instructions else written
            except (NotFoundError, TrustError) as error:  # a site has left the federation since it accepted
                if state.status in machine.ENDED:
                    raise
                failed = failed or str(error)
                continue
        return _outcome(kept, moved, now_ms)
    raise UnavailableError(f"job {request.job}: written by others {MAX_LOOKS} times in a row")


async def forget_roles(place: Place, request: JobRequest, attempts: int) -> None:
    """The component is over: its answers are in its state, and nothing is on its way between its sites."""
    await place.ledger.delete(f"reply/{request.job}/{request.component}/")
    await place.ledger.delete(f"quota/{request.job}/{request.component}/")
    for attempt in range(1, attempts + 1):
        await place.blobs.delete_scope(f"{session_name(request, attempt)}/channel")


async def playing(place: Place, request: JobRequest, session: str) -> Mapping[str, str]:
    """The site of each role of a session that is on; nothing if it is not."""
    state = (await _load(place, request)).state
    is_on = state.status in ("running", "settling") and session == session_name(request, state.attempt)
    return state.playing if is_on else {}


# ---- details ----


def _news(
    state: RolesState,
    rows: Mapping[str, Mapping[str, Any]],
    there: Presence,
    cancelled_by: str,
    failed: str,
    now_ms: int,
) -> list[machine.Event]:
    """All that may have happened since the state was written; answers first, in the order in which they came."""
    news: list[machine.Event] = [
        Replied(state.attempt, role, row["kind"], row["error"], row["metrics"], row["at_ms"])
        for role, row in sorted(rows.items(), key=lambda item: (item[1]["at_ms"], item[0]))
        if role not in state.metrics
    ]
    if cancelled_by:
        news.append(Stopped("cancelled", f"cancelled by {cancelled_by}"))
    if failed:
        news.append(Stopped("failed", failed))
    news.append(SitesChanged(frozenset(there.there), refusals(there.unwilling), now_ms))
    if state.until_ms and now_ms >= state.until_ms:
        news.append(TimerFired(now_ms))
    return news


async def _performed(
    place: Place, request: JobRequest, kept: _Kept, instructions: Sequence[machine.Instruction]
) -> _Kept:
    """Perform, then note it; that nobody else need do it again is all that is lost without the note."""
    for instruction in instructions:
        match instruction:
            case Open():
                sites = kept.state.playing
                members = await asyncio.gather(*(place.roster.member("site", site) for site in sites.values()))
                records = {role: each.signed_record.decode() for role, each in zip(sites, members, strict=True)}
                for ask in asks(request, kept.state, records):
                    await place.inbox.send(ask.recipient, ask)
            case Close(attempt):
                for release in releases(request, kept.state, attempt):
                    with contextlib.suppress(NotFoundError):  # it has no queue any more
                        await place.inbox.send(release.recipient, release)
                await place.blobs.delete_scope(f"{session_name(request, attempt)}/channel")
            case _:  # timers and the end are the state machine's, which is told when to look again
                pass
    noted = replace(kept, performed=True, version=kept.version + 1)
    return noted if await place.ledger.compare_and_set(_key(request), _packed(noted), kept.version) else kept


def _fingerprints(kept: _Kept, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    sites = kept.state.spec.roles
    return {
        **kept.fingerprints,
        **{sites[role]: row["fingerprint"] for role, row in rows.items() if row["fingerprint"]},
    }


def _outcome(kept: _Kept, moved: bool, now_ms: int) -> RolesOutcome:
    state = kept.state
    wakes = [state.until_ms] if state.until_ms else []
    if not kept.performed:
        wakes.append(kept.written_ms + PATIENCE_MS)
    records = (record_of(state, now_ms),) if state.status == "finished" else ()
    return RolesOutcome(Seen.of(state), min(wakes, default=None), moved, kept.fingerprints, records)


async def _answers(place: Place, request: JobRequest, attempt: int) -> dict[str, Mapping[str, Any]]:
    prefix = _rows(request, attempt)
    rows = await place.ledger.query(prefix, None, PAGE) if attempt else []
    return {key.removeprefix(prefix): json.loads(value) for key, value, _ in rows}


async def _load(place: Place, request: JobRequest) -> _Kept:
    try:
        content, version = await place.ledger.get(_key(request))
    except NotFoundError:
        raise NotFoundError(f"job {request.job}: its component of roles has not begun") from None
    value = json.loads(content)
    state = machine.decode(json.dumps(value["state"]).encode())
    return _Kept(state, value["performed"], value["written_ms"], version, value["fingerprints"])


def _packed(kept: _Kept) -> bytes:
    state = json.loads(machine.encode(kept.state))
    value = {"performed": kept.performed, "written_ms": kept.written_ms, "state": state}
    return json.dumps(value | {"fingerprints": dict(kept.fingerprints)}, separators=(",", ":")).encode()


def _key(request: JobRequest) -> str:
    return f"roles/{request.job}/{request.component}"


def _rows(request: JobRequest, attempt: int) -> str:
    return f"reply/{request.job}/{request.component}/{attempt}/"
