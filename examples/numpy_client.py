"""A client with the three methods that Flower users know: least squares by gradient descent, in numpy alone.

python examples/numpy_client.py
"""
# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np

import hanse as hs

TRUE = np.array([2.0, -1.0, 0.5])

app = hs.App(hs.FedAvg(), rounds=15)


class Linear(hs.NumPyClient):
    """y ≈ X·w. The base class is optional: any object with these three methods will do."""

    def __init__(self, X, y):
        self.X, self.y = X, y

    def get_parameters(self, config):
        return [np.zeros(self.X.shape[1])]

    def fit(self, parameters, config):
        (w,) = parameters
        for _ in range(5):
            w = w - config["lr"] * self.X.T @ (self.X @ w - self.y) / len(self.y)
        return [w], len(self.y), {"loss": np.mean((self.X @ w - self.y) ** 2)}

    def evaluate(self, parameters, config):
        loss = np.mean((self.X @ parameters[0] - self.y) ** 2)
        return loss, len(self.y), {"rmse": np.sqrt(loss)}


@app.client
def client(site):
    return Linear(*site.load("measurements"))


@app.config
def config(round, site):
    return {"lr": 0.3 / (1 + 0.1 * round)}


def laboratories():
    """Three laboratories that measure in different ranges, with noise."""
    rng = np.random.default_rng(0)
    sites = {}
    for name, size, centre in (("a", 30, -0.5), ("b", 80, 0.0), ("c", 200, 0.5)):
        X = rng.normal(centre, 1, (size, 3))
        sites[name] = {"measurements": (X, X @ TRUE + rng.normal(0, 0.1, size))}
    return sites


if __name__ == "__main__":
    result = hs.simulate(app, sites=laboratories())
    print("true     ", TRUE)
    print("federated", result.arrays["0"].round(3))
