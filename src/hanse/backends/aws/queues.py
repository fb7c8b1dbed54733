"""The inbox as SQS queues: one for each recipient, `PREFIX-RECIPIENT`, each with a dead-letter queue beside it.

A queue cannot replace a message: what is sent twice comes twice, and its receiver knows a task by its id, as it must
anyway. A poll that nobody waits for any more keeps what it found for the next one who asks.
"""

import asyncio
import base64
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import structlog

from hanse.backends.aws.errors import aws_errors
from hanse.core.errors import CodecError, TooLargeError
from hanse.core.ids import check_name
from hanse.core.records import Envelope
from hanse.core.seams import Delivery

LONGEST_POLL_S = 20
LONGEST_HIDING_S = 12 * 3600
MAX_BODY_BYTES = 256 * 1024
"""What every SQS queue takes; newer ones take 1 MiB."""
_FRESH_S = 5.0
"""Seconds for which a message found for nobody may still be handed out; after that it comes again by itself."""
_BATCH = 10
_THREADS = 16
T = TypeVar("T")
log = structlog.get_logger("hanse.inbox")


@dataclass(slots=True)
class _Line:
    """One recipient's poll and what it found."""

    found: deque[tuple[float, Delivery]] = field(default_factory=deque)
    poll: "asyncio.Task[None] | None" = None


class QueueInbox:
    """An `Inbox` of SQS queues. Every message is durable.

    Args:
        client: a boto3 client of SQS.
        prefix: what the queues' names begin with.
    """

    def __init__(self, client: Any, prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self._urls: dict[str, str] = {}
        self._lines: dict[str, _Line] = {}
        self._threads = ThreadPoolExecutor(_THREADS, "hanse-inbox")

    async def send(self, to: str, envelope: Envelope, *, durable: bool = True) -> None:
        """Put a message into `to`'s queue.

        Raises:
            TooLargeError: more than a queue takes.
        """
        body = base64.b64encode(envelope.pack()).decode()
        if len(body) > MAX_BODY_BYTES:
            raise TooLargeError(f"queue: expected a message of at most {MAX_BODY_BYTES} bytes, found {len(body)}")
        await self._run(self._send, to, body)

    async def receive(self, who: str, max: int = 1, wait_s: float = 20.0) -> list[Delivery]:
        """Up to `max` messages, ten at most; SQS wakes who waits."""
        line = self._lines.setdefault(who, _Line())
        deadline = time.monotonic() + wait_s
        while True:
            if found := _fresh(line, max):
                return found
            left = deadline - time.monotonic()
            if left <= 0 and line.poll is None and wait_s > 0:
                return []
            if line.poll is None:
                line.poll = asyncio.create_task(self._poll(who, line, max, left))
            poll = line.poll
            # The poll goes on when its caller is cancelled: SQS may have handed out a message already.
            done, _ = await asyncio.wait({poll}, timeout=None if wait_s <= 0 else left)
            if done:
                line.poll = None if line.poll is poll else line.poll
                poll.result()
            if not done or wait_s <= 0:
                return _fresh(line, max)

    async def extend(self, receipts: Sequence[str], seconds: float) -> None:
        """Hide messages for `seconds` from now, twelve hours at most."""
        hidden = min(max(0, round(seconds)), LONGEST_HIDING_S)
        for who, handles in _by_queue(receipts).items():
            await self._run(self._in_batches, who, handles, "extend", {"VisibilityTimeout": hidden})

    async def ack(self, receipts: Sequence[str]) -> None:
        """Delete these messages."""
        for who, handles in _by_queue(receipts).items():
            await self._run(self._in_batches, who, handles, "delete", {})

    def close(self) -> None:
        """End the threads. A poll that runs ends by itself, and keeps no process from ending."""
        for line in self._lines.values():
            if line.poll is not None:
                line.poll.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, call: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(call, *args))

    async def _poll(self, who: str, line: _Line, max: int, wait_s: float) -> None:
        found = await _in_a_daemon(partial(self._receive, who, max, wait_s))
        now = time.monotonic()
        line.found.extend((now, delivery) for delivery in found)

    def _send(self, to: str, body: str) -> None:
        with aws_errors(f"sending to queue {self._name(to)}"):
            self._client.send_message(QueueUrl=self._url(to), MessageBody=body)

    def _receive(self, who: str, max: int, wait_s: float) -> list[Delivery]:
        with aws_errors(f"receiving from queue {self._name(who)}"):
            answer = self._client.receive_message(
                QueueUrl=self._url(who),
                MaxNumberOfMessages=min(max, _BATCH),
                WaitTimeSeconds=min(math.ceil(wait_s), LONGEST_POLL_S) if wait_s > 0 else 0,
                MessageSystemAttributeNames=["ApproximateReceiveCount"],
            )
        found: list[Delivery] = []
        for message in answer.get("Messages", []):
            try:
                envelope = Envelope.unpack(base64.b64decode(message["Body"], validate=True))
            except (ValueError, CodecError):  # left to the dead letters; the others beside it are taken
                log.error("not a message of ours", queue=self._name(who), id=str(message.get("MessageId"))[:64])
                continue
            count = int(message["Attributes"]["ApproximateReceiveCount"])
            found.append(Delivery(f"{who}/{message['ReceiptHandle']}", envelope, count))
        return found

    def _in_batches(self, who: str, handles: list[str], what: str, extra: dict[str, Any]) -> None:
        call = self._client.delete_message_batch if what == "delete" else self._client.change_message_visibility_batch
        for start in range(0, len(handles), _BATCH):
            part = handles[start : start + _BATCH]
            entries = [{"Id": str(n), "ReceiptHandle": handle, **extra} for n, handle in enumerate(part)]
            with aws_errors(f"acknowledging to queue {self._name(who)}"):
                call(QueueUrl=self._url(who), Entries=entries)  # a handle that means nothing fails alone

    def _name(self, who: str) -> str:
        return f"{self._prefix}-{who}"

    def _url(self, who: str) -> str:
        if who not in self._urls:
            check_name(who, "recipient")
            self._urls[who] = self._client.get_queue_url(QueueName=self._name(who))["QueueUrl"]
        return self._urls[who]


async def _in_a_daemon(call: Callable[[], T]) -> T:
    """Call in a thread that nobody waits for when the process ends: a poll may take twenty seconds more."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def tell(tell: Callable[[Any], None], what: Any) -> None:
        if not answer.done():
            tell(what)

    def work() -> None:
        try:
            done: tuple[Callable[[Any], None], Any] = (answer.set_result, call())
        except Exception as error:
            done = (answer.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell, *done)

    threading.Thread(target=work, name="hanse-poll", daemon=True).start()
    return await answer


def _fresh(line: _Line, max: int) -> list[Delivery]:
    found: list[Delivery] = []
    now = time.monotonic()
    while line.found and len(found) < max:
        since, delivery = line.found.popleft()
        if now - since <= _FRESH_S:
            found.append(delivery)
    return found


def _by_queue(receipts: Sequence[str]) -> dict[str, list[str]]:
    queues: dict[str, list[str]] = {}
    for receipt in dict.fromkeys(receipts):
        who, slash, handle = receipt.partition("/")
        if slash and handle:
            queues.setdefault(who, []).append(handle)
    return queues
