"""Sites whose updates spread over 2^±60, with state, random numbers, failures on purpose and deaths on purpose."""

import os
import signal
from pathlib import Path

import numpy as np

import hanse as hs

app = hs.App(rounds=3, initial={"w": np.zeros(17), "b": np.zeros(3, np.float32)}, quorum=1, seed=5, sample=26)
COUNTED = True


@app.train
def train(arrays, config, site):
    rows = site.load("rows")
    if "kill" in rows and Path(str(rows["kill"])).exists():
        Path(str(rows["kill"])).unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    if "always" in rows:
        os.kill(os.getpid(), signal.SIGKILL)
    if "fails" in rows:
        raise ValueError("on purpose")
    site.state["visits"] = site.state.get("visits", 0) + 1
    scale = 2.0 ** int(rows["x"][0])
    w = arrays["w"] * 0.5 + scale * site.rng.standard_normal(17) * site.state["visits"]
    b = arrays["b"] + np.random.random(3).astype(np.float32)
    return {"w": w, "b": b}, int(rows["n"]), {"seen": float(w[0]), "visits": site.state["visits"]}


@app.evaluate
def evaluate(arrays, config, site):
    return 1, {"norm": float(np.abs(arrays["w"]).sum())}


def made(site):
    number = int(site.rpartition("-")[2])
    return {"rows": {"x": np.array([(number * 37) % 120 - 60]), "n": number % 5}}
