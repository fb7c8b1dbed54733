"""Analytics without a model: a histogram, and numbers by site."""

# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np

import hanse as hs

app = hs.App(seed=4)


@app.query
def query(config, site):
    values, _ = site.load("readings")
    counts, _ = np.histogram(values, bins=8, range=(-3, 3))
    return {"counts": counts}, len(values), {"mean": float(values.mean()), "draw": site.rng.random()}
