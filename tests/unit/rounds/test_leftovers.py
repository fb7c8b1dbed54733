from hanse.core.ids import model_scope
from hanse.rounds.driver import leftovers
from hanse.rounds.driver.leftovers import Due, Leftovers
from hanse.rounds.run_state import RunState
from tests.unit.rounds.play import given


def state(**facts: object) -> RunState:
    made = RunState("job", "main", given(rounds=3))
    for name, value in facts.items():
        setattr(made, name, value)
    return made


def test_rows_stay_while_one_of_their_replies_has_no_fate() -> None:
    left = Leftovers()
    left.may_upload(1, ["a", "b"])
    left.replied(0, 1)
    left.replied(1, 1)
    left.settled([0])
    assert left.due(state(), 1, set()) == Due((), (1,), ())
    left.settled([1])
    assert left.due(state(), 1, set()) == Due((1,), (1,), ())


def test_small_things_wait_to_go_together() -> None:
    left = Leftovers()
    for round_ in range(1, leftovers.ROUNDS_TO_CLEAN + 1):
        left.replied(round_, round_)
        left.settled([round_])
        due = left.due(state(), round_, set())
    assert due == Due(tuple(range(1, leftovers.ROUNDS_TO_CLEAN + 1)), (), ())
    left.gone(due)
    assert left.rows == set()


def test_the_last_two_models_and_those_that_are_read_stay() -> None:
    scopes = [model_scope("job", "main", n) for n in range(6)]
    left = Leftovers(list(scopes))
    left.may_upload(1)
    due = left.due(state(), 1, {scopes[1]})
    assert due is not None
    assert due.models == (scopes[0], scopes[2], scopes[3])
    left.readers[scopes[0]] = {"a"}
    left.gone(due)
    assert left.models == [scopes[1], scopes[4], scopes[5]]
    assert not left.readers


def test_at_the_end_an_unnamed_model_goes_too() -> None:
    left = Leftovers([model_scope("job", "main", 1)])
    here = model_scope("job", "main", 2)
    assert left.due_at_the_end(state(), set(), here) == Due(None, (), (here,))
    assert left.due_at_the_end(state(), set(), model_scope("job", "main", 1)) == Due(None, (), ())
