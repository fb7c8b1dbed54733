"""Where parts of a simulation meet that were written apart: what a reader found, each shown once."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hanse as hs
from hanse.core.errors import ConfigError
from tests.patience import WAIT_S

SITES = ["a", "b", "c"]


def adding(**settings: Any) -> hs.App:
    app = hs.App(**{"rounds": 3, "initial": [np.zeros(1)], "evaluate_every": 0, **settings})

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        return [arrays["0"] + 1], 1, {}

    return app


def test_an_evaluation_at_the_server_changes_nothing() -> None:
    app = adding()

    @app.evaluate_on_server
    def evaluate(arrays: Any, round_: int) -> Any:
        arrays["0"][:] = 100.0
        return {}

    assert hs.simulate(app, SITES, progress=False).arrays["0"] == [3.0]


def test_a_loader_that_draws_shifts_no_stream() -> None:
    app = hs.App(rounds=2, initial=[np.zeros(1)], evaluate_every=0)

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        site.load("rows")
        return [arrays["0"] + np.random.normal()], 1, {}

    def drawing(site: str) -> dict[str, Any]:
        np.random.seed(5)
        return {"rows": np.random.normal(size=3)}

    first, second = (
        hs.simulate(app, hs.Population(4, data=data), progress=False).arrays["0"].tobytes()
        for data in (drawing, lambda site: {"rows": np.zeros(3)})
    )
    assert first == second


def test_changes_are_not_folded_into_models_that_they_did_not_begin_from() -> None:
    with pytest.raises(ConfigError, match="what is compressed is a change"):
        adding(strategy=hs.FedAsync(), compression=hs.Int8())
    with pytest.raises(ConfigError, match="what is compressed is a change"):
        adding(compression=hs.Int8()).variant(strategy=hs.FedAT())
    assert adding(strategy=hs.FedBuff(2), compression=hs.Int8()).spec().compression


def test_a_variant_is_checked_as_the_app_itself() -> None:
    with pytest.raises(ConfigError, match="asks candidates first"):
        adding(selection=hs.PowerOfChoice(3)).variant(strategy=hs.FedAsync())


@pytest.mark.slow
def test_replicas_see_the_arguments_that_the_program_was_called_with(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import sys\n"
        "import numpy as np\n"
        "import hanse as hs\n"
        "step = float(sys.argv[1])\n"
        "app = hs.App(rounds=2, initial=[np.zeros(1)], evaluate_every=0)\n"
        "@app.train\n"
        "def train(arrays, config, site):\n"
        "    return [arrays['0'] + step], 1, {}\n"
        "if __name__ == '__main__':\n"
        "    print(hs.simulate(app, 8, engine='replicas', replicas=1, progress=False).arrays['0'][0])\n"
    )
    done = subprocess.run(
        [sys.executable, "program.py", "0.5"], cwd=tmp_path, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.stdout.strip() == "1.0", done.stderr
