"""The round machine after a close: late and refused replies, phases, evaluation at the server, stopping early."""

import math

import pytest

from hanse.core.spec import EarlyStop
from hanse.rounds.events import (
    Checkpoint,
    Evaluate,
    Evaluated,
    Finish,
    Plan,
    Reduce,
    Send,
    SetTimer,
)
from hanse.rounds.machine import PARAMETERS
from tests.unit.rounds.play import ABC, MODEL, Play, given, opened


def test_late_replies_are_dropped_by_name() -> None:
    play = opened(*ABC, count=2, quorum=2)
    play.reply(0, 1)
    play.reduced()
    play.reply(2)
    play.plan("a")
    play.reply(3)
    play.reduced()
    assert play.one(Checkpoint).fates == {2: ("c", "late"), 3: ("a", "folded")}


def test_a_late_reply_while_it_is_reduced_is_late_in_the_same_round() -> None:
    play = opened(*ABC, count=2, quorum=2)
    play.reply(0, 1, 2)
    play.reduced()
    assert play.one(Checkpoint).fates[2] == ("c", "late")


def test_late_replies_are_carried_with_their_staleness() -> None:
    play = opened(*ABC, count=2, quorum=2, late="carry", rounds=3)
    play.reply(0, 1)
    play.reduced()
    play.plan("a", late="carry")
    play.reply(2)
    play.reply(3)
    assert play.folded() == [(3, 0)]
    play.reduced()
    assert 2 not in play.one(Checkpoint).fates
    play.plan("a", late="carry")
    play.reply(4)
    assert play.folded() == [(2, 0), (4, 1)]
    assert [member.staleness for member in play.one(Reduce).folded] == [2, 0]
    play.reduced()
    assert play.one(Checkpoint).fates == {2: ("c", "folded"), 4: ("a", "folded")}


def test_a_late_initial_model_is_never_carried_into_training() -> None:
    play = Play(given(initial="ask"))
    play.start("a", "b")
    play.plan("b", phase=PARAMETERS, late="carry")
    play.sites("a")
    play.plan("a", late="carry")
    play.reply(1)
    play.reduced(MODEL)
    play.plan("a", late="carry")
    play.reply(0)
    assert play.state.carried == {}
    assert play.state.fates[0] == ("b", "late")


def test_what_was_carried_but_never_folded_is_late_at_the_end() -> None:
    play = opened(*ABC, count=2, quorum=2, late="carry", rounds=1)
    play.reply(0, 1)
    play.reply(2)
    play.reduced()
    assert play.one(Checkpoint).fates[2] == ("c", "late")


def test_refused_updates_are_left_out_if_the_quorum_holds() -> None:
    play = opened(*ABC, quorum=2)
    play.reply(0, 1, 2)
    play.refuse(t1="not finite")
    assert play.folded() == [(0, 0), (2, 2)]
    play.reduced()
    record = play.one(Checkpoint)
    assert record.fates[1] == ("b", "refused: not finite")
    assert record.failed == {"b": "refused: not finite"}


def test_refused_updates_below_the_quorum_extend_the_phase() -> None:
    play = opened("a", "b", quorum=2)
    play.reply(0, 1)
    play.refuse(t1="not finite")
    assert play.one(Plan).only == ("b",)
    play.plan("b")
    play.reply(2)
    assert play.folded() == [(0, 0), (2, 2)]
    play.reduced()
    assert play.one(Checkpoint).fates == {
        1: ("b", "refused: not finite"),
        0: ("a", "folded"),
        2: ("b", "folded"),
    }


def test_a_refused_update_stays_refused_when_its_row_is_read_again() -> None:
    play = opened("a", "b", quorum=2)
    play.reply(0, 1)
    play.refuse(t1="not finite")
    play.plan("b")
    play.restart("a", "b", rows=((0, "", 1), (1, "", 2)))
    assert [send.task.ordinal for send in play.of(Send)] == [2]
    play.reply(2)
    assert play.folded() == [(0, 0), (2, 2)]


def test_a_phase_that_is_opened_again_has_its_deadline_again() -> None:
    play = opened("a", "b", "c", quorum=2, count=2, retries=0, keep_in_flight=True)
    play.reply(0, 1)
    play.fire("deadline/1/0/0", 11_000)
    play.refuse(t1="not finite")
    assert play.one(SetTimer) == SetTimer("deadline/1/0/0", 11_000)
    play.fire("deadline/1/0/0", 11_001)
    assert play.state.status == "failed"


def test_refused_updates_end_the_run_if_so_told() -> None:
    play = opened("a", "b", quorum=1, on_error="fail")
    play.reply(0, 1)
    play.refuse(t1="not finite")
    assert play.one(Finish) == Finish("failed", "b: refused: not finite")
    assert play.one(Checkpoint).fates == {1: ("b", "refused: not finite"), 0: ("a", "late")}


def test_phases_follow_each_other_and_know_who_was_folded_before() -> None:
    play = Play(given(rounds=1))
    play.start("a", "b")
    play.plan("a", "b", num_phases=2, phase="advertise", folds=False)
    play.reply(1, 0)
    assert play.one(Reduce).kind == "metrics"
    play.reduced(MODEL)
    plan = play.one(Plan)
    assert (plan.phase_index, plan.previous) == (1, (0, 1))
    play.plan("b", num_phases=2)
    play.reply(2)
    play.now = 3500
    play.reduced(loss=0.5)
    record = play.one(Checkpoint)
    assert record.seconds == {"advertise": 0.0, "train": 2.5}
    assert record.metrics == {"loss": 0.5}
    assert play.one(Finish) == Finish("finished", "")


def test_the_server_evaluates_before_the_round_is_over() -> None:
    play = opened("a", server_evaluate=True)
    play.reply(0)
    assert play.reduced(("j/c/1/model", "m1")) == [Evaluate(1, ("j/c/1/model", "m1"))]
    assert play(Evaluated(7, {}, 2000)) == []
    play(Evaluated(1, {"server_loss": 0.25}, 2000))
    assert play.one(Checkpoint).metrics == {"server_loss": 0.25}


@pytest.mark.parametrize(
    ("mode", "values", "rounds"),
    [
        ("min", [1.0, 0.5, 0.5, 0.6], 4),
        ("max", [0.1, 0.2, 0.1, 0.15], 4),
        ("min", [math.nan, math.nan], 2),
        ("min", [1.0, math.nan, math.nan], 3),
        ("min", [1.0, 0.95, 0.7, 0.65, 0.65], 5),
    ],
)
def test_it_stops_early_when_nothing_gets_better(mode: str, values: list[float], rounds: int) -> None:
    delta = 0.1 if len(values) == 5 else 0.0
    play = opened("a", rounds=10, stop=EarlyStop("loss", patience=2, mode=mode, min_delta=delta))
    for value in values:
        play.reply(play.state.next_ordinal - 1)
        play.reduced(loss=value)
        if play.state.over:
            break
        play.plan("a")
    assert (play.state.round, play.state.status) == (rounds, "finished")


def test_a_metric_that_was_not_measured_neither_helps_nor_hurts() -> None:
    play = opened("a", rounds=3, stop=EarlyStop("loss", patience=1))
    for _ in range(3):
        play.reply(play.state.next_ordinal - 1)
        play.reduced(other=1.0)
        if not play.state.over:
            play.plan("a")
    assert play.one(Checkpoint).round == 3
