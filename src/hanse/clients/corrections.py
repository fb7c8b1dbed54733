"""The site's half of SCAFFOLD and FedDyn: what is added to every gradient, and what the site remembers of it.

SCAFFOLD: Karimireddy et al., ICML 2020, Algorithm 1, lines 7 to 13, Option II. FedDyn: Acar et al., ICLR 2021,
Algorithm 1. The server's halves are in `strategies/`.

User code sees neither control variates nor the arrays in which they travel. It is given the model, and

    config["correction"]     Arrays by the model's names, of its floats: added to the gradient in every step

and answers, for SCAFFOLD, the metrics `num_steps` (K) and `client_lr` (η_l, equal in all steps). The scikit-learn
adapter does both by itself for linear models. Code that does not look at `correction` computes FedAvg, and control
variates that nobody used.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hanse.clients.around import STATE, Around, copied
from hanse.clients.client import Answer, Client, Config, arrays_of
from hanse.clients.site import Site
from hanse.core.arrays import Array, Arrays
from hanse.core.errors import TaskError
from hanse.strategies.scaffold import CONTROL, Scaffold, without_control


class Controlled(Around):
    """SCAFFOLD: y ← y − η_l (g_i(y) − c_i + c), then c_i⁺ = c_i − c + (x − y) / (K η_l)."""

    def __init__(self, inner: Client, strategy: Scaffold) -> None:
        super().__init__(inner)
        self.strategy = strategy

    def parameters(self, config: Config, site: Site) -> Any:
        """See `Client`; with the server's control variate, which is zero."""
        return self.strategy.initial(arrays_of(self.inner.parameters(config, site), "parameters", None))

    def evaluate(self, arrays: Arrays, config: Config, site: Site) -> Answer:
        """See `Client`; of the model alone."""
        return self.inner.evaluate(without_control(arrays), config, site)

    def train(self, arrays: Arrays, config: Config, site: Site) -> Answer:
        """See `Client`."""
        x = copied(without_control(arrays))
        c = {name: arrays[CONTROL + name] for name in x if CONTROL + name in arrays}
        c_i = remembered(site, c)
        scale = float(config.pop("control_scale", 1.0))
        config["correction"] = _like(c, {name: c[name] - c_i[name] for name in c})
        answer = self.inner.train(without_control(arrays), config, site)
        y = arrays_of(answer.arrays, "train", list(x))
        length = _length(answer.metrics)
        sent: dict[str, Array] = {}
        for name, control in c.items():
            if name not in y or y[name].shape != control.shape:
                continue  # refused by name, like any answer of another layout
            after = c_i[name] - control + (_wide(x[name]) - _wide(y[name])) / length
            sent[CONTROL + name] = (control + scale * (after - c_i[name])).astype(control.dtype)
            site.state[STATE + name] = after
        return Answer(Arrays([*y.items(), *sent.items()]), answer.num_examples, answer.metrics)


class Dynamic(Around):
    """FedDyn: every gradient gets −g_k and α (θ − θ_received), then g_k ← g_k − α (θ_k − θ_received)."""

    def train(self, arrays: Arrays, config: Config, site: Site) -> Answer:
        """See `Client`."""
        before = {name: array.copy() for name, array in arrays.items() if array.dtype.kind not in "biu"}
        g = remembered(site, before)
        alpha = float(config["proximal_mu"])
        config["correction"] = _like(before, {name: -value for name, value in g.items()})
        answer = self.inner.train(arrays, config, site)
        theta = arrays_of(answer.arrays, "train", list(arrays))
        for name, start in before.items():
            if name in theta and theta[name].shape == start.shape:
                site.state[STATE + name] = g[name] - alpha * (_wide(theta[name]) - _wide(start))
        return Answer(theta, answer.num_examples, answer.metrics)


def remembered(site: Site, like: Mapping[str, Array]) -> dict[str, Array]:
    """This site's arrays in float64, zero at first."""
    return {name: site.state.get(STATE + name, np.zeros(array.shape)) for name, array in like.items()}


def _length(metrics: Any) -> float:
    """K η_l.

    Raises:
        TaskError: `bad_reply`, the metrics do not say.
    """
    found = [metrics.get(name) if isinstance(metrics, Mapping) else None for name in ("num_steps", "client_lr")]
    try:
        steps, lr = (float(value) for value in found)  # type: ignore[arg-type]  # whatever user code answered
    except (TypeError, ValueError):
        steps, lr = 0.0, 0.0
    if not (steps > 0 and lr > 0 and np.isfinite(steps * lr)):
        raise TaskError("bad_reply", "train: expected metrics num_steps and client_lr above 0, as Scaffold needs them")
    return steps * lr


def _like(arrays: Mapping[str, Array], values: Mapping[str, Array]) -> Arrays:
    return Arrays((name, np.asarray(values[name], array.dtype)) for name, array in arrays.items())


def _wide(array: Array) -> Array:
    return np.asarray(array, np.float64)
