"""FedAdam over float32, float16 and integers, judged at the server, with a part of the sites in every round."""

# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np

import hanse as hs

START = {"w": np.linspace(-1, 1, 5000, dtype=np.float32), "h": np.ones(7, np.float16), "n": np.zeros(3, np.int64)}

app = hs.App(hs.FedAdam(server_lr=0.05), rounds=8, seed=5, sample=0.5, min_sites=4, initial=START)


@app.train
def train(arrays, config, site):
    return (
        {
            "w": arrays["w"] + site.rng.normal(0, 0.1, 5000).astype(np.float32),
            "h": (arrays["h"] * 1.5).astype(np.float16),
            "n": arrays["n"] + site.rng.integers(0, 9, 3),
        },
        int(site.rng.integers(1, 100)),
        {"loss": site.rng.random()},
    )


@app.evaluate_on_server
def evaluate_on_server(arrays, round):
    return {"norm": float(np.square(arrays["w"], dtype=np.float64).sum()), "draw": np.random.random()}
