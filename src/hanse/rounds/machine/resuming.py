"""What is left to be done, as a function of the state: for whoever takes a run up, or looks at it now and then."""

from hanse.rounds.events import Evaluate, Finish, Instruction, SetTimer
from hanse.rounds.machine import instructing
from hanse.rounds.run_state import RunState


def pending(state: RunState) -> list[Instruction]:
    """What is left to be done in this state; performing it again is harmless."""
    if state.over:
        return [Finish(state.status, state.error)]
    sends = instructing.sends(state, [ordinal for ordinal, slot in state.open.items() if not slot.answer])
    match state.stage:
        case "waiting":
            return [instructing.set_timer(state, "sites", state.deadline_ms)] if state.deadline_ms else []
        case "starved":
            timer = instructing.set_timer(state, "starved", state.starved_until_ms)
            return [*sends, timer, *instructing.plan(state, state.only)]
        case "planning":
            return [*sends, instructing.plan_instruction(state)]
        case "open":
            return [*sends, instructing.set_timer(state, "deadline", state.deadline_ms)]
        case "reducing":
            return [*sends, instructing.reduce_instruction(state)]
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
        if state.stage == instructing.TIMED_STAGES[kind] and at_ms is not None:
            found.append(instructing.set_timer(state, kind, at_ms))
    return found
