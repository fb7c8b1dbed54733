"""Tables on scikit-learn's digits: strategies under label skew, personalised ones, and attacks against defences.

    python -m hanse.demos.digits strategies [--seeds 5] [--rounds 50]
    python -m hanse.demos.digits personal [--seeds 5] [--rounds 50]
    python -m hanse.demos.digits scanners [--seeds 5] [--rounds 30]
    python -m hanse.demos.digits attacks [--seeds 5] [--rounds 30]

The data are "Optical recognition of handwritten digits" (E. Alpaydin, C. Kaynak, UCI 1998), 1797 images of 8 × 8, of
which 360 are held out by each seed, in equal shares of all classes, and nobody trains on them. Everything else (the
cut into sites, the first model, the order of batches, who lies) follows from the seed as well. Parameters of the
strategies were chosen on seed 100, which is not among the seeds of the tables. Results are in docs/results.md.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

import hanse as hs
from hanse import attacks
from hanse.core.arrays import Array
from hanse.core.errors import MissingExtraError
from hanse.datasets import Partition, dirichlet, iid
from hanse.demos.digits_app import accuracy_of, app_of
from hanse.demos.digits_scanners import app_of as scanners_app_of
from hanse.demos.digits_scanners import scanned
from hanse.demos.digits_text import attack_lines, described, personal_lines, strategy_lines

NUM_TEST = 360
Sites = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Digits:
    """One seed's cut: pixels in [0, 1], float32."""

    X: Array
    y: Array
    X_test: Array
    y_test: Array


def load(seed: int) -> Digits:
    """The digits, with 360 held out.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise MissingExtraError("scikit-learn", "demo") from None
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    X, X_test, y, y_test = train_test_split(X, y, test_size=NUM_TEST, stratify=y, random_state=seed)
    return Digits(X, y, X_test, y_test)


def accuracies(app: hs.App, sites: Sites, digits: Digits) -> list[float]:
    """Of each round's model on the held-out images."""
    return trained(app, sites, digits)[0]


def trained(app: hs.App, sites: Sites, digits: Digits) -> tuple[list[float], Any]:
    """Accuracy of each round's model on the held-out images, and the last one."""

    @app.evaluate_on_server
    def evaluate_on_server(arrays: Any, round: int) -> Any:
        return {"accuracy": accuracy_of(arrays, digits.X_test, digits.y_test)}

    result = hs.simulate(app, sites, progress=False)
    return [record.metrics["server_accuracy"] for record in result.rounds], result.arrays


# ---- strategies ----

NUM_SITES = 100
ALPHA = 0.1
SAMPLE = 0.2
STRATEGIES: Sequence[hs.Strategy] = (
    hs.FedAvg(),
    hs.FedAvg(weights="equal"),
    hs.FedProx(0.01),
    hs.FedNova(),
    hs.Scaffold(),
    hs.FedDyn(0.1, participation=SAMPLE),
    hs.QFedAvg(q=0.01, client_lr=0.1),
    hs.FedAvgM(0.9, 1.0),
    hs.FedAdagrad(0.1),
    hs.FedAdam(0.1),
    hs.FedYogi(0.1),
    hs.FedProx(0.01, partial=0.9),
    hs.Moon(mu=0.1),
    hs.FedBuff(20),
    hs.FedBuff(10),
    hs.FedAsync(),
    hs.FedAT(),
)
SELECTIONS: Sequence[hs.Uniform | hs.ByExamples | hs.Balanced] = (hs.ByExamples(), hs.Balanced(), hs.PowerOfChoice(40))
"""Under FedAvg with equal weights."""


def skewed(digits: Digits, seed: int) -> Sites:
    """100 sites, Dir(0.1) over labels."""
    parts = dirichlet(digits.y, NUM_SITES, ALPHA, seed=seed)
    return parts.sites("digits", digits.X, digits.y)


def steps_in_a_round(strategy: hs.Strategy) -> int:
    """How many steps of the model take about as many updates as a round of 20 sites."""
    cohort = round(SAMPLE * NUM_SITES)
    match strategy:
        case hs.FedAT():
            return strategy.tiers  # each step is a fifth of one tier
        case hs.FedBuff():
            return cohort // strategy.buffer
        case hs.FedAsync():
            return cohort
    return 1


