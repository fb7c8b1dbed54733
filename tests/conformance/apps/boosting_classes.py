"""Trees of several classes with values missing: a model that grows from phase to phase."""

# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np

import hanse as hs

strategy = hs.Boosting("multiclass", 3, max_depth=2, min_group=3, max_bins=16)
app = hs.App(strategy, rounds=3, quorum=3)


@app.client
def client(site):
    X, y = site.load("flowers")
    return hs.boosting(X, y, test=0.2)


def gardens():
    rng = np.random.default_rng(2)
    sites = {}
    for place in range(4):
        X = rng.normal(size=(80 + place, 3))
        y = (X[:, 0] > 0) + (X[:, 1] > 0.5).astype(float)
        X[rng.random(X.shape) < 0.1] = np.nan
        sites[f"garden-{place}"] = {"flowers": (X, y)}
    return sites
