"""Tasks kept in flight, phases that refill or close by group, what a strategy remembers; older records of such."""

from typing import Any

from hanse.rounds import run_state
from hanse.rounds.events import (
    Checkpoint,
    Plan,
    PlanFailed,
    Planned,
    PlannedTask,
    Reduce,
    Reduced,
    Release,
    Replied,
    Send,
    SetTimer,
)
from hanse.rounds.run_state import RunState
from tests.unit.rounds.play import MODEL, Play, fedbuff, given

SITES = ("a", "b", "c", "d")
REFILLED: dict[str, Any] = {"keep_in_flight": True, "order": "receipt", "refill": 2}
GROUPED: dict[str, Any] = {"keep_in_flight": True, "by_group": True, "count": 1, "quorum": 1}


def refill(play: Play, *sites: str) -> list[Any]:
    return play.plan(*sites, count=3, extends=True)


def refilled() -> Play:
    play = Play(given())
    play.start(*SITES)
    play.plan("a", "b", count=3, **REFILLED)
    return play


def test_an_answer_to_a_phase_that_refills_has_it_planned_again() -> None:
    play = refilled()
    play.reply(0)
    plan = play.one(Plan)
    assert plan.extends
    assert (plan.sites, plan.busy, plan.asked) == (("a", "c", "d"), ("b",), ("a", "b"))
    (send,) = refill(play, "a")
    assert (send.site, send.attempt) == ("a", 1)
    play.reply(1)
    assert play.one(Plan).busy == ("a",)
    refill(play, "c")
    play.reply(2)
    assert play.folded() == [(0, 0), (1, 1), (2, 2)], "three are there"
    play.reduced()
    assert play.one(Plan).busy == ("c",)


def test_nothing_to_add_is_an_answer_too_and_does_not_go_round_in_circles() -> None:
    play = refilled()
    play.reply(0)
    assert refill(play) == []
    assert not play.of(Plan)
    play.reply(1)
    plan = play.one(Plan)
    assert not plan.only
    refill(play)
    assert play.one(Plan).only == ("c",), "nobody is at work and one is missing: now the phase is extended"


def test_sites_that_failed_in_the_round_are_not_asked_again_by_a_refill() -> None:
    play = refilled()
    play.fail(0)
    assert play.one(Plan).sites == ("c", "d")
    refill(play, "c")
    play.fail(2)
    assert play.one(Plan).sites == ("d",)
    refill(play, "d")
    play.fail(3)
    assert not play.of(Plan), "nobody is left to be asked, and b is at work"


def test_a_refill_that_cannot_be_planned_leaves_the_phase_open() -> None:
    play = refilled()
    play.reply(0)
    play(PlanFailed(1, 0, "no", play.now))
    assert play.state.stage == "open"
    assert play.of(SetTimer)
    play.reply(1)
    assert play.one(Plan).sites == ("a", "b", "c", "d")


def test_a_restart_in_a_refill_plans_it_again() -> None:
    play = refilled()
    play.reply(0)
    before = play.one(Plan)
    play.restart(*SITES, rows=((0, "", 1),))
    assert play.one(Plan) == before


# ---- groups ----


def grouped(**groups: int) -> Play:
    """Sites by group; all at work."""
    play = Play(given())
    play.start(*SITES)
    tasks = tuple(PlannedTask(site, "train", group) for site, group in groups.items())
    play(Planned(1, 0, 1, "train", tasks, now_ms=play.now, grace_s=0.0, deadline_s=10.0, **GROUPED))
    return play


def test_the_first_group_of_which_nobody_is_awaited_closes_and_the_rest_goes_on() -> None:
    play = grouped(a=0, b=0, c=1, d=1)
    play.reply(2)
    play.reply(0)
    assert play.state.stage == "open"
    play.reply(3)
    assert play.folded() == [(2, 2), (3, 3)]
    play.reduced()
    plan = play.one(Plan)
    assert (plan.sites, plan.busy) == (("c", "d"), ("a", "b")), "a, asked anew, would hold up b's answer"
    tasks = (PlannedTask("c", "train", 1),)
    play(Planned(2, 0, 1, "train", tasks, now_ms=play.now, grace_s=0.0, deadline_s=10.0, **GROUPED))
    play.reply(1)
    assert [ordinal for ordinal, _ in play.folded()] == [0, 1], "a's answer has waited for b's"


def test_a_group_does_not_wait_for_its_lost_member_nor_for_one_that_failed() -> None:
    play = grouped(a=0, b=0, c=0, d=1)
    play.reply(0)
    play.fail(1)
    play.sites("a", "b", "d")
    assert play.folded() == [(0, 0)]
    play.reduced()
    assert 2 in play.state.open, "c's answer may still come"


def test_at_the_deadline_the_group_that_is_furthest_closes() -> None:
    play = grouped(a=0, b=1, c=1, d=1)
    play.reply(1, 2)
    deadline = play.state.deadline_ms
    play.fire("deadline/1/0/0", deadline)
    assert play.folded() == [(1, 1), (2, 2)]


# ---- what is told, what is remembered ----


def test_a_folded_reply_says_how_long_it_took() -> None:
    play = Play(given(), now=1000)
    play.start(*SITES)
    play.plan("a", "b")
    play.receipt = 1_000_000 + 2_500_000 - 1
    play.reply(0)
    play.reply(1)
    (first, second) = play.one(Reduce).folded
    assert (first.seconds, second.seconds) == (2.5, 2.500001)


def test_memory_is_kept_with_the_run() -> None:
    play = Play(given())
    play.start(*SITES)
    play.plan("a")
    play.reply(0)
    play(Reduced(1, 0, MODEL, (), {}, play.now, {"served": {"a": 1}}))
    play.restart(*SITES)
    assert play.state.memory == {"served": {"a": 1}}


def test_a_record_of_before_is_read() -> None:
    play = Play(given())
    play.start(*SITES)
    play.plan("a", "b")
    record = run_state.encode(play.state)
    for name in ("refill", "by_group", "refilling", "memory"):
        del record[name]
    record["open"] = [slot[:10] for slot in record["open"]]
    found: RunState = run_state.decode(record)
    assert (found.refill, found.by_group, found.refilling, dict(found.memory)) == (0, False, False, {})
    assert [(slot.site, slot.asked_ms, slot.group) for slot in found.open.values()] == [("a", 0, 0), ("b", 0, 0)]


# ---- kept in flight (FedBuff) ----


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
