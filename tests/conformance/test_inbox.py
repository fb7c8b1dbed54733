"""What every inbox promises: `hanse.core.seams.Inbox`, sentence by sentence."""

import asyncio
import time

import pytest

from hanse.core.records import Envelope
from hanse.core.seams import Delivery, Inbox
from tests.conformance.places import VISIBILITY_S, Place
from tests.patience import NEVER_S, WAIT_S


def envelope(id: str = "t/1", kind: str = "task", *, sender: str = "server", body: bytes = b"body") -> Envelope:
    return Envelope(sender, "site", id, kind, body, federation="f", job="j", component="c", seq=3, sig=b"s")


async def now(inbox: Inbox, who: str = "site", max: int = 10) -> list[Delivery]:
    """What lies there now."""
    return await inbox.receive(who, max, wait_s=0)


async def test_a_message_arrives_as_it_was_sent(inbox: Inbox) -> None:
    await inbox.send("site", envelope())
    (delivery,) = await now(inbox)
    assert (delivery.envelope, delivery.count) == (envelope(), 1)


@pytest.mark.parametrize("durable", [True, False])
async def test_a_received_message_is_hidden_then_comes_again(place: Place, inbox: Inbox, durable: bool) -> None:
    await inbox.send("site", envelope(), durable=durable)
    for count in (1, 2, 3):
        (delivery,) = await now(inbox)
        assert delivery.count == count
        assert await now(inbox) == []
        place.pass_time(VISIBILITY_S - 1)
        assert await now(inbox) == []
        place.pass_time(1.1)


async def test_an_acknowledged_message_does_not_come_again(place: Place, inbox: Inbox) -> None:
    await inbox.send("site", envelope())
    (delivery,) = await now(inbox)
    await inbox.ack([delivery.receipt])
    place.pass_time(10 * VISIBILITY_S)
    assert await now(inbox) == []


async def test_a_receipt_still_serves_after_redelivery(place: Place, inbox: Inbox) -> None:
    await inbox.send("site", envelope())
    (first,) = await now(inbox)
    place.pass_time(VISIBILITY_S + 1)
    assert len(await now(inbox)) == 1
    await inbox.ack([first.receipt])
    place.pass_time(VISIBILITY_S + 1)
    assert await now(inbox) == []


async def test_unknown_and_repeated_receipts_are_ignored(inbox: Inbox) -> None:
    await inbox.ack([])
    await inbox.ack(["", "site/none", "x" * 1000])
    await inbox.extend(["site/none"], 5)
    await inbox.send("site", envelope("a"))
    await inbox.send("site", envelope("b"))
    first, _ = await now(inbox)
    await inbox.ack([first.receipt, first.receipt])
    await inbox.ack([first.receipt])


async def test_recipients_have_inboxes_of_their_own(inbox: Inbox) -> None:
    await inbox.send("a", envelope("1"))
    await inbox.send("b", envelope("2"))
    assert [d.envelope.id for d in await now(inbox, "a")] == ["1"]
    assert [d.envelope.id for d in await now(inbox, "b")] == ["2"]
    assert await now(inbox, "c") == []


async def test_at_most_max_messages(inbox: Inbox) -> None:
    for n in range(5):
        await inbox.send("site", envelope(str(n)))
    batches = [await now(inbox, max=2) for _ in range(4)]
    assert [len(batch) for batch in batches] == [2, 2, 1, 0]
    assert {d.envelope.id for batch in batches for d in batch} == set("01234")


async def test_the_same_message_is_replaced_not_doubled(place: Place, inbox: Inbox) -> None:
    if not place.replaces:
        pytest.skip("a queue cannot replace a message")
    await inbox.send("site", envelope(body=b"old"))
    await inbox.send("site", envelope(body=b"new"))
    (delivery,) = await now(inbox)
    assert delivery.envelope.body == b"new"
    await inbox.ack([delivery.receipt])
    place.pass_time(VISIBILITY_S + 1)
    assert await now(inbox) == []


async def test_a_replaced_message_is_replaced_also_after_delivery(place: Place, inbox: Inbox) -> None:
    if not place.replaces:
        pytest.skip("a queue cannot replace a message")
    await inbox.send("site", envelope(body=b"old"))
    (old,) = await now(inbox)
    await inbox.send("site", envelope(body=b"new"))
    await inbox.ack([old.receipt])
    place.pass_time(VISIBILITY_S + 1)
    (new,) = await now(inbox)
    assert (new.envelope.body, new.count) == (b"new", 2)
    place.pass_time(VISIBILITY_S + 1)
    assert len(await now(inbox)) == 1


async def test_other_kind_other_id_or_other_sender_is_another_message(inbox: Inbox) -> None:
    await inbox.send("server", envelope("1", "task"))
    await inbox.send("server", envelope("1", "reply"))
    await inbox.send("server", envelope("2", "task"))
    await inbox.send("server", envelope("1", "task", sender="a"))
    assert len(await now(inbox, "server")) == 4


async def test_an_acknowledged_message_may_be_sent_again(inbox: Inbox) -> None:
    for _ in range(3):
        await inbox.send("site", envelope())
        (delivery,) = await now(inbox)
        assert delivery.count == 1
        await inbox.ack([delivery.receipt])


async def test_extend_keeps_a_message_away_from_now(place: Place, inbox: Inbox) -> None:
    await inbox.send("site", envelope())
    (delivery,) = await now(inbox)
    place.pass_time(VISIBILITY_S - 5)
    await inbox.extend([delivery.receipt], 60)
    place.pass_time(59)
    assert await now(inbox) == []
    place.pass_time(2)
    assert [d.count for d in await now(inbox)] == [2]


