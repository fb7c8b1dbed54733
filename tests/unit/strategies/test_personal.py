"""Personalised strategies, run whole in simulation, against references in plain Python."""

from typing import Any

import numpy as np
import pytest

import hanse as hs
from hanse.core.errors import ConfigError, JobFailed
from tests.unit.strategies import oracle

LR, ROUNDS = 0.1, 5
SITES = ["s0", "s1", "s2", "s3"]
START = {"body": np.linspace(-1, 1, 3), "head": np.array([0.5, -0.5])}
Vector = list[float]


def problem() -> oracle.Problem:
    """Curvature and centre of five numbers, three of the body and two of the head; examples; steps."""
    rng = np.random.default_rng(8)
    return [(rng.uniform(0.3, 2, 5).tolist(), rng.normal(size=5).tolist(), n + 2, n % 3 + 1) for n in range(4)]


def loss(a: Vector, centre: Vector, x: Vector) -> float:
    """The squares, and a term that couples body and head."""
    return oracle.loss(a, centre, x) + 0.2 * sum(x) ** 2


def gradient(a: Vector, centre: Vector, x: Vector) -> Vector:
    return [g + 0.4 * sum(x) for g in oracle.gradient(a, centre, x)]


def descend(a: Vector, centre: Vector, x: Vector, steps: int) -> Vector:
    for _ in range(steps):
        x = [x_i - LR * g_i for x_i, g_i in zip(x, gradient(a, centre, x), strict=True)]
    return x


def flat(arrays: Any) -> Vector:
    return [*map(float, arrays["body"]), *map(float, arrays["head"])]


Evaluated = dict[str, list[Vector]]


def simulated(strategy: hs.Strategy, *, sample: float = 1.0, rounds: int = ROUNDS) -> tuple[Any, Evaluated]:
    """Bare functions; also the whole models that each site evaluated, by round."""
    sites, evaluated = problem(), Evaluated()
    app = hs.App(strategy, rounds=rounds, sample=sample, initial=START, seed=4)

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        assert list(arrays) == ["body", "head"]
        a, centre, count, steps = sites[SITES.index(site.name)]
        received, x = flat(arrays), flat(arrays)
        frozen = config.get("frozen", [])
        held = [("body" if i < 3 else "head") in frozen for i in range(5)]
        mu = config.get("proximal_mu", 0.0)
        extra = flat(config["correction"]) if "correction" in config else [0.0] * 5
        for _ in range(steps):
            g = gradient(a, centre, x)
            x = [x[i] if held[i] else x[i] - LR * (g[i] + mu * (x[i] - received[i]) + extra[i]) for i in range(5)]
        return {"body": np.array(x[:3]), "head": np.array(x[3:])}, count, {"steps": steps}

    @app.evaluate
    def evaluate(arrays: Any, config: Any, site: Any) -> Any:
        a, centre, count, _ = sites[SITES.index(site.name)]
        evaluated.setdefault(site.name, []).append(flat(arrays))
        return count, {"loss": loss(a, centre, flat(arrays))}

    return hs.simulate(app, SITES, progress=False), evaluated


def cohorts_of(result: Any) -> list[list[int]]:
    return [[SITES.index(site) for site in record.folded] for record in result.rounds]


# ---- arrays that stay at home ----


def at_home(cohorts: list[list[int]], stays: range, alternating: bool = False) -> tuple[Vector, list[Vector]]:
    """FedPer (Algorithms 1 and 2), LG-FedAvg and FedRep (Algorithm 1): common model, and each site's own numbers."""
    sites, start = problem(), flat(START)
    common, own = list(start), [list(start) for _ in sites]
    for cohort in cohorts:
        n = sum(sites[k][2] for k in cohort)
        summed = [0.0] * 5
        for k in cohort:
            a, centre, count, steps = sites[k]
            x = [own[k][i] if i in stays else common[i] for i in range(5)]
            for part in [list(stays), [i for i in range(5) if i not in stays]] if alternating else [range(5)]:
                for _ in range(steps):
                    g = gradient(a, centre, x)
                    x = [x[i] - LR * g[i] if i in part else x[i] for i in range(5)]
            own[k] = x
            summed = [s + count / n * x_i for s, x_i in zip(summed, x, strict=True)]
        common = [common[i] if i in stays else summed[i] for i in range(5)]
    return common, [[o[i] if i in stays else common[i] for i in range(5)] for o in own]


