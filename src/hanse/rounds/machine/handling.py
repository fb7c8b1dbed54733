"""One event at a time: what each means to a run in each of its stages."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hanse.core.spec import RunSpec
from hanse.rounds import causes
from hanse.rounds.events import (
    BlobKey,
    Cancelled,
    Evaluate,
    Evaluated,
    Event,
    Failed,
    Instruction,
    PlanFailed,
    Planned,
    Reduced,
    ReduceRefused,
    Replied,
    Resumed,
    SitesChanged,
    Started,
    TimerFired,
)
from hanse.rounds.machine import answers, closing, ending, instructing, members, resuming
from hanse.rounds.run_state import RunState


def begin(job: str, component: str, spec: RunSpec, model: BlobKey | None = None) -> RunState:
    """A run before its first event. `model`: the initial model if the job brought one."""
    state = RunState(job, component, spec, model=model)
    state.round = 0 if model is None and spec.initial == "ask" else 1
    return state


def step(state: RunState, event: Event) -> tuple[RunState, list[Instruction]]:
    """Take one event; return the state and what is to be done. An event that no longer applies does nothing."""
    if state.over:
        return state, resuming.pending(state) if isinstance(event, Resumed) else []
    handler: Callable[[RunState, Any], list[Instruction]] = _HANDLERS[type(event)]
    return state, handler(state, event)


def _started(state: RunState, event: Started) -> list[Instruction]:
    if state.stage != "waiting" or state.deadline_ms:
        return []
    state.deadline_ms = event.now_ms + int(state.spec.deadline_s * 1000)
    state.revision += 1
    return [instructing.set_timer(state, "sites", state.deadline_ms), *_begin_if_enough(state)]


def _sites_changed(state: RunState, event: SitesChanged) -> list[Instruction]:
    members.expect(state, event.sites)
    state.undecided, state.unwilling, state.enrolled = event.undecided, event.unwilling, event.enrolled
    if state.stage == "waiting":
        reason = "" if state.undecided else members.refused(state, members.needed(state))  # told of all who refuse
        return ending.fail(state, reason) if reason else _begin_if_enough(state)
    if state.stage == "starved":
        return instructing.plan(state, state.only)
    return closing.refill_if_due(state) or closing.close_if_due(state, event.now_ms)


def _begin_if_enough(state: RunState) -> list[Instruction]:
    if not state.deadline_ms or state.undecided or len(state.sites) < members.needed(state):
        return []
    return _begin(state)


def _begin(state: RunState) -> list[Instruction]:
    state.status = "running"
    return instructing.plan(state)


def _planned(state: RunState, event: Planned) -> list[Instruction]:
    if state.stage != "planning" or (event.round, event.phase_index) != (state.round, state.phase_index):
        return []
    if event.extends != (state.refilling or bool(state.only)):
        return []
    if not event.extends:
        state.num_phases = event.num_phases
        state.phase = event.phase
        state.size = 0
        state.count, state.quorum = event.count, event.quorum
        state.grace_s = event.grace_s
        state.keep_in_flight = event.keep_in_flight
        state.refill, state.by_group = event.refill, event.by_group
        state.folds, state.order, state.late_rule = event.folds, event.order, event.late
        state.opened_ms = event.now_ms
        members.take_over(state)
    state.only, state.refilling = (), False
    state.error = ""
    state.starved_until_ms = 0
    state.grace_ms = None
    state.deadline_ms = event.now_ms + int(event.deadline_s * 1000)
    state.stage = "open"
    state.revision += 1
    attempts: Mapping[str, int] = members.attempts(state) if event.extends else {}
    issued = members.issue(state, event.tasks, attempts, event.now_ms)
    return [*instructing.sends(state, issued), *_wait_or_close(state, event.now_ms)]


def _plan_failed(state: RunState, event: PlanFailed) -> list[Instruction]:
    if state.stage != "planning" or (event.round, event.phase_index) != (state.round, state.phase_index):
        return []
    if event.final:
        return ending.fail(state, event.reason)
    if state.only or state.refilling:  # those who were asked before may still do it
        state.only, state.refilling, state.stage = (), False, "open"
        state.revision += 1
        return _wait_or_close(state, event.now_ms)
    if reason := members.refused(state, members.needed_by_phases(state)):
        return ending.fail(state, f"{reason}; {event.reason}")
    state.stage = "starved"
    state.error = event.reason
    if not state.starved_until_ms:  # sites that come and go do not prolong it
        state.starved_until_ms = event.now_ms + int(state.spec.deadline_s * 1000)
    state.revision += 1
    return [instructing.set_timer(state, "starved", state.starved_until_ms)]


def _replied(state: RunState, event: Replied) -> list[Instruction]:
    slots, fates, phase, counts = state.open, state.fates, state.phase, members.counts
    noted = []
    for ordinal, reason, receipt in event.replies:
        slot = slots.get(ordinal)
        if slot is None or slot.answer or reason or slot.phase != phase or ordinal in fates:
            if answers.note(state, ordinal, reason, receipt):
                noted.append(ordinal)
            continue
        slot.answer, slot.receipt = "ok", receipt  # as `answers.note` does, for nearly all of very many
        state.num_awaited -= slot.is_awaited
        state.num_ok += counts(state, slot)
        noted.append(ordinal)
    if not noted:
        return []
    return _on_error(state, noted) or closing.refill_if_due(state) or closing.close_if_due(state, event.now_ms)


def _on_error(state: RunState, ordinals: Iterable[int]) -> list[Instruction]:
    """The end of the run, if it must not bear a failure among these."""
    if state.spec.on_error == "fail":
        for ordinal in ordinals:
            slot = state.open[ordinal]
            if slot.answer == "failed":
                return ending.fail(state, f"site {slot.site}: {state.fates[ordinal][1].partition(': ')[2]}")
    return []


def _timer_fired(state: RunState, event: TimerFired) -> list[Instruction]:
    kind = event.id.partition("/")[0]
    if instructing.TIMED_STAGES.get(kind) != state.stage or event.id != instructing.timer(state, kind):
        return []
    if kind == "sites":
        if len(state.sites) >= members.needed(state):
            return _begin(state)  # without those who have not decided
        found = f"found {len(state.sites)} after {state.spec.deadline_s:g} s"
        said = causes.told(state.unwilling, len({*state.sites, *(site for site, _ in state.unwilling)}))
        return ending.fail(
            state, f"expected {members.needed(state)} sites to join, {found}" + (f" ({said})" if said else "")
        )
    if kind == "starved":
        return ending.fail(state, state.error)
    if kind == "deadline" and event.now_ms >= state.deadline_ms:
        return closing.close(state) if state.num_ok >= state.quorum else closing.extend(state, final=True)
    return closing.close_if_due(state, event.now_ms)


def _reduced(state: RunState, event: Reduced) -> list[Instruction]:
    if state.stage != "reducing" or (event.round, event.phase_index) != (state.round, state.phase_index):
        return []
    state.fates.update({ordinal: (slot.site, "folded") for ordinal, slot in state.closing.items()})
    state.previous = tuple(state.closing)
    state.closing = {}
    state.model, state.state, state.memory = event.model, event.state, event.memory
    state.metrics.update(event.metrics)
    spent = (event.now_ms - state.opened_ms) / 1000
    state.seconds[state.phase] = state.seconds.get(state.phase, 0.0) + spent
    state.extensions = 0
    state.phase_index += 1
    if state.phase_index < state.num_phases:
        return instructing.plan(state)
    if state.spec.server_evaluate and state.model is not None:
        state.stage = "evaluating"
        state.revision += 1
        return [Evaluate(state.round, state.model)]
    return ending.round_over(state)


def _reduce_refused(state: RunState, event: ReduceRefused) -> list[Instruction]:
    if state.stage != "reducing" or (event.round, event.phase_index) != (state.round, state.phase_index):
        return []
    for ordinal, reason in event.reasons.items():
        slot = state.closing.pop(ordinal, None)
        if slot is not None:
            state.fates[ordinal] = (slot.site, f"refused: {reason}")
            state.failed[slot.site] = f"refused: {reason}"
            slot.answer = "failed"
            state.open[ordinal] = slot
    state.revision += 1
    if state.spec.on_error == "fail":
        return ending.fail(
            state, causes.told(state.failed, len({slot.site for slot in state.open.values()} | state.failed.keys()))
        )
    if sum(1 for slot in state.closing.values() if members.counts(state, slot)) >= state.quorum:
        for ordinal in event.reasons:
            state.open.pop(ordinal, None)
        return [instructing.reduce_instruction(state)]
    state.open.update(state.closing)
    state.closing = {}
    state.stage = "open"
    members.recount(state)
    return _wait_or_close(state, event.now_ms)  # the deadline may have passed while it was reduced


def _wait_or_close(state: RunState, now_ms: int) -> list[Instruction]:
    timer = instructing.set_timer(state, "deadline", state.deadline_ms)
    return [timer, *closing.close_if_due(state, now_ms)]


def _evaluated(state: RunState, event: Evaluated) -> list[Instruction]:
    if state.stage != "evaluating" or event.round != state.round:
        return []
    state.metrics.update(event.metrics)
    return ending.round_over(state)


def _failed(state: RunState, event: Failed) -> list[Instruction]:
    return ending.fail(state, event.reason)


def _cancelled(state: RunState, event: Cancelled) -> list[Instruction]:
    return ending.end(state, "cancelled", f"cancelled by {event.by}")


def _resumed(state: RunState, event: Resumed) -> list[Instruction]:
    members.expect(state, event.sites)
    if state.stage == "waiting" and not state.deadline_ms:
        return _started(state, Started(event.now_ms))
    for ordinal, reason, receipt in event.replies:
        answers.note(state, ordinal, reason, receipt)
    if due := _on_error(state, state.open):
        return due
    left = resuming.pending(state)
    return [*left, *(closing.refill_if_due(state) or closing.close_if_due(state, event.now_ms))]


_HANDLERS: Mapping[type, Callable[[RunState, Any], list[Instruction]]] = {
    Started: _started,
    SitesChanged: _sites_changed,
    Planned: _planned,
    PlanFailed: _plan_failed,
    Replied: _replied,
    TimerFired: _timer_fired,
    Reduced: _reduced,
    ReduceRefused: _reduce_refused,
    Evaluated: _evaluated,
    Failed: _failed,
    Cancelled: _cancelled,
    Resumed: _resumed,
}
