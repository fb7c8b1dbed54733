"""What a session of roles is made of, wherever it is driven: its name, its messages, what an answer means. Pure.

`hanse.pipeline.roles` decides; the shells (`hanse.server.roles`, `hanse.serverless.roles`) write, send and wait.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from hanse.clients.role_task import CALL, PHASE, Part, role_task
from hanse.core.records import Envelope, Reply, Task
from hanse.pipeline.request import JobRequest
from hanse.pipeline.roles import ENDED, Replied, RolesState
from hanse.rounds.outgoing import release_envelope, task_envelope
from hanse.rounds.record import RoundRecord, role_record, to_plain
from hanse.rounds.result import Result

MAX_METRICS_BYTES = 32 * 1024
"""Of all roles together, as JSON, each an equal part: the state is one record of the ledger."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The state as listings and watchers ask for it, who know rounds."""

    status: str
    round: int
    phase: str
    stage: str
    error: str
    over: bool
    model: None = None

    @classmethod
    def of(cls, state: RolesState) -> "Seen":
        """What there is to be seen of a state."""
        return cls(state.status, state.attempt, PHASE, state.status, state.error or state.cause, state.status in ENDED)


def refusals(unwilling: Mapping[str, str]) -> dict[str, str]:
    """Sites that refuse, with their reasons, of those that do not take part: `{site: "refuse: REASON" or "hold…"}`."""
    return {
        site: said.partition(": ")[2] or "without a reason"
        for site, said in unwilling.items()
        if said.startswith("refuse")
    }


def session_name(request: JobRequest, attempt: int) -> str:
    """The name of one run of the protocol: never used twice."""
    return f"{request.job}/{request.component}/{attempt}"


def asks(request: JobRequest, state: RolesState, records: Mapping[str, str]) -> list[Envelope]:
    """The messages that open the latest session, one for each role that plays.

    Args:
        records: the member record of each role's site, as the authority signed it.
    """
    spec, playing = state.spec, state.playing
    session = session_name(request, state.attempt)
    found = []
    for role, site in sorted(playing.items()):
        id = role_task(request.job, request.component, state.attempt, role, spec.roles)
        part = Part(session, role, spec.timeout_s, playing, {each: records[each] for each in playing})
        task = Task(id, site, CALL, request.app, seed=spec.seed, payload=part.pack())
        found.append(task_envelope(request.federation, task, spec.deadline_s))
    return found


def releases(request: JobRequest, state: RolesState, attempt: int) -> list[Envelope]:
    """The messages that end a session: nobody waits for its answers. To a site that did not play it says nothing."""
    roles = state.spec.roles
    return [
        release_envelope(request.federation, role_task(request.job, request.component, attempt, role, roles), site)
        for role, site in sorted(roles.items())
    ]


def judged(state: RolesState, reply: Reply, now_ms: int) -> tuple[str, str, Replied | None]:
    """Whether a reply counts: its outcome, the reason, and what the machine is to be told."""
    spec, attempt = state.spec, state.attempt
    role = spec.role_of(reply.site)
    if role is None or reply.task.phase != PHASE:
        return "refused", "this site was not asked", None
    if reply.task.round != attempt or state.status not in ("running", "settling"):
        return "late", "the session is over", None
    if role not in state.playing:
        return "refused", "the session began without this site", None
    metrics = {name: to_plain(value) for name, value in reply.metrics.items() if not isinstance(value, bytes)}
    kind, error, most = reply.error_kind, reply.error, MAX_METRICS_BYTES // len(spec.roles)
    if len(json.dumps(metrics)) > most:
        metrics, kind, error = {}, "bad_reply", f"metrics: expected at most {most} bytes"
    return "received", "", Replied(attempt, role, kind, error, metrics, now_ms)


def record_of(state: RolesState, now_ms: int) -> RoundRecord:
    """A session that has ended well, as a round is told of."""
    return role_record(state.playing, state.metrics, max(0.0, (now_ms - state.began_ms) / 1000))


def played(roles: Mapping[str, str]) -> str:
    """Who plays what, for people."""
    return ", ".join(f"{role}: {site}" for role, site in sorted(roles.items()))


def about_roles(request: JobRequest) -> dict[str, str]:
    """What a result says of its job."""
    assert request.roles is not None
    return {
        "app": request.name,
        "protocol": request.roles.protocol.name,
        "roles": played(request.roles.roles),
        "person": request.person,
        "federation": request.federation,
    }


def result_of(state: RolesState, request: JobRequest, *, ended_at_ms: int, seconds: float) -> Result:
    """The result so far."""
    return Result(
        state.status if state.status in ENDED else "running",
        rounds=(record_of(state, ended_at_ms),) if state.status == "finished" else (),
        job=request.job,
        error=state.error,
        sites=state.spec.sites,
        seconds=seconds,
        about=about_roles(request),
    )
