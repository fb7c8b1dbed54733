"""Seeded schedules of roles without a server: `HANSE_EXPLORER_SEED=N pytest tests/faults/explorer -k one_roles`."""

import os
from collections import Counter

import pytest

from tests.faults.explorer.function_cases import Violation
from tests.faults.explorer.roles import draw, explore
from tests.faults.explorer.world import unswept

SCHEDULES = 25
SEED = os.environ.get("HANSE_EXPLORER_SEED")


@pytest.mark.skipif(SEED is None, reason="plays the schedule in HANSE_EXPLORER_SEED")
def test_one_roles_schedule() -> None:
    case = draw(int(SEED or 0))
    print(case)
    print(explore(case))


@pytest.mark.slow
def test_schedules_of_roles() -> None:
    totals: Counter[str] = Counter()
    with unswept() as sweep:
        for seed in range(SCHEDULES):
            case = draw(seed)
            try:
                totals += explore(case)
            except Violation as violation:
                raise AssertionError(f"HANSE_EXPLORER_SEED={seed}: {violation}") from violation
            totals["least"] += case.sites
            if seed % 10 == 0:
                sweep()
    assert totals["killed"] > SCHEDULES
    assert totals["sessions"] > totals["least"]  # some were begun anew
