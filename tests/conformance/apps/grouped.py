"""Both links compressed with error feedback, which an edge keeps in a file; models beside their messages."""

# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np

import hanse as hs

SIZE = 40_000

app = hs.App(
    hs.FedAvgM(momentum=0.5),
    rounds=3,
    seed=7,
    initial={"w": np.zeros(SIZE, np.float32), "steps": np.zeros(1, np.int64), "b": np.zeros(3)},
    compression=hs.TopK(0.05),
    groups=hs.Groups(2, hs.FedProx(weights="equal")),
)


@app.train
def train(arrays, config, site):
    target = np.random.default_rng(ord(site.name[-1])).normal(size=SIZE).astype(np.float32)
    noise = site.rng.normal(0, 0.01, SIZE).astype(np.float32)
    moved = arrays["w"] + np.float32(0.1) * (target + noise - arrays["w"])
    return {"w": moved, "steps": arrays["steps"] + 3, "b": arrays["b"] + 0.5}, 10 + ord(site.name[-1]), {}


@app.evaluate
def evaluate(arrays, config, site):
    return 5, {"norm": float(np.abs(arrays["w"]).sum(dtype=np.float64)), "steps": int(arrays["steps"][0])}


@app.evaluate_on_server
def evaluate_on_server(arrays, round):
    return {"norm": float(np.abs(arrays["w"]).sum(dtype=np.float64)), "round": round}
