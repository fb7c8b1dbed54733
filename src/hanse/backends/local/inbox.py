"""The inbox of a local store: delivery happens in memory; what must last is also a row in the database.

A message is delivered once its row is committed. Acknowledging deletes the row with the next commit and does not
wait for it: a message whose acknowledgement is lost by a kill comes again, as "at least once" allows.
"""

from collections.abc import Callable, Sequence

from hanse.backends.local import database as sql
from hanse.backends.memory import VISIBILITY_S, MemoryInbox, monotonic_ms
from hanse.core.records import Envelope
from hanse.core.seams import Delivery


class LocalInbox:
    """An `Inbox` over the store's database; its messages come back, visible at once, when the store is reopened."""

    def __init__(
        self,
        database: sql.Database,
        *,
        visibility_s: float = VISIBILITY_S,
        now_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._database = database
        self._held = MemoryInbox(visibility_s=visibility_s, now_ms=now_ms)
        self._last_row = 0
        for row, recipient, content, count in database.messages():
            self._held.deliver(recipient, Envelope.unpack(content), row=row, count=count)
            self._last_row = row

    async def send(self, to: str, envelope: Envelope, *, durable: bool = True) -> None:
        """Put a message into `to`'s inbox, committed first if `durable`."""
        replaced = self._held.held(to, envelope)
        if not durable:
            # The replaced message's row goes when this one is acknowledged.
            self._held.deliver(to, envelope, durable=False, row=replaced.row if replaced else 0)
            return
        self._last_row += 1
        row = self._last_row
        key = (envelope.sender, envelope.id, envelope.kind)
        count = replaced.count if replaced else 0
        await self._database.write(sql.put_message(row, to, key, envelope.pack(), count))
        self._held.deliver(to, envelope, row=row)

    async def receive(self, who: str, max: int = 1, wait_s: float = 20.0) -> list[Delivery]:
        """Wait for a message; woken by `send`."""
        found = await self._held.receive(who, max, wait_s)
        rows = [(delivery.count, self._row_of(delivery.receipt)) for delivery in found]
        counts = [(count, row) for count, row in rows if row]
        if counts:
            self._database.write_late(sql.count_messages(counts))
        return found

    async def extend(self, receipts: Sequence[str], seconds: float) -> None:
        """Keep messages from coming again for `seconds` from now."""
        await self._held.extend(receipts, seconds)

    async def ack(self, receipts: Sequence[str]) -> None:
        """Forget these messages, with the next commit."""
        rows = [message.row for message in self._held.remove(receipts) if message.row]
        if rows:
            self._database.write_late(sql.delete_messages(rows))

    def _row_of(self, receipt: str) -> int:
        message = self._held.peek(receipt)
        return message.row if message else 0
