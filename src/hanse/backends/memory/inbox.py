"""Messages in this process: handed out, hidden until they are acknowledged or come again."""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from hanse.core.records import Envelope
from hanse.core.seams import Delivery

VISIBILITY_S = 30.0


def monotonic_ms() -> int:
    """Milliseconds of a clock that never goes back."""
    return time.monotonic_ns() // 1_000_000


@dataclass(slots=True)
class Message:
    """A message that lies in an inbox. `row` is its number in a durable store, 0 if it is in none."""

    to: str
    envelope: Envelope
    receipt: str
    row: int
    count: int
    durable: bool
    hidden_until_ms: int | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes two messages to one recipient the same; ids are unique per sender only."""
        return (self.envelope.sender, self.envelope.id, self.envelope.kind)


@dataclass(slots=True)
class _Box:
    """One recipient's messages: those to hand out, those handed out, and who waits."""

    messages: dict[tuple[str, str, str], Message] = field(default_factory=dict)
    ready: deque[Message] = field(default_factory=deque)
    hidden: list[tuple[int, int, Message]] = field(default_factory=list)
    waiters: list["asyncio.Future[None]"] = field(default_factory=list)

    def wake(self) -> None:
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)
        self.waiters.clear()


class MemoryInbox:
    """An `Inbox` in this process. A receipt begins with the recipient's name and '/', so a transport can check it.

    Args:
        visibility_s: seconds after which an unacknowledged message comes again.
        now_ms: the clock; the explorer gives its own.
    """

    def __init__(self, *, visibility_s: float = VISIBILITY_S, now_ms: Callable[[], int] = monotonic_ms) -> None:
        self._visibility_ms = round(visibility_s * 1000)
        self._now_ms = now_ms
        self._boxes: dict[str, _Box] = {}
        self._by_receipt: dict[str, Message] = {}
        self._number = 0
        # Receipts of an earlier life of this inbox must not fit messages of this one.
        self._life = secrets.token_hex(6)

    async def send(self, to: str, envelope: Envelope, *, durable: bool = True) -> None:
        """Put a message into `to`'s inbox; visible at once, also where it replaces one that was handed out."""
        self.deliver(to, envelope, durable=durable)

    async def receive(self, who: str, max: int = 1, wait_s: float = 20.0) -> list[Delivery]:
        """Wait for a message; woken by `send` or by the first hidden message that is due."""
        box = self._boxes.setdefault(who, _Box())
        found = self._take(box, max)
        if found or wait_s <= 0:
            return found
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while not found and (left := deadline - loop.time()) > 0:
            if box.hidden:
                # At least a millisecond, as the caller's clock may stand still while it is due.
                left = min(left, (box.hidden[0][0] - self._now_ms() + 1) / 1000)
            waiter: asyncio.Future[None] = loop.create_future()
            timer = loop.call_later(left if left > 0.001 else 0.001, _expire, waiter)
            box.waiters.append(waiter)
            try:
                await waiter
            finally:
                timer.cancel()
                if waiter in box.waiters:
                    box.waiters.remove(waiter)
            found = self._take(box, max)
        return found

    async def extend(self, receipts: Sequence[str], seconds: float) -> None:
        """Hide messages for `seconds` from now; 0 brings them back at once."""
        until = self._now_ms() + round(seconds * 1000)
        for receipt in receipts:
            message = self._by_receipt.get(receipt)
            if message is not None:
                self._hide(self._boxes[message.to], message, until)

    async def ack(self, receipts: Sequence[str]) -> None:
        """Forget these messages."""
        self.remove(receipts)

    def deliver(self, to: str, envelope: Envelope, *, durable: bool = True, row: int = 0, count: int = 0) -> None:
        """`send` for a caller that has made the message durable itself as `row`."""
        box = self._boxes.setdefault(to, _Box())
        self._number += 1
        message = Message(to, envelope, f"{to}/{self._life}-{self._number}", row, count, durable)
        replaced = box.messages.get(message.key)
        if replaced is not None:
            if replaced.row > row > 0:
                return
            message.count = replaced.count
            del self._by_receipt[replaced.receipt]
        box.messages[message.key] = message
        self._by_receipt[message.receipt] = message
        box.ready.append(message)
        box.wake()

    def held(self, to: str, envelope: Envelope) -> Message | None:
        """The unacknowledged message that this one would replace."""
        box = self._boxes.get(to)
        return box.messages.get((envelope.sender, envelope.id, envelope.kind)) if box else None

    def peek(self, receipt: str) -> Message | None:
        """The unacknowledged message that bears this receipt."""
        return self._by_receipt.get(receipt)

    def remove(self, receipts: Sequence[str]) -> list[Message]:
        """`ack`, telling which messages it ended."""
        ended: list[Message] = []
        for receipt in receipts:
            message = self._by_receipt.pop(receipt, None)
            if message is not None:
                del self._boxes[message.to].messages[message.key]
                ended.append(message)
        return ended

    def reopen(self) -> None:
        """What a restart of the process that holds the inbox does: the volatile is lost, the rest comes at once."""
        kept = [message for box in self._boxes.values() for message in box.messages.values() if message.durable]
        self._boxes.clear()
        self._by_receipt.clear()
        self._life = secrets.token_hex(6)
        for message in kept:
            self.deliver(message.to, message.envelope, row=message.row, count=message.count)

    def _take(self, box: _Box, max: int) -> list[Delivery]:
        now = self._now_ms()
        while box.hidden and box.hidden[0][0] <= now:
            until, _, message = heappop(box.hidden)
            # Extended, acknowledged or replaced messages leave stale entries behind.
            if message.hidden_until_ms == until and self._by_receipt.get(message.receipt) is message:
                message.hidden_until_ms = None
                box.ready.append(message)
        found: list[Delivery] = []
        while box.ready and len(found) < max:
            message = box.ready.popleft()
            if self._by_receipt.get(message.receipt) is not message or message.hidden_until_ms is not None:
                continue
            message.count += 1
            self._hide(box, message, now + self._visibility_ms)
            found.append(Delivery(message.receipt, message.envelope, message.count))
        return found

    def _hide(self, box: _Box, message: Message, until_ms: int) -> None:
        self._number += 1
        message.hidden_until_ms = until_ms
        heappush(box.hidden, (until_ms, self._number, message))
        if box.waiters and box.hidden[0][2] is message:
            box.wake()


def _expire(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
