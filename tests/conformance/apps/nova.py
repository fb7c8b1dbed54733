"""FedNova: other numbers of steps at every site, and one that does not say how many and is left out by name."""

# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np

import hanse as hs

app = hs.App(hs.FedNova(), rounds=4, seed=3, quorum=3, min_sites=4, retries=0, initial=[np.zeros(50)])


@app.train
def train(arrays, config, site):
    w, steps = arrays["0"], int(site.rng.integers(1, 9))
    for _ in range(steps):
        w = w - 0.1 * (w - site.rng.normal(len(site.name), 1, 50))
    return [w], 10 * steps, {} if site.name.endswith("2") and site.round == 2 else {"num_steps": steps}
