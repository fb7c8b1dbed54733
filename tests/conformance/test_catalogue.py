"""Every built-in strategy in simulation, between real processes, and over functions without a server: the same bits.

DESIGN §3.10. One federation of processes serves all; questions and trees are between processes in `test_same_bits.py`,
since they train no such model. The functions are the real ones in this process, over queues in memory; two apps go over
an emulator and real sites in `test_same_bits.py`.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import hanse as hs
from hanse.clients.loader import load_app
from hanse.demos import local_federation
from hanse.demos.local_federation import LocalFederation
from hanse.strategies.catalogue import catalogue
from tests.conformance.catalogue_apps import ELSEWHERE, NAMES, ONE_AT_A_TIME, SITES
from tests.conformance.over_functions import over_functions
from tests.conformance.test_same_bits import CASES, said
from tests.nursery import MEMBERS, forks

PARAMS_OF: dict[str, dict[str, Any]] = {"fedasync": {}, "fedbuff": {"buffer": 3}, "fedat": {"tiers": 2}}
TREES_AND_QUESTIONS = {
    "query": ("asking",),
    "analysis": ("analytics", "surviving"),
    "boosting": ("boosting",),
    "xgboost": ("bagging",),
}
"""Strategy → the cases of `test_same_bits.py` that have it."""
HERE = Path(__file__).parent


def app_of(name: str) -> hs.App:
    return load_app(HERE, "catalogue_apps.py", name)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    folder = tmp_path_factory.mktemp("catalogue")
    with (
        forks(local_federation, MEMBERS),
        LocalFederation(folder, {site: {} for site in SITES}, durability="process") as place,
    ):
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


@pytest.mark.slow
@pytest.mark.xdist_group("catalogue")
@pytest.mark.parametrize("name", [*ONE_AT_A_TIME, "fedat"])
def test_asynchronous_ones_train_at_all_real_sites_at_once(name: str, federation: LocalFederation) -> None:
    """With every site at work nobody knows the order; the model is near what all orders lead to."""
    app = app_of(name)
    app._spec = replace(app._spec, sample=1.0, rounds=30, evaluate_every=0, lr={"lr": 0.3}, params=PARAMS_OF[name])
    job = hs.submit(app, federation.federation(), sites=list(SITES))
    first = next(event for event in job.follow() if event["what"] == "phase")
    assert first["asked"] == len(SITES), "a quick one may fold all rounds while others start, but all are asked at once"
    result: Any = job.result()
    assert result.status == "finished"
    assert len(result.rounds) == 30
    assert {site for record in result.rounds for site in record.folded} <= set(SITES)
    assert 2.0 < float(result.arrays["head"].mean()) < 8.5, "centres are 4 to 7"


@pytest.mark.parametrize("name", NAMES)
def test_functions_without_a_server_give_the_same_bits(name: str) -> None:
    app = app_of(name)
    expected = said(hs.simulate(app, SITES, progress=False))
    found = over_functions(app, {site: {} for site in SITES})
    assert said(found) == expected, found.error


def test_every_other_strategy_has_an_app() -> None:
    assert set(TREES_AND_QUESTIONS) == set(ELSEWHERE)
    for strategy, names in TREES_AND_QUESTIONS.items():
        for name in names:
            app, _ = CASES[name].load()
            assert app.spec().strategy == strategy


@pytest.mark.parametrize("name", [name for names in TREES_AND_QUESTIONS.values() for name in names])
def test_trees_and_questions_over_functions_give_the_same_bits(name: str) -> None:
    app, data = CASES[name].load()
    expected = said(hs.simulate(app, data, progress=False))
    found = over_functions(app, data)
    assert said(found) == expected, found.error
