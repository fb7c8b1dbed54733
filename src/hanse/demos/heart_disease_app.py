"""The app of `hanse demo heart-disease`: logistic regression by plain gradient descent, in NumPy, as users write it.

Zero start, fixed learning rate, full batches, nothing random: the result is a function of the split alone.
"""

from typing import Any

import numpy as np

import hanse as hs

LEARNING_RATE = 0.1
STEPS = 5
"""Gradient steps that a hospital takes in one round."""
ROUNDS = 7


def descend(weights: Any, bias: Any, X: Any, y: Any, steps: int, importance: Any = None) -> tuple[Any, Any]:
    """Gradient steps on the mean logistic loss of labels 0 and 1, or on the mean weighted by `importance`."""
    share = np.full(len(y), 1 / len(y)) if importance is None else importance / importance.sum()
    for _ in range(steps):
        slope = (chance(weights, bias, X) - y) * share
        weights, bias = weights - LEARNING_RATE * (slope @ X), bias - LEARNING_RATE * slope.sum()
    return weights, bias


def chance(weights: Any, bias: Any, X: Any) -> Any:
    """The chance of disease of each row."""
    return 0.5 * (1 + np.tanh(0.5 * (X @ weights + bias)))


class Hospital(hs.NumPyClient):
    """One hospital's side: arrays are the 13 weights and the bias."""

    def __init__(self, data: Any) -> None:
        self.train, self.test = (data["X"], data["y"]), (data["X_test"], data["y_test"])

    def get_parameters(self, config: Any) -> Any:
        """Zeros."""
        return [np.zeros(self.train[0].shape[1]), np.zeros(())]

    def fit(self, parameters: Any, config: Any) -> Any:
        """`STEPS` gradient steps on the train rows."""
        weights, bias = parameters
        X, y = self.train
        return [*descend(weights, bias, X, y, STEPS)], len(y), {}

    def evaluate(self, parameters: Any, config: Any) -> Any:
        """Log loss and accuracy at 0.5 on the hospital's test rows."""
        weights, bias = parameters
        X, y = self.test
        p = chance(weights, bias, X)
        loss = -np.mean(np.log(np.clip(np.where(y == 1, p, 1 - p), 1e-12, 1)))
        return float(loss), len(y), {"accuracy": float(np.mean((p > 0.5) == (y == 1)))}


app = hs.App(hs.FedAvg(weights="equal"), rounds=ROUNDS, quorum=4)


@app.client
def client(site: Any) -> Hospital:
    """Once per worker, at the hospital."""
    return Hospital(site.load("patients"))
