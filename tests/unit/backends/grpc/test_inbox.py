"""The server's end of a site's inbox: what waits, what goes out again, what a new session takes over."""

import asyncio

import pytest

from hanse.backends.grpc import inbox as module
from hanse.backends.grpc.inbox import Outgoing, SessionInbox
from hanse.core.proto import hanse_pb2 as pb
from hanse.core.records import Envelope
from tests.patience import WAIT_S


def task(id: str = "t1", kind: str = "task", body: bytes = b"") -> Envelope:
    return Envelope("server", "site", id, kind, body)


async def came(outgoing: Outgoing) -> list[tuple[str, str, int]]:
    """What has been queued: kind, id, count."""
    found = []
    while outgoing._frames:
        delivery = (await outgoing.next()).delivery
        found.append((delivery.envelope.kind, delivery.envelope.id, delivery.count))
    return found


async def test_what_was_sent_before_the_session_goes_out_when_it_opens() -> None:
    inbox, outgoing = SessionInbox(), Outgoing()
    await inbox.send("site", task("t1"))
    await inbox.send("other", task("t2"))
    inbox.attach("site", outgoing)
    await inbox.send("site", task("t3"))
    assert await came(outgoing) == [("task", "t1", 1), ("task", "t3", 1)]


async def test_what_was_not_acknowledged_goes_out_again_to_the_next_session() -> None:
    inbox, first, second = SessionInbox(), Outgoing(), Outgoing()
    inbox.attach("site", first)
    for id in ("t1", "t2", "t3"):
        await inbox.send("site", task(id))
    await inbox.send("site", task("fleeting"), durable=False)
    inbox.forget("site", "task", "t2")
    assert inbox.detach("site", first)
    inbox.attach("site", second, holding=["t3"])
    assert await came(second) == [("task", "t1", 2)]


async def test_holding_is_about_tasks_only() -> None:
    inbox, outgoing = SessionInbox(), Outgoing()
    await inbox.send("site", task("x", "propose"))
    inbox.attach("site", outgoing, holding=["x"])
    assert await came(outgoing) == [("propose", "x", 1)]


async def test_a_release_ends_its_task() -> None:
    inbox, outgoing = SessionInbox(), Outgoing()
    await inbox.send("site", task("t1"))
    await inbox.send("site", task("t1", "release"))
    inbox.attach("site", outgoing)
    assert await came(outgoing) == [("release", "t1", 1)]


async def test_a_newer_session_takes_the_place_of_the_older() -> None:
    inbox, first, second = SessionInbox(), Outgoing(), Outgoing()
    inbox.attach("site", first)
    inbox.attach("site", second)
    assert "newer session" in first.closed
    assert first.ended.is_set()
    assert not inbox.detach("site", first)
    assert inbox.session("site") is second
    await inbox.send("site", task())
    assert (await came(first), await came(second)) == ([], [("task", "t1", 1)])
    assert inbox.detach("site", second)
    assert inbox.session("site") is None


async def test_the_first_reason_stays() -> None:
    outgoing = Outgoing()
    outgoing.close("first")
    outgoing.close("second", final=True)
    assert outgoing.closed == "first"
    outgoing.put(pb.ServerFrame())
    assert not outgoing._frames


async def test_answers_are_limited_and_deliveries_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_UNREAD", 3)
    outgoing = Outgoing()
    for _ in range(10):
        outgoing.put(pb.ServerFrame())
    assert not outgoing.closed
    outgoing.answer(pb.ServerFrame())
    assert "does not read" in outgoing.closed


async def test_a_recipient_without_a_session_receives_by_asking() -> None:
    inbox = SessionInbox()
    waiting = asyncio.ensure_future(inbox.receive("server", wait_s=60))
    await asyncio.sleep(0)
    await inbox.send("server", task())
    (delivery,) = await asyncio.wait_for(waiting, WAIT_S)
    assert (delivery.envelope, delivery.count) == (task(), 1)
    await inbox.ack([delivery.receipt, delivery.receipt, "x", ""])
    assert await inbox.receive("server", wait_s=0) == []
    assert not inbox._waiting
