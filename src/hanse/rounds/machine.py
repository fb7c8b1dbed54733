"""The round machine: every decision about a run, and nothing else.

`step(state, event) -> (state, instructions)` is deterministic and does no I/O: no socket, disk, clock or thread. It
takes ownership of the state that it is given and returns it changed (copying a cohort for every reply would
make folding quadratic); whoever wants to keep an old state encodes it first.

The life of a run:

    waiting ──enough sites──▶ planning ──Planned──▶ open ──close──▶ reducing ──Reduced──▶ next phase: planning
                                 ▲  │                 │                │
                     SitesChanged│  │PlanFailed       │too few         │ReduceRefused, too few left
                              starved◀────────────────┘◀───────────────┘
    the last phase of a round ──▶ (evaluating ──Evaluated──▶) checkpoint ──▶ next round, or finished
    anywhere ──▶ failed (with its cause), cancelled

What must survive is what `encode` writes; `revision` counts its changes, so a shell writes when it has moved, and
replies (which are ledger rows) do not move it, but for the one that begins the grace. What is left to do is a function
of the state: `pending`; what a shell that keeps nothing between two looks must wait for, too: `timers`.

An open phase may be planned once more, for tasks on top of those that are out: to be *extended* where it misses its
quorum, or to be *refilled* where it keeps a number of sites at work.

The fates of a reply: *folded* (named by the close), *late* (its phase was closed without it), *refused* (it did not
verify while it was read), *failed* (the site said so). Each is reported once, by name, in a `Checkpoint`.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, count, islice
from typing import Any

from hanse.core.spec import RunSpec
from hanse.rounds.events import (
    BlobKey,
    Cancelled,
    Checkpoint,
    Evaluate,
    Evaluated,
    Event,
    Failed,
    Finish,
    Folded,
    Instruction,
    Plan,
    PlanFailed,
    Planned,
    PlannedTask,
    Reduce,
    Reduced,
    ReduceRefused,
    Release,
    Replied,
    Resumed,
    Send,
    SetTimer,
    SitesChanged,
    Started,
    TimerFired,
)
from hanse.rounds.names import Without
from hanse.rounds.run_state import RunState, Slot

PARAMETERS = "parameters"
"""The phase of round 0 in which one site is asked for the initial model."""
RELEASED_KEPT = 4096
RELEASED_ROUNDS = 8
"""How many tasks without an answer are remembered, and for how many rounds, so that a late reply can be named."""


def begin(job: str, component: str, spec: RunSpec, model: BlobKey | None = None) -> RunState:
    """A run before its first event. `model`: the initial model if the job brought one."""
    state = RunState(job, component, spec, model=model)
    state.round = 0 if model is None and spec.initial == "ask" else 1
    return state


def expects(state: RunState, ordinal: int) -> str:
    """What a reply to this task would be now: `wanted`, `late`, or `settled` (there is one, or it is not ours)."""
    if state.over:
        return "settled"
    slot = state.open.get(ordinal)
    if slot is not None:
        return "settled" if slot.answer else "wanted"
    return "late" if ordinal in state.released else "settled"


def step(state: RunState, event: Event) -> tuple[RunState, list[Instruction]]:
    """Take one event; return the state and what is to be done. An event that no longer applies does nothing."""
    if state.over:
        return state, pending(state) if isinstance(event, Resumed) else []
    handler: Callable[[RunState, Any], list[Instruction]] = _HANDLERS[type(event)]
    return state, handler(state, event)


# ---- beginning, sites ----


def _started(state: RunState, event: Started) -> list[Instruction]:
    if state.stage != "waiting" or state.deadline_ms:
        return []
    state.deadline_ms = event.now_ms + int(state.spec.deadline_s * 1000)
    state.revision += 1
    return [SetTimer(_timer(state, "sites"), state.deadline_ms), *_begin_if_enough(state)]


def _sites_changed(state: RunState, event: SitesChanged) -> list[Instruction]:
    _set_sites(state, event.sites)
    state.undecided, state.unwilling = event.undecided, event.unwilling
    if state.stage == "waiting":
        return _begin_if_enough(state)
    if state.stage == "starved":
        return _plan(state, state.only)
    return _refill_if_due(state) or _close_if_due(state, event.now_ms)


def _set_sites(state: RunState, sites: Sequence[str]) -> None:
    """A tuple is sorted here; any other sequence is sorted already and finds its members itself, however many."""
    in_order = not isinstance(sites, tuple)
    state.sites = sites if in_order else tuple(sorted(sites))
    state.available = sites if in_order else frozenset(sites)
    _count(state)


def _members(state: RunState) -> dict[int, Slot]:
    """The open tasks of this phase; those of another one, kept in flight, wait until theirs comes again."""
    return {ordinal: slot for ordinal, slot in state.open.items() if slot.phase == state.phase}


def _count(state: RunState) -> None:
    members = _members(state).values()
    state.num_ok = sum(1 for slot in members if slot.answer == "ok" and _counts(state, slot))
    for slot in members:
        slot.is_awaited = not slot.answer and slot.site in state.available
    state.num_awaited = sum(1 for slot in members if slot.is_awaited)


def _counts(state: RunState, slot: Slot) -> bool:
    """Whether an answer is one that the phase waits for; what was carried into it comes on top."""
    return state.keep_in_flight or slot.round == state.round


def _begin_if_enough(state: RunState) -> list[Instruction]:
    if not state.deadline_ms or state.undecided or len(state.sites) < _needed(state):
        return []
    return _begin(state)


def _begin(state: RunState) -> list[Instruction]:
    state.status = "running"
    return _plan(state)


def _needed(state: RunState) -> int:
    return state.spec.min_sites or state.spec.quorum or 1


# ---- planning ----


def _plan(state: RunState, only: tuple[str, ...] = (), *, refilling: bool = False) -> list[Instruction]:
    state.stage = "planning"
    state.only = only
    state.refilling = refilling
    state.revision += 1
    return [_plan_instruction(state)]


def _plan_instruction(state: RunState) -> Plan:
    """Sites at work on a task that was kept in flight are busy; where a phase is extended, `only` says it all."""
    busy = set() if state.only else {slot.site for slot in state.open.values() if _is_at_work(state, slot)}
    closed = _closed_to_refills(state) if state.refilling else busy
    free = state.sites
    if closed:
        is_tuple = isinstance(free, tuple)
        free = tuple(site for site in free if site not in closed) if is_tuple else Without(free, closed)
    asked = tuple(_attempts(state).elements()) if state.only or state.refilling else ()
    return Plan(
        state.round,
        state.phase_index,
        free,
        tuple(sorted(site for site in busy if site in state.available)),
        state.only,
        state.previous,
        state.refilling,
        asked,
    )


def _is_at_work(state: RunState, slot: Slot) -> bool:
    """Whether its site cannot be asked anew: one that waits for the rest of its group would hold that group up."""
    return not slot.answer or (state.by_group and slot.answer == "ok")


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
        _take_over(state)
    state.only, state.refilling = (), False
    state.error = ""
    state.starved_until_ms = 0
    state.grace_ms = None
    state.deadline_ms = event.now_ms + int(event.deadline_s * 1000)
    state.stage = "open"
    state.revision += 1
    attempts: Mapping[str, int] = _attempts(state) if event.extends else {}
    issued = _issue(state, event.tasks, attempts, event.now_ms)
    timer = SetTimer(_timer(state, "deadline"), state.deadline_ms)
    return [*_sends(state, issued), timer, *_close_if_due(state, event.now_ms)]


def _take_over(state: RunState) -> None:
    """This phase's tasks in flight and carried replies become members again, in front of the new ones."""
    mine = {ordinal: slot for ordinal, slot in state.carried.items() if slot.phase == state.phase}
    state.carried = {ordinal: slot for ordinal, slot in state.carried.items() if ordinal not in mine}
    state.open = {**mine, **state.open}
    for slot in _members(state).values():
        slot.position = state.size
        state.size += 1
    _count(state)


