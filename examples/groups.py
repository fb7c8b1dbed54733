"""Groups of hospitals with an aggregator of their own, which train three rounds for one of the server's.

python examples/groups.py
"""
# mypy: allow-untyped-defs, allow-untyped-calls

from typing import Any

import numpy as np

import hanse as hs

TRUE = np.array([2.0, -1.0, 0.5])

app = hs.App(rounds=6, initial={"w": np.zeros(3)}, groups=hs.Groups(rounds=3))


@app.train
def train(arrays, config, site):
    X, y = site.load("measurements")
    w = arrays["w"] - 0.4 * X.T @ (X @ arrays["w"] - y) / len(y)
    return {"w": w}, len(y), {"loss": np.mean((X @ w - y) ** 2)}


@app.evaluate
def evaluate(arrays, config, site):
    X, y = site.load("measurements")
    return len(y), {"loss": np.mean((X @ arrays["w"] - y) ** 2)}


def regions():
    """Two regions, whose hospitals measure in different ranges, with noise."""
    rng = np.random.default_rng(0)
    groups = {"north": (("bergen", 40, -0.5), ("visby", 80, 0.0)), "south": (("luebeck", 150, 0.5),)}
    made: dict[str, Any] = {}
    for region, hospitals in groups.items():
        made[region] = {}
        for name, size, centre in hospitals:
            X = rng.normal(centre, 1, (size, 3))
            made[region][name] = {"measurements": (X, X @ TRUE + rng.normal(0, 0.1, size))}
    return made


if __name__ == "__main__":
    result = hs.simulate_hierarchy(app, regions())
    for record in result.rounds:
        members = {group: said["train_group_members"] for group, said in record.by_site.items()}
        print(f"round {record.number}: loss {record.metrics['loss']:.4f}, members {members}")
    print("true     ", TRUE)
    print("federated", result.arrays["w"].round(3))
