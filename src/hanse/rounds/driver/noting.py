"""Writing where nobody stays: the run record says as well whether what it decided has been performed, and when."""

from collections.abc import Mapping
from typing import Any

from hanse.rounds.driver.driving import Driving
from hanse.rounds.driver.writing import Writing
from hanse.rounds.keeping import MAX_RECORD_BYTES

_PENDING = b'{"performed":false'
_PERFORMED = b'{"performed":true'


class Noting(Writing):
    """The writes of one visit.

    Args:
        record: the run record that was found; None for a run that begins, of which nothing is to be performed.
    """

    def __init__(self, driving: Driving, record: Mapping[str, Any] | None = None) -> None:
        super().__init__(driving, _PERFORMED + b',"written_ms":0')
        self.is_performed = record is None or bool(record.get("performed", False))
        self.written_ms = 0 if record is None else int(record.get("written_ms", 0))
        self._earlier = list(driving.standing.unkept)

    async def keep_earlier(self) -> None:
        """The records of the checkpoints before, if whoever wrote them did not get so far."""
        for record in self._earlier:
            await self.driving.keeping.round_row(record)
        self._earlier = []

    async def write(self) -> None:
        """The step's one write; nothing of it has been performed yet."""
        await self.keep_earlier()
        self.is_performed, self.written_ms = False, self.driving.clock.now_ms()
        self.mark = _PENDING + b',"written_ms":%d' % self.written_ms
        await super().write()

    async def note_performed(self) -> None:
        """Not a step: nothing is lost if it is not written, or if somebody has gone on meanwhile.

        It says as well what has been cleaned up, which nobody need clean up again.
        """
        ledger, key = self.driving.seams.ledger, self.driving.keeping.run_key
        self.mark = _PERFORMED + b',"written_ms":%d' % self.written_ms
        noted = b"" if self.is_spilled else self.driving.standing.encode(self.mark)
        if not noted or len(noted) > MAX_RECORD_BYTES:
            content, version = await ledger.get(key)
            if version != self.version or not content.startswith(_PENDING):
                return
            noted = _PERFORMED + content[len(_PENDING) :]
        self.is_performed = await ledger.compare_and_set(key, noted, self.version)

    async def is_overtaken(self) -> bool:
        """Whether somebody has written since this visit has."""
        return (await self.driving.seams.ledger.get(self.driving.keeping.run_key))[1] != self.version
