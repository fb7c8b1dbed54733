"""What a site may have on its way to another: rules on values, functions side by side, and a site that floods."""

import asyncio
import json
import random
from dataclasses import replace
from typing import Any

import pytest
import structlog

from hanse.backends.memory import MemoryLedger
from hanse.channels.packets import CHANNEL, INLINE_BYTES, MAX_PACKET_BYTES, WINDOW, Lane, Packet
from hanse.core.blobs import Manifest, manifest_of, rechunk
from hanse.core.codec import canonical_json
from hanse.core.errors import PolicyError
from hanse.core.ids import channel_scope
from hanse.core.records import Envelope
from hanse.serverless.quotas import LEASE, MAX_BLOB_BYTES, MAX_OWED, REFILL_MS, Account, Quotas
from tests.unit.serverless.test_roles import SESSION, Town, packet, running

DIRECTION = (SESSION, "guest", "host")
KEY = "quota/{}/{}/{}".format(*DIRECTION)


def blob(size: int, fill: int = 0) -> Manifest:
    return Manifest(size, bytes([fill]) * 32)


async def flood(here: Town, packets: list[Packet]) -> tuple[list[Envelope], list[str]]:
    """What comes to the peer, and the reasons for which packets were refused."""
    with structlog.testing.capture_logs() as lines:
        for each in packets:
            await here.say("site-1", CHANNEL, each.pack())
    return await here.came("site-2"), [line["reason"] for line in lines if line["event"] == "message refused"]


@pytest.mark.parametrize("numbers", [[None] * 500, [0] * 500, list(range(500))], ids=["words", "copies", "numbers"])
async def test_a_site_that_floods_its_peer_is_refused_by_name_and_goes_on_when_the_peer_has_taken(
    numbers: list[int | None],
) -> None:
    here = await running()
    came, reasons = await flood(here, [packet(seq=seq, content=b"") for seq in numbers])
    assert len(came) <= MAX_OWED + LEASE
    assert len(came) + len(reasons) == 500
    assert all("role guest: expected at most 64 packets on their way to host" in reason for reason in reasons)
    passed = [each.seq for each in map(Packet.unpack, (each.body for each in came))]
    assert passed == numbers[: len(passed)]
    before = len(came)
    for _ in range(MAX_OWED):  # the peer answers each, and speaks for what has a number
        await here.say("site-2", CHANNEL, packet(sender="host", recipient="guest", seq=None, ack=before).pack())
    came, reasons = await flood(here, [packet(seq=before if numbers[0] is not None else None)])
    assert (len(came), reasons) == (1, [])


async def test_time_forgives_what_was_lost() -> None:
    here = await running()
    await flood(here, [packet(seq=0)] * 500)
    here.now += 10 * REFILL_MS
    came, _ = await flood(here, [packet(seq=0)] * 500)
    assert 10 <= len(came) <= 10 + LEASE


async def test_functions_side_by_side_share_what_is_left() -> None:
    """Each may be wrong by what it has not settled, and no more."""
    ledger, functions = MemoryLedger(), [Quotas() for _ in range(5)]
    passed = 0
    for n in range(2000):
        try:
            await functions[n % 5].spend(ledger, packet(seq=0), 0)
            passed += 1
        except PolicyError:
            pass
    assert MAX_OWED - LEASE <= passed <= MAX_OWED + 5 * LEASE
    content, _ = await ledger.get(KEY)
    assert Account.unpack(content).owed >= MAX_OWED


async def test_a_function_that_was_not_asked_for_long_refuses_nobody_by_what_it_remembers() -> None:
    """It has seen the first packet and the first blob; all that came after went through another."""
    ledger, old, other = MemoryLedger(), Quotas(), Quotas()
    back = packet(sender="host", recipient="guest", seq=None)
    await old.spend(ledger, packet(seq=0), 0)
    await old.put(ledger, DIRECTION, 0, blob(MAX_PACKET_BYTES), 0)
    for number in range(1, 100):
        await other.put(ledger, DIRECTION, number, blob(MAX_PACKET_BYTES), 0)
        await other.spend(ledger, packet(seq=number), 0)
        await other.spend(ledger, replace(back, ack=number, dropped=(number - 1,)), 0)
    await old.put(ledger, DIRECTION, 100, blob(MAX_PACKET_BYTES), 0)
    await old.spend(ledger, packet(seq=100), 0)
    await old.put(ledger, DIRECTION, 101, blob(1), 0)  # which writes down all that it knows
    for number in range(101, 200):
        await other.spend(ledger, packet(seq=number), 0)
        await other.spend(ledger, replace(back, ack=number), 0)
    await old.spend(ledger, packet(seq=200), 0)


