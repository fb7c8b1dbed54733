"""Handwritten digits over many sites: a small network in plain NumPy that does its part of every built-in strategy.

The app of `python -m hanse.demos.digits`, and an example of a client that FedProx, FedNova, SCAFFOLD, FedDyn, q-FedAvg,
FedRep, Ditto and MOON can work with. Minibatch SGD as in McMahan et al., AISTATS 2017, Algorithm 1 (ClientUpdate).
"""

from dataclasses import dataclass
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


def gradient(model: Any, X: Array, y: Array, contrast: "Contrast | None" = None) -> dict[str, Array]:
    """Of the mean log loss, and of MOON's term where there is one."""
    hidden, slope = forward(model, X)
    slope[np.arange(len(y)), y] -= 1
    slope /= len(y)
    back = slope @ model["w1"].T
    if contrast is not None:
        back = back + contrast.slope(hidden, X)
    back = back * (hidden > 0)
    return {"w0": X.T @ back, "b0": back.sum(axis=0), "w1": hidden.T @ slope, "b1": slope.sum(axis=0)}


@dataclass(frozen=True)
class Contrast:
    """MOON's term: Li, He, Song, CVPR 2021, Equation 3, with the hidden activations as the representation.

    Args:
        received, previous: models.
        mu, temperature: μ and τ.
    """

    received: Any
    previous: Any
    mu: float
    temperature: float

    def loss(self, z: Array, X: Array) -> float:
        """μ ℓ_con, the mean over a batch."""
        near, far = (cosines(z, forward(each, X)[0]) / self.temperature for each in (self.received, self.previous))
        return self.mu * float(np.logaddexp(0, far - near).mean())

    def slope(self, z: Array, X: Array) -> Array:
        """Its gradient by z, `(n, 32)`."""
        to_near, to_far = (forward(each, X)[0] for each in (self.received, self.previous))
        gap = (cosines(z, to_far) - cosines(z, to_near)) / self.temperature
        share = 1 / (1 + np.exp(-gap))  # of ℓ = log(1 + e^gap)
        pull = cosine_slopes(z, to_far) - cosine_slopes(z, to_near)
        return np.asarray(np.float32(self.mu / self.temperature / len(z)) * share[:, None] * pull)


def cosines(z: Array, other: Array) -> Array:
    """Row by row; 0 where one of them has no length."""
    lengths = np.sqrt((z * z).sum(axis=1) * (other * other).sum(axis=1))
    return np.asarray((z * other).sum(axis=1) / np.maximum(lengths, 1e-12))


def cosine_slopes(z: Array, other: Array) -> Array:
    """Of `cosines` by z: (o/‖o‖ − cos · z/‖z‖) / ‖z‖."""
    size = np.maximum(np.sqrt((z * z).sum(axis=1, keepdims=True)), 1e-6)
    size_other = np.maximum(np.sqrt((other * other).sum(axis=1, keepdims=True)), 1e-6)
    return np.asarray((other / size_other - cosines(z, other)[:, None] * z / size) / size)


def loss_of(model: Any, X: Array, y: Array) -> float:
    """Mean log loss."""
    _, chances = forward(model, X)
    return float(-np.log(np.maximum(chances[np.arange(len(y)), y], 1e-12)).mean())


def accuracy_of(model: Any, X: Array, y: Array) -> float:
    """Share of the examples whose most likely class is right."""
    return float((forward(model, X)[1].argmax(axis=1) == y).mean())


def accuracy_at(model: Any, y: Array, X_test: Array, y_test: Array) -> float:
    """Accuracy on the test images, mixed as the labels `y` of a site are; classes that are not tested are left out."""
    tested = [label for label in np.unique(y) if (y_test == label).any()]
    right = [accuracy_of(model, X_test[y_test == label], y_test[y_test == label]) for label in tested]
    return float(np.average(right, weights=[(y == label).sum() for label in tested]))


def app_of(strategy: hs.Strategy, *, rounds: int, seed: int, sample: float = 1.0, **options: Any) -> hs.App:
    """The app; sites load `digits`, a tuple of pixels in [0, 1], float32, `(n, 64)`, and labels.

    Where it evaluates at sites, they load `held-out`, the same of images that nobody trains on, and answer
    `accuracy_at`.
    """
    given = {"evaluate_every": 0, "initial": initial(seed), **options}
    app = hs.App(strategy, rounds=rounds, seed=seed, sample=sample, **given)

    @app.train
    def train(arrays: Any, config: Any, site: Any) -> Any:
        X, y = site.load("digits")
        start = {name: array.copy() for name, array in arrays.items()}
        model, steps = dict(start), 0
        mu, correction = np.float32(config.get("proximal_mu", 0.0)), config.get("correction")
        frozen, contrast = config.get("frozen", ()), None
        if "previous" in config:
            contrast = Contrast(start, config["previous"], config["contrast_mu"], config["temperature"])
        for _ in range(max(1, round(EPOCHS * config.get("work", 1.0)))):
            order = site.rng.permutation(len(y))
            for at in range(0, len(y), BATCH):
                rows = order[at : at + BATCH]
                slopes = gradient(model, X[rows], y[rows], contrast)
                for name, slope in slopes.items():
                    if name in frozen:
                        continue
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

    @app.evaluate
    def evaluate(arrays: Any, config: Any, site: Any) -> Any:
        X, y = site.load("digits")
        metrics = {"loss": loss_of(arrays, X, y)}
        if site.phase == "evaluate":
            metrics["accuracy"] = accuracy_at(arrays, y, *site.load("held-out"))
        return len(y), metrics

    return app
