"""Logistic regression over four hospitals with scikit-learn's breast-cancer patients.

The hospitals differ in size and in how many of their patients are ill, and one of them has seen hardly any ill one.
Features are scaled by ranges that everybody may know, not by statistics of anybody's patients.

    python examples/sklearn_logreg.py
"""
# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression

import hanse as hs

app = hs.App(hs.FedAvg(), rounds=20, quorum=3)


@app.client
def client(site):
    X, y = site.load("patients")
    return hs.sklearn(LogisticRegression(), X, y, classes=[0, 1], test=0.2)


def hospitals():
    """Four parts of the patients, of skewed sizes and labels."""
    X, y = load_breast_cancer(return_X_y=True)
    X = 6 * X / X.max(axis=0) - 3
    ill_first = np.argsort(y + np.random.default_rng(0).normal(0, 0.7, len(y)))
    north, east, south, west = np.split(ill_first, [60, 200, 380])
    parts = {"north": north, "east": east, "south": south, "west": west}
    return {name: {"patients": (X[rows], y[rows])} for name, rows in parts.items()}


if __name__ == "__main__":
    result = hs.simulate(app, sites=hospitals())
    for record in result.rounds[::5] + result.rounds[-1:]:
        print(f"round {record.number:2}  " + "  ".join(f"{k} {v:.3f}" for k, v in sorted(record.metrics.items())))
