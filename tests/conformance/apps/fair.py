"""q-FedAvg: a first pass of norms over a large model, weights from what sites say of their loss."""

# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np

import hanse as hs

app = hs.App(hs.QFedAvg(q=2.0, client_lr=0.1), rounds=4, seed=3, initial=[np.zeros(30_000, np.float32)])


@app.train
def train(arrays, config, site):
    centre = site.rng.normal(1, 1, 30_000).astype(np.float32)
    loss = float(np.square(arrays["0"] - centre, dtype=np.float64).mean())
    return [arrays["0"] - np.float32(0.1) * (arrays["0"] - centre)], 1, {"loss_before": loss}
