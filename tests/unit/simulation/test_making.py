"""Clients made together draw what they would draw if each were made alone."""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import hanse as hs
from hanse.clients.app import App
from hanse.core.arrays import Array
from hanse.simulation.making import Making
from hanse.simulation.sites import Places, Population

SITES = [f"s{number:02d}" for number in range(30)]
DRAWN: dict[str, list[float]] = {}
MADE: Counter[str] = Counter()


def at(site: str, first: int) -> bool:
    return int(site[1:]) >= first


def nothing(_: Any) -> float:
    return 0.0


def python_draws(_: Any) -> float:
    return random.random()


def numpy_draws(_: Any) -> float:
    return float(np.random.normal())  # the second of a pair is kept for later


def some_sites_draw(site: Any) -> float:
    return random.random() if at(site.name, 11) else 0.0


def seeds_alike(_: Any) -> float:
    number = float(np.random.random())
    np.random.seed(7)
    return number


def draws_a_lot(_: Any) -> float:
    return float(np.random.random(312)[-1])  # 624 words: where the twister's place is what it was


def torch_draws(_: Any) -> float:
    return float(pytest.importorskip("torch").rand(1))


def fails_at_one(site: Any) -> float:
    if site.name == SITES[5]:
        raise ValueError("here")
    return 0.0


def app_of(before: Callable[[Any], float], after: Callable[[Any], float]) -> App:
    app = App()

    @app.client
    def client(site: Any) -> Any:
        MADE[site.name] += 1
        early = before(site)
        X, y = site.load("rows")
        DRAWN[site.name] = [early, float(X[0, 0]), after(site)]
        return hs.mlp(X, y, optimizer=hs.SGD(0.1), classes=2)

    return app


def population(loader: Callable[[Any], float]) -> Population:
    def rows(site: str) -> tuple[Array, Array]:
        class Named:
            name = site

        return np.full((4, 2), loader(Named()), np.float32), np.zeros(4, np.int64)

    return Population(SITES, data=lambda site: {"rows": rows(site)})


DRAWERS = [python_draws, numpy_draws, some_sites_draw, seeds_alike, draws_a_lot, torch_draws]


@pytest.mark.parametrize(
    ("before", "loader", "after"),
    [(nothing, nothing, nothing)]
    + [(f, nothing, nothing) for f in DRAWERS]
    + [(nothing, f, nothing) for f in DRAWERS]
    + [(nothing, nothing, f) for f in DRAWERS],
)
def test_who_draws_draws_what_it_would_alone(
    before: Callable[[Any], float], loader: Callable[[Any], float], after: Callable[[Any], float]
) -> None:
    app, sites = app_of(before, after), population(loader)
    expected = {}
    for site in reversed(SITES):
        DRAWN.clear()
        Places(app, sites).runtime(site).client(3)
        expected |= DRAWN
    DRAWN.clear()
    MADE.clear()
    making = Making(Places(app, sites))
    for part in (SITES[:20], SITES):  # some are known the second time
        assert all(client is not None for client in making.clients(part, 3))
    assert expected == DRAWN
    draws = {before, loader, after} != {nothing}
    assert making.seeds_each == draws
    assert set(MADE.values()) == ({1, 2} if draws else {1})


def test_who_fails_has_no_client_and_the_others_have() -> None:
    making = Making(Places(app_of(fails_at_one, nothing), population(nothing)))
    made = making.clients(SITES, 3)
    assert [site for site, client in zip(SITES, made, strict=True) if client is None] == [SITES[5]]
    assert not making.seeds_each
