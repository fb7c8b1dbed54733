"""The inbox as objects: `inbox/RECIPIENT/MESSAGE/COPY`, hidden from others by rewriting it only if it is unchanged.

MESSAGE is a hash of (sender, id, kind), COPY is new for every sending: an acknowledgement removes the copy that it
received, never the one that has replaced it. An object store cannot wake anybody: a receiver of another process
polls, after 0.2 s and then ever more slowly.
"""

import asyncio
import contextlib
import hashlib
import re
import secrets
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hanse.backends.memory import VISIBILITY_S
from hanse.backends.objectstore.objects import Found, Objects
from hanse.core.errors import CodecError, NotFoundError, StorageError
from hanse.core.ids import check_name
from hanse.core.records import Envelope
from hanse.core.seams import Delivery

FOLDER = "inbox"
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 2.0
_HEAD = struct.Struct(">16sIQ")  # what it is, deliveries so far, hidden until (ms)
_MAGIC = b"hanse-message-1\n"
_RECEIPT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}/[0-9a-f]{32}/[0-9a-f]{24}")


def wall_ms() -> int:
    """Milliseconds since 1970: what processes on several machines share."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class _Stored:
    envelope: Envelope
    count: int
    hidden_until_ms: int

    def pack(self) -> bytes:
        return _HEAD.pack(_MAGIC, self.count, self.hidden_until_ms) + self.envelope.pack()

    @classmethod
    def unpack(cls, content: bytes) -> "_Stored":
        if len(content) < _HEAD.size or not content.startswith(_MAGIC):
            raise CodecError("inbox: found an object that is not a message")
        _, count, hidden = _HEAD.unpack_from(content)
        return cls(Envelope.unpack(content[_HEAD.size :]), count, hidden)


class ObjectInbox:
    """An `Inbox` of objects; everything in it is durable.

    Args:
        visibility_s: seconds after which an unacknowledged message comes again.
        now_ms: the clock that all processes share, within a small part of `visibility_s`.
    """

    def __init__(
        self, objects: Objects, *, visibility_s: float = VISIBILITY_S, now_ms: Callable[[], int] = wall_ms
    ) -> None:
        self._objects = objects
        self._visibility_ms = round(visibility_s * 1000)
        self._now_ms = now_ms
        self._sent = asyncio.Condition()
        self._hidden: dict[str, tuple[str, int]] = {}
        """Copies known to be hidden: key → (tag, until), so that polling does not read them."""

    async def send(self, to: str, envelope: Envelope, *, durable: bool = True) -> None:
        """Put a message into `to`'s inbox, then remove the copies that it replaces."""
        folder = f"{FOLDER}/{check_name(to, 'recipient')}/{_message(envelope)}"
        replaced = [found.key async for found in self._objects.list(folder)]
        count = max([await self._count(key) for key in replaced], default=0)
        await self._objects.put(f"{folder}/{secrets.token_hex(12)}", _Stored(envelope, count, 0).pack())
        await self._objects.delete(*replaced)
        async with self._sent:
            self._sent.notify_all()

    async def receive(self, who: str, max: int = 1, wait_s: float = 20.0) -> list[Delivery]:
        """Up to `max` messages; looks at once when this process sends, otherwise polls."""
        check_name(who, "recipient")
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + wait_s, FIRST_WAIT_S
        while not (found := await self._take(who, max)) and (left := deadline - loop.time()) > 0:
            await self._sleep(min(left, pause))
            pause = min(2 * pause, LONGEST_WAIT_S)
        return found

    async def extend(self, receipts: Sequence[str], seconds: float) -> None:
        """Hide messages for `seconds` from now; 0 brings them back at once."""
        until = self._now_ms() + round(seconds * 1000)
        for receipt in receipts:
            key = _key(receipt)
            while key is not None:
                try:
                    content, tag = await self._objects.get(key)
                except NotFoundError:
                    break
                stored = _Stored.unpack(content)
                if await self._objects.put_if(key, _Stored(stored.envelope, stored.count, until).pack(), tag):
                    break

    async def ack(self, receipts: Sequence[str]) -> None:
        """Remove these copies."""
        keys = [key for receipt in receipts if (key := _key(receipt)) is not None]
        await self._objects.delete(*keys)
        for key in keys:
            self._hidden.pop(key, None)

    async def _take(self, who: str, max: int) -> list[Delivery]:
        found: list[Delivery] = []
        seen: set[str] = set()
        async for each in self._objects.list(f"{FOLDER}/{who}"):
            seen.add(each.key)
            if len(found) < max and (delivery := await self._claim(each)) is not None:
                found.append(delivery)
        for key in [key for key in self._hidden if key.startswith(f"{FOLDER}/{who}/") and key not in seen]:
            del self._hidden[key]
        return found

    async def _claim(self, found: Found) -> Delivery | None:
        now = self._now_ms()
        tag, until = self._hidden.get(found.key, ("", 0))
        if tag == found.tag and until > now:
            return None
        try:
            content, tag = await self._objects.get(found.key)
        except NotFoundError:
            return None
        stored = _Stored.unpack(content)
        if stored.hidden_until_ms > now:
            self._hidden[found.key] = (tag, stored.hidden_until_ms)
            return None
        taken = _Stored(stored.envelope, stored.count + 1, now + self._visibility_ms)
        if not await self._objects.put_if(found.key, taken.pack(), tag):
            return None  # somebody else was faster
        return Delivery(found.key[len(FOLDER) + 1 :], stored.envelope, taken.count)

    async def _count(self, key: str) -> int:
        try:
            return _Stored.unpack((await self._objects.get(key))[0]).count
        except (NotFoundError, StorageError):
            return 0

    async def _sleep(self, seconds: float) -> None:
        # Not `wait_for`: before Python 3.12 it swallows a cancellation that comes together with what is waited for.
        async with self._sent:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._sent.wait()


def _message(envelope: Envelope) -> str:
    named = "\0".join((envelope.sender, envelope.id, envelope.kind))
    return hashlib.sha256(named.encode()).hexdigest()[:32]


def _key(receipt: str) -> str | None:
    return f"{FOLDER}/{receipt}" if _RECEIPT.fullmatch(receipt) else None
