"""Gradient-boosted trees across three banks that may not pool their loans; values are missing, as they are.

The trees are those that one bank with all loans would have grown: histograms are added up exactly.
In this process: `python examples/boosting.py`. Across organisations: `hanse run examples/boosting.py`.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np

import hanse as hs

app = hs.App(hs.Boosting(max_depth=3, learning_rate=0.3), rounds=15, quorum=2, seed=3)


@app.client
def client(site):
    X, y = site.load("loans")
    return hs.boosting(X, y, test=0.25)


def banks():
    """Income, debt and years of 1,500 customers; each bank lends to other people."""
    rng = np.random.default_rng(5)
    sites = {}
    for name, size, wealth in (("hansa", 700, 1.0), ("fugger", 500, 1.6), ("medici", 300, 0.7)):
        income = wealth * rng.lognormal(10, 0.5, size)
        debt = rng.lognormal(9, 0.9, size)
        years = rng.integers(0, 40, size).astype(float)
        risk = 2 * np.log(debt / income) - 0.05 * years + 2 * (years < 2) + rng.normal(0, 0.7, size)
        X = np.stack([income, debt, years], axis=1)
        X[rng.random(X.shape) < 0.05] = np.nan
        sites[name] = {"loans": (X, (risk > -2.5).astype(float))}
    return sites


if __name__ == "__main__":
    result = hs.simulate(app, sites=banks(), progress=False)
    print(f"AUC on loans held out: {result.metrics['auc']:.3f}")
    forest = hs.forest(result.arrays)
    print("chance of default:", forest.predict_proba([[30_000.0, 40_000.0, 1.0], [30_000.0, 2_000.0, np.nan]])[:, 1])