def _attempts(state: RunState) -> Counter[str]:
    """How often each site was asked in this phase of this round."""
    return Counter(slot.site for slot in _members(state).values() if slot.round == state.round)


def _issue(state: RunState, tasks: Sequence[PlannedTask], attempts: Mapping[str, int], now_ms: int) -> range:
    """Open a slot for each; their ordinals."""
    first, size, round_, phase = state.next_ordinal, state.size, state.round, state.phase
    model = None if phase == PARAMETERS else state.model
    folds = state.folds and phase != PARAMETERS
    issued, available, slots = range(first, first + len(tasks)), state.available, state.open
    for ordinal, position, (site, call, group) in zip(issued, count(size), tasks, strict=False):
        attempt = attempts.get(site, 0) if attempts else 0
        is_awaited = site in available
        slots[ordinal] = Slot(
            site, position, round_, phase, attempt, call, model, folds, "", 0, now_ms, group, None, is_awaited
        )
        state.num_awaited += is_awaited
    state.next_ordinal, state.size = first + len(tasks), size + len(tasks)
    return issued


def _sends(state: RunState, ordinals: Iterable[int]) -> list[Instruction]:
    slots, task_id, deadline_ms = state.open, state.task_id, state.deadline_ms
    pairs = [(ordinal, slots[ordinal]) for ordinal in ordinals]
    return [Send(task_id(o, slot), slot.site, slot.position, slot.attempt, slot.call, deadline_ms) for o, slot in pairs]


