"""The round machine: what a run does that is taken up from its record, and what the record is like."""

import json

import pytest

from hanse.core.errors import CodecError
from hanse.rounds import machine, run_state
from hanse.rounds.events import (
    Evaluate,
    Finish,
    Plan,
    Reduce,
    Send,
    SetTimer,
)
from tests.unit.rounds.play import ABC, at, fedbuff, opened

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
