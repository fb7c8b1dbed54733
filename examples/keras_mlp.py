"""A small Keras network over three sites that see different digits (scikit-learn's 8×8 images).

pip install 'hanse[torch,sklearn]' keras; python examples/keras_mlp.py

Keras stands on TensorFlow, JAX or PyTorch; here on PyTorch unless KERAS_BACKEND says otherwise.
"""
# mypy: allow-untyped-defs, allow-untyped-calls

import os

os.environ.setdefault("KERAS_BACKEND", "torch")  # before Keras is imported

import keras
import numpy as np
from sklearn.datasets import load_digits

import hanse as hs

app = hs.App(hs.FedAvg(), rounds=15)


class Network:
    """What Hanse asks of a client: three methods, arrays in and out."""

    def __init__(self, site):
        self.site = site
        self.seed()
        layers = [keras.layers.Input((64,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(10, "softmax")]
        self.model = keras.Sequential(layers)
        self.compile()
        X, y = site.load("images")
        held_out = len(y) // 5
        self.train, self.test = (X[held_out:], y[held_out:]), (X[:held_out], y[:held_out])

    def seed(self):
        keras.utils.set_random_seed(int(self.site.rng.integers(2**31)))  # Keras draws from streams of its own

    def compile(self):
        optimizer = keras.optimizers.SGD(0.05, momentum=0.5)
        self.model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])

    def get_parameters(self, config):
        return self.model.get_weights()

    def fit(self, parameters, config):
        self.seed()
        self.compile()  # momentum begins afresh: what a worker remembers is gone with it
        self.model.set_weights(parameters)
        history = self.model.fit(*self.train, batch_size=32, epochs=1, verbose=0)
        return self.model.get_weights(), len(self.train[1]), {"loss": history.history["loss"][-1]}

    def evaluate(self, parameters, config):
        self.model.set_weights(parameters)
        loss, accuracy = self.model.evaluate(*self.test, verbose=0)
        return loss, len(self.test[1]), {"accuracy": accuracy}


@app.client
def client(site):
    return Network(site)


def sites():
    """Each site has all digits, but a third of them in abundance."""
    X, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    home = np.where(rng.random(len(y)) < 0.7, y % 3, rng.integers(0, 3, len(y)))
    data = (X / 16).astype(np.float32)
    return {f"site-{n}": {"images": (data[home == n], y[home == n])} for n in range(3)}


if __name__ == "__main__":
    result = hs.simulate(app, sites=sites())
    for record in result.rounds[::5] + result.rounds[-1:]:
        print(f"round {record.number:2}  accuracy {record.metrics['accuracy']:.3f}  loss {record.metrics['loss']:.3f}")
