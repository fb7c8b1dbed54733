"""The state machine waits, and is called: whichever comes first, it does not wait for too long."""

import json
from typing import Any, cast

import pytest

from hanse.backends.memory import MemoryLedger
from hanse.core.errors import UnavailableError
from hanse.serverless import looking
from hanse.serverless.contract import Instruction
from hanse.serverless.place import Place

JOB = "j1"


class Machine:
    def __init__(self) -> None:
        self.called: list[tuple[str, str, int]] = []
        self.gone: set[str] = set()

    async def start(self, name: str, input: Any) -> None:
        raise AssertionError("nobody starts")

    async def succeed(self, token: str, output: Instruction) -> bool:
        if token in self.gone:
            return False
        self.gone.add(token)
        self.called.append((token, output["kind"], output["turns"]))
        return True


class Somewhere:
    """The part of a place that waiting uses."""

    def __init__(self) -> None:
        self.ledger = MemoryLedger()
        self.machine = Machine()
        self.time_ms = 0

    def now_ms(self) -> int:
        return self.time_ms


def instruction(kind: str, until_ms: int = 0, turns: int = 0) -> Instruction:
    about = {"job": JOB, "component": "main", "turns": turns, "generation": 0, "kind": kind}
    return cast(Instruction, about | ({"until_ms": until_ms} if kind == "Wait" else {}))


@pytest.fixture
def somewhere() -> Any:
    return Somewhere()


async def wait(place: Any, token: str, until_ms: int, turns: int = 1) -> None:
    await looking.wait(cast(Place, place), token, instruction("Wait", until_ms, turns))


async def call(place: Any, said: Instruction) -> None:
    await looking._call(cast(Place, place), said)


async def test_who_waits_is_called_once(somewhere: Any) -> None:
    await wait(somewhere, "t1", 9000, turns=4)
    await call(somewhere, instruction("Finish"))
    await call(somewhere, instruction("Finish"))
    assert somewhere.machine.called == [("t1", "Finish", 5)]


async def test_who_is_called_before_it_waits_looks_again(somewhere: Any) -> None:
    await call(somewhere, instruction("Evaluate"))
    await wait(somewhere, "t1", 9000)
    assert somewhere.machine.called == [("t1", "Again", 1)]
    await wait(somewhere, "t2", 9000)
    assert len(somewhere.machine.called) == 1  # it has looked


async def test_between_two_waits_a_call_is_kept(somewhere: Any) -> None:
    await wait(somewhere, "t1", 9000)
    await call(somewhere, instruction("Evaluate"))
    await call(somewhere, instruction("Wait", 30_000))  # somebody looked earlier, and says it later
    await call(somewhere, instruction("Reduce"))
    await wait(somewhere, "t2", 30_000)
    assert [token for token, _, _ in somewhere.machine.called] == ["t1", "t2"]


async def test_only_an_earlier_time_is_news(somewhere: Any) -> None:
    await wait(somewhere, "t1", 9000)
    await call(somewhere, instruction("Wait", 9100))
    await call(somewhere, instruction("Wait", 8800))  # about the same
    assert somewhere.machine.called == []
    await call(somewhere, instruction("Wait", 5000))
    assert somewhere.machine.called == [("t1", "Wait", 2)]


@pytest.mark.parametrize(("noted", "told", "calls"), [(5000, 9000, 1), (9000, 5000, 0), (9000, 9000, 0)])
async def test_who_is_about_to_wait_too_long_looks_again(somewhere: Any, noted: int, told: int, calls: int) -> None:
    await call(somewhere, instruction("Wait", noted))
    await wait(somewhere, "t1", told)
    assert len(somewhere.machine.called) == calls


async def test_an_old_token_is_replaced(somewhere: Any) -> None:
    await wait(somewhere, "t1", 9000)
    await wait(somewhere, "t2", 9500)  # the first wait has timed out
    await call(somewhere, instruction("Finish"))
    assert [token for token, _, _ in somewhere.machine.called] == ["t2"]
    row, _ = await somewhere.ledger.get(f"wait/{JOB}")
    assert "t2" not in json.loads(row)["token"]


async def test_a_look_while_the_wait_has_just_timed_out_is_noted(somewhere: Any) -> None:
    await wait(somewhere, "t1", 9000)
    somewhere.time_ms = 9500  # t1 has timed out; the state machine is on its way to a longer wait
    somewhere.machine.gone.add("t1")
    await call(somewhere, instruction("Wait", 30_000))
    await wait(somewhere, "t2", 86_400_000)
    assert somewhere.machine.called == [("t2", "Again", 1)]


async def test_of_two_calls_with_one_token_the_shorter_one_counts(somewhere: Any) -> None:
    await wait(somewhere, "t1", 86_400_000)
    somewhere.machine.gone.add("t1")  # told to wait until 60,000 by a function that died before it noted that
    await call(somewhere, instruction("Wait", 30_000))
    await wait(somewhere, "t2", 60_000)
    assert somewhere.machine.called == [("t2", "Again", 1)]


async def test_a_timer_that_dies_before_it_calls_is_made_up_for(
    somewhere: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await call(somewhere, instruction("Wait", 5000))

    async def die(token: str, output: Instruction) -> bool:
        raise UnavailableError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(somewhere.machine, "succeed", die)
        with pytest.raises(UnavailableError):
            await wait(somewhere, "t1", 9000)
    await wait(somewhere, "t2", 9000)
    assert somewhere.machine.called == [("t2", "Again", 1)]
