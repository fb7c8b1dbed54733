"""The round machine, event list by event list."""

import json
import math
from typing import Any

import pytest

from hanse.core.errors import CodecError
from hanse.core.spec import EarlyStop
from hanse.rounds import machine, run_state
from hanse.rounds.events import (
    Cancelled,
    Checkpoint,
    Evaluate,
    Evaluated,
    Event,
    Failed,
    Finish,
    Plan,
    PlanFailed,
    Planned,
    PlannedTask,
    Reduce,
    Reduced,
    ReduceRefused,
    Release,
    Replied,
    Send,
    SetTimer,
    SitesChanged,
    Started,
    TimerFired,
)
from hanse.rounds.machine import PARAMETERS
from tests.unit.rounds.play import MODEL, Play, given

ABC = ("a", "b", "c")


def opened(*sites: str, **options: Any) -> Play:
    """A run with one phase open, asked of `sites`."""
    close = {
        name: options.pop(name) for name in ("count", "quorum", "keep_in_flight", "order", "late") if name in options
    }
    play = Play(given(**options))
    play.start(*sites)
    play.plan(*sites, **close)
    return play


# ---- beginning ----


def test_it_begins_when_enough_sites_are_there_and_nobody_is_undecided() -> None:
    play = Play(given(quorum=2))
    (timer,) = play(Started(1000))
    assert timer == SetTimer("sites/1/0/0", 11_000)
    assert play.sites("a") == []
    assert play.sites("a", "b", undecided=1) == []
    assert play.sites("a", "b") == [Plan(1, 0, ("a", "b"), ())]
    assert play.state.status == "running"


def test_it_begins_at_the_deadline_without_those_who_never_decide() -> None:
    play = Play(given(quorum=2))
    play(Started(1000))
    play.sites("a", "b", undecided=1)
    assert play.fire("sites/1/0/0", 11_000) == [Plan(1, 0, ("a", "b"), ())]


def test_it_fails_by_name_when_too_few_sites_join() -> None:
    play = Play(given(min_sites=3))
    play(Started(1000))
    play.sites("a")
    play.fire("sites/1/0/0", 11_000)
    assert play.one(Finish) == Finish("failed", "expected 3 sites to join, found 1 after 10 s")


def test_sites_that_do_not_join_are_named_with_what_they_said() -> None:
    play = Play(given(min_sites=3))
    play(Started(1000))
    play(SitesChanged(("a",), 1000, unwilling=(("b", "hold"), ("c", "refuse: not listed"))))
    play.fire("sites/1/0/0", 11_000)
    said = "expected 3 sites to join, found 1 after 10 s (b: hold; c: refuse: not listed)"
    assert play.one(Finish) == Finish("failed", said)


def test_a_second_start_changes_nothing() -> None:
    play = opened(*ABC)
    assert play(Started(2000)) == []


def test_a_run_that_was_never_started_starts_when_it_is_resumed() -> None:
    play = Play(given(quorum=1))
    assert play.restart() == [SetTimer("sites/1/0/0", 11_000)]
    assert play.sites("a") == [Plan(1, 0, ("a",), ())]


def test_round_zero_adopts_the_parameters_of_one_site() -> None:
    play = Play(given(initial="ask"))
    assert play.start("a", "b").round == 0
    play.plan("b", phase=PARAMETERS)
    play.reply(0)
    reduce = play.one(Reduce)
    assert (reduce.kind, reduce.round, reduce.model) == ("adopt", 0, None)
    play.reduced(MODEL)
    assert play.one(Checkpoint).fates == {0: ("b", "folded")}
    assert play.one(Plan).round == 1


# ---- closing ----


def test_tasks_are_sent_and_the_phase_closes_when_all_have_answered() -> None:
    play = Play(given())
    play.start(*ABC)
    sends = play.plan(*ABC)
    assert [(send.site, send.position, send.task.ordinal, send.attempt) for send in sends] == [
        ("a", 0, 0, 0),
        ("b", 1, 1, 0),
        ("c", 2, 2, 0),
    ]
    assert play.one(SetTimer) == SetTimer("deadline/1/0/0", 11_000)
    assert play.reply(2, 0) == []
    play.reply(1)
    assert play.folded() == [(0, 0), (1, 1), (2, 2)]
    assert play.one(Reduce).size == 3