async def test_answers_that_another_function_heard_make_room() -> None:
    ledger, one, other = MemoryLedger(), Quotas(), Quotas()
    for _ in range(MAX_OWED):
        await one.spend(ledger, packet(seq=0), 0)
    with pytest.raises(PolicyError):
        await one.spend(ledger, packet(seq=0), 0)
    for _ in range(MAX_OWED // 2):
        await other.spend(ledger, packet(sender="host", recipient="guest", seq=None), 0)
    await one.spend(ledger, packet(seq=0), 0)


async def test_a_direction_that_is_being_written_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hanse.serverless.quotas.MAX_LANES", 2)
    quotas = Quotas()
    written = quotas._lane(("s", "0", "x"))
    async with written.turn:
        for n in range(1, 6):
            quotas._lane(("s", str(n), "x"))
        assert quotas._lane(("s", "0", "x")) is written
    assert len(quotas._lanes) == 2


async def test_packets_of_one_batch_are_counted_once_each() -> None:
    ledger, quotas = MemoryLedger(), Quotas()
    done = await asyncio.gather(*(quotas.spend(ledger, packet(seq=0), 0) for _ in range(200)), return_exceptions=True)
    assert MAX_OWED <= sum(each is None for each in done) <= MAX_OWED + LEASE
    assert all(isinstance(each, PolicyError) for each in done if each is not None)


@pytest.mark.parametrize("seed", range(8))
async def test_who_keeps_to_the_protocol_is_never_refused(seed: int) -> None:
    """Two lanes over a carrier that loses, repeats and reorders, through three functions."""
    rng = random.Random(seed)
    ledger, functions = MemoryLedger(), [Quotas() for _ in range(3)]
    lanes = {"guest": Lane(), "host": Lane()}
    peers = {"guest": "host", "host": "guest"}
    loss, now_s, heard, flying = rng.choice((0.0, 0.2, 0.6)), 0.0, 0, list[Packet]()
    for n in range(300):
        lanes["guest"].push(b"x%d" % n)
    for _ in range(4000):
        for role, lane in lanes.items():
            while (parcel := lane.next(now_s)) is not None:
                sent = Packet(SESSION, role, peers[role], parcel.seq, parcel.ack, parcel.content)
                flying += [sent] * rng.choice((1, 1, 2))
        rng.shuffle(flying)
        for _ in range(rng.randint(0, len(flying))):
            sent = flying.pop()
            await rng.choice(functions).spend(ledger, sent, int(now_s * 1000))
            if rng.random() >= loss:
                heard += len(lanes[sent.recipient].came(sent, now_s)) if sent.recipient == "host" else 0
                if sent.recipient == "guest":
                    lanes["guest"].came(sent, now_s)
        now_s += rng.choice((0.0, 0.1, 1.0, 5.0))
        if lanes["guest"].is_flushed:
            break
    assert heard == 300


# ---- blobs ----


def test_blobs_are_counted_until_they_are_gone() -> None:
    account, step = Account(), MAX_PACKET_BYTES
    for number in range(MAX_BLOB_BYTES // step):
        account, read = account.with_blob(number, blob(step, number))
        assert read == ()
    same, read = account.with_blob(3, blob(step, 3))
    assert (same, read) == (account, ()), "it is asked for again where an upload was cut"
    with pytest.raises(PolicyError, match="packet 8: expected at most 128 blobs"):
        account.with_blob(8, blob(1, 8))
    with pytest.raises(PolicyError, match="found another"):
        account.with_blob(3, blob(step, 99))
    for number in (2 * WINDOW, -1):
        with pytest.raises(PolicyError, match="expected a number of the next 32"):
            account.with_blob(number, blob(1, 1))
    settled = account.settled(passed=0, answers=0, acked=0, dropped=frozenset({0}), now_ms=0)
    assert settled.with_blob(8, blob(step, 8))[1] == ()
    spoken = replace(account, acked=2)
    found, read = spoken.with_blob(8, blob(step, 8))
    assert (read, sorted(found.blobs)) == ((0, 1), [2, 3, 4, 5, 6, 7, 8]), "what was read makes room"
    assert Account.unpack(found.pack()) == found


async def want(here: Town, number: int, content: bytes) -> dict[str, Any]:
    manifest = manifest_of(content)
    asked = {"v": 1, "op": "put", "scope": channel_scope(*DIRECTION, number), "size": manifest.size, "chunks": [0]}
    await here.say("site-1", "want", canonical_json(asked | {"hashes": manifest.hashes.hex()}))
    (answer,) = await here.came("site-1")
    return dict(json.loads(answer.body))


async def test_a_site_fills_the_bucket_only_as_far_as_its_peer_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hanse.serverless.quotas.MAX_BLOB_BYTES", 3 * INLINE_BYTES)
    here = await running()
    contents = [bytes([n]) * INLINE_BYTES for n in range(5)]
    for number in range(3):
        assert (await want(here, number, contents[number]))["urls"]
        await here.place.blobs.put(
            channel_scope(*DIRECTION, number), manifest_of(contents[number]), rechunk([contents[number]])
        )
    assert "bytes on their way" in (await want(here, 3, contents[3]))["error"]
    assert "found another" in (await want(here, 2, contents[3]))["error"]
    await here.say("site-2", CHANNEL, packet(sender="host", recipient="guest", seq=None, ack=2).pack())
    await here.came("site-1")
    assert (await want(here, 3, contents[3]))["urls"]
    left = [
        number
        for number in range(3)
        if not await here.place.blobs.missing(channel_scope(*DIRECTION, number), manifest_of(contents[number]))
    ]
    assert left == [2], "those that were read are deleted, though nobody said so"
