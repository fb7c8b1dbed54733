"""A protocol of phases, whose model is all that it knows: server and site are killed, and no bit changes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hanse as hs
from hanse.clients.loader import load_app
from hanse.demos import local_federation
from hanse.demos.local_federation import LocalFederation
from tests.nursery import MEMBERS, forks

pytestmark = [pytest.mark.long, pytest.mark.faults, pytest.mark.xdist_group("federation-phases")]
APP = """
import hanse as hs

app = hs.App(hs.Boosting(max_depth=4, max_bins=32), rounds=12, quorum=3, min_sites=3)


@app.client
def client(site):
    return hs.boosting(*site.load("loans"), test=0.2)
"""


def test_trees_survive_the_death_of_server_and_site(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    rng = np.random.default_rng(4)
    data: dict[str, dict[str, Any]] = {}
    declared: dict[str, dict[str, Any]] = {}
    for site in ("a", "b", "c"):
        X = rng.normal(size=(300, 5))
        y = (X[:, 0] + X[:, 1] * X[:, 2] > 0).astype(np.int64)
        data[site] = {"loans": (X, y)}
        np.savez(tmp_path / f"{site}.npz", X=X, y=y)
        declared[site] = {"loans": {"kind": "npz", "path": str(tmp_path / f"{site}.npz"), "x": "X", "y": "y"}}
    app = load_app(tmp_path, "app.py", "app")
    expected = hs.simulate(app, data, progress=False)
    killed = []
    with forks(local_federation, MEMBERS), LocalFederation(tmp_path / "federation", declared) as place:
        job = hs.submit(app, place.federation())
        for event in job.follow():
            number = event["record"]["number"] if event["what"] == "round" else 0
            if number >= 2 and "server" not in killed:
                killed.append("server")
                place.kill(place.server)
                place.start_server()
            elif number >= 5 and "site" not in killed:
                killed.append("site")
                place.kill(place.children["b"])
                place.start_site("b")
        found = job.result()
    assert killed == ["server", "site"]
    assert found.arrays == expected.arrays
    assert [record.metrics for record in found.rounds] == [record.metrics for record in expected.rounds]