@pytest.mark.parametrize("sample", [1.0, 0.5])
@pytest.mark.parametrize(
    ("strategy", "stays", "alternating"),
    [
        (hs.FedPer(home="head"), range(3, 5), False),
        (hs.LGFedAvg(home="body"), range(3), False),
        (hs.FedBN(home="he*"), range(3, 5), False),
        (hs.FedRep(home="head"), range(3, 5), True),
    ],
    ids=lambda each: getattr(each, "name", ""),
)
def test_what_stays_at_home_is_trained_there_and_the_rest_is_averaged(
    strategy: hs.Strategy, stays: range, alternating: bool, sample: float
) -> None:
    result, evaluated = simulated(strategy, sample=sample)
    common, whole = at_home(cohorts_of(result), stays, alternating)
    travels = "body" if stays.start else "head"
    assert list(result.arrays) == [travels], "what stays at home never reaches the server"
    np.testing.assert_allclose(result.arrays[travels], common[:3] if stays.start else common[3:], rtol=1e-12)
    for k, site in enumerate(SITES):
        np.testing.assert_allclose(evaluated[site][-1], whole[k], rtol=1e-12)


def test_the_alternation_of_fedrep_is_not_fedper() -> None:
    assert simulated(hs.FedRep(home="head"))[0].arrays["body"].tolist() != (
        simulated(hs.FedPer(home="head"))[0].arrays["body"].tolist()
    )


def test_frozen_arrays_that_come_back_changed_are_put_back() -> None:
    app = hs.App(hs.FedRep(home="head"), rounds=1, initial=START, evaluate_every=0)
    seen = []

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        seen.append((config["part"], arrays["body"].tolist(), arrays["head"].tolist()))
        return {"body": arrays["body"] + 1, "head": arrays["head"] + 1}, 1, {}

    result = hs.simulate(app, ["a"], progress=False)
    assert seen == [
        ("head", START["body"].tolist(), START["head"].tolist()),
        ("body", START["body"].tolist(), (START["head"] + 1).tolist()),
    ]
    np.testing.assert_array_equal(result.arrays["body"], START["body"] + 1)


def test_without_initial_arrays_each_site_begins_with_its_clients_own() -> None:
    app = hs.App(hs.FedPer(home="1"), rounds=2, evaluate_every=0)  # a list's arrays are called by their numbers
    heads = []

    class Mine(hs.NumPyClient):
        def __init__(self, name: str) -> None:
            self.head = float(ord(name))

        def get_parameters(self, config: Any) -> Any:
            return [np.zeros(2), np.array([self.head])]

        def fit(self, parameters: Any, config: Any) -> Any:
            heads.append(float(parameters[1][0]))
            return [parameters[0] + 1, parameters[1] + 100], 1, {}

        def evaluate(self, parameters: Any, config: Any) -> Any:
            return 0.0, 1, {}

    @app.client
    def client(site: Any) -> Any:
        return Mine(site.name)

    result = hs.simulate(app, ["a", "b"], progress=False)
    assert heads == [97.0, 98.0, 197.0, 198.0]
    assert {name: array.tolist() for name, array in result.arrays.items()} == {"0": [2.0, 2.0]}


