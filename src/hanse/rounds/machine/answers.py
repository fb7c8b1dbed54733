"""Writing down that a reply is there: what it counts for, or which fate it has at once."""

from hanse.rounds.machine import members
from hanse.rounds.run_state import RunState, Slot


def expects(state: RunState, ordinal: int) -> str:
    """What a reply to this task would be now: `wanted`, `late`, or `settled` (there is one, or it is not ours)."""
    if state.over:
        return "settled"
    slot = state.open.get(ordinal)
    if slot is not None:
        return "settled" if slot.answer else "wanted"
    return "late" if ordinal in state.released else "settled"


def note(state: RunState, ordinal: int, reason: str, receipt: int) -> bool:
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
        state.num_ok += slot.answer == "ok" and members.counts(state, slot)
    return True


def _note_late(state: RunState, ordinal: int, slot: Slot, reason: str, receipt: int) -> None:
    if reason:
        state.fates[ordinal] = (slot.site, f"failed: {reason}")
    elif state.late_rule == "carry" and slot.folds:
        slot.answer, slot.receipt = "ok", receipt
        state.carried[ordinal] = slot
    else:
        state.fates[ordinal] = (slot.site, "late")
