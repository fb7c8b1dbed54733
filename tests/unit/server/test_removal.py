"""A removed job takes its own records along, and nobody else's."""

from pathlib import Path

import pytest

from hanse.backends.memory import MemoryBlobs, MemoryLedger
from hanse.core.errors import NotFoundError
from hanse.server.removal import is_gone, remove_job


async def test_a_job_whose_id_begins_like_anothers_leaves_it_alone(tmp_path: Path) -> None:
    ledger = MemoryLedger()
    kinds = ("job/{}", "jobend/{}", "run/{}/main", "reply/{}/1")
    for job in ("north", "north-sea"):
        for kind in kinds:
            await ledger.create(kind.format(job), b"{}")
    await remove_job("north", "ada", ledger, MemoryBlobs(), tmp_path, 1)
    for kind in kinds:
        with pytest.raises(NotFoundError):
            await ledger.get(kind.format("north"))
        assert (await ledger.get(kind.format("north-sea")))[0] == b"{}"
    assert await is_gone("north", ledger)
    assert not await is_gone("north-sea", ledger)
