"""Handwritten digits read by other scanners: sites whose labels are alike and whose pixels are not, for FedBN.

Every site sees pixels x as a·x + b, with contrast a and brightness b of its own (feature shift, in the words of Li et
al., ICLR 2021); no information is lost. The network of `digits_app` gets a layer of batch normalisation (Ioffe and
Szegedy, ICML 2015, Algorithms 1 and 2) before its rectifier, which undoes a and b by the site's own statistics.
"""

from typing import Any

import numpy as np

import hanse as hs
from hanse.core.arrays import Array
from hanse.demos.digits_app import CLIENT_LR, EPOCHS, accuracy_of, gradient, initial

BATCH = 24
"""Larger than in `digits_app`: statistics of ten images are rough."""
EPSILON = np.float32(1e-5)
MOMENTUM = np.float32(0.1)
"""Of running statistics, as in PyTorch."""


def scanned(X: Array, site: str, seed: int) -> Array:
    """What a site sees of images: float32, of the same shape."""
    rng = np.random.default_rng([seed, int(site.rpartition("-")[2])])
    return np.asarray(rng.uniform(0.2, 1.5) * X + rng.uniform(-1, 1), np.float32)


def normalised_initial(seed: int) -> dict[str, Array]:
    """64 pixels → 32, normalised → 10."""
    plain = initial(seed)
    ones, zeros = np.ones_like(plain["b0"]), np.zeros_like(plain["b0"])
    norm = {"bn.gain": ones, "bn.shift": zeros, "bn.running_mean": zeros, "bn.running_var": ones}
    return {"w0": plain["w0"], **norm, "w1": plain["w1"], "b1": plain["b1"]}


def normalised_loss(model: Any, X: Array, y: Array) -> float:
    """Mean log loss, normalised by the batch's own statistics."""
    scores = _scores(model, _forward(model, X)[3])
    top = scores.max(axis=1)
    return float((top + np.log(np.exp(scores - top[:, None]).sum(axis=1)) - scores[np.arange(len(y)), y]).mean())


def normalised_gradient(model: Any, X: Array, y: Array) -> dict[str, Array]:
    """Of `normalised_loss`, and as `bn.running_…` the batch's mean and unbiased variance."""
    z, unit, deviation, hidden = _forward(model, X)
    scores = _scores(model, hidden)
    slope = np.exp(scores - scores.max(axis=1, keepdims=True))
    slope /= slope.sum(axis=1, keepdims=True)
    slope[np.arange(len(y)), y] -= 1
    slope /= len(y)
    back = (slope @ model["w1"].T) * (hidden > 0)
    gain, shift = (back * unit).sum(axis=0), back.sum(axis=0)
    inner = model["bn.gain"] / deviation * (back - (shift + unit * gain) / len(y))
    return {
        "w0": X.T @ inner,
        "bn.gain": gain,
        "bn.shift": shift,
        "bn.running_mean": z.mean(axis=0),
        "bn.running_var": z.var(axis=0) * np.float32(len(y) / max(1, len(y) - 1)),
        "w1": hidden.T @ slope,
        "b1": slope.sum(axis=0),
    }


def folded(model: Any) -> dict[str, Array]:
    """The network of `digits_app` that does the same, normalised by running statistics."""
    factor = model["bn.gain"] / np.sqrt(model["bn.running_var"] + EPSILON)
    return {
        "w0": model["w0"] * factor,
        "b0": model["bn.shift"] - model["bn.running_mean"] * factor,
        "w1": model["w1"],
        "b1": model["b1"],
    }


def app_of(strategy: hs.Strategy, *, rounds: int, seed: int, normalised: bool) -> hs.App:
    """The app; sites load `digits` and `held-out`, as their scanner reads them."""
    start = normalised_initial(seed) if normalised else initial(seed)
    app = hs.App(strategy, rounds=rounds, seed=seed, evaluate_every=rounds, initial=start)

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        X, y = site.load("digits")
        model = {name: array.copy() for name, array in arrays.items()}
        for _ in range(EPOCHS):
            order = site.rng.permutation(len(y))
            for at in range(0, len(y) - BATCH // 2, BATCH):  # nor are those of a short rest taken
                rows = order[at : at + BATCH]
                slopes = (normalised_gradient if normalised else gradient)(model, X[rows], y[rows])
                for name, slope in slopes.items():
                    if "running" in name:
                        model[name] += MOMENTUM * (slope - model[name])
                    else:
                        model[name] -= np.float32(CLIENT_LR) * slope
        return model, len(y), {}

    @app.evaluate
    def evaluate(arrays: Any, config: Any, site: Any) -> Any:
        X, y = site.load("held-out")
        return len(y), {"accuracy": accuracy_of(folded(arrays) if normalised else arrays, X, y)}

    return app


def _forward(model: Any, X: Array) -> tuple[Array, Array, Array, Array]:
    """Before normalising, normalised, the deviations, and after the rectifier."""
    z = X @ model["w0"]
    deviation = np.sqrt(z.var(axis=0) + EPSILON)
    unit = (z - z.mean(axis=0)) / deviation
    return z, unit, deviation, np.maximum(model["bn.gain"] * unit + model["bn.shift"], 0)


def _scores(model: Any, hidden: Array) -> Array:
    return np.asarray(hidden @ model["w1"] + model["b1"])
