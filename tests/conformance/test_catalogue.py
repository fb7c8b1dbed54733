"""Every built-in strategy in simulation, between real processes and over functions: the same bits (DESIGN §3.10).

One federation serves all. Questions and trees have apps in `test_same_bits.py`, since they train no such model.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import hanse as hs
from hanse.clients.loader import load_app
from hanse.demos.local_federation import LocalFederation
from hanse.strategies.catalogue import catalogue
from tests.conformance.catalogue_apps import ELSEWHERE, NAMES, ONE_AT_A_TIME, SITES
from tests.conformance.over_functions import over_functions
from tests.conformance.test_same_bits import CASES, said, simulated

PARAMS_OF: dict[str, dict[str, Any]] = {"fedasync": {}, "fedbuff": {"buffer": 3}, "fedat": {"tiers": 2}}
HERE = Path(__file__).parent


def app_of(name: str) -> hs.App:
    return load_app(HERE, "catalogue_apps.py", name)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    folder = tmp_path_factory.mktemp("catalogue")
    with LocalFederation(folder, {site: {} for site in SITES}, durability="process") as place:
        yield place


def test_none_is_left_out() -> None:
    assert {*NAMES, *ELSEWHERE} == set(catalogue())


@pytest.mark.slow
@pytest.mark.xdist_group("catalogue")
@pytest.mark.parametrize("name", NAMES)
def test_simulation_and_federation_give_the_same_bits(name: str, federation: LocalFederation) -> None:
    app = app_of(name)
    expected = said(hs.simulate(app, SITES, progress=False))
    found = said(hs.submit(app, federation.federation(), sites=list(SITES)).result())
    assert found == expected
    assert found["status"] == "finished"
    assert len(found["rounds"]) == 3
    assert not any(record["failed"] for record in found["rounds"])
    assert all(len(record["folded"]) <= (1 if name == "fedasync" else len(SITES)) for record in found["rounds"])


@pytest.mark.parametrize("name", NAMES)
def test_functions_give_the_same_bits(name: str) -> None:
    """Without a server; asynchronous ones too. (A few apps run so between real processes, in `test_same_bits.py`.)"""
    app = app_of(name)
    expected = said(hs.simulate(app, SITES, progress=False))
    assert said(over_functions(app, {site: {} for site in SITES})) == expected


@pytest.mark.parametrize(
    "name", ["analytics", "surviving", "bagging", "boosting", "boosting_classes", "declared", "compressed"]
)
def test_questions_and_trees_over_functions_give_the_same_bits(name: str) -> None:
    app, data = CASES[name].load()
    assert said(over_functions(app, data)) == simulated(app, data)


@pytest.mark.slow
@pytest.mark.xdist_group("catalogue")
@pytest.mark.parametrize("name", [*ONE_AT_A_TIME, "fedat"])
def test_asynchronous_ones_train_at_all_real_sites_at_once(name: str, federation: LocalFederation) -> None:
    """With every site at work nobody knows the order; the model is near what all orders lead to."""
    app = app_of(name)
    app._spec = replace(app._spec, sample=1.0, rounds=12, evaluate_every=0, lr={"lr": 0.3}, params=PARAMS_OF[name])
    result: Any = hs.submit(app, federation.federation(), sites=list(SITES)).result()
    assert result.status == "finished"
    assert len(result.rounds) == 12
    assert {site for record in result.rounds for site in record.folded} == set(SITES)
    assert 2.0 < float(result.arrays["head"].mean()) < 8.5, "centres are 4 to 7"
