"""Taking replies: each becomes a row, durable before it is acknowledged, and then counts.

A reply is acknowledged only if the run record still bears this driver's mark after the row exists: so a driver that
was taken over acknowledges nothing that its successor has not seen.
"""

import asyncio
from collections.abc import Callable

from hanse.core.errors import NotFoundError, UnavailableError
from hanse.core.ids import upload_scope
from hanse.core.records import Reply
from hanse.core.seams import BlobStore
from hanse.rounds import machine
from hanse.rounds.driver.cleaning import Cleaning
from hanse.rounds.driver.driving import Driving
from hanse.rounds.driver.writing import Writing
from hanse.rounds.events import Answer
from hanse.rounds.run_state import RunState, Slot


class Receiving:
    """The replies of one run.

    Args:
        wake: called when a reply counts before whoever brought it says so.
    """

    def __init__(self, driving: Driving, writing: Writing, cleaning: Cleaning, wake: Callable[[], None]) -> None:
        self.taking: dict[int, asyncio.Future[None]] = {}
        """Replies that are being made rows, by ordinal."""
        self._driving = driving
        self._writing = writing
        self._cleaning = cleaning
        self._wake = wake
        self._waiting: list[Answer] = []
        self._receipt = 0

    @property
    def has_any(self) -> bool:
        """Whether replies were received that the machine does not know of yet."""
        return bool(self._waiting)

    def drain(self) -> tuple[Answer, ...]:
        """Those replies, in the order of their receipt."""
        answers, self._waiting = tuple(self._waiting), []
        return answers

    async def take(self, reply: Reply, packed: bytes | None) -> tuple[str, str]:
        """Receive a reply; see `Run.take`."""
        standing, ordinal = self._driving.standing, reply.task.ordinal
        while ordinal in self.taking:
            await asyncio.wait([self.taking[ordinal]])
        self._driving.life.check_in_charge(standing.state.over)
        slot = slot_of(standing.state, ordinal)
        if machine.expects(standing.state, ordinal) == "settled" or slot is None or ordinal in standing.replies:
            return "duplicate", ""
        if refusal := refusal_of(standing.state, slot, reply):
            return "refused", refusal
        done = self.taking[ordinal] = asyncio.get_running_loop().create_future()
        try:
            return await self._take(reply, packed)
        finally:
            del self.taking[ordinal]
            done.set_result(None)

    async def _take(self, reply: Reply, packed: bytes | None) -> tuple[str, str]:
        driving, standing, ordinal = self._driving, self._driving.standing, reply.task.ordinal
        if refusal := await refusal_of_update(driving.seams.blobs, reply):
            return "refused", refusal
        receipt = self._receipt = max(driving.clock.now_ms() * 1000, self._receipt + 1)
        reply, content = await driving.keeping.reply_row(reply, receipt, packed)
        row = driving.keeping.reply_key(standing.state.round, ordinal)
        standing.left.replied(ordinal, standing.state.round)
        if driving.seams.overlap and (reply.update is None or reply.update.content is not None):
            return await self._take_early(reply, receipt, row, content)
        try:
            if not await driving.seams.ledger.create(row, content):
                # Written before by a driver that could not acknowledge it.
                content, _ = await driving.seams.ledger.get(row)
                receipt, reply = driving.keeping.read_reply(content)
            if not driving.seams.private:
                await self._writing.check_not_taken_over()
        except NotFoundError as error:  # a successor has deleted the row
            standing.left.settled([ordinal])
            raise UnavailableError(str(error)) from None
        except BaseException:
            standing.left.settled([ordinal])
            raise
        driving.life.check_in_charge(standing.state.over)
        if standing.state.over:
            return "duplicate", ""
        self._count(reply, receipt)
        return "received", ""

    async def _take_early(self, reply: Reply, receipt: int, row: str, content: bytes) -> tuple[str, str]:
        """Let the reply count while its row is being written: closing and reducing share the disk's time with it.

        Nothing that is durable or visible comes of it before the row is there: the run record waits for it.
        """
        driving, seams = self._driving, self._driving.seams
        self._count(reply, receipt)
        if len(self._waiting) == 1:
            self._wake()
        # One that is there already was written before by a driver that could not acknowledge it.
        create = (seams.unhurried or seams.ledger).create
        await self._writing.row(row, "keep a reply", create, row, content)
        if not seams.private:
            await self._writing.check_not_taken_over()
        driving.life.check_in_charge(driving.standing.state.over)
        return "received", ""

    def _count(self, reply: Reply, receipt: int) -> None:
        standing = self._driving.standing
        standing.replies[reply.task.ordinal] = reply
        if reply.fingerprint:
            standing.fingerprints[reply.site] = reply.fingerprint
        standing.traffic.came_up(reply)
        self._driving.telling.reply(reply)
        self._waiting.append(_answer(reply, receipt))

    async def load(self) -> tuple[Answer, ...]:
        """The replies whose rows exist and matter."""
        standing, keeping, state = self._driving.standing, self._driving.keeping, self._driving.standing.state
        wanted = {*state.open, *state.closing, *state.carried, *state.released, *state.previous, *state.fates}
        found: list[Answer] = []
        async for round_, ordinal, row in keeping.reply_rows():
            self._cleaning.seen(round_, ordinal)
            if ordinal not in wanted:
                continue
            receipt, reply = keeping.read_reply(row)
            self._receipt = max(self._receipt, receipt)
            standing.replies[ordinal] = reply
            standing.left.replied(ordinal, round_)
            found.append(_answer(reply, receipt))
        return tuple(found)


def slot_of(state: RunState, ordinal: int) -> Slot | None:
    """The open task that a reply may still answer, or one that is not waited for any more."""
    return state.open.get(ordinal) or state.released.get(ordinal)


def refusal_of(state: RunState, slot: Slot, reply: Reply) -> str:
    """Why this is no reply to the task of that slot; "" if it is one."""
    if reply.site != slot.site or reply.task != state.task_id(reply.task.ordinal, slot):
        return "the task is another site's"
    return ""


async def refusal_of_update(blobs: BlobStore, reply: Reply) -> str:
    """Why the update that a reply names cannot be read; "" if it can, or came inside the reply."""
    update = reply.update
    if update is None or update.content is not None:
        return ""
    if update.scope != upload_scope(reply.task, reply.site):
        return "the update lies outside the site's own scope"
    if await blobs.missing(update.scope, update.manifest):
        return "the update has not been uploaded"
    return ""


def _answer(reply: Reply, receipt: int) -> Answer:
    reason = f"{reply.error_kind}: {reply.error}" if reply.error else reply.error_kind
    return reply.task.ordinal, reason, receipt
