"""Two tables on scikit-learn's digits: strategies under label skew, and attacks against defences.

    python -m hanse.demos.digits strategies [--seeds 5] [--rounds 50]
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
from statistics import fmean, stdev
from typing import Any

import numpy as np

import hanse as hs
from hanse import attacks
from hanse.core.arrays import Array
from hanse.core.errors import MissingExtraError
from hanse.datasets import Partition, dirichlet, iid
from hanse.demos.digits_app import accuracy_of, app_of

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

    @app.evaluate_on_server
    def evaluate_on_server(arrays: Any, round: int) -> Any:
        return {"accuracy": accuracy_of(arrays, digits.X_test, digits.y_test)}

    result = hs.simulate(app, sites, progress=False)
    return [record.metrics["server_accuracy"] for record in result.rounds]


# ---- strategies ----

NUM_SITES = 100
ALPHA = 0.1
SAMPLE = 0.2
EARLY = 10
"""The round of the table's first column."""

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
)


def skewed(digits: Digits, seed: int) -> Sites:
    """100 sites, Dir(0.1) over labels."""
    parts = dirichlet(digits.y, NUM_SITES, ALPHA, seed=seed)
    return parts.sites("digits", digits.X, digits.y)


def by_strategy(
    seeds: Sequence[int], rounds: int, strategies: Sequence[hs.Strategy] = STRATEGIES
) -> dict[str, list[list[float]]]:
    """Accuracy of each strategy for each seed after each round."""
    table: dict[str, list[list[float]]] = {described(strategy): [] for strategy in strategies}
    for seed in seeds:
        digits = load(seed)
        sites = skewed(digits, seed)
        for strategy in strategies:
            app = app_of(strategy, rounds=rounds, seed=seed, sample=SAMPLE)
            table[described(strategy)].append(accuracies(app, sites, digits))
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
                table.setdefault((described(defence), name), []).append(accuracies(app, sites, digits)[-1])
    return table


# ---- as text ----


def described(strategy: hs.Strategy) -> str:
    """`FedProx(proximal_mu=0.1)`: the class, with what is not its default."""
    given = {name: value for name, value in strategy.params().items() if value != getattr(type(strategy), name)}
    return f"{type(strategy).__name__}({', '.join(f'{name}={value!r}' for name, value in given.items())})"


def strategy_lines(table: Mapping[str, Sequence[Sequence[float]]]) -> list[str]:
    """A Markdown table: mean ± standard deviation over seeds, after `EARLY` rounds and at the end."""
    rounds = len(next(iter(table.values()))[0])
    marks = [*([EARLY] if rounds > EARLY else []), rounds]
    lines = [
        "| strategy |" + "".join(f" {mark} rounds |" for mark in marks) + " lowest |",
        "|---|" + "---|" * len(marks) + "---|",
    ]
    for name, runs in table.items():
        cells = ""
        for mark in marks:
            values = [run[mark - 1] for run in runs]
            cells += f" {fmean(values):.3f} ± {stdev(values) if len(values) > 1 else 0.0:.3f} |"
        lines.append(f"| `{name}` |{cells} {min(run[-1] for run in runs):.3f} |")
    return lines


def attack_lines(table: Mapping[tuple[str, str], Sequence[float]]) -> list[str]:
    """A Markdown table: means over seeds, a defence a row, an attack a column."""
    columns = list(dict.fromkeys(attack for _, attack in table))
    lines = ["| defence | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for defence in dict.fromkeys(defence for defence, _ in table):
        cells = " | ".join(f"{fmean(table[defence, attack]):.3f}" for attack in columns)
        lines.append(f"| `{defence}` | {cells} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one of the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m hanse.demos.digits", description="Tables on scikit-learn's digits."
    )
    parser.add_argument("table", choices=["strategies", "attacks"])
    parser.add_argument("--seeds", type=int, help="how many, from 0 (5)")
    parser.add_argument("--rounds", type=int, help="of training (50; 30 for attacks)")
    given = parser.parse_args(arguments)
    began = time.monotonic()
    if given.table == "strategies":
        seeds, rounds = range(given.seeds or 5), given.rounds or 50
        print(f"{NUM_SITES} sites, Dirichlet({ALPHA}), {SAMPLE:.0%} in a round, {rounds} rounds, {len(seeds)} seeds\n")
        print("\n".join(strategy_lines(by_strategy(seeds, rounds))))
    else:
        seeds, rounds = range(given.seeds or 5), given.rounds or 30
        for cut in CUTS:
            print(f"{NUM_ATTACKED} sites, {NUM_LIARS} of them lie, {cut}, {rounds} rounds, {len(seeds)} seeds\n")
            print("\n".join(attack_lines(by_attack(cut, seeds, rounds))) + "\n")
    print(f"\n{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
