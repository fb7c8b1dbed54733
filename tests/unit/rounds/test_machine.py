"""The round machine, event list by event list: how a run begins and ends."""

from typing import Any

import pytest

from hanse.rounds import run_state
from hanse.rounds.events import (
    Cancelled,
    Checkpoint,
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
    SetTimer,
    SitesChanged,
    Started,
    TimerFired,
)
from hanse.rounds.machine import PARAMETERS
from tests.unit.rounds.play import ABC, MODEL, Play, at, given, opened

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


# ---- refusals that leave too few ----

NO = ("refuse: not listed", "hold", "refuse")


def refusing(play: Play, *sites: str, there: tuple[str, ...] = (), enrolled: int = 3, said: str = NO[0]) -> None:
    play(SitesChanged(there, play.now, unwilling=tuple((site, said) for site in sites), enrolled=enrolled))


def test_it_does_not_wait_for_sites_that_refusals_have_made_too_few() -> None:
    play = Play(given(quorum=2))
    play(Started(1000))
    refusing(play, "b", there=("a",))
    assert play.instructions == []  # the third may still come
    play(SitesChanged(("a",), play.now, 1, (("b", NO[0]), ("c", NO[0])), 4))
    assert play.instructions == []  # a fourth is asked what it says; if it refuses, it is named, too
    refusing(play, "b", "c", there=("a",))
    error = "too many sites have refused to take part: expected 2, 1 of 3 may still (2 of 3 sites: b, c: not listed)"
    assert play.one(Finish) == Finish("failed", error)


@pytest.mark.parametrize(
    ("sites", "options"),
    [
        (("b", "c"), {"said": "hold"}),  # an owner may still approve
        (("a", "b"), {"enrolled": 2}),  # too few from the start: others are to be enrolled
        (("a", "b"), {"enrolled": 0}),  # nobody has counted them
    ],
)
def test_what_is_not_final_is_waited_for(sites: tuple[str, ...], options: dict[str, Any]) -> None:
    play = Play(given(min_sites=3) if options.get("enrolled") == 2 else given(quorum=2))
    play(Started(1000))
    refusing(play, *sites, **options)
    assert play.instructions == []


@pytest.mark.parametrize("said", [NO[0], NO[2]])
def test_an_open_phase_ends_when_refusals_put_its_quorum_out_of_reach(said: str) -> None:
    play = Play(given(quorum=2, deadline_s=1e9))
    play.start(*ABC)
    play.plan(*ABC, quorum=2)
    play.reply(0)
    refusing(play, "b", there=("a", "c"), said=said)
    assert play.of(Finish) == []  # c may still answer
    refusing(play, "b", "c", there=("a",), said=said)
    error = play.one(Finish).error
    assert error.startswith("round 1, phase train: too many sites have refused to take part: expected 2, 1 of 3 may")
    assert "(2 of 3 sites: b, c: " in error


def test_the_answer_of_a_site_that_refuses_later_still_counts() -> None:
    play = Play(given(quorum=2))
    play.start(*ABC)
    play.plan(*ABC, quorum=2)
    play.reply(1)
    refusing(play, "b", "c", there=("a",))
    assert play.of(Finish) == []
    play.reply(0)
    assert [folded.site for folded in play.one(Reduce).folded] == ["a", "b"]


@pytest.mark.parametrize("before", [(0,), (0, 1)])
def test_an_answer_counts_though_who_gave_it_is_no_member_any_more(before: tuple[int, ...]) -> None:
    play = Play(given(quorum=2))
    play.start(*ABC)
    play.plan(*ABC, quorum=2)
    for ordinal in before:
        play.reply(ordinal)
    refusing(play, "c", there=("b",), enrolled=2)  # a was revoked, and is not counted
    assert play.of(Finish) == []
    if before == (0,):
        play.reply(1)
    assert [folded.site for folded in play.one(Reduce).folded] == ["a", "b"]


def test_a_run_that_nobody_could_plan_for_ends_then() -> None:
    play = Play(given(quorum=2, deadline_s=1e9))
    play.start("a", "b")
    refusing(play, "b", "c", there=("a",))
    play(PlanFailed(1, 0, "expected at least 2 sites", play.now))
    assert play.one(Finish).error.endswith("(2 of 3 sites: b, c: not listed); expected at least 2 sites")


@pytest.mark.parametrize("evaluated", [False, True])
def test_a_run_whose_steps_need_one_site_waits_for_it_though_fewer_than_a_quorum_are_left(evaluated: bool) -> None:
    """Where a step closes with the first updates, a quorum is no number of sites that must answer."""
    play = Play(given(quorum=2, deadline_s=9.0))
    play.start("a", "b")
    own: dict[str, Any] = {"num_phases": 2, "order": "receipt"}
    play.plan("a", "b", count=1, quorum=1, keep_in_flight=True, **own)
    play.reply(1)
    play.reduced()
    if evaluated:
        play.plan("b", quorum=1, phase="evaluate", **own)
        play.reply(2)
        play.reduced()
    refusing(play, "b", "c")  # and a is away, or at work
    play(PlanFailed(play.state.round, play.state.phase_index, "expected a site that is free", play.now))
    assert play.of(Finish) == []
    assert play.state.stage == "starved"


def test_replies_that_may_come_twice_from_one_site_are_waited_for() -> None:
    play = Play(given(quorum=2))
    play.start(*ABC)
    play.plan(*ABC, quorum=2, keep_in_flight=True)
    refusing(play, "b", "c", there=("a",))
    assert play.of(Finish) == []
