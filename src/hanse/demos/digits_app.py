"""Handwritten digits over many sites: a small network in plain NumPy that does its part of every built-in strategy.

The app of `python -m hanse.demos.digits`, and an example of a client that FedProx, FedNova, SCAFFOLD, FedDyn and
q-FedAvg can work with. Minibatch SGD as in McMahan et al., AISTATS 2017, Algorithm 1 (ClientUpdate).
"""

from typing import Any

import numpy as np

import hanse as hs
from hanse.core.arrays import Array

HIDDEN = 32
CLASSES = 10
CLIENT_LR = 0.1
EPOCHS = 5
BATCH = 10


def initial(seed: int) -> dict[str, Array]:
    """64 pixels → 32 → 10; Glorot's uniform numbers, float32."""
    rng = np.random.default_rng(seed)
    sizes = {"0": (64, HIDDEN), "1": (HIDDEN, CLASSES)}
    arrays: dict[str, Array] = {}
    for layer, (fan_in, fan_out) in sizes.items():
        bound = np.sqrt(6 / (fan_in + fan_out))
        arrays[f"w{layer}"] = rng.uniform(-bound, bound, (fan_in, fan_out)).astype(np.float32)
        arrays[f"b{layer}"] = np.zeros(fan_out, np.float32)
    return arrays


def forward(model: Any, X: Array) -> tuple[Array, Array]:
    """Hidden activations, and chances of the classes, `(n, 10)`."""
    hidden = np.maximum(X @ model["w0"] + model["b0"], 0)
    scores = hidden @ model["w1"] + model["b1"]
    chances = np.exp(scores - scores.max(axis=1, keepdims=True))
    return hidden, chances / chances.sum(axis=1, keepdims=True)


def gradient(model: Any, X: Array, y: Array) -> dict[str, Array]:
    """Of the mean log loss."""
    hidden, slope = forward(model, X)
    slope[np.arange(len(y)), y] -= 1
    slope /= len(y)
    back = (slope @ model["w1"].T) * (hidden > 0)
    return {"w0": X.T @ back, "b0": back.sum(axis=0), "w1": hidden.T @ slope, "b1": slope.sum(axis=0)}


def loss_of(model: Any, X: Array, y: Array) -> float:
    """Mean log loss."""
    _, chances = forward(model, X)
    return float(-np.log(np.maximum(chances[np.arange(len(y)), y], 1e-12)).mean())


def accuracy_of(model: Any, X: Array, y: Array) -> float:
    """Share of the examples whose most likely class is right."""
    return float((forward(model, X)[1].argmax(axis=1) == y).mean())


def app_of(strategy: hs.Strategy, *, rounds: int, seed: int, sample: float = 1.0) -> hs.App:
    """The app; sites load `digits`, a tuple of pixels in [0, 1], float32, `(n, 64)`, and labels."""
    app = hs.App(strategy, rounds=rounds, seed=seed, sample=sample, initial=initial(seed), evaluate_every=0)

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        X, y = site.load("digits")
        start = {name: array.copy() for name, array in arrays.items()}
        model, steps = dict(start), 0
        mu, correction = np.float32(config.get("proximal_mu", 0.0)), config.get("correction")
        for _ in range(EPOCHS):
            order = site.rng.permutation(len(y))
            for at in range(0, len(y), BATCH):
                rows = order[at : at + BATCH]
                slopes = gradient(model, X[rows], y[rows])
                for name, slope in slopes.items():
                    if mu:
                        slope = slope + mu * (model[name] - start[name])
                    if correction is not None:
                        slope = slope + correction[name]
                    model[name] = model[name] - np.float32(CLIENT_LR) * slope
                steps += 1
        metrics = {"num_steps": steps, "client_lr": CLIENT_LR}
        if "loss_before" in config.get("wants", []):
            metrics["loss_before"] = loss_of(start, X, y)
        return model, len(y), metrics

    return app