def _plan_failed(state: RunState, event: PlanFailed) -> list[Instruction]:
    if state.stage != "planning" or (event.round, event.phase_index) != (state.round, state.phase_index):
        return []
    if event.final:
        return _fail(state, event.reason)
    if state.only or state.refilling:  # those who were asked before may still do it
        state.only, state.refilling, state.stage = (), False, "open"
        state.revision += 1
        return [SetTimer(_timer(state, "deadline"), state.deadline_ms), *_close_if_due(state, event.now_ms)]
    state.stage = "starved"
    state.error = event.reason
    if not state.starved_until_ms:  # sites that come and go do not prolong it
        state.starved_until_ms = event.now_ms + int(state.spec.deadline_s * 1000)
    state.revision += 1
    return [SetTimer(_timer(state, "starved"), state.starved_until_ms)]


# ---- replies ----


def _replied(state: RunState, event: Replied) -> list[Instruction]:
    slots, fates, phase = state.open, state.fates, state.phase
    noted = []
    for ordinal, reason, receipt in event.replies:
        slot = slots.get(ordinal)
        if slot is None or slot.answer or reason or slot.phase != phase or ordinal in fates:
            if _note(state, ordinal, reason, receipt):
                noted.append(ordinal)
            continue
        slot.answer, slot.receipt = "ok", receipt  # as `_note` does, for nearly all of very many
        state.num_awaited -= slot.is_awaited
        state.num_ok += _counts(state, slot)
        noted.append(ordinal)
    if not noted:
        return []
    return _on_error(state, noted) or _refill_if_due(state) or _close_if_due(state, event.now_ms)


def _on_error(state: RunState, ordinals: Iterable[int]) -> list[Instruction]:
    """The end of the run, if it must not bear a failure among these."""
    if state.spec.on_error == "fail":
        for ordinal in ordinals:
            slot = state.open[ordinal]
            if slot.answer == "failed":
                return _fail(state, f"site {slot.site}: {state.fates[ordinal][1].partition(': ')[2]}")
    return []


def _note(state: RunState, ordinal: int, reason: str, receipt: int) -> bool:
    """Write down that there is a reply; whether it matters to an open phase."""
    slot = state.open.get(ordinal)
    if slot is None:
        late = state.released.pop(ordinal, None)
        if late is not None:
            _note_late(state, ordinal, late, reason, receipt)
        return False
    if slot.answer:
        return False
    is_refused = ordinal in state.fates  # before the record was loaded: it stays so
    slot.answer = "failed" if reason or is_refused else "ok"
    slot.receipt = receipt
    if reason and not is_refused:
        state.failed[slot.site] = reason
        state.fates[ordinal] = (slot.site, f"failed: {reason}")
    if slot.phase == state.phase:
        state.num_awaited -= slot.is_awaited
        state.num_ok += slot.answer == "ok" and _counts(state, slot)
    return True


def _note_late(state: RunState, ordinal: int, slot: Slot, reason: str, receipt: int) -> None:
    if reason:
        state.fates[ordinal] = (slot.site, f"failed: {reason}")
    elif state.late_rule == "carry" and slot.folds:
        slot.answer, slot.receipt = "ok", receipt
        state.carried[ordinal] = slot
    else:
        state.fates[ordinal] = (slot.site, "late")


# ---- closing ----


