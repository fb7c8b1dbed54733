"""The site's half of compression: which stream is drawn from, and the memory of what was left out.

Error feedback: S. U. Stich, J.-B. Cordonnier, M. Jaggi, "Sparsified SGD with Memory", NeurIPS 2018, Algorithm 1, with a
round's delta in the place of a gradient step:

    e ← delta + m,   sent = C(e),   m ← e − decoded(sent)

m is kept in `site.state` in the arrays' own dtypes and is committed together with the reply. That the server folds the
reply cannot be known then: what was sent in a reply that ends late or refused is lost for the memory.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hanse.aggregation import ArraySource, Codec, decoded, encode_update
from hanse.aggregation.rounding import is_float
from hanse.core.arrays import Array, Arrays
from hanse.core.errors import TaskError, UpdateError
from hanse.core.seeds import generator

LEFT_OUT = "hanse:left_out/"
"""What the names of our arrays in `site.state` begin with."""


def compressed(delta: Arrays, codec: Codec, state: dict[str, Any], key: int) -> Arrays:
    """A delta as it travels.

    Args:
        delta: the site's own; is not changed.
        state: the site's memory; changed where the codec remembers.
        key: of the stream that the codec draws from.

    Raises:
        TaskError: `bad_reply`, values that the codec cannot send.
    """
    rng = generator(key)
    if codec.remembers:
        delta = Arrays((name, _with_left_out(name, array, state)) for name, array in delta.items())
    try:
        sent = encode_update(delta, codec, rng)
    except UpdateError as error:
        raise TaskError("bad_reply", f"train: {error}; see hs.App(compression=...)") from None
    if codec.remembers:
        _remember(delta, sent, codec, state)
    return sent


def _with_left_out(name: str, array: Array, state: Mapping[str, Any]) -> Array:
    left_out = state.get(LEFT_OUT + name)
    if left_out is None or left_out.shape != array.shape or left_out.dtype != array.dtype:
        return array
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused by the codec
        return np.asarray(array + left_out, array.dtype)


def _remember(delta: Arrays, sent: Arrays, codec: Codec, state: dict[str, Any]) -> None:
    update = decoded(ArraySource(sent), delta.layout, codec)
    for index, (name, array) in enumerate(delta.items()):
        if is_float(array.dtype):
            left_out = array - update.block(index, 0, array.size).reshape(array.shape)
            state[LEFT_OUT + name] = np.asarray(left_out, array.dtype)
