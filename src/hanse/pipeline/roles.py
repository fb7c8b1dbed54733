"""The machine of a component in which sites play roles: pure, `step(state, event) -> (state, instructions)`.

    waiting    until every role's site has accepted and is there; for optional roles at most `away_s` seconds longer
    running    session number `attempt` is on
    settling   a session has broken; for `SETTLE_MS` the others' answers may still say why
    paused     until every role's site is there again, at most for `away_s` seconds; then a new session, if need be
               without optional roles
    finished, failed, cancelled

A session that breaks is not taken up in its middle: the whole protocol begins anew, under a session number that was
never used, with fresh randomness. So no one-time material can be used twice, whoever crashed and whenever. The number
is part of the state, which is written before anything of the session leaves.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from hanse.channels.spec import RoleSpec
from hanse.core.errors import CodecError

VERSION = 1
SETTLE_MS = 2000
ENDED = ("finished", "failed", "cancelled")
BROKEN = ("lost", "killed", "exited")
"""Kinds of failed replies after which a new session may succeed."""

Metrics = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RolesState:
    """Where a component stands.

    Attributes:
        attempt: number of the latest session, from 1; 0 before the first.
        ready: sites that have accepted and are there.
        absent: optional roles without which the latest session began.
        metrics: what each role of this session that has played to its end has answered.
        until_ms: when the status ends; 0 for never.
        cause: why the latest session broke.
        error: why the component failed.
        began_ms: when the latest session began.
    """

    spec: RoleSpec
    status: str = "waiting"
    attempt: int = 0
    ready: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()
    metrics: Mapping[str, Metrics] = field(default_factory=dict)
    until_ms: int = 0
    cause: str = ""
    error: str = ""
    began_ms: int = 0
    v: int = VERSION

    @property
    def playing(self) -> dict[str, str]:
        """The roles of the latest session, with their sites."""
        return {role: site for role, site in self.spec.roles.items() if role not in self.absent}


@dataclass(frozen=True, slots=True)
class SitesChanged:
    """Who has accepted and is there; and who has refused, with the reason."""

    ready: frozenset[str]
    refused: Mapping[str, str]
    now_ms: int


@dataclass(frozen=True, slots=True)
class Replied:
    """A role's answer. `kind`: empty for success."""

    attempt: int
    role: str
    kind: str
    error: str
    metrics: Metrics
    now_ms: int


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A time has come that was asked for, or another."""

    now_ms: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """Whoever drove the machine has ended; sessions and leases are gone."""

    now_ms: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """A person has cancelled the component, or it cannot go on for a reason from outside."""

    status: str
    error: str


@dataclass(frozen=True, slots=True)
class Open:
    """Open the session and ask every role."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Close:
    """Close the session; nobody waits for its answers."""

    attempt: int


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Send `TimerFired` at this time."""

    at_ms: int


@dataclass(frozen=True, slots=True)
class Finish:
    """The component is over."""


Event = SitesChanged | Replied | TimerFired | Resumed | Stopped
Instruction = Open | Close | SetTimer | Finish
Step = tuple[RolesState, tuple[Instruction, ...]]


def step(state: RolesState, event: Event) -> Step:
    """What follows from `event`."""
    if state.status in ENDED:
        return state, ()
    match event:
        case Stopped(status, error):
            return _end(state, status, error)
        case SitesChanged(ready, refused, now_ms):
            return _sites(replace(state, ready=ready), refused, now_ms)
        case Replied():
            return _replied(state, event)
        case TimerFired(now_ms):
            return _timer(state, now_ms)
        case Resumed(now_ms):
            return _resumed(state, now_ms)


def standing(state: RolesState) -> tuple[Instruction, ...]:
    """What whoever drives the machine has to have done in this state, whatever it came from. Twice is harmless."""
    timer: tuple[Instruction, ...] = (SetTimer(state.until_ms),) if state.until_ms else ()
    closing: tuple[Instruction, ...] = (Close(state.attempt),) if state.attempt else ()
    if state.status in ENDED:
        return (*closing, Finish())
    if state.status == "running":
        before: tuple[Instruction, ...] = (Close(state.attempt - 1),) if state.attempt > 1 else ()
        return (*before, *timer, Open(state.attempt))
    return (*(closing if state.status == "paused" else ()), *timer)


def _sites(state: RolesState, refused: Mapping[str, str], now_ms: int) -> Step:
    for role, site in sorted(state.spec.roles.items()):
        if site in refused:
            who = site if role == site else f"{role} {site}"
            return _end(state, "failed", f"{who} has refused the job: {refused[site]}")
    away = _away(state)
    if state.status == "running" and away:
        return _broken(state, f"{_shown(state, away)} was lost", now_ms)
    if state.status not in ("waiting", "paused"):
        return state, ()
    if not away:
        return _begin(state, now_ms)
    if state.status == "waiting":
        if not away <= set(state.spec.optional):
            return replace(state, until_ms=0), ()
        if not state.until_ms:
            until = now_ms + int(state.spec.away_s * 1000)
            return replace(state, until_ms=until), (SetTimer(until),)
    return state, ()


def _replied(state: RolesState, event: Replied) -> Step:
    if event.attempt != state.attempt or state.status not in ("running", "settling"):
        return state, ()  # of a session that is over
    if event.role not in state.playing or event.role in state.metrics:
        return state, ()  # it was left out, and has come back; or it has answered, and was started again since
    who = f"{event.role} {state.spec.roles.get(event.role, '')}".strip()
    if event.kind in BROKEN:
        return _broken(state, f"{who}: {event.error}", event.now_ms) if state.status == "running" else (state, ())
    if event.kind:
        return _end(state, "failed", f"{who}: {event.error}")
    state = replace(state, metrics={**state.metrics, event.role: event.metrics})
    if set(state.metrics) == set(state.playing):
        return _end(state, "finished", "")
    return state, ()


def _timer(state: RolesState, now_ms: int) -> Step:
    if not state.until_ms or now_ms < state.until_ms:
        return state, ()
    if state.status == "settling":
        return _pause(state, now_ms)
    if state.status == "running":
        silent = _shown(state, set(state.playing) - set(state.metrics))
        return _end(state, "failed", f"{silent} has not answered within the deadline of {state.spec.deadline_s:g} s")
    away = _away(state)
    if away <= set(state.spec.optional):  # or there would have been no timer while it waited
        return _begin(state, now_ms, frozenset(away))
    if state.status == "paused":
        for_s = f"has been away for {state.spec.away_s:g} s"
        return _end(state, "failed", f"{_shown(state, away)} {for_s}; the last session: {state.cause}")
    return state, ()


def _resumed(state: RolesState, now_ms: int) -> Step:
    state = replace(state, ready=frozenset())
    if state.status == "waiting":
        return replace(state, until_ms=0), ()
    if state.status in ("running", "settling"):
        return _pause(replace(state, cause="the server has started again"), now_ms)
    if state.status == "paused":
        return state, (SetTimer(state.until_ms),)
    return state, ()


def _begin(state: RolesState, now_ms: int, absent: frozenset[str] = frozenset()) -> Step:
    attempt = state.attempt + 1
    until = now_ms + int(state.spec.deadline_s * 1000) + SETTLE_MS  # sites end by themselves at the deadline
    state = replace(
        state, status="running", attempt=attempt, absent=absent, metrics={}, until_ms=until, began_ms=now_ms
    )
    return state, (SetTimer(until), Open(attempt))


def _broken(state: RolesState, cause: str, now_ms: int) -> Step:
    until = now_ms + SETTLE_MS
    return replace(state, status="settling", cause=cause, until_ms=until), (SetTimer(until),)


def _pause(state: RolesState, now_ms: int) -> Step:
    """Close the session, and begin the next as soon as all are there."""
    closing = Close(state.attempt)
    if state.attempt > state.spec.retries:
        return _end(state, "failed", f"{state.attempt} sessions broke; the last: {state.cause}")
    if not _away(state):
        state, instructions = _begin(state, now_ms)
        return state, (closing, *instructions)
    until = now_ms + int(state.spec.away_s * 1000)
    return replace(state, status="paused", until_ms=until), (closing, SetTimer(until))


def _end(state: RolesState, status: str, error: str) -> Step:
    closing: tuple[Instruction, ...] = (Close(state.attempt),) if state.attempt else ()
    return replace(state, status=status, error=error, until_ms=0), (*closing, Finish())


def _away(state: RolesState) -> set[str]:
    """Roles that are wanted and whose sites are not there. Who has played to its end may leave."""
    done = {*state.absent, *state.metrics} if state.status == "running" else set()
    return {role for role, site in state.spec.roles.items() if site not in state.ready and role not in done}


def _shown(state: RolesState, roles: Collection[str]) -> str:
    """Roles with their sites, for people."""
    return " and ".join(f"{role} {state.spec.roles[role]}" for role in sorted(roles))


def encode(state: RolesState) -> bytes:
    """The state as JSON."""
    sets = {"ready": sorted(state.ready), "absent": sorted(state.absent)}
    return json.dumps(asdict(state) | sets, separators=(",", ":")).encode()


def decode(content: bytes) -> RolesState:
    """Read what `encode` wrote.

    Raises:
        CodecError: it is something else.
    """
    try:
        value = json.loads(content)
        if value["v"] != VERSION:
            raise CodecError(f"roles: expected version {VERSION}, found {value['v']}; update Hanse")
        sets = {name: frozenset(value.get(name, ())) for name in ("ready", "absent")}
        return RolesState(**{**value, **sets, "spec": RoleSpec.from_json(value["spec"])})
    except (ValueError, KeyError, TypeError):
        raise CodecError("roles: expected a state") from None