async def test_extend_by_nothing_brings_a_message_back(inbox: Inbox) -> None:
    await inbox.send("site", envelope())
    (delivery,) = await now(inbox)
    await inbox.extend([delivery.receipt], 0)
    assert [d.count for d in await now(inbox)] == [2]


async def test_extend_hides_a_message_that_had_come_due(place: Place, inbox: Inbox) -> None:
    for id in ("a", "b"):
        await inbox.send("site", envelope(id))
    first, second = await now(inbox)
    place.pass_time(VISIBILITY_S + 1)
    (again,) = await now(inbox, max=1)
    other = second if again.envelope.id == first.envelope.id else first
    await inbox.extend([other.receipt], VISIBILITY_S)
    assert await now(inbox) == []
    place.pass_time(VISIBILITY_S + 1)
    assert {d.envelope.id for d in await now(inbox)} == {"a", "b"}
    assert await now(inbox) == []


async def test_receive_waits_no_longer_than_it_was_told(inbox: Inbox) -> None:
    start = time.monotonic()
    assert await inbox.receive("site", wait_s=0.1) == []
    assert time.monotonic() - start >= 0.09


async def test_send_wakes_who_waits_at_once(inbox: Inbox) -> None:
    waiting = asyncio.create_task(inbox.receive("site", wait_s=NEVER_S))
    await asyncio.sleep(0)
    await inbox.send("site", envelope())
    assert len(await asyncio.wait_for(waiting, WAIT_S)) == 1


async def test_one_message_goes_to_one_of_those_who_wait(inbox: Inbox) -> None:
    waiting = [asyncio.create_task(inbox.receive("site", wait_s=NEVER_S)) for _ in range(3)]
    await asyncio.sleep(0)
    await inbox.send("site", envelope())
    done, others = await asyncio.wait(waiting, timeout=WAIT_S, return_when=asyncio.FIRST_COMPLETED)
    assert [len(each.result()) for each in done] == [1]
    done, _ = await asyncio.wait(others, timeout=0.3)
    assert not done
    for each in others:
        each.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def test_who_gives_up_waiting_loses_nothing(inbox: Inbox) -> None:
    waiting = asyncio.create_task(inbox.receive("site", wait_s=30))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await inbox.send("site", envelope())
    assert len(await now(inbox)) == 1


async def test_who_is_told_to_stop_while_a_message_comes_stops(inbox: Inbox) -> None:
    """However many steps after the sending: a waiting that swallows it would go on for ever."""

    async def serve() -> None:
        while True:
            await inbox.ack([each.receipt for each in await inbox.receive("site", 10, wait_s=30.0)])

    for steps in range(6):
        serving = asyncio.ensure_future(serve())
        await asyncio.sleep(0.05)
        await inbox.send("site", envelope())
        for _ in range(steps):
            await asyncio.sleep(0)
        serving.cancel()
        done, _ = await asyncio.wait([serving], timeout=WAIT_S)
        assert done, f"it goes on, {steps} steps after the sending"


async def test_many_senders_lose_nothing(inbox: Inbox) -> None:
    async def collect() -> set[str]:
        found: set[str] = set()
        while len(found) < 200:
            deliveries = await inbox.receive("server", 7, wait_s=5)
            found |= {delivery.envelope.id for delivery in deliveries}
            await inbox.ack([delivery.receipt for delivery in deliveries])
        return found

    collecting = asyncio.create_task(collect())
    await asyncio.gather(*(inbox.send("server", envelope(str(n)), durable=n % 2 == 0) for n in range(200)))
    assert await collecting == {str(n) for n in range(200)}


async def test_durable_messages_come_at_once_after_reopening(place: Place, inbox: Inbox) -> None:
    if place.reopen is None:
        pytest.skip("this place keeps nothing")
    if not place.replaces:
        pytest.skip("a queue has no owner that could restart")
    await inbox.send("site", envelope("kept"))
    await inbox.send("site", envelope("delivered", body=b"old"))
    await inbox.send("site", envelope("delivered", body=b"new"))
    await inbox.send("site", envelope("acknowledged"))
    await inbox.send("site", envelope("volatile"), durable=False)
    received = {d.envelope.id: d for d in await now(inbox)}
    await inbox.ack([received["acknowledged"].receipt])
    place.reopen()
    assert place.inbox is not None
    again = {d.envelope.id: d for d in await now(place.inbox)}
    assert set(again) == {"kept", "delivered"}
    assert again["delivered"].envelope.body == b"new"
    assert again["delivered"].count == 2
    # A receipt of before means nothing now; one of now does.
    await place.inbox.ack([received["kept"].receipt, again["delivered"].receipt])
    place.reopen()
    assert [d.envelope.id for d in await now(place.inbox)] == ["kept"]


async def test_a_volatile_copy_replaces_a_durable_message_for_good(place: Place, inbox: Inbox) -> None:
    if place.reopen is None:
        pytest.skip("this place keeps nothing")
    if not place.replaces:
        pytest.skip("a queue has no owner that could restart")
    await inbox.send("site", envelope(body=b"old"))
    await inbox.send("site", envelope(body=b"new"), durable=False)
    (delivery,) = await now(inbox)
    assert delivery.envelope.body == b"new"
    await inbox.ack([delivery.receipt])
    place.reopen()
    assert place.inbox is not None
    assert await now(place.inbox) == []