def test_the_wanted_number_closes_at_once_and_the_others_are_released() -> None:
    play = opened(*ABC, count=2, quorum=1)
    play.reply(2, 0)
    assert play.folded() == [(0, 0), (2, 2)]
    assert [(task.ordinal, site) for task, site in play.one(Release).tasks] == [(1, "b")]
    assert play.one(Reduce).size == 3


def test_the_deadline_closes_with_a_quorum() -> None:
    play = opened(*ABC, quorum=2)
    play.reply(0, 2)
    play.fire("deadline/1/0/0", 11_000)
    assert play.folded() == [(0, 0), (2, 2)]
    assert play.state.failed == {"b": "no reply"}


def test_the_deadline_before_its_time_does_nothing() -> None:
    play = opened(*ABC, quorum=1)
    play.reply(0)
    assert play.fire("deadline/1/0/0", 10_999) == []


def test_grace_waits_for_the_rest_and_no_longer() -> None:
    play = opened(*ABC, count=2, quorum=1, grace_s=3.0)
    play.reply(0)
    (timer,) = play.reply(1)
    assert timer == SetTimer("grace/1/0/0", 4000)
    assert play.fire("grace/1/0/0", 3999) == []
    play.fire("grace/1/0/0", 4000)
    assert play.folded() == [(0, 0), (1, 1)]


def test_grace_ends_when_everybody_has_answered() -> None:
    play = opened(*ABC, count=2, quorum=1, grace_s=3.0)
    play.reply(0, 1, 2)
    assert play.folded() == [(0, 0), (1, 1), (2, 2)]


def test_grace_never_goes_beyond_the_deadline() -> None:
    play = opened(*ABC, count=2, quorum=1, grace_s=60.0)
    assert play.reply(0, 1) == [SetTimer("grace/1/0/0", 11_000)]


def test_lost_sites_are_not_waited_for_if_the_quorum_holds() -> None:
    play = opened(*ABC, quorum=2)
    play.reply(0, 1)
    play.sites("a", "b")
    assert play.folded() == [(0, 0), (1, 1)]
    assert play.state.failed == {"c": "lost"}


def test_the_reply_of_a_lost_site_still_counts() -> None:
    play = opened(*ABC, retries=0)
    play.reply(0)
    play.sites("a")
    assert play.reply(1, 2)
    assert play.folded() == [(0, 0), (1, 1), (2, 2)]


def test_a_lost_site_that_returns_is_waited_for_again() -> None:
    play = opened("a", "b", quorum=1)
    play.sites("a")
    play.sites("a", "b")
    assert play.reply(0) == []
    play.reply(1)
    assert play.folded() == [(0, 0), (1, 1)]


def test_duplicates_and_unknown_ordinals_do_nothing() -> None:
    play = opened(*ABC)
    play.reply(0)
    before = run_state.encode(play.state)
    assert play.reply(0) == []
    assert play.fail(0) == []
    assert play.reply(17) == []
    assert play.state.num_ok == 1
    assert run_state.encode(play.state) == before


def test_expects_tells_what_a_reply_would_be() -> None:
    play = opened(*ABC, count=2, quorum=2)
    assert machine.expects(play.state, 0) == "wanted"
    play.reply(0, 1)
    assert [machine.expects(play.state, n) for n in (0, 1, 2, 9)] == ["settled", "settled", "late", "settled"]
    play(Cancelled("ada", 2000))
    assert machine.expects(play.state, 2) == "settled"


# ---- too few replies ----


def test_a_failed_site_is_replaced_and_received_replies_stay() -> None:
    play = opened("a", "b", quorum=2)
    play.sites(*ABC)
    play.reply(0)
    play.fail(1)
    assert play.one(Plan).only == ("c",)
    (send,) = play.plan("c")
    assert (send.site, send.position, send.task.ordinal, send.attempt) == ("c", 2, 2, 0)
    play.reply(2)
    assert play.folded() == [(0, 0), (2, 2)]
    play.reduced()
    assert play.one(Checkpoint).fates == {
        1: ("b", "failed: raised: ValueError"),
        0: ("a", "folded"),
        2: ("c", "folded"),
    }


def test_with_no_fresh_site_the_failed_one_is_asked_again() -> None:
    play = opened("a", "b", quorum=2)
    play.reply(0)
    play.fail(1)
    (send,) = play.plan(*play.one(Plan).only)
    assert (send.site, send.attempt, send.task.ordinal) == ("b", 1, 2)


