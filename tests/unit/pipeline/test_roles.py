"""The machine of roles: events in, instructions out; and every order of losses, answers and restarts."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.channels.protocol import Guarantee, Message, Protocol
from hanse.channels.spec import RoleSpec
from hanse.core.errors import CodecError
from hanse.pipeline import roles as machine
from hanse.pipeline.roles import (
    ENDED,
    SETTLE_MS,
    Close,
    Finish,
    Open,
    Replied,
    Resumed,
    RolesState,
    SetTimer,
    SitesChanged,
    Stopped,
    TimerFired,
    step,
)

PROTOCOL = Protocol(
    "pair", ("guest", "host"), (Message("m", "guest", "host", "uint8", ()),), Guarantee("none", 0, 0, 0, ()), ()
)
SPEC = RoleSpec({"guest": "bank", "host": "shop"}, PROTOCOL, away_s=60, retries=2)
BOTH = frozenset({"bank", "shop"})


def sites(*ready: str, now_ms: int = 0, **refused: str) -> SitesChanged:
    return SitesChanged(frozenset(ready), refused, now_ms)


def replied(role: str, kind: str = "", error: str = "", attempt: int = 1, now_ms: int = 0) -> Replied:
    return Replied(attempt, role, kind, error, {"common": 1}, now_ms)


def play(*events: Any, state: RolesState | None = None) -> tuple[RolesState, list[Any]]:
    """Instructions without the session's own deadline, which is a test of its own below."""
    state = RolesState(SPEC) if state is None else state
    found: list[Any] = []
    for event in events:
        state, instructions = step(state, event)
        assert machine.decode(machine.encode(state)) == state
        found += [each for each in instructions if each != SetTimer(deadline_of(state))]
    return state, found


def deadline_of(state: RolesState) -> int:
    return state.began_ms + int(SPEC.deadline_s * 1000) + SETTLE_MS


def test_a_session_that_nobody_ends_fails_by_name_at_its_deadline() -> None:
    state, instructions = step(RolesState(SPEC, ready=BOTH), sites(*BOTH, now_ms=5))
    assert instructions == (SetTimer(deadline_of(state)), Open(1))
    state, _ = play(replied("guest"), TimerFired(deadline_of(state) - 1), state=state)
    assert state.status == "running"
    state, found = play(TimerFired(deadline_of(state)), state=state)
    assert state.error == "host shop has not answered within the deadline of 3600 s"
    assert (state.status, found) == ("failed", [Close(1), Finish()])


def test_all_accept_before_any_starts() -> None:
    state, found = play(sites("bank"), sites(), sites("shop"))
    assert (state.status, found) == ("waiting", [])
    state, found = play(sites("bank"), sites("bank", "shop"))
    assert (state.status, state.attempt, found) == ("running", 1, [Open(1)])


def test_a_refusal_fails_by_name() -> None:
    state, found = play(sites("bank", shop="apps: not on the list"))
    assert state.error == "host shop has refused the job: apps: not on the list"
    assert found == [Finish()]
    own = replace(PROTOCOL, roles=("bank", "shop"), messages=(Message("m", "bank", "shop", "uint8", ()),))
    peers = replace(SPEC, roles={"bank": "bank", "shop": "shop"}, protocol=own)  # every role is called like its site
    state, _ = step(RolesState(peers), sites("bank", shop="roles: not with us"))
    assert state.error == "shop has refused the job: roles: not with us"


def test_all_answers_finish_it() -> None:
    state, found = play(sites(*BOTH), replied("guest"), sites("shop"), replied("host"))
    assert (state.status, found) == ("finished", [Open(1), Close(1), Finish()])  # the guest may leave when it is done
    assert set(state.metrics) == {"guest", "host"}


def test_a_program_s_failure_is_named_though_the_other_s_answer_came_first() -> None:
    """The guest sees only that the host has stopped."""
    state, _ = play(
        sites(*BOTH), replied("guest", "lost", "host shop stopped"), replied("host", "raised", "ValueError")
    )
    assert (state.status, state.error) == ("failed", "host shop: ValueError")


def test_a_lost_site_pauses_and_resumes_with_a_new_session() -> None:
    state, found = play(sites(*BOTH), sites("bank", now_ms=5))
    assert (state.status, found[1:]) == ("settling", [SetTimer(5 + SETTLE_MS)])
    state, found = play(TimerFired(5 + SETTLE_MS), state=state)
    assert (state.status, found) == ("paused", [Close(1), SetTimer(5 + SETTLE_MS + 60_000)])
    state, found = play(replied("guest"), replied("host", "raised", "x"), sites(*BOTH, now_ms=9000), state=state)
    assert (state.status, state.attempt, state.metrics, found) == ("running", 2, {}, [Open(2)])


def test_one_that_stays_away_is_named() -> None:
    state, _ = play(sites(*BOTH), sites("bank"), TimerFired(SETTLE_MS), TimerFired(SETTLE_MS + 59_999))
    assert state.status == "paused"
    state, found = play(TimerFired(SETTLE_MS + 60_000), state=state)
    assert state.error == "host shop has been away for 60 s; the last session: host shop was lost"
    assert found[-1] == Finish()


