"""One town for all tests of the site: keys are slow to make."""

from pathlib import Path

import pytest

from tests.unit.site.bench import Town


@pytest.fixture(scope="session")
def town() -> Town:
    return Town()


@pytest.fixture
def site(town: Town, tmp_path: Path) -> Path:
    return town.settle(tmp_path / "site")
