"""FedDyn: the site's memory and the server's h, over float32 and float64, with a site that fails now and then."""

# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np

import hanse as hs

START = {"w": np.linspace(-1, 1, 300, dtype=np.float32), "b": np.ones(3)}

app = hs.App(hs.FedDyn(alpha=0.2), rounds=6, seed=9, quorum=2, min_sites=4, retries=0, initial=START)


@app.train
def train(arrays, config, site):
    if site.name.endswith("1") and site.round % 2:
        raise RuntimeError("away")
    start = {name: array.copy() for name, array in arrays.items()}
    moved = dict(arrays)
    for _ in range(3):
        for name, w in moved.items():
            pull = w - len(site.name) + site.rng.normal(0, 0.1, w.shape)
            slope = pull + config["correction"][name] + config["proximal_mu"] * (w - start[name])
            moved[name] = (w - 0.1 * slope).astype(w.dtype)
    return moved, 5, {}