@pytest.mark.parametrize(
    ("strategy", "says"),
    [
        (lambda: hs.FedPer(home=""), "fedper.home: expected patterns of names such as 'head.*', found ''"),
        (lambda: hs.FedPer(home=" , "), "expected patterns of names"),
        (lambda: hs.App(hs.FedPer(home="tail"), initial=START), "to match 'tail', found none of body, head"),
        (lambda: hs.App(hs.FedPer(home="*"), initial=START), "found all of body, head"),
        (lambda: hs.App(hs.FedBN(), initial=START), "fedbn.home: .* found none of body, head"),
        (lambda: hs.Ditto(pull=-1), "ditto.pull: expected a number from 0, found -1"),
        (lambda: hs.IFCA(1), "ifca.clusters: expected a whole number from 2, found 1"),
        (lambda: hs.Moon(temperature=0), "moon.temperature: expected a number above 0, found 0"),
    ],
)
def test_what_cannot_be_is_refused(strategy: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        strategy()


def test_any_strategy_can_keep_arrays_at_home() -> None:
    class Mine(hs.AtHome, hs.FedAvgM):
        pass

    result, _ = simulated(Mine(home="head"))
    assert list(result.arrays) == ["body"]
    plain, _ = simulated(hs.FedPer(home="head"))
    assert not np.allclose(result.arrays["body"], plain.arrays["body"])


def test_two_parts_at_once_are_refused() -> None:
    class Mine(hs.AtHome, hs.FedDyn):
        pass

    with pytest.raises(JobFailed, match="Mine: arrays at home do not go with SCAFFOLD or FedDyn"):
        simulated(Mine(home="head"), rounds=1)


# ---- Ditto, fine-tuning ----


@pytest.mark.parametrize("sample", [1.0, 0.5])
@pytest.mark.parametrize("pull", [0.0, 0.7, 5.0])
def test_ditto_follows_its_paper(pull: float, sample: float) -> None:
    """Algorithm 1 with gradient steps for both models."""
    result, evaluated = simulated(hs.Ditto(pull=pull), sample=sample)
    sites, w = problem(), flat(START)
    own: list[Vector | None] = [None] * len(sites)
    for cohort in cohorts_of(result):
        n, new = sum(sites[k][2] for k in cohort), [0.0] * 5
        for k in cohort:
            a, centre, count, steps = sites[k]
            w_k = descend(a, centre, w, steps)
            new = [x + count / n * y for x, y in zip(new, w_k, strict=True)]
            v = own[k] or list(w)
            for _ in range(steps):
                g = gradient(a, centre, v)
                v = [v_i - LR * (g_i + pull * (v_i - w_i)) for v_i, g_i, w_i in zip(v, g, w, strict=True)]
            own[k] = v
        w = new
    np.testing.assert_allclose(flat(result.arrays), w, rtol=1e-12)
    assert list(result.arrays) == ["body", "head"]
    for k, site in enumerate(SITES):
        np.testing.assert_allclose(evaluated[site][-1], own[k] or w, rtol=1e-12)
        np.testing.assert_allclose(evaluated[site][-2], w, rtol=1e-12)
    metrics = result.rounds[-1].metrics
    assert metrics["loss"] != metrics["global_loss"]


def test_without_a_pull_every_site_ends_at_its_own_optimum_and_a_strong_one_makes_them_alike() -> None:
    _, alone = simulated(hs.Ditto(pull=0.0), rounds=300)
    for (a, centre, _, _), site in zip(problem(), SITES, strict=True):
        np.testing.assert_allclose(gradient(a, centre, alone[site][-1]), 0, atol=1e-6)
    _, drawn = simulated(hs.Ditto(pull=9.0), rounds=300)
    assert spread(drawn) < 0.2 * spread(alone)


def spread(evaluated: Evaluated) -> float:
    return float(np.std([evaluated[site][-1] for site in SITES], axis=0).max())


def test_fine_tuning_trains_before_it_evaluates_and_leaves_nothing() -> None:
    result, evaluated = simulated(hs.FineTune())
    plain, before = simulated(hs.FedAvg())
    np.testing.assert_array_equal(flat(result.arrays), flat(plain.arrays))
    for k, site in enumerate(SITES):
        a, centre, _, steps = problem()[k]
        np.testing.assert_array_equal(evaluated[site][-2], before[site][-1])
        tuned = descend(a, centre, before[site][-1], steps)
        np.testing.assert_allclose(evaluated[site][-1], tuned, rtol=1e-12)
    assert result.rounds[-1].metrics["loss"] < result.rounds[-1].metrics["global_loss"]


# ---- IFCA ----


@pytest.mark.parametrize("sample", [1.0, 0.5])
def test_ifca_follows_its_paper(sample: float) -> None:
    """Algorithm 1, option II."""
    strategy = hs.IFCA(3, spread=1.0, seed=2)
    result, _ = simulated(strategy, sample=sample)
    sites = problem()
    models = [flat(model) for model in hs.clusters(strategy.initial(hs.Arrays(START)))]
    chosen_by: dict[int, list[int]] = {}
    for cohort in cohorts_of(result):
        chosen_by = {}
        for k in cohort:
            losses = [loss(sites[k][0], sites[k][1], model) for model in models]
            chosen_by.setdefault(losses.index(min(losses)), []).append(k)
        assert sample < 1 or len(chosen_by) > 1, "one cluster is no test"
        for j, members in chosen_by.items():
            ends = [descend(sites[k][0], sites[k][1], models[j], sites[k][3]) for k in members]
            models[j] = [sum(end[i] for end in ends) / len(ends) for i in range(5)]
    found = hs.clusters(result.arrays)
    assert len(found) == 3
    np.testing.assert_allclose([flat(model) for model in found], models, rtol=1e-9)


def test_ifca_tells_two_kinds_of_sites_apart() -> None:
    """Half of the sites are about +3, half about −3: each kind ends with a model of its own."""
    app = hs.App(hs.IFCA(2, spread=0.5), rounds=30, initial=[np.zeros(2)])
    kinds = {name: 3.0 if number % 2 else -3.0 for number, name in enumerate("abcdef")}

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        return [arrays["0"] + 0.3 * (kinds[site.name] - arrays["0"])], 1, {}

    @app.evaluate
    def evaluate(arrays: Any, config: Any, site: Any) -> Any:
        return 1, {"loss": float(((arrays["0"] - kinds[site.name]) ** 2).sum())}

    result = hs.simulate(app, list(kinds), progress=False)
    ends = sorted(float(model["0"][0]) for model in hs.clusters(result.arrays))
    np.testing.assert_allclose(ends, [-3.0, 3.0], atol=1e-3)
    assert result.metrics["loss"] < 1e-4


def test_a_site_without_a_loss_cannot_choose() -> None:
    app = hs.App(hs.IFCA(2), rounds=1, initial=[np.zeros(2)], retries=0)

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        return [arrays["0"]], 1, {}

    @app.evaluate
    def evaluate(arrays: Any, config: Any, site: Any) -> Any:
        return 1, {"accuracy": 1.0}

    with pytest.raises(JobFailed, match="expected a metric 'loss', by which IFCA chooses"):
        hs.simulate(app, ["a", "b"], progress=False)


def test_k_models_that_are_given_are_taken_as_they_are() -> None:
    given = {"cluster-0/w": np.zeros(1), "cluster-1/w": np.ones(1)}
    assert dict(hs.IFCA(2).initial(hs.Arrays(given))) == given
    with pytest.raises(ConfigError, match="expected 3 models alike"):
        hs.IFCA(3).initial(hs.Arrays(given))


# ---- MOON ----


def test_moon_shows_the_sites_last_model_and_the_received_one_at_first() -> None:
    app = hs.App(hs.Moon(mu=0.3, temperature=0.7), rounds=3, initial=START, evaluate_every=0)
    seen: dict[str, list[Any]] = {}

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        assert (config["contrast_mu"], config["temperature"]) == (0.3, 0.7)
        seen.setdefault(site.name, []).append((flat(arrays), flat(config["previous"])))
        by = 1.0 if site.name == "a" else 3.0
        return {name: array + by for name, array in arrays.items()}, 1, {}

    hs.simulate(app, ["a", "b"], progress=False)
    start = flat(START)
    for site, by in (("a", 1.0), ("b", 3.0)):
        expected = [(start, start)]
        for round_ in (1, 2):
            received = [x + 2.0 * round_ for x in start]
            expected.append((received, [x + 2.0 * (round_ - 1) + by for x in start]))
        np.testing.assert_allclose(seen[site], expected)


# ---- scikit-learn ----


def scikit(strategy: hs.Strategy, rounds: int = 4) -> Any:
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    rng = np.random.default_rng(5)
    sites = {}
    for name, shift in (("a", 1.0), ("b", -1.0)):
        X = rng.normal(size=(60, 2))
        sites[name] = {"rows": (X, (X[:, 0] + shift > 0).astype(int))}
    app = hs.App(strategy, rounds=rounds)

    @app.client
    def client(site: Any) -> Any:
        return hs.sklearn(linear.LogisticRegression(), *site.load("rows"), classes=[0, 1], test=0.25, epochs=20)

    return hs.simulate(app, sites, progress=False)


def test_scikit_learns_arrays_stay_at_home_too() -> None:
    """Sites differ in their threshold alone, which is the intercept."""
    result, plain = scikit(hs.FedPer(home="intercept")), scikit(hs.FedAvg())
    assert list(result.arrays) == ["coef"]
    assert result.metrics["loss"] < plain.metrics["loss"] - 0.05


def test_scikit_learns_linear_models_do_their_part_of_ditto() -> None:
    near, far = scikit(hs.Ditto(pull=50.0)), scikit(hs.Ditto(pull=0.01))
    assert far.metrics["loss"] < far.metrics["global_loss"] - 0.05
    assert abs(near.metrics["loss"] - near.metrics["global_loss"]) < 0.02
    np.testing.assert_array_equal(near.arrays["coef"], far.arrays["coef"])


def test_scikit_learn_cannot_freeze_and_says_so() -> None:
    with pytest.raises(JobFailed, match=r"hs\.sklearn: cannot hold some arrays fixed"):
        scikit(hs.FedRep(home="intercept"), rounds=1)


def test_who_cannot_add_moons_loss_says_so_and_trains_nothing_else() -> None:
    with pytest.raises(JobFailed, match=r"hs\.sklearn: cannot add MOON's loss"):
        scikit(hs.Moon(mu=0.1), rounds=1)
    app = hs.App(hs.Moon(mu=0.1), rounds=1)
    app.client(lambda site: hs.mlp(np.zeros((4, 2)), np.zeros(4), classes=2, optimizer=hs.SGD(0.1)))
    with pytest.raises(JobFailed, match=r"declared training: .*found MOON"):
        hs.simulate(app, ["a"], progress=False)
