"""What sites have said of a job, where queues bring it late, twice and in any order."""

import itertools

import pytest

from hanse.backends.memory import MemoryLedger
from hanse.serverless.presence import LEASE_MS, LEAVING_MS, decided, heard, presence

SAID = (("hold", 10), ("accept", 20), ("accept", 30))
"""Held, then accepted by the owner, then said once more by an agent that was started again."""


async def test_the_last_decision_counts_in_whatever_order_they_come() -> None:
    for order in itertools.product(range(len(SAID)), repeat=4):
        if set(order) != set(range(len(SAID))):
            continue
        ledger = MemoryLedger()
        for number in order:
            decision, at_ms = SAID[number]
            await decided(ledger, "j", "bergen", decision, "", 1000, at_ms=at_ms)
        assert (await presence(ledger, "j", ["bergen"], 0, 1000)).there == ("bergen",), order


@pytest.mark.parametrize("at_ms", [0, 1001, 9999])
async def test_a_site_without_a_clock_or_with_a_fast_one_may_change_its_mind(at_ms: int) -> None:
    ledger = MemoryLedger()
    assert await decided(ledger, "j", "bergen", "accept", "", 1000, at_ms=at_ms)
    assert not await decided(ledger, "j", "bergen", "refuse", "enough", 1100, at_ms=at_ms and 1050)
    found = await presence(ledger, "j", ["bergen"], 0, 1100)
    assert (found.there, found.unwilling) == ((), {"bergen": "refuse: enough"})


async def test_a_sign_of_life_counts_once() -> None:
    ledger = MemoryLedger()
    await decided(ledger, "j", "bergen", "accept", "", 1000, at_ms=900)
    await heard(ledger, "j", "bergen", 2000, at_ms=1900)
    late = 2000 + LEASE_MS
    for at_ms in (1900, 1500):  # once more, by a queue, when the site is dead
        assert not await heard(ledger, "j", "bergen", late, at_ms=at_ms)
    assert (await presence(ledger, "j", ["bergen"], 0, late)).there == ()
    await decided(ledger, "j", "bergen", "accept", "", late, at_ms=950)  # a decision brings no beat of before back
    assert not await heard(ledger, "j", "bergen", late + LEASE_MS, at_ms=1900)
    assert await heard(ledger, "j", "bergen", late + LEASE_MS, at_ms=late + LEASE_MS)
    assert (await presence(ledger, "j", ["bergen"], 0, late + LEASE_MS)).there == ("bergen",)


async def test_a_site_that_says_that_it_goes_is_there_for_a_moment_more() -> None:
    ledger = MemoryLedger()
    await decided(ledger, "j", "bergen", "accept", "", 1000, at_ms=900)
    assert await heard(ledger, "j", "bergen", 2000, at_ms=1900, leaves=True)
    found = await presence(ledger, "j", ["bergen"], 0, 2000)
    assert (found.there, found.changes_ms) == (("bergen",), 2000 + LEAVING_MS)
    assert (await presence(ledger, "j", ["bergen"], 0, 2000 + LEAVING_MS)).there == ()
    assert not await heard(ledger, "j", "bergen", 2500, at_ms=1900, leaves=True), "the same word once more"
    await decided(ledger, "j", "bergen", "accept", "", 3000, at_ms=2900)  # it is back
    assert (await presence(ledger, "j", ["bergen"], 0, 2999 + LEASE_MS)).there == ("bergen",)


async def test_a_last_word_that_comes_behind_a_new_decision_is_of_before() -> None:
    ledger = MemoryLedger()
    await decided(ledger, "j", "bergen", "accept", "", 3000, at_ms=2900)  # of the machine that came in its place
    assert not await heard(ledger, "j", "bergen", 3100, at_ms=1900, leaves=True)
    assert (await presence(ledger, "j", ["bergen"], 0, 2999 + LEASE_MS)).there == ("bergen",)
