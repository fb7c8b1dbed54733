"""What has happened to a job: kept for those who come late, awaited by those who follow."""

import asyncio

import pytest

from hanse.server import history as histories
from hanse.server.history import History
from tests.patience import WAIT_S


def event(n: int) -> dict[str, int]:
    return {"n": n}


async def test_events_since_a_position() -> None:
    history = History()
    for n in range(5):
        history.add(event(n))
    assert await history.since(0) == ([event(n) for n in range(5)], 5)
    assert await history.since(3) == ([event(3), event(4)], 5)
    assert history.complete


async def test_who_waits_is_woken() -> None:
    history = History()
    waiting = [asyncio.ensure_future(history.since(0)) for _ in range(3)]
    await asyncio.sleep(0)
    history.add(event(1))
    for each in waiting:
        assert await asyncio.wait_for(each, WAIT_S) == ([event(1)], 1)
    late = asyncio.ensure_future(history.since(1))
    await asyncio.sleep(0)
    assert not late.done()
    history.add(event(2))
    assert await asyncio.wait_for(late, WAIT_S) == ([event(2)], 2)


async def test_who_is_too_slow_misses_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histories, "EVENTS_KEPT", 4)
    history = History()
    for n in range(10):
        history.add(event(n))
    assert not history.complete
    assert await history.since(0) == ([event(n) for n in (6, 7, 8, 9)], 10)
    assert await history.since(8) == ([event(8), event(9)], 10)


async def test_a_follower_sees_every_event_once() -> None:
    history = History()
    seen: list[int] = []

    async def follow() -> None:
        position = 0
        while len(seen) < 100:
            events, position = await history.since(position)
            seen.extend(each["n"] for each in events)

    following = asyncio.ensure_future(follow())
    for n in range(100):
        history.add(event(n))
        if n % 7 == 0:
            await asyncio.sleep(0)
    await asyncio.wait_for(following, WAIT_S)
    assert seen == list(range(100))