def _close_if_due(state: RunState, now_ms: int) -> list[Instruction]:
    """The one place that decides whether the open phase closes, waits, or is extended."""
    if state.stage != "open":
        return []
    if state.by_group:
        return _close_group_if_due(state)
    if state.num_ok >= state.count:
        if state.num_awaited == 0 or state.grace_s == 0 or (state.grace_ms is not None and now_ms >= state.grace_ms):
            return _close(state)
        if state.grace_ms is None:
            state.grace_ms = min(now_ms + int(state.grace_s * 1000), state.deadline_ms)
            state.revision += 1
            return [SetTimer(_timer(state, "grace"), state.grace_ms)]
        return []
    if state.num_awaited > 0:
        return []
    return _close(state) if state.num_ok >= state.quorum else _extend(state, final=False)


def _close_group_if_due(state: RunState) -> list[Instruction]:
    """Close with the first group, by its last receipt, of which nobody is awaited; the others go on."""
    if state.num_ok and _whole_group(state) is not None:
        return _close(state)
    return [] if state.num_awaited > 0 else _extend(state, final=False)


def _whole_group(state: RunState) -> int | None:
    ended: dict[int, int] = {}
    waits = set()
    for slot in _members(state).values():
        if slot.answer == "ok":
            ended[slot.group] = max(ended.get(slot.group, 0), slot.receipt)
        elif not slot.answer and slot.site in state.available:
            waits.add(slot.group)
    whole = [(receipt, group) for group, receipt in ended.items() if group not in waits]
    return min(whole)[1] if whole else None


def _refill_if_due(state: RunState) -> list[Instruction]:
    """Have more sites asked in an open phase that keeps `refill` of them at work."""
    if state.stage != "open" or state.num_ok >= state.count or state.num_awaited >= state.refill:
        return []
    closed = _closed_to_refills(state)
    return _plan(state, refilling=True) if any(site not in closed for site in state.sites) else []


def _closed_to_refills(state: RunState) -> set[str]:
    """Those at work, and those that have failed in this round: they are asked again in the next."""
    return {slot.site for slot in state.open.values() if slot.answer != "ok"}


def _close(state: RunState) -> list[Instruction]:
    """Fix who is folded, in order: by position, or the first `count` by receipt; of one group, where groups close."""
    members = _members(state)
    if state.by_group:
        group = _whole_group(state)
        if group is None:  # at the deadline: with whichever is furthest
            group = Counter(slot.group for slot in members.values() if slot.answer == "ok").most_common(1)[0][0]
        members = {ordinal: slot for ordinal, slot in members.items() if slot.group == group}
    by_receipt = state.order == "receipt"
    answered = [(ordinal, slot) for ordinal, slot in members.items() if slot.answer == "ok"]
    answered.sort(key=lambda item: (item[1].receipt if by_receipt else item[1].position, item[0]))
    is_cut = by_receipt and state.keep_in_flight and not state.by_group
    folded = answered[: state.count] if is_cut else answered
    unanswered = {ordinal: slot for ordinal, slot in members.items() if not slot.answer}
    parked = {ordinal: slot for ordinal, slot in state.open.items() if ordinal not in members}
    kept = {**dict(answered[len(folded) :]), **unanswered} if state.keep_in_flight else {}
    state.open = {**parked, **kept}
    state.closing = dict(folded)
    state.stage = "reducing"
    state.grace_ms = None
    state.revision += 1
    release = [] if state.keep_in_flight else _release(state, unanswered)
    _count(state)
    return [*release, _reduce_instruction(state)]


def _release(state: RunState, tasks: dict[int, Slot]) -> list[Instruction]:
    """Nobody waits for these any more; a reply that still comes is late."""
    if not tasks:
        return []
    state.released.update(tasks)
    ordinals = [o for o, slot in state.released.items() if slot.round > state.round - RELEASED_ROUNDS]
    state.released = {ordinal: state.released[ordinal] for ordinal in ordinals[-RELEASED_KEPT:]}
    for slot in tasks.values():
        state.failed.setdefault(slot.site, "no reply" if slot.site in state.available else "lost")
    return [Release(tuple((state.task_id(ordinal, slot), slot.site) for ordinal, slot in tasks.items()))]