def test_retries_run_out_and_the_cause_is_named() -> None:
    play = opened("a", "b", quorum=2, retries=1)
    play.reply(0)
    play.fail(1)
    play.plan("b")
    play.fail(2, "exited: code 1")
    assert play.one(Finish) == Finish("failed", "round 1, phase train: expected 2 replies, found 1 (b: exited: code 1)")
    assert play.one(Checkpoint).fates[0] == ("a", "late")


def test_sites_may_come_before_the_deadline_while_there_are_retries() -> None:
    play = opened("a", "b", quorum=2)
    play.reply(0)
    play.sites("a")
    assert play.fail(1) == []
    play.sites("a", "d")
    assert play.one(Plan).only == ("d",)


def test_at_the_deadline_those_who_did_not_answer_are_named() -> None:
    play = opened("a", "b", quorum=2)
    play.reply(0)
    play.sites("a")
    play.fire("deadline/1/0/0", 11_000)
    assert play.one(Finish).error == "round 1, phase train: expected 2 replies, found 1 (b: lost)"


def test_a_phase_that_cannot_be_extended_waits_for_those_it_asked() -> None:
    play = opened("a", "b", quorum=2)
    play.reply(0)
    play.sites("a", "c")
    assert play.one(Plan).only == ("c",)
    play(PlanFailed(1, 0, "not with c", 2000))
    assert play.state.stage in ("open", "planning")
    while play.state.stage == "planning":
        play(PlanFailed(1, 0, "not with c", 2000))
    play.reply(1)
    assert play.folded() == [(0, 0), (1, 1)]


def test_on_error_fail_ends_the_run_at_the_first_failure() -> None:
    play = opened(*ABC, quorum=1, on_error="fail")
    play.reply(0)
    play.fail(1)
    assert play.one(Finish) == Finish("failed", "site b: raised: ValueError")
    assert [site for _, site in play.one(Release).tasks] == ["c"]


def test_all_replies_that_were_received_are_noted_before_one_of_them_ends_the_run() -> None:
    play = opened(*ABC, on_error="fail")
    play(Replied(((1, "raised: X", 1), (0, "", 2), (2, "raised: Y", 3)), 2000))
    assert play.one(Finish) == Finish("failed", "site b: raised: X")
    assert play.one(Checkpoint).fates == {
        1: ("b", "failed: raised: X"),
        2: ("c", "failed: raised: Y"),
        0: ("a", "late"),
    }


def test_on_error_fail_does_not_mind_a_late_failure() -> None:
    play = opened(*ABC, count=2, quorum=1, on_error="fail")
    play.reply(0, 1)
    assert play.fail(2) == []
    assert play.state.fates[2] == ("c", "failed: raised: ValueError")


# ---- starving ----


def test_too_few_sites_starve_the_run_until_they_return() -> None:
    play = Play(given())
    play.start("a")
    (timer,) = play(PlanFailed(1, 0, "expected 2 sites, found 1", 1500))
    assert timer == SetTimer("starved/1/0/0", 11_500)
    assert play.sites("a", "b") == [Plan(1, 0, ("a", "b"), ())]
    play.plan("a", "b")
    assert play.state.error == ""
    assert play.fire("starved/1/0/0", 11_500) == []


def test_sites_that_come_and_go_do_not_prolong_starving() -> None:
    play = Play(given())
    play.start("a")
    play(PlanFailed(1, 0, "too few", 1500))
    play.sites("a", "b")
    assert play(PlanFailed(1, 0, "too few", 9000)) == [SetTimer("starved/1/0/0", 11_500)]
    play.fire("starved/1/0/0", 11_500)
    assert play.one(Finish) == Finish("failed", "too few")


def test_a_plan_that_will_never_work_fails_at_once() -> None:
    play = Play(given())
    play.start("a")
    play(PlanFailed(1, 0, "the app's server side: raised", 1500, final=True))
    assert play.one(Finish) == Finish("failed", "the app's server side: raised")


# ---- after the close ----


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


# ---- ending ----


def test_cancelling_names_what_was_received_and_releases_the_rest() -> None:
    play = opened(*ABC)
    play.reply(1)
    play(Cancelled("ada", 2000))
    assert play.one(Checkpoint).fates == {1: ("b", "late")}
    assert [site for _, site in play.one(Release).tasks] == ["a", "c"]
    assert play.one(Finish) == Finish("cancelled", "cancelled by ada")


