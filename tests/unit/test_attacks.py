"""Attacks: what attackers send is what the papers say, computed here from honest runs with plain Python."""

import math
from statistics import NormalDist, fmean, pstdev
from typing import Any

import numpy as np
import pytest

import hanse as hs
from hanse import attacks
from hanse.core.errors import ConfigError

SITES = {f"s{n}": {"rows": (np.full((4, 3), float(n)), np.arange(4) % 3)} for n in range(7)}
BAD = ["s1", "s4", "s6"]


def app_of(seen: dict[tuple[str, int], list[float]] | None = None) -> hs.App:
    """Draws from every kind of random stream, keeps state, and counts; `seen`: what arrived, by site and round."""
    initial = {"w": np.zeros(5, np.float32), "n": np.array([1])}
    app = hs.App(hs.NumPyStrategy() if seen is None else Spy(seen), rounds=3, seed=2, initial=initial)

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        X, y = site.load("rows")
        site.state["calls"] = site.state.get("calls", 0) + 1
        step = X.mean() + site.rng.normal(0, 1, 5) + np.random.normal() + 0.1 * site.state["calls"]
        step += 1e-3 * float(y @ [1, 10, 100, 1000])
        return {"w": (arrays["w"] + step).astype(np.float32), "n": arrays["n"] + 1}, 4, {}

    return app


class Spy(hs.NumPyStrategy):
    """Notes every update's delta and keeps the model at the round's number, whatever came."""

    def __init__(self, seen: dict[tuple[str, int], list[float]]) -> None:
        object.__setattr__(self, "seen", seen)

    def aggregate_fit(self, round: int, results: Any) -> Any:
        for site, (w, n), _ in results:
            self.seen[site, round] = (w.astype(float) - (round - 1)).tolist()  # type: ignore[attr-defined]
            assert n.tolist() == [round + 1]
        return [np.full(5, round, np.float32), np.array([round + 1])]


def deltas(attack: attacks.Attack | None) -> dict[tuple[str, int], list[float]]:
    seen: dict[tuple[str, int], list[float]] = {}
    app = app_of(seen)
    hs.simulate(app if attack is None else attacks.attacked(app, attack, BAD, SITES), SITES, progress=False)
    assert len(seen) == 3 * len(SITES)
    return seen


HONEST = deltas(None)


def others_are_honest(found: dict[tuple[str, int], list[float]]) -> None:
    for (site, round_), delta in found.items():
        if site not in BAD:
            assert delta == HONEST[site, round_]


def column(names: list[str], round_: int, place: int) -> list[float]:
    return [HONEST[name, round_][place] for name in names]


def test_sign_flip() -> None:
    found = deltas(attacks.SignFlip(2.0))
    others_are_honest(found)
    for site in BAD:
        for round_ in (1, 2, 3):
            np.testing.assert_allclose(found[site, round_], [-2 * x for x in HONEST[site, round_]], rtol=1e-5)


def test_little_is_enough_uses_the_colluders_mean_and_deviation() -> None:
    found = deltas(attacks.LittleIsEnough(1.5))
    others_are_honest(found)
    for round_ in (1, 2, 3):
        expected = [fmean(column(BAD, round_, place)) - 1.5 * pstdev(column(BAD, round_, place)) for place in range(5)]
        for site in BAD:
            np.testing.assert_allclose(found[site, round_], expected, rtol=1e-4, atol=1e-5)


def test_inner_product_uses_the_honest_mean() -> None:
    found = deltas(attacks.InnerProduct(0.5))
    others_are_honest(found)
    good = [name for name in SITES if name not in BAD]
    for round_ in (1, 2, 3):
        expected = [-0.5 * fmean(column(good, round_, place)) for place in range(5)]
        for site in BAD:
            np.testing.assert_allclose(found[site, round_], expected, rtol=1e-4, atol=1e-5)


def test_gaussian_noise_is_each_attacker_s_own_and_repeats() -> None:
    found = deltas(attacks.Gaussian(3.0))
    others_are_honest(found)
    assert found == deltas(attacks.Gaussian(3.0))
    drawn = [x for site in BAD for round_ in (1, 2, 3) for x in found[site, round_]]
    assert len(set(drawn)) == 45
    # Seeds are fixed; of 45 draws a mean beyond 5 standard errors has a chance of 6e-7, a deviation outside of 1e-3.
    assert abs(fmean(drawn)) < 5 * 3 / math.sqrt(45)
    assert 2 < pstdev(drawn) < 4


def test_label_flip_trains_on_turned_labels() -> None:
    found = deltas(attacks.LabelFlip(3))
    others_are_honest(found)
    change = 1e-3 * float((2 - np.arange(4) % 3) @ [1, 10, 100, 1000] - (np.arange(4) % 3) @ [1, 10, 100, 1000])
    for site in BAD:
        np.testing.assert_allclose(found[site, 2], [x + change for x in HONEST[site, 2]], rtol=1e-4, atol=1e-5)