def by_strategy(
    seeds: Sequence[int], rounds: int, strategies: Sequence[hs.Strategy] = STRATEGIES
) -> dict[str, list[list[float]]]:
    """Accuracy of each strategy for each seed after each round, or as many updates."""
    table: dict[str, list[list[float]]] = {described(strategy): [] for strategy in strategies}
    for seed in seeds:
        digits = load(seed)
        sites = skewed(digits, seed)
        for strategy in strategies:
            steps = steps_in_a_round(strategy)
            app = app_of(strategy, rounds=rounds * steps, seed=seed, sample=SAMPLE)
            table[described(strategy)].append(accuracies(app, sites, digits)[steps - 1 :: steps])
    return table


def by_selection(seeds: Sequence[int], rounds: int) -> dict[str, list[list[float]]]:
    """The same for each selection, under FedAvg with equal weights."""
    table: dict[str, list[list[float]]] = {repr(selection): [] for selection in SELECTIONS}
    for seed in seeds:
        digits = load(seed)
        for selection in SELECTIONS:
            strategy = hs.FedAvg(weights="equal")
            app = app_of(strategy, rounds=rounds, seed=seed, sample=SAMPLE, selection=selection)
            table[repr(selection)].append(accuracies(app, skewed(digits, seed), digits))
    return table


# ---- personalised ----

PERSONAL: Sequence[hs.Strategy] = (
    hs.FedAvg(),
    hs.FineTune(),
    hs.Ditto(pull=1.0),
    hs.Ditto(pull=0.0),
    hs.FedPer(home="w1, b1"),
    hs.FedRep(home="w1, b1"),
    hs.LGFedAvg(home="w0, b0"),
    hs.IFCA(4),
)


def by_personal(
    seeds: Sequence[int], rounds: int, strategies: Sequence[hs.Strategy] = PERSONAL
) -> dict[str, list[float]]:
    """Mean over sites of the accuracy at each, by seed: on held-out images, mixed as the site's own labels are."""
    table: dict[str, list[float]] = {described(strategy): [] for strategy in strategies}
    for seed in seeds:
        digits = load(seed)
        held_out = digits.X_test, digits.y_test
        sites = {name: {**sets, "held-out": held_out} for name, sets in skewed(digits, seed).items()}
        for strategy in strategies:
            app = app_of(strategy, rounds=rounds, seed=seed, sample=SAMPLE, evaluate_every=rounds)
            last = hs.simulate(app, sites, progress=False).rounds[-1]
            found: list[Any] = [last.by_site[site]["accuracy"] for site in sites]
            table[described(strategy)].append(fmean(found))
    return table


# ---- other pixels ----

NUM_SCANNERS = 20
SCANNED: Mapping[str, tuple[hs.Strategy, bool]] = {
    "FedAvg()": (hs.FedAvg(), False),
    "FedAvg(), normalised": (hs.FedAvg(), True),
    "FedBN(), normalised": (hs.FedBN(), True),
}
"""What it is called → strategy, and whether the network has a layer of batch normalisation."""


def by_scanner(seeds: Sequence[int], rounds: int) -> dict[str, list[float]]:
    """Mean over sites of the accuracy at each, by seed: on held-out images as its own scanner reads them."""
    table: dict[str, list[float]] = {name: [] for name in SCANNED}
    for seed in seeds:
        digits = load(seed)
        parts = iid(len(digits.y), NUM_SCANNERS, seed=seed).sites("digits", digits.X, digits.y)
        sites = {
            name: {
                "digits": (scanned(sets["digits"][0], name, seed), sets["digits"][1]),
                "held-out": (scanned(digits.X_test, name, seed), digits.y_test),
            }
            for name, sets in parts.items()
        }
        for name, (strategy, is_normalised) in SCANNED.items():
            app = scanners_app_of(strategy, rounds=rounds, seed=seed, normalised=is_normalised)
            last = hs.simulate(app, sites, progress=False).rounds[-1]
            found: list[Any] = [last.by_site[site]["accuracy"] for site in sites]
            table[name].append(fmean(found))
    return table


# ---- attacks × defences ----

NUM_ATTACKED = 20
NUM_LIARS = 4
ROOT = "site-00"
"""The site that FLTrust trusts; it never lies."""

DEFENCES: Sequence[hs.Strategy] = (
    hs.FedAvg(weights="equal"),
    hs.FedMedian(),
    hs.FedTrimmedMean(0.2),
    hs.FedKrum(NUM_LIARS),
    hs.FedKrum(NUM_LIARS, keep=12),
    hs.FedBulyan(NUM_LIARS),
    hs.RFA(),
    hs.FedNormBound(1.0),
    hs.FLTrust(ROOT),
)

