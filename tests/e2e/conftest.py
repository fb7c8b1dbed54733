"""Every test of this folder starts real processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.commands import Desk


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Where commands are called."""
    place = Desk(tmp_path)
    yield place
    place.close()


@pytest.fixture(scope="module")
def shared_desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """One for all tests of a file."""
    place = Desk(tmp_path_factory.mktemp("desk"))
    yield place
    place.close()
