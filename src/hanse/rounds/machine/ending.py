"""The end of a round, and of the run: the checkpoint in which replies get their fates; the rule of stopping early."""

import math

from hanse.rounds.events import Checkpoint, Finish, Instruction, Release
from hanse.rounds.machine import instructing
from hanse.rounds.run_state import RunState


def round_over(state: RunState) -> list[Instruction]:
    """Keep the round; begin the next one, or finish."""
    if _should_stop(state) or state.round >= state.spec.rounds:
        return end(state, "finished", "")
    record = _checkpoint(state)
    _turn(state)
    return [record, *instructing.plan(state)]


def reopen(state: RunState) -> None:
    """Take a run up that has finished its rounds, with more of them in its spec; it then waits to be `Resumed`.

    What was in flight when it ended is gone: a run of phases that close goes on as if it had never ended.
    """
    state.status, state.error = "running", ""
    _turn(state)
    instructing.plan(state)


def _turn(state: RunState) -> None:
    """Turn to the next round."""
    state.metrics, state.seconds, state.failed, state.fates = {}, {}, {}, {}
    state.open = {ordinal: slot for ordinal, slot in state.open.items() if slot.answer != "failed"}
    state.previous = ()
    state.phase_index = 0
    state.round += 1


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
    return has_stopped(state)


def has_stopped(state: RunState) -> bool:
    """Whether the rule of stopping early has come true, be it in the last round."""
    return state.spec.stop is not None and state.rounds_without_best >= state.spec.stop.patience


def _checkpoint(state: RunState) -> Checkpoint:
    return Checkpoint(
        state.round, state.model, dict(state.metrics), dict(state.seconds), dict(state.fates), dict(state.failed)
    )


def fail(state: RunState, reason: str) -> list[Instruction]:
    """The end, with its cause."""
    return end(state, "failed", reason)


def end(state: RunState, status: str, error: str) -> list[Instruction]:
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
