"""The apps of `sim-cnn`, `sim-mlp` and `sim-gpu`, in a file of their own since replicas load it.

What they do is in the folder that the environment names: see `_sim_work.py`.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

import hanse as hs

FOLDER = Path(os.environ["HANSE_BENCH_WORK"])
WORK = json.loads((FOLDER / "work.json").read_text())
X, y, STARTS = (np.asarray(np.load(FOLDER / f"{name}.npy", mmap_mode="c")) for name in ("X", "y", "starts"))


def mlp() -> nn.Module:
    """9,610 parameters."""
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def cnn() -> nn.Module:
    """153,962 parameters."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(1152, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


NETWORK = {"mlp": mlp, "cnn": cnn}[WORK["model"]]


def data(site: str) -> dict[str, Any]:
    """A site's examples: rows of the arrays, nothing is copied."""
    start, stop = STARTS[(number := int(site.rpartition("-")[2]))], STARTS[number + 1]
    return {"examples": (X[start:stop], y[start:stop])}


app = hs.App(
    rounds=WORK["rounds"],
    sample=WORK["cohort"],
    seed=WORK["seed"],
    evaluate_every=0,
    initial=dict(np.load(FOLDER / "initial.npz")),
)


@app.client
def client(site: Any) -> Any:
    return hs.torch(
        NETWORK,
        *site.load("examples"),
        loss="cross_entropy",
        optimizer=hs.SGD(WORK["lr"]),
        batch_size=WORK["batch_size"],
        device=WORK["device"],
    )
