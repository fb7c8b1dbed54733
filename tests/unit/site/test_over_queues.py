"""Where a site's agent may be sent by links, and what becomes of a question that no queue takes."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest

pytest.importorskip("urllib3", reason="needs the extra `aws`")

from hanse.backends.aws.https import Https
from hanse.backends.memory import MemoryInbox
from hanse.core.errors import CodecError, TooLargeError, UnavailableError
from hanse.core.records import Envelope
from hanse.site.over_queues import QueueLink
from hanse.trust.envelopes import sign_envelope
from tests.faults.explorer.enrolled import FEDERATION, member
from tests.patience import WAIT_S

HEADERS = (("If-None-Match", "*"),)


class Pool:
    """Stands for the network: notes where somebody wanted to go."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def request(self, method: str, url: str, **more: Any) -> Any:
        self.asked.append(url)
        return self

    status = 200

    def read(self, amount: int) -> bytes:
        return b"x"

    def release_conn(self) -> None: ...


def https(endpoint: str = "") -> tuple[Https, Pool]:
    found, pool = Https(endpoint=endpoint), Pool()
    found._pool = lambda proxy: pool  # type: ignore[assignment,method-assign,return-value]
    return found, pool


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("", "https://north.s3.eu-central-1.amazonaws.com/v1/north/blobs/x?X-Amz-Signature=0"),
        ("", "https://north.s3.cn-north-1.amazonaws.com.cn/x"),
        ("http://127.0.0.1:4566", "http://127.0.0.1:4566/north/x"),
        ("http://127.0.0.1:4566", "http://localhost:4567/north/x"),
        ("https://vpce-1.example.org", "https://north.s3.eu-central-1.amazonaws.com/x"),
    ],
)
async def test_links_to_storage_are_followed(endpoint: str, url: str) -> None:
    fetch, pool = https(endpoint)
    assert await fetch.get(url, HEADERS, 1) == b"x"
    await fetch.put(url, HEADERS, b"x")
    assert pool.asked == [url, url]


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("", "http://north.s3.eu-central-1.amazonaws.com/x"),
        ("", "https://10.0.0.7/admin"),
        ("", "https://intranet/"),
        ("", "https://evil-amazonaws.com/x"),
        ("", "https://x.amazonaws.com.evil.example/x"),
        ("", "https://x.amazonaws.com:8443/x"),
        ("", "https://a.amazonaws.com@10.0.0.7/x"),
        ("", "https://10.0.0.7\\.amazonaws.com/x"),
        ("", "https://[::1/x"),
        ("", "http://169.254.169.254/latest/meta-data/"),
        ("http://127.0.0.1:4566", "http://10.0.0.7:4566/x"),
        ("https://vpce-1.example.org", "http://vpce-1.example.org/x"),
        ("https://vpce-1.example.org", "https://127.0.0.1/x"),
    ],
)
async def test_links_to_elsewhere_are_not(endpoint: str, url: str) -> None:
    fetch, pool = https(endpoint)
    with pytest.raises(CodecError):
        await fetch.get(url, (), 1)
    with pytest.raises(CodecError):
        await fetch.put(url, HEADERS, b"x")
    assert pool.asked == []


async def test_a_link_s_headers_are_the_one_that_storage_needs() -> None:
    fetch, pool = https()
    with pytest.raises(CodecError):
        await fetch.put("https://n.s3.amazonaws.com/x", (("Host", "intranet"),), b"x")
    assert pool.asked == []


class Narrow(MemoryInbox):
    async def send(self, to: str, envelope: Envelope, *, durable: bool = True) -> None:
        if len(envelope.body) > 1000:
            raise TooLargeError("queue: expected less")
        await super().send(to, envelope, durable=durable)


def linked(inbox: Any, **more: Any) -> QueueLink:
    return QueueLink(
        lambda: member("site", "site-1"),
        deliver=lambda envelope, count: asyncio.sleep(0),
        accepted=lambda id, outcome, reason: None,
        holding=list,
        facts=dict,
        software="test",
        inbox=inbox,
        fetch=https()[0],
        server_record=member("server", "server").signed_record,
        **more,
    )


