"""XGBoost's trees as arrays, put one after another."""

# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np

import hanse as hs

app = hs.App(hs.XGBoost("bagging"), rounds=3, quorum=3)


@app.client
def client(site):
    X, y = site.load("baskets")
    return hs.xgboost({"max_depth": 2, "subsample": 0.8}, X, y)


def shops():
    rng = np.random.default_rng(8)
    sites = {}
    for place in range(4):
        X = rng.normal(size=(100 + place, 3))
        sites[f"shop-{place}"] = {"baskets": (X, (X[:, 0] + X[:, 1] > 0).astype(float))}
    return sites
