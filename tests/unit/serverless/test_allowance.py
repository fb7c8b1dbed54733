"""How much a member may send to the server's queue: rules on a clock, functions side by side, members that flood."""

import dataclasses
import json

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from hanse.backends.memory import MemoryLedger
from hanse.core.codec import canonical_json
from hanse.core.errors import PolicyError, UnavailableError
from hanse.core.ids import job_id_of
from hanse.serverless.allowance import AHEAD_MS, COST_MS, LEASE, REST_MS, UNIT_BYTES, Allowances, cost
from hanse.serverless.intake import take
from hanse.serverless.open_jobs import UPLOADED_MS, take_place
from hanse.serverless.place import Place
from tests.faults.explorer.enrolled import JOB, member, signed
from tests.unit.serverless.test_intake import a_place, submission, submit

START = 1_700_000_000_000
BURST = AHEAD_MS // COST_MS


async def taken(allowances: list[Allowances], ledger: MemoryLedger, sizes: list[int], at: list[int]) -> list[bool]:
    """Which of these messages are heeded; each comes to the next function."""
    heeded: list[bool] = []
    for number, (size, now_ms) in enumerate(zip(sizes, at, strict=True)):
        try:
            await allowances[number % len(allowances)].spend(ledger, "site/a", size, now_ms)
            heeded.append(True)
        except PolicyError:
            heeded.append(False)
    return heeded


@given(
    functions=st.integers(1, 4),
    steps=st.lists(st.tuples(st.integers(0, 3 * UNIT_BYTES), st.integers(0, 400)), min_size=1, max_size=800),
)
async def test_nobody_is_heeded_more_than_a_bucket_that_leaks_lets_through(
    functions: int, steps: list[tuple[int, int]]
) -> None:
    """An independent bound: in no stretch of time more than the burst, the rate, and a lease for each function."""
    at, now = [], START
    for _, gap in steps:
        now += gap
        at.append(now)
    sizes = [size for size, _ in steps]
    heeded = await taken([Allowances() for _ in range(functions)], MemoryLedger(), sizes, at)
    slack = functions * (LEASE + cost(3 * UNIT_BYTES))
    units = [cost(size) if ok else 0 for size, ok in zip(sizes, heeded, strict=True)]
    for first in range(0, len(units), 97):
        assert sum(units[first:]) <= BURST + (at[-1] - at[first]) / COST_MS + 2 * slack


async def test_who_sends_at_the_rate_is_heeded_for_ever_and_seldom_asks_the_ledger() -> None:
    ledger, count = MemoryLedger(), 3 * BURST
    heeded = await taken([Allowances()], ledger, [0] * count, [START + n * COST_MS for n in range(count)])
    assert all(heeded)
    _, version = await ledger.get("allowance/site/a")
    assert version == count // LEASE
    few = MemoryLedger()
    assert all(await taken([Allowances()], few, [0] * (LEASE - 1), [START] * (LEASE - 1)))
    assert await few.query("") == []


@pytest.mark.parametrize("functions", [1, 5])
async def test_who_floods_is_refused_without_a_call_and_heeded_again_after_a_rest(functions: int) -> None:
    ledger, count = MemoryLedger(), 10 * BURST
    several = [Allowances() for _ in range(functions)]
    heeded = await taken(several, ledger, [0] * count, [START] * count)
    assert BURST - LEASE <= sum(heeded) <= BURST + functions * LEASE
    assert not any(heeded[2 * BURST :])
    _, version = await ledger.get("allowance/site/a")
    assert version <= BURST // LEASE + 2 * functions
    assert all(await taken(several, ledger, [0] * functions, [START + REST_MS] * functions))
    for each in several:
        await each.spend(ledger, "site/b", 0, START)  # nobody else is refused


async def test_a_row_that_others_write_all_the_time_is_looked_at_again_later() -> None:
    class Busy(MemoryLedger):
        async def create(self, key: str, value: bytes) -> bool:
            return False

    allowances, busy = Allowances(), Busy()
    for _ in range(LEASE - 1):
        await allowances.spend(busy, "site/a", 0, START)
    with pytest.raises(UnavailableError, match="written by others"):
        await allowances.spend(busy, "site/a", 0, START)


async def flooded(place: Place, sender: str, kind: str, messages: int) -> list[str]:
    by = member("site" if kind == "beat" else "person", sender)
    body = canonical_json({"v": 1, "jobs": [], "job": JOB})
    with structlog.testing.capture_logs() as lines:
        for number in range(messages):
            await take(place, signed(sender, kind, f"x/{number}", body, by=by))
    return [line["reason"] for line in lines if "messages a second" in line.get("reason", "")]


@pytest.mark.parametrize(("sender", "kind"), [("site-1", "beat"), ("bert", "cancel")])
async def test_a_member_that_floods_the_queue_is_refused_by_name_and_the_others_are_heard(
    sender: str, kind: str
) -> None:
    place = await a_place()
    assert len(await flooded(place, sender, kind, BURST - LEASE)) == 0
    reasons = await flooded(place, sender, kind, 3 * LEASE)
    assert len(reasons) >= LEASE
    assert all(f" {sender}: expected at most" in reason for reason in reasons)
    assert await submit(place, JOB), "anna is heard"


async def test_what_cannot_be_kept_now_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a table that is not reached for a while would leave honest members mute."""
    place = await a_place()

    async def away(*_: object, **__: object) -> None:
        raise UnavailableError("the table is not reached")

    with monkeypatch.context() as patched:
        patched.setattr("hanse.serverless.intake.row_of", away)
        body = canonical_json({"v": 1, "job": JOB})
        for _ in range(BURST + 2 * LEASE):
            with pytest.raises(UnavailableError):
                await take(place, signed("anna", "cancel", "cancel/1", body, by=member("person", "anna")))
    assert await submit(place, JOB)


# ---- open jobs ----


def jobs_of(person: str, count: int) -> list[str]:
    return [job_id_of(f"j{number:015d}", person) for number in range(count)]


async def test_a_person_has_so_many_jobs_open_and_is_told_so() -> None:
    place = dataclasses.replace(await a_place(), open_jobs=2)
    first, second, third = jobs_of("anna", 3)
    asked = [await submission(place, job) for job in (first, second)]
    for each in (*asked, asked[0]):  # a copy takes no place
        assert await take(place, each)
    assert await submit(place, third) == []
    told = await place.documents.about(third)
    assert told["refused"]
    assert "person anna: expected at most 2 jobs that are not over, found 2" in told["error"]
    assert [key for key, _, _ in await place.ledger.query(f"job/{third}")] == []
    assert await submit(place, jobs_of("bert", 1)[0], sender="bert", person="bert"), "another person's count apart"
    await place.ledger.create(f"jobend/{first}", b"{}")
    assert await submit(place, third)


async def test_places_of_uploads_and_of_jobs_that_were_removed_are_free_again() -> None:
    place = dataclasses.replace(await a_place(), open_jobs=2)
    uploaded, removed, third = jobs_of("anna", 3)
    await take_place(place, "anna", uploaded)
    await take_place(place, "anna", removed)
    with pytest.raises(PolicyError):
        await take_place(place, "anna", third)
    await place.ledger.create(f"jobgone/{removed}", b"{}")
    await take_place(place, "anna", third)
    later = dataclasses.replace(place, now_ms=lambda: START + UPLOADED_MS)
    await take_place(later, "anna", removed)
    content, _ = await place.ledger.get("openjobs/anna")
    assert set(json.loads(content)) == {removed}