def _reduce_instruction(state: RunState) -> Reduce:
    by_receipt = state.order == "receipt"
    folded = tuple(
        Folded(
            state.task_id(ordinal, slot),
            slot.site,
            place if by_receipt else slot.position,
            state.round - slot.round if slot.round < state.round else 0,
            (slot.receipt - 1000 * slot.asked_ms) / 1e6 if slot.receipt > 1000 * slot.asked_ms else 0.0,
            slot.group,
        )
        for place, (ordinal, slot) in enumerate(state.closing.items())
    )
    kind = "adopt" if state.phase == PARAMETERS else "fold" if state.folds else "metrics"
    size = len(folded) if by_receipt else state.size
    return Reduce(state.round, state.phase_index, state.phase, kind, folded, size, state.model, state.state)


def _extend(state: RunState, *, final: bool) -> list[Instruction]:
    """The quorum cannot be met by those who were asked: ask others, then those who failed; or fail by name."""
    members = _members(state).values()
    held = {slot.site for slot in members if slot.answer != "failed"}
    tried = {slot.site for slot in members}
    fresh = (site for site in state.sites if site not in tried)
    again = (site for site in state.sites if site in tried and site not in held)
    chosen = tuple(islice(chain(fresh, again), state.quorum - state.num_ok))
    can_ask = state.extensions < state.spec.retries
    if chosen and can_ask:
        state.extensions += 1
        return _plan(state, chosen)
    waiting = [slot.site for slot in members if not slot.answer]
    if (waiting or can_ask) and not final:
        return []  # sites may come, or come back, before the deadline
    reasons = dict(state.failed)
    reasons.update({site: "no reply by the deadline" if site in state.available else "lost" for site in waiting})
    causes = "; ".join(f"{site}: {reason}" for site, reason in sorted(reasons.items())[:8])
    return _fail(
        state,
        f"round {state.round}, phase {state.phase}: expected {state.quorum} replies, found {state.num_ok}"
        + (f" ({causes})" if causes else ""),
    )


def _timer_fired(state: RunState, event: TimerFired) -> list[Instruction]:
    kind = event.id.partition("/")[0]
    if kind not in _TIMED_STAGES or event.id != _timer(state, kind) or state.stage != _TIMED_STAGES[kind]:
        return []
    if kind == "sites":
        if len(state.sites) >= _needed(state):
            return _begin(state)  # without those who have not decided
        found = f"found {len(state.sites)} after {state.spec.deadline_s:g} s"
        said = "; ".join(f"{site}: {reason}" for site, reason in state.unwilling[:8])
        return _fail(state, f"expected {_needed(state)} sites to join, {found}" + (f" ({said})" if said else ""))
    if kind == "starved":
        return _fail(state, state.error)
    if kind == "deadline" and event.now_ms >= state.deadline_ms:
        return _close(state) if state.num_ok >= state.quorum else _extend(state, final=True)
    return _close_if_due(state, event.now_ms)


_TIMED_STAGES = {"sites": "waiting", "starved": "starved", "deadline": "open", "grace": "open"}


def _timer(state: RunState, kind: str) -> str:
    return f"{kind}/{state.round}/{state.phase_index}/{state.extensions}"


# ---- after the close ----


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
        return _plan(state)
    if state.spec.server_evaluate and state.model is not None:
        state.stage = "evaluating"
        state.revision += 1
        return [Evaluate(state.round, state.model)]
    return _round_over(state)


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
        return _fail(state, "; ".join(f"{site}: {reason}" for site, reason in sorted(state.failed.items())[:8]))
    if sum(1 for slot in state.closing.values() if _counts(state, slot)) >= state.quorum:
        for ordinal in event.reasons:
            state.open.pop(ordinal, None)
        return [_reduce_instruction(state)]
    state.open.update(state.closing)
    state.closing = {}
    state.stage = "open"
    _count(state)
    # The deadline may have passed while it was reduced.
    return [SetTimer(_timer(state, "deadline"), state.deadline_ms), *_close_if_due(state, event.now_ms)]


def _evaluated(state: RunState, event: Evaluated) -> list[Instruction]:
    if state.stage != "evaluating" or event.round != state.round:
        return []
    state.metrics.update(event.metrics)
    return _round_over(state)


