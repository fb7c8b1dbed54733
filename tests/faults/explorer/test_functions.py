"""Seeded schedules against the functions: `HANSE_EXPLORER_SEED=N pytest tests/faults/explorer -k one_function -s`."""

import asyncio
import base64
import os
from collections import Counter
from typing import Any

import pytest

from tests.faults.explorer.function_cases import HOSTILITIES, Case, Violation, draw
from tests.faults.explorer.functions import World, explore
from tests.faults.explorer.world import unswept

SCHEDULES = 200
SEED = os.environ.get("HANSE_EXPLORER_SEED")


@pytest.mark.skipif(SEED is None, reason="plays the schedule in HANSE_EXPLORER_SEED")
def test_one_function_schedule() -> None:
    case = draw(int(SEED or 0))
    print(case)
    print(explore(case))


@pytest.mark.long
def test_schedules_of_functions() -> None:
    totals: Counter[str] = Counter()
    with unswept() as sweep:
        for seed in range(SCHEDULES):
            case = draw(seed)
            try:
                outcome = explore(case)
            except Violation as violation:
                raise AssertionError(f"HANSE_EXPLORER_SEED={seed}: {violation}") from violation
            totals["killed"] += outcome.killed
            totals["refusals"] += outcome.refusals
            totals[f"hostile {case.hostile}"] += 1
            if seed % 20 == 0:
                sweep()
    assert totals["killed"] > 2 * SCHEDULES
    assert all(totals[f"hostile {name}"] for name in HOSTILITIES)


CLOSERS = 10


class Race(World):
    """The last answer's row makes ten functions look at once, and all of them have decided before any writes."""

    def __init__(self) -> None:
        super().__init__(Case(seed=0, sites=3, rounds=1, watched=True))
        self.replies = 0
        self.arrived: list[bool] = []
        self.all_there = asyncio.Event()
        self._ledger = self.ledger
        self.ledger = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def compare_and_set(self, key: str, value: bytes, version: int) -> bool:
        if self.replies < 3 or not key.startswith("run/") or len(self.arrived) >= CLOSERS:
            return await self._ledger.compare_and_set(key, value, version)
        place = len(self.arrived)
        self.arrived.append(False)
        if len(self.arrived) == CLOSERS:
            self.all_there.set()
        await self.all_there.wait()
        self.arrived[place] = await self._ledger.compare_and_set(key, value, version)
        return self.arrived[place]

    async def stream(self, key: str) -> None:
        self.replies += key.startswith("reply/")
        if self.replies == 0:  # a decision
            await super().stream(key)
        elif self.replies == 3:
            encoded = base64.b64encode(key.encode()).decode()
            record = {"eventName": "INSERT", "dynamodb": {"Keys": {"k": {"B": encoded}}, "SequenceNumber": "1"}}
            for _ in range(CLOSERS):
                self.loop.create_task(self.invoke("step", {"Records": [record]}))


def test_of_ten_functions_that_close_a_round_at_once_one_wins() -> None:
    race = Race()
    found = race.play()
    assert len(race.arrived) == CLOSERS
    assert sum(race.arrived) == 1
    calm = World(Case(seed=0, sites=3, rounds=1)).play()
    assert (found.status, found.model, found.rounds) == ("finished", calm.model, calm.rounds)
