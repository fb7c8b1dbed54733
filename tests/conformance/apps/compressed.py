"""Updates compressed with error feedback: the memory of what was left out must go with the site from task to task."""

import numpy as np

import hanse as hs

SIZE = 40_000  # too large to travel inside a message while it is not compressed

app = hs.App(
    hs.FedAdam(server_lr=0.1),
    rounds=4,
    quorum=4,
    seed=7,
    initial={"w": np.zeros(SIZE, np.float32), "steps": np.zeros(1, np.int64), "b": np.zeros(3)},
    compression=hs.TopK(0.05),
    evaluate_every=2,
)


@app.train
def train(arrays, config, site):
    target = np.random.default_rng(len(site.name) + ord(site.name[-1])).normal(size=SIZE).astype(np.float32)
    noise = site.rng.normal(0, 0.01, SIZE).astype(np.float32)
    moved = arrays["w"] + np.float32(0.1) * (target + noise - arrays["w"])
    return {"w": moved, "steps": arrays["steps"] + 3, "b": arrays["b"] + 0.5}, 10 + ord(site.name[-1]), {}


@app.evaluate
def evaluate(arrays, config, site):
    return 5, {"norm": float(np.abs(arrays["w"]).sum(dtype=np.float64)), "steps": int(arrays["steps"][0])}
