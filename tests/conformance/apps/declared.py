"""Trainings that are declared: a perceptron in NumPy, with FedProx, momentum and examples held out."""

# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np

import hanse as hs

app = hs.App(hs.FedProx(proximal_mu=0.1), rounds=3, seed=6)


@app.client
def client(site):
    X, y = site.load("rows")
    optimizer = hs.SGD(0.1, momentum=0.9)
    return hs.mlp(X, y, classes=3, hidden=(6,), optimizer=optimizer, epochs=2, batch_size=7, test=0.2)


def sites():
    """Sites of unequal size."""
    made = {}
    for number in range(4):
        X = np.random.default_rng(number).normal(size=(20 + 9 * number, 4))
        made[f"site-{number}"] = {"rows": (X, X[:, :3].argmax(axis=1))}
    return made