def test_a_backdoor_marks_a_share_of_the_data_and_boosts_the_update() -> None:
    attack = attacks.Backdoor(target=2, marked=2, value=9.0, share=0.5, boost=3.0)
    X, y = np.arange(24, dtype=np.float32).reshape(8, 3), np.zeros(8, int)
    examples, labels = attack.poison((X, y))
    changed = [place for place in range(8) if labels[place] == 2]
    assert len(changed) == 4
    for place in range(8):
        expected = [X[place, 0], 9.0, 9.0] if place in changed else X[place].tolist()
        assert examples[place].tolist() == expected
    assert X.max() == 23.0, "the data themselves stay as they are"
    assert y.max() == 0
    images = attack.mark(np.zeros((2, 2, 2)))
    assert images.tolist() == [[[0, 0], [9, 9]]] * 2
    found = deltas(attacks.Backdoor(target=1, marked=1, value=0.0, share=1e-9, boost=2.5))
    others_are_honest(found)
    for site in BAD:  # one example of four gets a mark of 0 and the label 1: the rows' mean and labels change
        assert found[site, 1] != pytest.approx(HONEST[site, 1])
    plain = deltas(attacks.Backdoor(target=1, marked=1, value=0.0, share=1e-9))
    for key, delta in found.items():
        if key[0] in BAD:
            np.testing.assert_allclose(delta, [2.5 * x for x in plain[key]], rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: attacks.Backdoor(target=-1), "target: expected a whole number from 0, found -1"),
        (lambda: attacks.Backdoor(marked=0), "marked: expected a whole number from 1, found 0"),
        (lambda: attacks.Backdoor(share=1.5), "share: expected at most 1, found 1.5"),
        (lambda: attacks.Backdoor(boost=0.0), "boost: expected a finite number above 0, found 0.0"),
        (lambda: attacks.Backdoor().poison(np.zeros(3)), r"Backdoor: expected \(examples, whole labels\)"),
    ],
)
def test_impossible_backdoors_are_refused(make: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()


@pytest.mark.parametrize(("n", "m", "share"), [(50, 12, 24 / 38), (25, 5, 12 / 20), (10, 2, 4 / 8), (9, 1, 4 / 8)])
def test_the_largest_z_is_the_paper_s(n: int, m: int, share: float) -> None:
    s = n // 2 + 1 - m
    assert share == (n - m - s) / (n - m)
    assert NormalDist().cdf(attacks.largest_z(n, m)) == pytest.approx(max(share, 0.5))


def test_largest_z_where_attackers_are_many_or_few() -> None:
    assert attacks.largest_z(3, 1) == 0.0
    assert attacks.largest_z(10, 6) == 0.0


def test_an_attacked_app_evaluates_as_before_and_the_app_itself_stays_honest() -> None:
    app = hs.App(rounds=2, initial=[np.zeros(1)])
    app.train(lambda arrays, config, site: ([arrays["0"] + 1], 1, {}))
    twin = attacks.attacked(app, attacks.SignFlip(), BAD, SITES)
    assert twin.spec().evaluate_every == 0
    assert app.client_side.train is not None
    app.evaluate(lambda arrays, config, site: (1, {"loss": 1.0}))
    assert attacks.attacked(app, attacks.SignFlip(), BAD, SITES).spec().evaluate_every == 1


@pytest.mark.parametrize("strategy", [hs.Scaffold(), hs.FedDyn(0.1), hs.QFedAvg()], ids=lambda each: each.name)
def test_attacks_go_with_strategies_whose_clients_have_a_part(strategy: hs.Strategy) -> None:
    app = hs.App(strategy, rounds=2, initial=[np.zeros(2)])

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        metrics = {"num_steps": 1, "client_lr": 1.0, "loss_before": 1.0}
        return [arrays["0"] + 1.0], 1, metrics

    honest = hs.simulate(app, SITES, progress=False).arrays["0"]
    lied = hs.simulate(attacks.attacked(app, attacks.SignFlip(10.0), BAD, SITES), SITES, progress=False).arrays["0"]
    assert (honest > 0).all()
    assert (lied < 0).all()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: attacks.attacked(app_of(), attacks.SignFlip(), [], SITES), "found 0 of 7"),
        (lambda: attacks.attacked(app_of(), attacks.SignFlip(), list(SITES), SITES), "found 7 of 7"),
        (lambda: attacks.attacked(app_of(), attacks.SignFlip(), ["x"], SITES), "found 'x', which is not among them"),
        (lambda: attacks.attacked(hs.App(), attacks.SignFlip(), BAD, SITES), "expected an app that trains"),
        (lambda: attacks.SignFlip(0.0), "scale: expected a finite number above 0, found 0.0"),
        (lambda: attacks.Gaussian(math.nan), "sigma"),
        (lambda: attacks.InnerProduct(-1.0), "epsilon"),
        (lambda: attacks.LittleIsEnough(math.inf), "z: expected"),
        (lambda: attacks.LabelFlip(1), "num_classes: expected a whole number from 2, found 1"),
        (lambda: attacks.LabelFlip(3).poison(np.ones(3)), "LabelFlip: expected"),
        (lambda: attacks.LabelFlip(3).poison((np.ones(3), np.array([0, 3]))), "labels from 0 to 2"),
    ],
)
def test_impossible_arguments_are_refused(call: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        call()