def _round_over(state: RunState) -> list[Instruction]:
    if _should_stop(state) or state.round >= state.spec.rounds:
        return _end(state, "finished", "")
    record = _checkpoint(state)
    state.metrics, state.seconds, state.failed, state.fates = {}, {}, {}, {}
    state.open = {ordinal: slot for ordinal, slot in state.open.items() if slot.answer != "failed"}
    state.previous = ()
    state.phase_index = 0
    state.round += 1
    return [record, *_plan(state)]


def _checkpoint(state: RunState) -> Checkpoint:
    return Checkpoint(
        state.round, state.model, dict(state.metrics), dict(state.seconds), dict(state.fates), dict(state.failed)
    )


def _should_stop(state: RunState) -> bool:
    rule = state.spec.stop
    if rule is None or rule.metric not in state.metrics:
        return False
    value = state.metrics[rule.metric]
    better = not math.isnan(value) and (
        state.best is None
        or (value < state.best - rule.min_delta if rule.mode == "min" else value > state.best + rule.min_delta)
    )
    if better:
        state.best, state.rounds_without_best = value, 0
    else:
        state.rounds_without_best += 1
    return state.rounds_without_best >= rule.patience


# ---- ending ----


def _failed(state: RunState, event: Failed) -> list[Instruction]:
    return _fail(state, event.reason)


def _cancelled(state: RunState, event: Cancelled) -> list[Instruction]:
    return _end(state, "cancelled", f"cancelled by {event.by}")


def _fail(state: RunState, reason: str) -> list[Instruction]:
    return _end(state, "failed", reason)


def _end(state: RunState, status: str, error: str) -> list[Instruction]:
    """The last checkpoint, in which every reply that came to nothing gets its name; then the end."""
    for ordinal, slot in {**state.carried, **state.open, **state.closing}.items():
        if slot.answer == "ok":
            state.fates[ordinal] = (slot.site, "late")
    state.closing, state.carried = {}, {}
    return [_checkpoint(state), *_finish(state, status, error)]


def _finish(state: RunState, status: str, error: str) -> list[Instruction]:
    unanswered = tuple((state.task_id(o, slot), slot.site) for o, slot in state.open.items() if not slot.answer)
    state.status, state.stage, state.error = status, "over", error
    state.open = {}
    state.revision += 1
    release: list[Instruction] = [Release(unanswered)] if unanswered else []
    return [*release, Finish(status, error)]


# ---- resuming ----


def _resumed(state: RunState, event: Resumed) -> list[Instruction]:
    _set_sites(state, event.sites)
    if state.stage == "waiting" and not state.deadline_ms:
        return _started(state, Started(event.now_ms))
    for ordinal, reason, receipt in event.replies:
        _note(state, ordinal, reason, receipt)
    due = _on_error(state, state.open)
    return due or [*pending(state), *(_refill_if_due(state) or _close_if_due(state, event.now_ms))]


def expect(state: RunState, sites: Sequence[str]) -> None:
    """Say who is there without deciding anything: before what has come from them is told."""
    _set_sites(state, sites)


def pending(state: RunState) -> list[Instruction]:
    """What is left to be done in this state; performing it again is harmless."""
    if state.over:
        return [Finish(state.status, state.error)]
    sends = _sends(state, [ordinal for ordinal, slot in state.open.items() if not slot.answer])
    match state.stage:
        case "waiting":
            return [SetTimer(_timer(state, "sites"), state.deadline_ms)] if state.deadline_ms else []
        case "starved":
            return [*sends, SetTimer(_timer(state, "starved"), state.starved_until_ms), *_plan(state, state.only)]
        case "planning":
            return [*sends, _plan_instruction(state)]
        case "open":
            return [*sends, SetTimer(_timer(state, "deadline"), state.deadline_ms)]
        case "reducing":
            return [*sends, _reduce_instruction(state)]
        case "evaluating":
            return [*sends, Evaluate(state.round, state.model)] if state.model is not None else sends
    return []


def timers(state: RunState) -> list[SetTimer]:
    """Every timer that is set in this state."""
    found: list[SetTimer] = []
    if state.over or (state.stage == "waiting" and not state.deadline_ms):
        return found
    for kind, at_ms in (
        ("sites", state.deadline_ms),
        ("starved", state.starved_until_ms),
        ("deadline", state.deadline_ms),
        ("grace", state.grace_ms),
    ):
        if state.stage == _TIMED_STAGES[kind] and at_ms is not None:
            found.append(SetTimer(_timer(state, kind), at_ms))
    return found


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
