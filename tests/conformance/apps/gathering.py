"""A strategy of its own in the server's worker: two passes, state, numbers by round, its own plan; a large model."""

# mypy: allow-untyped-defs, allow-untyped-calls

from dataclasses import dataclass

import numpy as np

import hanse as hs

SIZE = 40_000


class Quieter:
    """Weighs an update by the inverse of its distance from the model."""

    def measure(self, blocks):
        return np.array([np.add.reduce(block * block) for block in blocks])

    def choose(self, stats, weights):
        return hs.Choice(tuple(float(weight / (1 + square)) for weight, square in zip(weights, stats, strict=True)))


@dataclass(frozen=True)
class Slowing(hs.Strategy):
    """Moves towards the reduced model by a rate that falls, with momentum."""

    rate: float = 0.8

    def state_names(self):
        return ("velocity",)

    def scalars(self, round_, memory):
        return {"rate": self.rate / round_}

    def reducer(self):
        return Quieter()

    def config(self, context, site):
        return {"turn": context.round % 2, "others": len(context.sites)}

    def weigh(self, replies):
        return [reply.metrics["trust"] for reply in replies]

    def update(self, model, reduced, state, scalars):
        state[0][:] = 0.5 * state[0] + reduced - model
        return model + scalars["rate"] * state[0]


app = hs.App(rounds=5, seed=2, initial=[np.zeros(SIZE, np.float32)])


@app.strategy
def strategy(ctx):
    return Slowing(rate=0.9 if ctx.num_sites else 0.1)


@app.train
def train(arrays, config, site):
    step = site.rng.normal(size=SIZE) * (1 + config["turn"]) / config["others"]
    return [arrays["0"] + step.astype(np.float32)], 1, {"trust": 1 + site.rng.random()}