def test_optional_roles_are_awaited_and_then_left_out() -> None:
    spec = replace(SPEC, optional=("host",))
    state, found = play(sites("bank", now_ms=7), sites("bank", now_ms=9), state=RolesState(spec))
    assert (state.status, found) == ("waiting", [SetTimer(60_007)])
    state, found = play(TimerFired(60_006), TimerFired(60_007), state=state)
    assert (state.status, state.playing, found) == ("running", {"guest": "bank"}, [Open(1)])
    for kind in ("", "app", "lost"):  # what one says that was left out changes nothing
        assert play(replied("host", kind), state=state)[0] == state
    assert play(replied("host"), replied("guest"), state=state)[0].status == "finished"
    # Lost in the middle of a session it is awaited again, and taken back when it is there.
    state, _ = play(sites(*BOTH), sites("bank", now_ms=5), TimerFired(5 + SETTLE_MS), state=RolesState(spec))
    assert play(sites(*BOTH, now_ms=9000), state=state)[0].playing == dict(spec.roles)
    state, found = play(TimerFired(5 + SETTLE_MS + 60_000), state=state)
    assert (state.status, state.attempt, set(state.absent)) == ("running", 2, {"host"})
    # The guest is not optional, and a server that starts again asks anew who is there.
    state, found = play(sites("shop"), sites("bank"), Resumed(5), TimerFired(10**9), state=RolesState(spec))
    assert (state.status, state.until_ms) == ("waiting", 0)


def test_sessions_are_counted() -> None:
    state = play(sites(*BOTH))[0]
    for attempt in (1, 2, 3):
        assert state.status == "running"
        state, _ = play(replied("host", "lost", "no word", attempt), TimerFired(SETTLE_MS), state=state)
    assert (state.status, state.error) == ("failed", "3 sessions broke; the last: host shop: no word")


@pytest.mark.parametrize("events", [(), (sites("bank"),)])
def test_a_server_that_starts_again_never_uses_a_session_twice(events: tuple[Any, ...]) -> None:
    state, found = play(sites(*BOTH), *events, Resumed(100), sites(*BOTH, now_ms=200))
    assert (state.status, state.attempt, found[-1]) == ("running", 2, Open(2))


def test_a_person_ends_it() -> None:
    state, found = play(sites(*BOTH), Stopped("cancelled", "cancelled by anna"), sites(), replied("guest"))
    assert (state.status, found) == ("cancelled", [Open(1), Close(1), Finish()])


def test_states_are_read_as_something_received() -> None:
    for content in (b"", b"[]", b'{"v": 2}', b'{"v": 1}'):
        with pytest.raises(CodecError):
            machine.decode(content)


EVENTS = st.one_of(
    st.builds(
        lambda ready, now: SitesChanged(ready, {}, now),
        st.sampled_from([BOTH, frozenset({"bank"}), frozenset()]),
        st.integers(0, 10**6),
    ),
    st.builds(
        Replied,
        st.integers(0, 4),
        st.sampled_from(["guest", "host"]),
        st.sampled_from(["", "lost", "killed"]),
        st.just("x"),
        st.just({}),
        st.integers(0, 10**6),
    ),
    st.builds(TimerFired, st.integers(0, 10**6)),
    st.builds(Resumed, st.integers(0, 10**6)),
)


@settings(max_examples=300)
@given(st.lists(EVENTS, max_size=25))
def test_whatever_happens(events: list[Any]) -> None:
    """Sessions count up and are opened once; what is open is closed before the next and at the end; it always ends."""
    state = RolesState(replace(SPEC, retries=3))
    opened: list[int] = []
    is_open = False
    for event in events:
        before = state
        state, instructions = step(state, event)
        for instruction in instructions:
            if isinstance(instruction, Open):
                assert not is_open
                assert set(state.ready) >= BOTH
                assert instruction.attempt == len(opened) + 1
                opened.append(instruction.attempt)
                is_open = True
            elif isinstance(instruction, Close):
                assert instruction.attempt == before.attempt
                is_open = False
        assert state.status not in ENDED or not is_open
        assert (state.status in ENDED) == (before.status in ENDED or Finish() in instructions)
        assert state.status != "finished" or set(state.metrics) == {"guest", "host"}
    state, _ = step(state, SitesChanged(BOTH, {}, 2 * 10**6))
    for turn in range(10):  # everybody is there, and every role answers
        state, _ = step(state, TimerFired(3 * 10**6 + turn))
        for role in ("guest", "host"):
            state, _ = step(state, Replied(state.attempt, role, "", "", {}, 3 * 10**6 + turn))
    assert state.status in ENDED


def test_who_has_answered_may_be_started_again() -> None:
    state, found = play(sites(*BOTH), replied("guest"), replied("guest", "lost", "its agent has started again"))
    assert (state.status, found) == ("running", [Open(1)])
    assert play(replied("host"), state=state)[0].status == "finished"


@settings(max_examples=200)
@given(st.lists(EVENTS, max_size=25))
def test_a_state_alone_says_what_has_to_have_been_done(events: list[Any]) -> None:
    """Whoever performs what it asks for has the same sessions open and timers set as who performed every step."""
    state, is_open, timer = RolesState(replace(SPEC, retries=3)), set[int](), 0
    for event in events:
        state, instructions = step(state, event)
        for instruction in instructions:
            match instruction:
                case Open(attempt):
                    is_open.add(attempt)
                case Close(attempt):
                    is_open.discard(attempt)
                case SetTimer(at_ms):
                    timer = at_ms
        due = machine.standing(state)
        left = {each.attempt for each in due if isinstance(each, Open)}
        closed = {each.attempt for each in due if isinstance(each, Close)}
        assert left == (is_open if state.status == "running" else set())
        assert not closed & is_open
        assert state.status == "settling" or closed | left >= {state.attempt} - {0}
        assert (Finish() in due) == (state.status in ENDED)
        assert {each.at_ms for each in due if isinstance(each, SetTimer)} == ({timer} if state.until_ms else set())