def test_nothing_happens_after_the_end_but_the_end_is_told_again() -> None:
    play = opened("a")
    play(Failed("disk", 2000))
    assert play.reply(0) == []
    assert play.sites("b") == []
    assert play(Cancelled("ada", 2000)) == []
    assert play.restart("a") == [Finish("failed", "disk")]


@pytest.mark.parametrize("stage", ["waiting", "open", "reducing", "starved", "evaluating"])
def test_events_of_another_stage_do_nothing(stage: str) -> None:
    play = at(stage)
    before = run_state.encode(play.state)
    stale: list[Event] = [
        Started(1),
        Planned(1, 0, 1, "train", (PlannedTask("a", "train"),), 1, 1, 0.0, 9.0, 1),
        PlanFailed(1, 0, "no", 1),
        Reduced(0 if stage == "reducing" else 1, 0, None, (), {}, 1),
        ReduceRefused(0 if stage == "reducing" else 1, 0, {0: "no"}, 1),
        Evaluated(0 if stage == "evaluating" else 1, {}, 1),
        TimerFired("deadline/9/9/9", 10**12),
        TimerFired("grace/9/9/9", 10**12),
        TimerFired("what/is/this", 10**12),
        TimerFired("", 10**12),
        Replied(((99, "", 1),), 1),
    ]
    for event in stale:
        assert play(event) == [], event
    assert run_state.encode(play.state) == before


def at(stage: str) -> Play:
    play = Play(given(server_evaluate=True, quorum=1))
    if stage == "waiting":
        play(Started(1000))
        return play
    play.start("a")
    if stage == "starved":
        play(PlanFailed(1, 0, "too few", 1500))
        return play
    play.plan("a")
    if stage in ("reducing", "evaluating"):
        play.reply(0)
    if stage == "evaluating":
        play.reduced()
    assert play.state.stage == stage
    return play


# ---- kept in flight (FedBuff) ----


def fedbuff(rounds: int = 3) -> Play:
    play = Play(given(rounds=rounds))
    play.start("a", "b", "c", "d")
    play.plan("a", "b", "c", count=2, quorum=2, keep_in_flight=True, order="receipt")
    return play


def test_the_first_k_by_receipt_close_and_the_others_stay_at_work() -> None:
    play = fedbuff()
    play.reply(2, 0)
    assert play.folded() == [(2, 0), (0, 1)]
    assert play.of(Release) == []
    play.reduced(("j/c/1/model", "m1"))
    plan = play.one(Plan)
    assert (plan.sites, plan.busy) == (("a", "c", "d"), ("b",))
    play.plan("a", "c", count=2, quorum=2, keep_in_flight=True, order="receipt")
    play.reply(1, 3)
    assert [(member.task.ordinal, member.staleness) for member in play.one(Reduce).folded] == [(1, 1), (3, 0)]
    assert play.state.closing[1].model == MODEL


def test_receipt_decides_even_where_events_come_in_another_order() -> None:
    play = fedbuff()
    play(Replied(((0, "", 20), (1, "", 10)), 1000))
    assert play.folded() == [(1, 0), (0, 1)]


def test_more_replies_than_wanted_begin_the_next_phase() -> None:
    play = fedbuff()
    play.reply(0, 1, 2)
    play.reduced()
    assert play.one(Checkpoint).fates == {0: ("a", "folded"), 1: ("b", "folded")}
    play.plan("a", count=1, quorum=1, keep_in_flight=True, order="receipt")
    assert play.folded() == [(2, 0)]


def test_what_is_in_flight_waits_while_another_phase_is_open() -> None:
    play = Play(given(rounds=2))
    play.start("a", "b", "c")
    play.plan("a", "b", "c", num_phases=2, count=2, quorum=2, keep_in_flight=True, order="receipt")
    play.reply(0, 1)
    play.reduced()
    assert (play.one(Plan).sites, play.one(Plan).busy) == (("a", "b"), ("c",))
    play.plan("a", "b", num_phases=2, phase="evaluate", folds=False)
    play.reply(2)
    assert play.instructions == []
    play.reply(3, 4)
    assert [ordinal for ordinal, _ in play.folded()] == [3, 4]
    play.reduced()
    assert 2 not in play.one(Checkpoint).fates
    play.plan("a", num_phases=2, count=1, quorum=1, keep_in_flight=True, order="receipt")
    assert play.folded() == [(2, 0)]


