"""A removed job takes its own records along, and nobody else's."""

import pytest

from hanse.backends.memory import MemoryBlobs, MemoryLedger
from hanse.core.errors import NotFoundError
from hanse.pipeline.removal import is_gone, remove_job


async def test_a_job_whose_id_begins_like_anothers_leaves_it_alone() -> None:
    ledger = MemoryLedger()
    kinds = ("job/{}", "jobend/{}", "run/{}/main", "reply/{}/1", "decision/{}/site", "wait/{}")
    asked = []

    async def more() -> None:
        asked.append(await ledger.query("job/"))

    for job in ("north", "north-sea"):
        for kind in kinds:
            await ledger.create(kind.format(job), b"{}")
    await remove_job("north", "ada", ledger, MemoryBlobs(), 1, more)
    assert [key for key, _, _ in asked[0]] == ["job/north", "job/north-sea"]  # the row goes last
    for kind in kinds:
        with pytest.raises(NotFoundError):
            await ledger.get(kind.format("north"))
        assert (await ledger.get(kind.format("north-sea")))[0] == b"{}"
    assert await is_gone("north", ledger)
    assert not await is_gone("north-sea", ledger)
