"""`Around`: a client around another, for the half of a strategy that sites do. Which one a strategy needs:
`parts.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hanse.clients.client import Answer, Client, Config, arrays_of
from hanse.clients.site import Site
from hanse.core.arrays import Array, Arrays
from hanse.core.errors import TaskError

STATE = "hanse:"
"""What the names of our arrays in `site.state` begin with."""


class Around(Client):
    """Passes on what has no part in it."""

    def __init__(self, inner: Client) -> None:
        self.inner = inner

    def parameters(self, config: Config, site: Site) -> Any:
        """See `Client`."""
        return self.inner.parameters(config, site)

    def train(self, arrays: Arrays, config: Config, site: Site) -> Answer:
        """See `Client`."""
        return self.inner.train(arrays, config, site)

    def evaluate(self, arrays: Arrays, config: Config, site: Site) -> Answer:
        """See `Client`."""
        return self.inner.evaluate(arrays, config, site)

    def query(self, config: Config, site: Site) -> Answer:
        """See `Client`."""
        return self.inner.query(config, site)


def kept(site: Site, kind: str) -> dict[str, Array]:
    """Copies of this site's arrays of a kind, such as `home/`, by the model's names."""
    begin = STATE + kind
    return {name[len(begin) :]: array.copy() for name, array in site.state.items() if name.startswith(begin)}


def keep(site: Site, kind: str, arrays: Mapping[str, Array]) -> None:
    """Remember arrays of a kind; they are copied, since user code may go on with its own."""
    site.state.update({STATE + kind + name: array.copy() for name, array in arrays.items()})


def copied(arrays: Arrays) -> Arrays:
    """Arrays of their own."""
    return Arrays((name, array.copy()) for name, array in arrays.items())


def trained_arrays(answer: Answer, like: Arrays | None, names: Sequence[str] | None = None) -> Arrays:
    """What user code answered, which must have the layout of `like`.

    Raises:
        TaskError: `bad_reply`.
    """
    expected = names if like is None else list(like)
    arrays = arrays_of(answer.arrays, "train", None if expected is None else list(expected))
    difference = None if like is None else like.layout.difference(arrays.layout)
    if difference is not None:
        raise TaskError("bad_reply", f"train: arrays differ from the model's: {difference}")
    return arrays


def moved(start: Arrays, new: Arrays, scale: float) -> Arrays:
    """start + scale · (new − start), computed in float64; integers are rounded."""
    made = {}
    for name, array in start.items():
        step = np.asarray(array, np.float64) + scale * (
            np.asarray(new[name], np.float64) - np.asarray(array, np.float64)
        )
        made[name] = (np.rint(step) if array.dtype.kind in "biu" else step).astype(array.dtype)
    return Arrays(made)
