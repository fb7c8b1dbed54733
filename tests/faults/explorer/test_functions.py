"""Seeded schedules against the functions: `HANSE_EXPLORER_SEED=N pytest tests/faults/explorer -k one_function -s`."""

import os
from collections import Counter

import pytest

from tests.faults.explorer.functions import HOSTILITIES, Violation, draw, explore
from tests.faults.explorer.world import unswept

SCHEDULES = 200
SEED = os.environ.get("HANSE_EXPLORER_SEED")


@pytest.mark.skipif(SEED is None, reason="plays the schedule in HANSE_EXPLORER_SEED")
def test_one_function_schedule() -> None:
    case = draw(int(SEED or 0))
    print(case)
    print(explore(case))


@pytest.mark.slow
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