async def test_a_site_is_there_for_every_job_of_very_many() -> None:
    link = linked(MemoryInbox(), beat_s=0.01)
    link._jobs = {f"j{n}" for n in range(150)}
    beating = asyncio.ensure_future(link._beating())
    beats = [json.loads((await link._outgoing.get()).body)["jobs"] for _ in range(3)]
    beating.cancel()
    assert {job for beat in beats for job in beat[:64]} == link._jobs


async def test_a_question_that_no_queue_takes_is_answered_and_the_link_lives() -> None:
    inbox = Narrow()
    link = linked(inbox)
    sending = asyncio.ensure_future(link._sending())
    with pytest.raises(TooLargeError):
        await link._ask({"hashes": "0" * 2000})
    asking = asyncio.ensure_future(link._ask({"hashes": ""}))
    assert [d.envelope.kind for d in await inbox.receive("server", wait_s=WAIT_S)] == ["want"]
    for task in (asking, sending):
        task.cancel()
    await asyncio.gather(asking, sending, return_exceptions=True)


async def test_a_site_that_goes_gives_back_what_it_works_on_and_says_so() -> None:
    inbox = MemoryInbox()
    link = linked(inbox)
    link._jobs = {"j1"}
    task = Envelope("server", "site-1", "j1/main/1/train/0", "task", b"", FEDERATION, "j1", "main")
    await inbox.send("site-1", task)
    (held,) = await inbox.receive("site-1", wait_s=0)
    await inbox.extend([held.receipt], 120)
    link._held = {("task", task.id): [held.receipt]}
    assert await inbox.receive("site-1", wait_s=0) == []
    link.send(link._signed("reply", "j1/main/0/train/0", b"{}", "j1", "main"))
    await link.leave()
    told = [each.envelope for each in await inbox.receive("server", 10, wait_s=0)]
    assert [each.kind for each in told] == ["reply", "beat"], "an answer that is there goes out"
    assert json.loads(told[1].body)["leaves"] is True
    assert [each.envelope.id for each in await inbox.receive("site-1", wait_s=0)] == [task.id], "for who comes next"


async def test_a_site_that_goes_while_queues_are_out_of_reach_goes_all_the_same() -> None:
    class Away(MemoryInbox):
        async def send(self, to: str, envelope: Envelope, *, durable: bool = True) -> None:
            raise UnavailableError("queues are out of reach")

    link = linked(Away())
    link._jobs = {"j1"}
    await link.leave()


async def test_a_task_that_outlasts_its_hiding_comes_again_and_both_messages_go_with_its_answer() -> None:
    """A queue hides a message for twelve hours, whatever is asked for; the task is at work, or answered, by then."""

    class Ending(MemoryInbox):
        acked: ClassVar[list[str]] = []

        async def ack(self, receipts: Sequence[str]) -> None:
            self.acked += receipts
            await super().ack(receipts)
            both.set()

    now, both = [0], asyncio.Event()
    inbox, delivered = Ending(visibility_s=12 * 3600, now_ms=lambda: now[0]), []
    link = linked(inbox)
    link._check()

    async def deliver(envelope: Envelope, count: int) -> None:
        delivered.append((envelope.id, count))

    link._deliver = deliver
    server, id = member("server", "server"), "j/main/1/train/0"
    task = Envelope("server", "site-1", id, "task", b"{}", "north", "j", "main")
    await inbox.send("site-1", sign_envelope(server.keys.signing, task))
    for _ in range(2):
        for delivery in await inbox.receive("site-1", 10, wait_s=0):
            await link._take(delivery)
        now[0] += 12 * 3600 * 1000
    assert delivered == [(id, 1), (id, 2)]
    assert inbox.acked == [], "it is not answered"
    link._sent(Envelope("site-1", "server", id, "reply", b"", "north", "j", "main"))
    acknowledging = asyncio.ensure_future(link._acknowledging())
    await both.wait()
    assert len(inbox.acked) == 2
    acknowledging.cancel()
    now[0] += 12 * 3600 * 1000
    assert await inbox.receive("site-1", 10, wait_s=0) == []
