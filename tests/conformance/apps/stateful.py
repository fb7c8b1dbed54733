"""State, random streams of every kind, the app's own config, a site's first model: what a new worker could break."""

# mypy: allow-untyped-defs, allow-untyped-calls

import random

import numpy as np

import hanse as hs

app = hs.App(hs.FedAvg(), rounds=6, seed=11, lr=hs.Schedule(0.5, "step", every=1, factor=0.5))


class Momentum(hs.NumPyClient):
    """Keeps its momentum in `site.state` and draws from `site.rng` and from global state."""

    def __init__(self, site):
        self.site = site
        self.scale = site.rng.normal(1, 0.1)

    def get_parameters(self, config):
        return [np.full((3, 2), 0.1, np.float32) + np.float32(self.site.rng.normal()), np.array([1.0])]

    def fit(self, parameters, config):
        state = self.site.state
        noise = self.site.rng.normal(size=(3, 2)) + np.random.normal() + random.random()
        velocity = 0.9 * state.get("velocity", np.zeros((3, 2))) + noise * config["lr"] * config["factor"] * self.scale
        state["velocity"], state["tasks"] = velocity, state.get("tasks", 0) + 1
        drift = np.array([self.site.rng.normal()])
        return [(parameters[0] + velocity).astype(np.float32), parameters[1] * drift], state["tasks"] + 3, {}

    def evaluate(self, parameters, config):
        self.site.state["seen"] = float(parameters[0].sum()) + self.site.state.get("seen", 0.0)
        return self.site.state["seen"], 7, {"tasks": self.site.state["tasks"], "draw": self.site.rng.random()}


@app.client
def client(site):
    return Momentum(site)


@app.config
def config(round, site):
    return {"factor": 0.1 / round + len(site) * 1e-3 + np.random.random() * 1e-3}
