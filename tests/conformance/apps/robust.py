"""RFA: inner products of a large model whose blocks differ by many powers of two, and one site that lies."""

# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np

import hanse as hs

START = {"a": np.zeros(40_000, np.float32), "b": np.zeros(500)}

app = hs.App(hs.RFA(), rounds=3, seed=1, initial=START)


@app.train
def train(arrays, config, site):
    lie = 1e6 if site.name.endswith("3") else 1.0
    spread = 2.0 ** site.rng.integers(-20, 5, 500)
    return (
        {
            "a": arrays["a"] + (lie * site.rng.normal(1, 1, 40_000)).astype(np.float32),
            "b": arrays["b"] + lie * spread,
        },
        1,
        {},
    )
