"""Instructions as they follow from a state: plans, tasks, reductions, timers. Each has a deterministic id."""

from collections.abc import Iterable

from hanse.rounds.events import Folded, Instruction, Plan, Reduce, Release, Send, SetTimer
from hanse.rounds.machine import members
from hanse.rounds.names import Without
from hanse.rounds.run_state import RunState, Slot

RELEASED_KEPT = 4096
RELEASED_ROUNDS = 8
"""How many tasks without an answer are remembered, and for how many rounds, so that a late reply can be named."""
TIMED_STAGES = {"sites": "waiting", "starved": "starved", "deadline": "open", "grace": "open"}
"""The stage in which a timer of each kind means something."""


def plan(state: RunState, only: tuple[str, ...] = (), *, refilling: bool = False) -> list[Instruction]:
    """Have the phase planned.

    Args:
        only: those who are to be asked on top of others.
        refilling: whoever is free is to be, so that `refill` are at work.
    """
    state.stage = "planning"
    state.only = only
    state.refilling = refilling
    state.revision += 1
    return [plan_instruction(state)]


def plan_instruction(state: RunState) -> Plan:
    """Sites at work on a task that was kept in flight are busy; where a phase is extended, `only` says it all."""
    busy = set() if state.only else {slot.site for slot in state.open.values() if members.is_at_work(state, slot)}
    closed = members.closed_to_refills(state) if state.refilling else busy
    free = state.sites
    if closed:
        is_tuple = isinstance(free, tuple)
        free = tuple(site for site in free if site not in closed) if is_tuple else Without(free, closed)
    asked = tuple(members.attempts(state).elements()) if state.only or state.refilling else ()
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


def sends(state: RunState, ordinals: Iterable[int]) -> list[Instruction]:
    """Have these open tasks sent."""
    slots, task_id, deadline_ms = state.open, state.task_id, state.deadline_ms
    pairs = [(ordinal, slots[ordinal]) for ordinal in ordinals]
    return [Send(task_id(o, slot), slot.site, slot.position, slot.attempt, slot.call, deadline_ms) for o, slot in pairs]


def reduce_instruction(state: RunState) -> Reduce:
    """Have what was closed reduced, in the order that the close has fixed."""
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
    kind = "adopt" if state.phase == members.PARAMETERS else "fold" if state.folds else "metrics"
    size = len(folded) if by_receipt else state.size
    return Reduce(state.round, state.phase_index, state.phase, kind, folded, size, state.model, state.state)


def release(state: RunState, tasks: dict[int, Slot]) -> list[Instruction]:
    """Nobody waits for these any more; a reply that still comes is late."""
    if not tasks:
        return []
    state.released.update(tasks)
    ordinals = [o for o, slot in state.released.items() if slot.round > state.round - RELEASED_ROUNDS]
    state.released = {ordinal: state.released[ordinal] for ordinal in ordinals[-RELEASED_KEPT:]}
    for slot in tasks.values():
        state.failed.setdefault(slot.site, "no reply" if slot.site in state.available else "lost")
    return [Release(tuple((state.task_id(ordinal, slot), slot.site) for ordinal, slot in tasks.items()))]


def set_timer(state: RunState, kind: str, at_ms: int) -> SetTimer:
    """The timer of a kind, as of now: one that was set before the phase was extended means nothing any more."""
    return SetTimer(timer(state, kind), at_ms)


def timer(state: RunState, kind: str) -> str:
    """The id of a timer."""
    return f"{kind}/{state.round}/{state.phase_index}/{state.extensions}"
