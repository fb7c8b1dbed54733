"""A failure of user code is shown once in a simulation, with who failed alike, whatever runs the sites."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hanse as hs
from hanse.clients.loader import load_app
from hanse.core.errors import JobFailed
from hanse.simulation import hands
from tests.nursery import REPLICA, forks

APPS = Path(__file__).parent / "apps"


def app_of(**options: Any) -> hs.App:
    app = hs.App(initial={"w": np.zeros(2)}, rounds=2, **options)

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        if site.name in ("b", "c", "d"):
            raise TypeError(f"patient of {site.name}")  # the text differs, and the lines do not
        if site.name == "e":
            raise ValueError("another line")
        return arrays, 1, {}

    return app


def simulate(app: hs.App) -> None:
    hs.simulate(app, list("abcd"), progress=False)


def simulate_hierarchy(app: hs.App) -> None:
    groups = hs.App(initial={"w": np.zeros(2)}, rounds=2, groups=hs.Groups(1))
    groups.client_side = app.client_side
    hs.simulate_hierarchy(groups, {"x": ["b"], "y": ["c"], "z": ["d"]}, progress=False)


@pytest.mark.parametrize("run", [simulate, simulate_hierarchy])
def test_one_traceback_for_all_who_failed_alike(
    run: Callable[[hs.App], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(JobFailed, match=r"b.*TypeError at test_tracebacks.py:\d+ in train") as caught:
        run(app_of())
    assert "site's log" not in str(caught.value)
    err = capsys.readouterr().err
    assert err.count("Traceback (most recent call last)") == 1
    assert err.startswith("site b, round 1, train:\n")
    assert "TypeError: patient of b" in err
    assert err.endswith("2 other sites failed as b did (traceback above): c, d\n")


def test_another_line_is_another_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    hs.simulate(app_of(quorum=1, retries=0), list("abce"), progress=False)
    err = capsys.readouterr().err
    assert err.count("Traceback (most recent call last)") == 2
    assert err.endswith("1 other site failed as b did (traceback above): c\n")


def test_peers_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(JobFailed, match="the traceback is on standard error"):
        hs.simulate_peers(app_of(), ["a", "b"])
    err = capsys.readouterr().err
    assert err.count("Traceback (most recent call last)") == 1
    assert "site b, round 1, train:\n" in err


def test_replicas_tell_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    app = load_app(APPS, "failing.py", "app")
    assert isinstance(app, hs.App)
    with forks(hands, REPLICA), pytest.raises(JobFailed, match=r"5 of 5 sites: a, b, c, d, e: raised: TypeError"):
        hs.simulate(app, list("abcde"), engine="replicas", replicas=2, progress=False)
    err = capsys.readouterr().err
    assert err.count("Traceback (most recent call last)") == 1
    assert "4 other sites failed as" in err
