"""What people are told of a job, by functions that overlap."""

import dataclasses
from typing import Any

import pytest

from hanse.core.errors import NotFoundError
from hanse.rounds import machine
from hanse.rounds.driver.visit import Outcome
from hanse.serverless import functions, looking
from hanse.serverless.contract import first_input
from hanse.serverless.removing import remove
from tests.faults.explorer.enrolled import JOB
from tests.unit.serverless.test_intake import a_place, submit


async def test_the_end_is_not_overwritten_by_who_was_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    place = await a_place()
    assert await submit(place, JOB)
    row = await looking.row_of(place, JOB)
    request = looking.JobRequest.from_json(row["request"])
    running = dataclasses.replace(machine.begin(JOB, "main", request.spec, None), status="running", round=1)
    finished = dataclasses.replace(running, status="finished")
    looks: list[str] = []

    async def visit(*_: Any, **__: Any) -> Outcome:
        looks.append("visit")
        if len(looks) > 1:
            return Outcome("finished", None, finished, False, {})
        await looking.look(place, JOB, first_input(JOB, "main"))  # meanwhile, in another function
        return Outcome("running", place.now_ms() + 9000, running, True, {})

    monkeypatch.setattr(looking, "visit", visit)
    instruction, _ = await looking.look(place, JOB, first_input(JOB, "main"))
    assert (await place.documents.about(JOB))["status"] == "finished"
    assert instruction["kind"] == "Finish"


async def test_what_is_told_while_the_job_is_removed_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    place = await a_place()
    assert await submit(place, JOB)
    row = await looking.row_of(place, JOB)
    request = looking.JobRequest.from_json(row["request"])
    finished = dataclasses.replace(machine.begin(JOB, "main", request.spec, None), status="finished", round=1)

    async def visit(*_: Any, **__: Any) -> Outcome:
        if not await looking.is_over(place, JOB):  # meanwhile another function ends it, and another one removes it
            await place.ledger.create(f"jobend/{JOB}", b"{}")
            await remove(place, JOB, "anna")
        return Outcome("finished", None, finished, True, {})

    monkeypatch.setattr(looking, "visit", visit)
    await looking.look(place, JOB, first_input(JOB, "main"))
    assert await place.documents.jobs() == []


async def test_a_state_machine_that_comes_after_the_removal_ends_well() -> None:
    place = await a_place()
    assert await submit(place, JOB)
    await place.ledger.create(f"jobend/{JOB}", b"{}")
    await remove(place, JOB, "anna")
    assert (await functions.step(place, {**first_input(JOB, "main")}))["kind"] == "Finish"
    with pytest.raises(NotFoundError):
        await functions.step(place, {**first_input("j2", "main")})
