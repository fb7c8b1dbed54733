"""An app for every strategy of the catalogue, under its name: one client that does its part of all of them."""

# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np

import hanse as hs
from hanse.strategies.catalogue import catalogue, named

SITES = ("site-0", "site-1", "site-2", "site-3")

PARAMS = {
    "fedprox": {"partial": 0.5},
    "fedasync": {"alpha": 0.7},
    "fedbuff": {"buffer": 2, "server_lr": {"lr": 0.9, "kind": "step", "every": 2, "factor": 0.5}},
    "fedat": {"tiers": 1},
    "fedbn": {"home": "head"},
    "lgfedavg": {"home": "body"},
    "fedkrum": {"num_byzantine": 0, "keep": 2},
    "fedbulyan": {"num_byzantine": 0},
    "fltrust": {"root": "site-1"},
    "fednormbound": {"max_norm": 0.5},
}
"""What is not as by default."""
ONE_AT_A_TIME = ("fedasync", "fedbuff")
"""Whose bits depend on the order of receipt, which is that of asking where one site is at work at a time."""


def make(name):
    """The app of one strategy."""
    strategy = named(name, PARAMS.get(name, {}))
    app = hs.App(
        strategy,
        rounds=3,
        seed=9,
        sample=1 if name in ONE_AT_A_TIME else 1.0 if name in ("fedat", "fedbulyan", "fltrust") else 3,
        min_sites=len(SITES),
        lr=hs.Schedule(0.1, "cosine", rounds=5),
        selection=hs.Balanced(),
        initial={
            "body": np.linspace(-1, 1, 6, dtype=np.float32).reshape(3, 2),
            "head": np.full(4, 0.5, np.float32),
            "n": np.zeros(2, np.int64),
        },
    )

    @app.train
    def train(arrays, config, site):
        start = {key: array.copy() for key, array in arrays.items()}
        model, steps = dict(start), 1 + int(3 * config.get("work", 1.0))
        mu, correction = np.float32(config.get("proximal_mu", 0.0)), config.get("correction", {})
        for _ in range(steps):
            for key in ("body", "head"):
                if key in config.get("frozen", ()):
                    continue
                slope = model[key] - centre(site, key, model[key].shape) + mu * (model[key] - start[key])
                slope = slope + correction.get(key, np.float32(0.0))
                if "previous" in config:
                    slope = slope - np.float32(0.01) * config["previous"][key]
                model[key] = model[key] - np.float32(config["lr"]) * slope
        model["n"] = start["n"] + 1
        site.state["calls"] = site.state.get("calls", 0) + 1
        said = {"num_steps": steps, "client_lr": float(config["lr"]), "calls": site.state["calls"]}
        return model, 10 + int(site.name[-1]), {**said, "loss_before": loss_of(start, site)}

    @app.evaluate
    def evaluate(arrays, config, site):
        return 5, {"loss": loss_of(arrays, site), "n": int(arrays["n"].sum()) if "n" in arrays else 0}

    return app


def centre(site, key, shape):
    """What a site's arrays tend to, with noise."""
    return (int(site.name[-1]) + len(key) + site.rng.normal(0, 0.1, shape)).astype(np.float32)


def loss_of(arrays, site):
    """Squares, without noise."""
    target = int(site.name[-1])
    return float(sum(np.square(arrays[key] - np.float32(target)).sum(dtype=np.float64) for key in ("body", "head")))


ELSEWHERE = ("query", "analysis", "boosting", "xgboost")
"""Which have apps of their own in `test_same_bits.py`: their sites train no such model."""
NAMES = tuple(name for name in catalogue() if name not in ELSEWHERE)
for _name in NAMES:
    globals()[_name] = make(_name)
