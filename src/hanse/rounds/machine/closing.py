"""Whether an open phase closes, waits, is refilled or extended; and who is folded when it closes."""

from collections import Counter
from itertools import chain, islice

from hanse.rounds import causes
from hanse.rounds.events import Instruction
from hanse.rounds.machine import ending, instructing, members
from hanse.rounds.run_state import RunState


def close_if_due(state: RunState, now_ms: int) -> list[Instruction]:
    """The one place that decides whether the open phase closes, waits, or is extended."""
    if state.stage != "open":
        return []
    waits_for_sites = state.spec.quorum is not None and not (state.keep_in_flight or state.by_group)
    if waits_for_sites and (reason := members.refused(state, state.quorum)):
        return ending.fail(state, f"round {state.round}, phase {state.phase}: {reason}")
    if state.by_group:
        return _close_group_if_due(state)
    if state.num_ok >= state.count:
        if state.num_awaited == 0 or state.grace_s == 0 or (state.grace_ms is not None and now_ms >= state.grace_ms):
            return close(state)
        if state.grace_ms is None:
            state.grace_ms = min(now_ms + int(state.grace_s * 1000), state.deadline_ms)
            state.revision += 1
            return [instructing.set_timer(state, "grace", state.grace_ms)]
        return []
    if state.num_awaited > 0:
        return []
    return close(state) if state.num_ok >= state.quorum else extend(state, final=False)


def _close_group_if_due(state: RunState) -> list[Instruction]:
    """Close with the first group, by its last receipt, of which nobody is awaited; the others go on."""
    if state.num_ok and _whole_group(state) is not None:
        return close(state)
    return [] if state.num_awaited > 0 else extend(state, final=False)


def _whole_group(state: RunState) -> int | None:
    ended: dict[int, int] = {}
    waits = set()
    for slot in members.of_phase(state).values():
        if slot.answer == "ok":
            ended[slot.group] = max(ended.get(slot.group, 0), slot.receipt)
        elif not slot.answer and slot.site in state.available:
            waits.add(slot.group)
    whole = [(receipt, group) for group, receipt in ended.items() if group not in waits]
    return min(whole)[1] if whole else None


def refill_if_due(state: RunState) -> list[Instruction]:
    """Have more sites asked in an open phase that keeps `refill` of them at work."""
    if state.stage != "open" or state.num_ok >= state.count or state.num_awaited >= state.refill:
        return []
    closed = members.closed_to_refills(state)
    return instructing.plan(state, refilling=True) if any(site not in closed for site in state.sites) else []


def close(state: RunState) -> list[Instruction]:
    """Fix who is folded, in order: by position, or the first `count` by receipt; of one group, where groups close."""
    asked = members.of_phase(state)
    if state.by_group:
        group = _whole_group(state)
        if group is None:  # at the deadline: with whichever is furthest
            group = Counter(slot.group for slot in asked.values() if slot.answer == "ok").most_common(1)[0][0]
        asked = {ordinal: slot for ordinal, slot in asked.items() if slot.group == group}
    by_receipt = state.order == "receipt"
    answered = [(ordinal, slot) for ordinal, slot in asked.items() if slot.answer == "ok"]
    answered.sort(key=lambda item: (item[1].receipt if by_receipt else item[1].position, item[0]))
    is_cut = by_receipt and state.keep_in_flight and not state.by_group
    folded = answered[: state.count] if is_cut else answered
    unanswered = {ordinal: slot for ordinal, slot in asked.items() if not slot.answer}
    parked = {ordinal: slot for ordinal, slot in state.open.items() if ordinal not in asked}
    kept = {**dict(answered[len(folded) :]), **unanswered} if state.keep_in_flight else {}
    state.open = {**parked, **kept}
    state.closing = dict(folded)
    state.stage = "reducing"
    state.grace_ms = None
    state.revision += 1
    release = [] if state.keep_in_flight else instructing.release(state, unanswered)
    members.recount(state)
    return [*release, instructing.reduce_instruction(state)]


def extend(state: RunState, *, final: bool) -> list[Instruction]:
    """The quorum cannot be met by those who were asked: ask others, then those who failed; or fail by name."""
    asked = members.of_phase(state).values()
    held = {slot.site for slot in asked if slot.answer != "failed"}
    tried = {slot.site for slot in asked}
    fresh = (site for site in state.sites if site not in tried)
    again = (site for site in state.sites if site in tried and site not in held)
    chosen = tuple(islice(chain(fresh, again), state.quorum - state.num_ok))
    can_ask = state.extensions < state.spec.retries
    if chosen and can_ask:
        state.extensions += 1
        return instructing.plan(state, chosen)
    waiting = [slot.site for slot in asked if not slot.answer]
    if (waiting or can_ask) and not final:
        return []  # sites may come, or come back, before the deadline
    reasons = dict(state.failed)
    reasons.update({site: "no reply by the deadline" if site in state.available else "lost" for site in waiting})
    said = causes.told(reasons, len(tried | reasons.keys()))
    return ending.fail(
        state,
        f"round {state.round}, phase {state.phase}: expected {state.quorum} replies, found {state.num_ok}"
        + (f" ({said})" if said else ""),
    )
