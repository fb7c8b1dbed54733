"""The apps that the benchmarks submit: files of their own, since an app travels as one."""

NO_OP = """
import numpy as np

import hanse as hs

app = hs.App(
    hs.FedAvg(), rounds={rounds}, min_sites={sites}, evaluate_every=0,
    initial=[np.zeros({size}, np.float32)], deadline_s=600.0,
)


@app.train
def train(arrays, config, site):
    return [arrays["0"] + np.float32(1)], 1, {{}}
"""
"""Adds one to every element, so that the result says how many rounds there were."""

LARGE = """
import numpy as np

import hanse as hs

app = hs.App(hs.FedAvg(), rounds={rounds}, min_sites={sites}, evaluate_every=0, deadline_s=600.0)


@app.parameters
def parameters(site):
    return [np.random.default_rng(7).random({size}, dtype=np.float32)]


@app.train
def train(arrays, config, site):
    weights = arrays["0"]
    weights[0] += np.float32(1)
    return [weights], 1, {{}}
"""
"""A model of random content; one element says how many rounds there were, the others that nothing was changed."""
