"""What one driver writes: the run record, once a turn by compare-and-set, and the rows that the next one stands on.

The record begins with a mark that tells who wrote it last. A driver that was taken over finds another's there.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from hanse.core.errors import ConflictError
from hanse.rounds.driver.driving import Driving

T = TypeVar("T")


class Writing:
    """The writes of one driver.

    Args:
        mark: how its records begin; None for a mark that is no other driver's.
    """

    def __init__(self, driving: Driving, mark: bytes | None = None) -> None:
        self.mark = mark or f'{{"driver":"{secrets.token_hex(8)}"'.encode()
        self.version = 0
        """The run record's in the ledger, as far as this driver knows."""
        self.on_their_way: dict[str, asyncio.Future[None]] = {}
        """Rows that are being written, by their keys."""
        self.driving = driving
        self._written = -1
        self._spilled = ""
        self._look: asyncio.Task[None] | None = None

    # ---- the run record ----

    async def create(self) -> None:
        """Write the first record.

        Raises:
            ConflictError: there is one already.
        """
        driving, ledger = self.driving, self.driving.seams.ledger
        state, keeping = driving.standing.state, driving.keeping
        content, spilled = await keeping.spill(driving.standing.encode(self.mark), self.mark, state.revision)
        if not await ledger.create(keeping.run_key, content) and (await ledger.get(keeping.run_key))[0] != content:
            raise ConflictError(f"job {state.job}: component {state.component} is there already")
        self.found(1, spilled)

    def found(self, version: int, spilled: str) -> None:
        """The run stands as the record says.

        Args:
            version: the record's.
            spilled: the scope of the blob that it is in, "" for none.
        """
        self.version, self._spilled = version, spilled
        self._written = self.driving.standing.state.revision

    @property
    def is_due(self) -> bool:
        """Whether the state is newer than its record."""
        return self.driving.standing.state.revision != self._written

    @property
    def is_spilled(self) -> bool:
        """Whether the record is too long for the ledger, which has the name of its blob."""
        return bool(self._spilled)

    async def write(self) -> None:
        """The step's one write. A full disk is waited for; a lost compare-and-set ends this driver.

        Raises:
            ConflictError: another shell has written.
        """
        standing, insist = self.driving.standing, self.driving.patience.insist
        revision, before = standing.state.revision, self._spilled
        await insist("write the run record", self._write_once, standing.encode(self.mark))
        self.version += 1
        self._written = revision
        if before and before != self._spilled:
            await insist("delete blobs", self.driving.seams.blobs.delete_scope, before)

    async def _write_once(self, content: bytes) -> None:
        driving, seams = self.driving, self.driving.seams
        key, state = driving.keeping.run_key, driving.standing.state
        content, self._spilled = await driving.keeping.spill(content, self.mark, state.revision)
        while self.on_their_way and (driving.patience.put_off or seams.unhurried is None):
            await asyncio.wait(list(self.on_their_way.values()))
        if await seams.ledger.compare_and_set(key, content, self.version):
            return
        # An earlier try may have done it, and then failed.
        if await seams.ledger.get(key) != (content, self.version + 1):
            raise ConflictError(f"job {state.job}: another server has taken over")

    async def check_not_taken_over(self) -> None:
        """Look at the run record once more, after a row is there: whoever finds another's mark stops.

        A successor leaves its own mark before it reads the rows. Replies that came together share one look.
        """
        if self._look is None:
            self._look = asyncio.ensure_future(self._look_at_record())
        await asyncio.shield(self._look)

    async def _look_at_record(self) -> None:
        await asyncio.sleep(0)  # lets every reply of the same commit join
        self._look = None
        driving = self.driving
        record, _ = await driving.seams.ledger.get(driving.keeping.run_key)
        if not record.startswith(self.mark):
            driving.life.stop(ConflictError(f"job {driving.standing.state.job}: another server has taken over"))

    # ---- rows that the next run record stands on ----

    async def row(self, key: str, what: str, call: Callable[..., Awaitable[T]], *args: Any) -> None:
        """Write what the next run record stands on; it comes no earlier."""
        there = self.on_their_way.setdefault(key, asyncio.get_running_loop().create_future())
        try:
            await self.driving.patience.insist(what, call, *args)
        finally:
            del self.on_their_way[key]
            there.set_result(None)

    def round(self, content: dict[str, Any]) -> None:
        """Give a round's record its row. The next run record, which leaves it out, comes after it."""
        keeping, patience = self.driving.keeping, self.driving.patience
        key = f"round {content['number']}"
        self.on_their_way[key] = asyncio.get_running_loop().create_future()
        patience.put_off += 1  # until its row is begun

        async def keep() -> None:
            try:
                row = await patience.insist("keep a round's record", keeping.round_content, content)
            except BaseException:
                self.on_their_way.pop(key).set_result(None)
                raise
            finally:
                patience.put_off -= 1
            await self.row(key, "keep a round's record", keeping.create_round_row, content["number"], row)

        if self.driving.life.spawn(keep) is None:  # this driver is over, and nothing will run
            patience.put_off -= 1
            self.on_their_way.pop(key).set_result(None)
