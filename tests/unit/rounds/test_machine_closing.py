"""The round machine: when a phase closes, with whom, and what it does about too few replies."""

from hanse.rounds import machine, run_state
from hanse.rounds.events import (
    Cancelled,
    Checkpoint,
    Finish,
    Plan,
    PlanFailed,
    Reduce,
    Release,
    Replied,
    SetTimer,
)
from tests.unit.rounds.play import ABC, Play, given, opened

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
