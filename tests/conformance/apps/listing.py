"""A strategy in the habit of `aggregate_fit`: it gets a list of all results."""

# mypy: allow-untyped-defs, allow-untyped-calls

import numpy as np

import hanse as hs


class Trimmed(hs.NumPyStrategy):
    """The mean of each coordinate without its lowest and highest value."""

    def aggregate_fit(self, round, results):
        layers = zip(*(arrays for _, arrays, _ in results), strict=True)
        return [np.sort(np.stack(layer), axis=0)[1:-1].mean(axis=0) for layer in layers]


app = hs.App(Trimmed(), rounds=4, seed=8, initial=[np.zeros((4, 4), np.float32), np.zeros(2)])


@app.train
def train(arrays, config, site):
    return [array + site.rng.normal(size=array.shape).astype(array.dtype) for array in arrays.values()], 1, {}
