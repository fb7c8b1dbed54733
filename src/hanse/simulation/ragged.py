"""Sites of unequal size side by side: which examples every step of every site takes, as arrays.

Sites are sorted by their number of steps, longest first, so that those with anything left to do at step t are a prefix
of the rows. Only a last, short batch of an epoch is padded, with examples whose share of the gradient is zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hanse.clients.training import Order
from hanse.core.arrays import Array


@dataclass(frozen=True, slots=True)
class Schedule:
    """The steps of a group of sites.

    Args:
        members: `(k,)`, for each row which site it is.
        active: `(steps,)`, how many rows have a batch at each step; never increases.
        places: int64 `(steps, k, batch)`, places in the examples of all sites, laid end to end.
        counts: int64 `(steps, k)`, how many of a batch are examples and not padding.
        is_full: for each step, whether no batch of it is padded.
    """

    members: npt.NDArray[np.int64]
    active: tuple[int, ...]
    places: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    is_full: tuple[bool, ...]

    def share(self, step: int, dtype: npt.DTypeLike) -> Array:
        """What each example counts in the mean of its batch, `(active, batch)`; 0 for padding."""
        counts = self.counts[step, : self.active[step], None]
        return np.where(np.arange(self.places.shape[2]) < counts, 1 / counts, 0).astype(dtype)


def schedule_of(sizes: Sequence[int], orders: Sequence[Order], batch_size: int) -> Schedule:
    """The schedule of sites with `sizes` examples that take them in `orders`, `(epochs, size)` each."""
    epochs, many = len(orders[0]), np.asarray(sizes)
    lengths = epochs * -(-many // batch_size)
    members = np.argsort(-lengths, kind="stable")
    starts = np.cumsum(many) - many
    batch, longest = min(batch_size, max(sizes)), int(lengths.max())
    places = np.zeros((len(sizes), longest, batch), np.int64)
    counts = np.zeros((len(sizes), longest), np.int64)
    row_of = np.empty(len(sizes), np.int64)
    row_of[members] = np.arange(len(sizes))
    for size in sorted(set(sizes)):
        alike = np.flatnonzero(many == size)
        steps = -(-size // batch_size)
        drawn = np.concatenate([orders[site] for site in alike.tolist()]).reshape(len(alike), epochs, size)
        padded = np.zeros((len(alike), epochs, steps * batch), np.int64)
        padded[:, :, :size] = drawn
        padded += starts[alike, None, None]
        rows = row_of[alike]
        places[rows, : epochs * steps] = padded.reshape(len(alike), epochs * steps, batch)
        of_epoch = np.full(steps, batch)
        of_epoch[-1] = size - (steps - 1) * batch_size
        counts[rows, : epochs * steps] = np.tile(of_epoch, epochs)
    active = (counts > 0).sum(axis=0)
    is_full = (counts == batch).sum(axis=0) == active
    return Schedule(
        members, tuple(active.tolist()), places.swapaxes(0, 1), np.ascontiguousarray(counts.T), tuple(is_full.tolist())
    )
