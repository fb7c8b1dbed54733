"""What people can do to the server through `Ask`, `Watch` and uploads, and what they cannot."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.faults.wire_federation import Wire, federation


@pytest.fixture
async def wire(tmp_path: Path) -> AsyncIterator[Wire]:
    async with federation(tmp_path) as wire:
        yield wire


async def test_a_whole_job(wire: Wire) -> None:
    await wire.check_job()
