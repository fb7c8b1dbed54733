"""A strategy of one's own: values far from the median of all sites are drawn in before the mean is taken.

A strategy never gets a list of results. It names a reduction, here a Select, which is shown every update of one
block of the model at a time, and so works for models of any size. One of the six sites below sends nonsense.

    python examples/custom_strategy.py
"""
# mypy: allow-untyped-defs, allow-untyped-calls

from dataclasses import dataclass

import numpy as np

import hanse as hs


class DrawnIn:
    """The mean of each coordinate with all values brought within `width` median deviations of the median."""

    def __init__(self, width):
        self.width = width

    def reduce(self, blocks, weights, out):
        """`blocks`: float64, (num_updates, n); `out`: float64, (n,)."""
        median = np.median(blocks, axis=0)
        reach = self.width * np.median(np.abs(blocks - median), axis=0)
        out[:] = np.clip(blocks, median - reach, median + reach).mean(axis=0)


@dataclass(frozen=True)
class Wary(hs.Strategy):
    """FedAvg but for the reduction."""

    width: float = 2.0

    def reducer(self):
        return DrawnIn(self.width)


app = hs.App(Wary(width=2.0), rounds=10, initial=[np.zeros(4)])


@app.train
def train(arrays, config, site):
    target = site.load("target")
    if site.name == "site-5":
        target = target + 1e6  # the one that sends nonsense
    return [arrays["0"] + 0.5 * (target - arrays["0"])], 1, {}


def sites():
    """Six sites whose targets lie around (1, 2, 3, 4)."""
    rng = np.random.default_rng(0)
    return {f"site-{n}": {"target": np.arange(1.0, 5.0) + rng.normal(0, 0.05, 4)} for n in range(6)}


if __name__ == "__main__":
    result = hs.simulate(app, sites=sites())
    print(result.arrays["0"].round(2))