ATTACKS: Mapping[str, attacks.Attack | None] = {
    "none": None,
    "sign flip × 4": attacks.SignFlip(4.0),
    "Gaussian σ = 1": attacks.Gaussian(1.0),
    "label flip": attacks.LabelFlip(10),
    "little is enough": attacks.LittleIsEnough(),
    "the same, z = 1.5": attacks.LittleIsEnough(1.5),
    "inner product × 0.5": attacks.InnerProduct(0.5),
    "inner product × 4": attacks.InnerProduct(4.0),
    "backdoor × 5": attacks.Backdoor(boost=NUM_ATTACKED / NUM_LIARS),
}
CUTS: Mapping[str, Callable[[Digits, int], Partition]] = {
    "IID": lambda digits, seed: iid(len(digits.y), NUM_ATTACKED, seed=seed),
    "Dirichlet(0.5)": lambda digits, seed: dirichlet(digits.y, NUM_ATTACKED, 0.5, seed=seed, min_size=5),
}


def liars(sites: Sites, seed: int) -> list[str]:
    """Four of the twenty, never the root."""
    names = sorted(set(sites) - {ROOT})
    return sorted(np.random.default_rng(seed).choice(names, NUM_LIARS, replace=False).tolist())


def by_attack(cut: str, seeds: Sequence[int], rounds: int) -> dict[tuple[str, str], list[float]]:
    """Accuracy of each defence under each attack for each seed: (defence, attack) → accuracies."""
    table: dict[tuple[str, str], list[float]] = {}
    for seed in seeds:
        digits = load(seed)
        sites = CUTS[cut](digits, seed).sites("digits", digits.X, digits.y)
        for defence in DEFENCES:
            for name, attack in ATTACKS.items():
                app = app_of(defence, rounds=rounds, seed=seed)
                if attack is not None:
                    app = attacks.attacked(app, attack, liars(sites, seed), sites)
                found, model = trained(app, sites, digits)
                table.setdefault((described(defence), name), []).append(found[-1])
                if isinstance(attack, attacks.Backdoor):
                    column = name.replace("backdoor", "fooled")
                    table.setdefault((described(defence), column), []).append(fooled(model, digits, attack))
    return table


def fooled(model: Any, digits: Digits, attack: attacks.Backdoor) -> float:
    """Share of the marked held-out images of other digits that the model takes for the attack's target."""
    others = digits.y_test != attack.target
    marked = attack.mark(digits.X_test[others])
    return accuracy_of(model, marked, np.full(len(marked), attack.target))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one of the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m hanse.demos.digits", description="Tables on scikit-learn's digits."
    )
    parser.add_argument("table", choices=["strategies", "personal", "scanners", "attacks"])
    parser.add_argument("--seeds", type=int, help="how many, from 0 (5)")
    parser.add_argument("--rounds", type=int, help="of training (50; 30 for scanners and attacks)")
    given = parser.parse_args(arguments)
    began = time.monotonic()
    if given.table == "strategies":
        seeds, rounds = range(given.seeds or 5), given.rounds or 50
        print(f"{NUM_SITES} sites, Dirichlet({ALPHA}), {SAMPLE:.0%} in a round, {rounds} rounds, {len(seeds)} seeds\n")
        print("\n".join(strategy_lines(by_strategy(seeds, rounds))))
        print("\nselections under FedAvg(weights='equal')\n")
        print("\n".join(strategy_lines(by_selection(seeds, rounds), "selection")))
    elif given.table == "personal":
        seeds, rounds = range(given.seeds or 5), given.rounds or 50
        print(f"{NUM_SITES} sites, Dirichlet({ALPHA}), {SAMPLE:.0%} in a round, {rounds} rounds, {len(seeds)} seeds\n")
        print("\n".join(personal_lines(by_personal(seeds, rounds))))
    elif given.table == "scanners":
        seeds, rounds = range(given.seeds or 5), given.rounds or 30
        print(f"{NUM_SCANNERS} sites, IID labels, pixels of their own, {rounds} rounds, {len(seeds)} seeds\n")
        print("\n".join(personal_lines(by_scanner(seeds, rounds))))
    else:
        seeds, rounds = range(given.seeds or 5), given.rounds or 30
        for cut in CUTS:
            print(f"{NUM_ATTACKED} sites, {NUM_LIARS} of them lie, {cut}, {rounds} rounds, {len(seeds)} seeds\n")
            print("\n".join(attack_lines(by_attack(cut, seeds, rounds))) + "\n")
    print(f"\n{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
