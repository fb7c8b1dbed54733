"""Seeded random schedules against visits: `HANSE_EXPLORER_SEED=N pytest tests/faults/explorer -k one_visit -s`."""

import os
from collections import Counter

import pytest

from tests.faults.explorer.case import draw
from tests.faults.explorer.visits import explore_visits
from tests.faults.explorer.world import Violation, unswept

SCHEDULES = int(os.environ.get("HANSE_EXPLORER_SCHEDULES", "5000")) // 10
SEED = os.environ.get("HANSE_EXPLORER_SEED")


@pytest.mark.skipif(SEED is None, reason="plays the schedule in HANSE_EXPLORER_SEED")
def test_one_visit_schedule() -> None:
    case = draw(int(SEED or 0))
    print(case)
    print(explore_visits(case))


@pytest.mark.long
def test_schedules_of_visits() -> None:
    totals: Counter[str] = Counter()
    with unswept() as sweep:
        for seed in range(SCHEDULES):
            try:
                outcome = explore_visits(draw(seed))
            except Violation as violation:
                raise AssertionError(f"HANSE_EXPLORER_SEED={seed}: {violation}") from violation
            totals[outcome.status] += 1
            for name in ("folded", "late", "refused", "failed"):
                totals[name] += getattr(outcome, name)
            if seed % 100 == 0:
                sweep()
    for name in ("finished", "failed", "folded", "late", "refused"):
        assert totals[name] > SCHEDULES // 100, (name, totals)
