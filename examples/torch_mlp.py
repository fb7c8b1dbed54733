"""A small PyTorch network over three sites that see different digits (scikit-learn's 8×8 images).

pip install 'hanse[torch,sklearn]'; python examples/torch_mlp.py
"""
# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import hanse as hs

app = hs.App(hs.FedAvg(), rounds=15)


@app.client
def client(site):
    module = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    return hs.torch(module, train, evaluate)


def train(module, config, site):
    X, y, _, _ = tensors(site)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.5)
    for rows in torch.randperm(len(y)).split(32):  # seeded by the job: the same in every run
        optimiser.zero_grad()
        loss = cross_entropy(module(X[rows]), y[rows])
        loss.backward()
        optimiser.step()
    return len(y), {"loss": loss.item()}


def evaluate(module, config, site):
    _, _, X, y = tensors(site)
    scores = module(X)
    return len(y), {"loss": cross_entropy(scores, y), "accuracy": (scores.argmax(dim=1) == y).float().mean()}


def tensors(site):
    X, y = (torch.from_numpy(part) for part in site.load("digits"))
    held_out = len(y) // 5
    return X[held_out:], y[held_out:], X[:held_out], y[:held_out]


def sites():
    """Each site has all digits, but a third of them in abundance."""
    X, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    home = np.where(rng.random(len(y)) < 0.7, y % 3, rng.integers(0, 3, len(y)))
    data = (X / 16).astype(np.float32)
    return {f"site-{n}": {"digits": (data[home == n], y[home == n])} for n in range(3)}


if __name__ == "__main__":
    result = hs.simulate(app, sites=sites())
    for record in result.rounds[::5] + result.rounds[-1:]:
        print(f"round {record.number:2}  accuracy {record.metrics['accuracy']:.3f}  loss {record.metrics['loss']:.3f}")