def test_a_failure_in_flight_is_told_once_also_over_a_restart() -> None:
    play = Play(given(rounds=3))
    play.start("a", "b", "c")
    play.plan("a", "b", "c", num_phases=2, count=2, quorum=2, keep_in_flight=True, order="receipt")
    play.reply(0, 1)
    play.reduced()
    play.plan("a", num_phases=2, phase="evaluate", folds=False)
    play.fail(2)
    play.reply(3)
    play.reduced()
    assert play.one(Checkpoint).fates[2] == ("c", "failed: raised: ValueError")
    play.restart("a", "b", "c")
    assert all(send.task.ordinal != 2 for send in play.of(Send))


# ---- resuming ----


def test_resuming_sends_what_has_no_answer_and_sets_the_timer() -> None:
    play = opened(*ABC)
    play.reply(1)
    play.restart(*ABC, rows=((1, "", 5),))
    assert [send.site for send in play.of(Send)] == ["a", "c"]
    assert play.one(SetTimer) == SetTimer("deadline/1/0/0", 11_000)


def test_resuming_closes_when_every_reply_is_there() -> None:
    play = opened(*ABC)
    play.restart(*ABC, rows=((2, "", 3), (1, "", 2), (0, "", 1)))
    assert play.folded() == [(0, 0), (1, 1), (2, 2)]


def test_resuming_fails_when_a_failure_was_received_and_must_not_be() -> None:
    play = opened(*ABC, on_error="fail")
    play.restart(*ABC, rows=((1, "raised: X", 1),))
    assert play.one(Finish) == Finish("failed", "site b: raised: X")


def test_resuming_gives_the_same_order_of_receipt() -> None:
    play, again = fedbuff(), fedbuff()
    play.reply(2, 0, 1)
    again.restart("a", "b", "c", "d", rows=((0, "", 2), (1, "", 3), (2, "", 1)))
    assert play.state.closing.keys() == again.state.closing.keys() == {2: None, 0: None}.keys()
    assert again.folded() == [(2, 0), (0, 1)]


@pytest.mark.parametrize("stage", ["starved", "reducing", "evaluating"])
def test_resuming_does_what_is_left(stage: str) -> None:
    play = at(stage)
    rows = ((0, "", 1),) if stage == "reducing" else ()
    play.restart("a", rows=rows)
    kind = {"starved": Plan, "reducing": Reduce, "evaluating": Evaluate}[stage]
    assert len(play.of(kind)) == 1


def test_late_replies_are_remembered_over_a_restart_for_some_rounds() -> None:
    play = opened(*ABC, count=2, quorum=2, rounds=20)
    play.reply(0, 1)
    for _ in range(machine.RELEASED_ROUNDS):
        play.reduced()
        play.plan("a", "b", count=1, quorum=1)
        play.reply(play.state.next_ordinal - 2)
    assert machine.expects(play.state, 2) == "settled"
    play.restart("a", "b", rows=((4, "", 9),))
    assert play.state.fates[4] == ("b", "late")


# ---- the record ----


def test_the_record_of_five_hundred_sites_is_small() -> None:
    sites = [f"hospital-{n:03d}" for n in range(500)]
    play = opened(*sites)
    content = json.dumps(run_state.encode(play.state), separators=(",", ":"))
    assert len(content) < 48 * 1024


def test_an_unknown_version_is_refused() -> None:
    value = run_state.encode(opened("a").state)
    with pytest.raises(CodecError, match="expected version 1, found 2; update this software"):
        run_state.decode({**value, "v": 2})


@pytest.mark.parametrize("damage", [{"open": [[1]]}, {"models": 3}, {"model": 7}, {"spec": {"rounds": 0}}])
def test_a_record_that_is_not_a_runs_is_refused(damage: dict[str, object]) -> None:
    with pytest.raises(CodecError):
        run_state.decode({**run_state.encode(opened("a").state), **damage})


def test_replies_do_not_move_the_revision() -> None:
    play = opened(*ABC)
    before = play.state.revision
    play.reply(0)
    play.fail(1)
    play.sites("a", "b", "c", "d")
    assert play.state.revision == before
