"""A command called in this process, and a federation that was made but never started."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from hanse.cli.main import main
from hanse.server.config import ServerConfig
from hanse.server.init import NewFederation, init_federation


@dataclass(frozen=True)
class Outcome:
    """What a command left."""

    code: int
    out: str
    err: str


Hanse = Callable[..., Outcome]


@pytest.fixture
def hanse(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hanse:
    """Call a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("HANSE_FEDERATION", "HANSE_DEBUG", "HANSE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments: object) -> Outcome:
        code = main([str(each) for each in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> NewFederation:
    """A federation whose server does not run."""
    config = ServerConfig("hospitals", port=1, enrolment_port=2, http_port=3)
    return init_federation(tmp_path_factory.mktemp("fed") / "hospitals", config, sites=["luebeck"])
