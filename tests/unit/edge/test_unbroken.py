"""A submission within the group outlives the task from above that began it."""

import asyncio

import pytest

from hanse.core.errors import PolicyError
from hanse.edge.unbroken import Unbroken


async def test_it_goes_on_when_who_asked_is_let_go_and_whoever_comes_next_waits_for_it() -> None:
    unbroken, go_on, done = Unbroken(), asyncio.Event(), list[str]()

    async def work() -> None:
        done.append("begun")
        await go_on.wait()
        done.append("ended")

    first = asyncio.ensure_future(unbroken.do("job", work))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second, settled = (
        asyncio.ensure_future(unbroken.do("job", work)),
        asyncio.ensure_future(unbroken.settled("job")),
    )
    await asyncio.sleep(0)
    assert not settled.done()
    await unbroken.settled("another")
    go_on.set()
    await asyncio.gather(second, settled)
    assert done == ["begun", "ended"]
    await unbroken.settled("job")
    await unbroken.do("job", work)
    assert done == ["begun", "ended"] * 2


async def test_what_breaks_is_said_to_who_asked_and_settles_all_the_same() -> None:
    unbroken = Unbroken()

    async def work() -> None:
        await asyncio.sleep(0)
        raise PolicyError("no")

    asked = asyncio.ensure_future(unbroken.do("job", work))
    await asyncio.sleep(0)
    await unbroken.settled("job")
    with pytest.raises(PolicyError):
        await asked
