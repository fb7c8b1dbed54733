"""Arrays that stay at home, which each site makes for itself by chance, and which nobody else ever sees."""

# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np

import hanse as hs

app = hs.App(hs.FedRep(home="head", weights="equal"), rounds=4, seed=7, sample=0.5, min_sites=4)


@app.parameters
def parameters(site):
    return {"body": np.linspace(-1, 1, 20, dtype=np.float32), "head": site.rng.normal(0, 1, 5).astype(np.float32)}


@app.train
def train(arrays, config, site):
    made = dict(arrays)
    for name in {"body", "head"} - set(config["frozen"]):
        made[name] = made[name] + 0.1 * (site.rng.normal(1, 1, made[name].shape).astype(np.float32) - made[name])
    return made, 3, {"part": len(config["part"]), "head": float(made["head"].sum(dtype=np.float64))}


@app.evaluate
def evaluate(arrays, config, site):
    return 3, {"loss": float(sum(np.square(array, dtype=np.float64).sum() for array in arrays.values()))}
