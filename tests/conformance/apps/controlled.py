"""SCAFFOLD: arrays that travel beside the model, a state that users do not see, a part of the sites in each round."""

# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np

import hanse as hs

app = hs.App(hs.Scaffold(server_lr=0.8), rounds=6, seed=7, sample=0.5, min_sites=4)


@app.parameters
def parameters(site):
    return {"w": np.linspace(-1, 1, 30, dtype=np.float32), "n": np.zeros(2, np.int64)}


@app.train
def train(arrays, config, site):
    w, steps = arrays["w"], int(site.rng.integers(1, 6))
    centre = site.rng.normal(len(site.name), 1, 30).astype(np.float32)
    for _ in range(steps):
        w = w - np.float32(0.1) * (w - centre + config["correction"]["w"])
    return {"w": w, "n": arrays["n"] + 1}, steps, {"num_steps": steps, "client_lr": 0.1}


@app.evaluate
def evaluate(arrays, config, site):
    return 3, {"loss": float(np.square(arrays["w"], dtype=np.float64).sum()), "arrays": len(arrays)}
