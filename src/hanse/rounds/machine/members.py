"""Who is in a phase: the sites that are there, and the tasks of the phase with what they have come to."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count

from hanse.rounds import causes
from hanse.rounds.events import PlannedTask
from hanse.rounds.run_state import RunState, Slot

PARAMETERS = "parameters"
"""The phase of round 0 in which one site is asked for the initial model."""
REFUSED = "too many sites have refused to take part"
"""What the error of such a run begins with."""


def expect(state: RunState, sites: Sequence[str]) -> None:
    """Say who is there without deciding anything: before what has come from them is told.

    Args:
        sites: a tuple is sorted here; any other sequence is sorted already and finds its members itself, however many.
    """
    in_order = not isinstance(sites, tuple)
    state.sites = sites if in_order else tuple(sorted(sites))
    state.available = sites if in_order else frozenset(sites)
    recount(state)


def of_phase(state: RunState) -> dict[int, Slot]:
    """The open tasks of this phase; those of another one, kept in flight, wait until theirs comes again."""
    return {ordinal: slot for ordinal, slot in state.open.items() if slot.phase == state.phase}


def recount(state: RunState) -> None:
    """Count anew who has answered and who is awaited, after tasks or sites have changed."""
    members = of_phase(state).values()
    state.num_ok = sum(1 for slot in members if slot.answer == "ok" and counts(state, slot))
    for slot in members:
        slot.is_awaited = not slot.answer and slot.site in state.available
    state.num_awaited = sum(1 for slot in members if slot.is_awaited)


def counts(state: RunState, slot: Slot) -> bool:
    """Whether an answer is one that the phase waits for; what was carried into it comes on top."""
    return state.keep_in_flight or slot.round == state.round


def attempts(state: RunState) -> Counter[str]:
    """How often each site was asked in this phase of this round."""
    return Counter(slot.site for slot in of_phase(state).values() if slot.round == state.round)


def is_at_work(state: RunState, slot: Slot) -> bool:
    """Whether its site cannot be asked anew: one that waits for the rest of its group would hold that group up."""
    return not slot.answer or (state.by_group and slot.answer == "ok")


def closed_to_refills(state: RunState) -> set[str]:
    """Those at work, and those that have failed in this round: they are asked again in the next."""
    return {slot.site for slot in state.open.values() if slot.answer != "ok"}


def take_over(state: RunState) -> None:
    """This phase's tasks in flight and carried replies become members again, in front of the new ones."""
    mine = {ordinal: slot for ordinal, slot in state.carried.items() if slot.phase == state.phase}
    state.carried = {ordinal: slot for ordinal, slot in state.carried.items() if ordinal not in mine}
    state.open = {**mine, **state.open}
    for slot in of_phase(state).values():
        slot.position = state.size
        state.size += 1
    recount(state)


def issue(state: RunState, tasks: Sequence[PlannedTask], attempts: Mapping[str, int], now_ms: int) -> range:
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


def refused(state: RunState, needed: int) -> str:
    """Why so many sites can never take part, since too many have refused; empty where they may.

    Where there were too few sites from the start, others are expected to be enrolled, and nothing is final.
    """
    if not state.unwilling:
        return ""
    answered = {slot.site for slot in of_phase(state).values() if slot.answer == "ok" and counts(state, slot)}
    said = {site: text.partition(": ")[2] for site, text in state.unwilling if text.startswith("refuse")}
    final = {site: reason or "without a reason" for site, reason in said.items() if site not in answered}
    may = answered | set(state.sites).difference(final)  # an answer stays, though who gave it be no member any more
    left = max(state.enrolled - len(final), len(may))
    if not state.enrolled >= needed > left:
        return ""
    return f"{REFUSED}: expected {needed}, {left} of {state.enrolled} may still ({causes.told(final, state.enrolled)})"


def needed(state: RunState) -> int:
    """How many sites must be there for the run to begin."""
    return state.spec.min_sites or state.spec.quorum or 1


def needed_by_phases(state: RunState) -> int:
    """How many sites a phase that cannot be planned needs at least: 1 to say the first model, or to go on with steps.

    A step closes with the first updates, which may be one site's, and its evaluation asks who is free.
    """
    by_steps = state.keep_in_flight or state.order == "receipt"
    return 1 if by_steps or not state.round else state.spec.quorum or 1
