"""Seeded random schedules against the real driver: loss, repetition, delay, dropout, full disks, kills, takeovers.

`HANSE_EXPLORER_SEED=N pytest tests/faults/explorer -k one_schedule -s` plays one schedule again;
`HANSE_EXPLORER_SCHEDULES=N` plays more or fewer of them.
"""

import os
from collections import Counter

import pytest

from tests.faults.explorer.case import draw
from tests.faults.explorer.world import Violation, explore, undisturbed, unswept

SCHEDULES = int(os.environ.get("HANSE_EXPLORER_SCHEDULES", "5000"))
SEED = os.environ.get("HANSE_EXPLORER_SEED")
BATCHES = 10


@pytest.mark.skipif(SEED is None, reason="plays the schedule in HANSE_EXPLORER_SEED")
def test_one_schedule() -> None:
    case = draw(int(SEED or 0))
    print(case)
    print(explore(case))


@pytest.mark.parametrize("seed", [13647, 29601])
def test_a_row_that_is_written_while_the_run_ends_needs_no_fate(seed: int) -> None:
    """Its driver is killed before it can tell the site, which has been released and keeps nothing."""
    assert explore(draw(seed)).status in ("finished", "failed")


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(BATCHES))
def test_schedules(batch: int) -> None:
    share = SCHEDULES // BATCHES
    totals = _play(range(batch * share, (batch + 1) * share))
    # A schedule that never comes to a case proves nothing about it.
    for name in ("finished", "failed", "folded", "late", "refused", "taken_over", "lives"):
        assert totals[name] > share // 100, (name, totals)


def _play(seeds: range) -> Counter[str]:
    totals: Counter[str] = Counter()
    with unswept() as sweep:
        for seed in seeds:
            try:
                outcome = explore(draw(seed))
            except Violation as violation:
                raise AssertionError(f"HANSE_EXPLORER_SEED={seed}: {violation}") from violation
            totals[outcome.status] += 1
            for name in ("folded", "late", "refused", "failed", "taken_over"):
                totals[name] += getattr(outcome, name)
            totals["lives"] += outcome.lives - 1
            if seed % 100 == 0:
                sweep()
    return totals


def test_a_schedule_repeats() -> None:
    assert [explore(draw(seed)) for seed in range(40, 60)] == [explore(draw(seed)) for seed in range(40, 60)]


def test_the_calm_run_folds_everybody_in_place() -> None:
    case = next(case for case in map(draw, range(100)) if case.exact and case.num_sites == 5)
    outcome = undisturbed(case.calm())
    assert outcome.status == "finished"
    assert all(folded == case.sites for _, _, folded in outcome.rounds)
