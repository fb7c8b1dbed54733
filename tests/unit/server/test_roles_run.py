"""What drives a component of roles: over memory, with a clock of the test's own."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from hanse.backends.grpc.relay import Relays
from hanse.backends.memory import MemoryInbox, MemoryStore
from hanse.channels.protocol import Guarantee, Message, Protocol
from hanse.channels.spec import RoleSpec
from hanse.core.blobs import manifest_of
from hanse.core.errors import StorageError
from hanse.core.ids import TaskId
from hanse.core.records import Envelope, Reply
from hanse.pipeline.request import JobRequest, run_spec_of
from hanse.pipeline.roles import SETTLE_MS
from hanse.rounds.seams import Seams
from hanse.server.roles import FIRST_RETRY_S, RolesRun
from tests.patience import WAIT_S

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


class Faulty(MemoryInbox):
    """Refuses what goes to one site, so many times."""

    def __init__(self, refused: str = "", times: int = 0) -> None:
        super().__init__()
        self.refused, self.times = refused, times

    async def send(self, to: str, envelope: Envelope, *, durable: bool = True) -> None:
        if to == self.refused and self.times:
            self.times -= 1
            raise StorageError("disk full")
        await super().send(to, envelope, durable=durable)


async def begun(clock: EarlyClock, inbox: MemoryInbox | None = None, **options: Any) -> RolesRun:
    spec = RoleSpec({"guest": "bank", "host": "shop"}, PAIR, **options)
    request = JobRequest(
        "j", "n", "f", "anna", 0, "a" * 64, manifest_of(b"x"), "", "app.py", "app", run_spec_of(spec), roles=spec
    )
    store = MemoryStore.open()
    seams = Seams(ledger=store.ledger, blobs=store.blobs, inbox=inbox or store.inbox, links=store.links)
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
    assert await asyncio.wait_for(told.get(), WAIT_S) == {"what": "moved", "job": "j", "bytes": 500}
    await run.cancel("anna")
    assert (await asyncio.wait_for(told.get(), WAIT_S))["what"] == "finished"
    await asyncio.gather(run._watching, return_exceptions=True)
    assert run._watching.cancelled()


async def test_a_role_that_could_not_be_asked_is_asked_again_whatever_has_happened_since() -> None:
    clock, inbox = EarlyClock(), Faulty("shop", times=2)
    run = await begun(clock, inbox)
    bank = await inbox.receive("bank", wait_s=0)
    assert [each.envelope.kind for each in bank] == ["task"]
    assert await inbox.receive("shop", wait_s=0) == []
    await run.take(Reply(TaskId.parse(bank[0].envelope.id), "bank"))  # another state than when it failed
    for retry_s in (FIRST_RETRY_S, 2 * FIRST_RETRY_S):
        clock.now += round(retry_s * 1000)
        clock.pass_until(clock.now)
        clock.now += 1
        await asyncio.gather(*run._tasks_behind)
    shop = await inbox.receive("shop", wait_s=0)
    assert [each.envelope.kind for each in shop] == ["task"]
    await run.take(Reply(TaskId.parse(shop[0].envelope.id), "shop"))
    assert await run.finished == "finished"
    await run.close()


async def test_an_end_that_cannot_be_told_ends_the_job_all_the_same_later() -> None:
    clock, inbox = EarlyClock(), Faulty()
    run = await begun(clock, inbox)
    inbox.refused, inbox.times = "bank", 1
    await run.cancel("anna")
    assert not run.finished.done()
    clock.now += round(FIRST_RETRY_S * 1000)
    clock.pass_until(clock.now)
    await asyncio.gather(*run._tasks_behind)
    assert await run.finished == "cancelled"
    await run.close()
