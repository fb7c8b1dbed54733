"""What drives a component of roles: over memory, with a clock of the test's own."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from hanse.backends.grpc.relay import Relays
from hanse.backends.memory import MemoryStore
from hanse.channels.protocol import Guarantee, Message, Protocol
from hanse.channels.spec import RoleSpec
from hanse.core.blobs import manifest_of
from hanse.pipeline.request import JobRequest, run_spec_of
from hanse.pipeline.roles import SETTLE_MS
from hanse.rounds.driver import Seams
from hanse.server.roles import RolesRun

PAIR = Protocol(
    "pair", ("guest", "host"), (Message("m", "guest", "host", "uint8", ()),), Guarantee("none", 0, 0, 0, ()), ()
)


class EarlyClock:
    """Calls back a little before the time that it was asked for, as a loop's clock does that drifts from the wall's."""

    def __init__(self) -> None:
        self.now = 1000
        self.calls: list[tuple[int, Callable[[], None]]] = []

    def now_ms(self) -> int:
        return self.now

    def call_at(self, at_ms: int, callback: Callable[[], None]) -> None:
        self.calls.append((at_ms, callback))

    def pass_until(self, at_ms: int) -> None:
        self.now = at_ms - 1
        for each, callback in self.calls:
            if each == at_ms:
                callback()


async def begun(clock: EarlyClock, **options: Any) -> RolesRun:
    spec = RoleSpec({"guest": "bank", "host": "shop"}, PAIR, **options)
    request = JobRequest(
        "j", "n", "f", "anna", 0, "a" * 64, manifest_of(b"x"), "", "app.py", "app", run_spec_of(spec), roles=spec
    )
    store = MemoryStore.open()
    seams = Seams(ledger=store.ledger, blobs=store.blobs, inbox=store.inbox, links=store.links)
    run = await RolesRun.create(request, seams, Relays(), clock, lambda site: b"record")
    await run.sites_changed(["bank", "shop"])
    assert run.state.status == "running"
    return run


async def test_a_timer_that_comes_early_is_not_lost() -> None:
    clock = EarlyClock()
    run = await begun(clock)
    await run.sites_changed(["bank"])
    assert run.state.status == "settling"
    clock.pass_until(1000 + SETTLE_MS)
    await asyncio.gather(*run._tasks_behind)
    assert run.state.status == "paused"
    await run.sites_changed(["bank", "shop"])
    assert (run.state.status, run.state.round) == ("running", 2)
    await run.close()


async def test_what_roles_have_exchanged_is_told_while_they_play(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hanse.server.roles.WATCH_S", 0.01)
    run = await begun(EarlyClock())
    told: asyncio.Queue[Any] = asyncio.Queue()
    run.observers.append(told.put_nowait)
    run._relays.find("j/main/1")._pairs[0, 1].sent = 500
    assert await asyncio.wait_for(told.get(), 10) == {"what": "moved", "job": "j", "bytes": 500}
    await run.cancel("anna")
    assert (await asyncio.wait_for(told.get(), 10))["what"] == "finished"
    await asyncio.gather(run._watching, return_exceptions=True)
    assert run._watching.cancelled()
