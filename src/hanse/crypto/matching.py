"""Where two lists of digests agree: sorted by their first eight bytes, then compared in full."""

import numpy as np
import numpy.typing as npt

from hanse.core.errors import RefusedError

Digests = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]

MAX_SAME_HEADS = 8
"""Digests of one list that may share their first eight bytes. Of honest ones, nine never do; lists of a peer that all
begin alike would make the search quadratic."""


def match(mine: Digests, theirs: Digests) -> tuple[Places, Places]:
    """Pairs of places with equal digests, in the order of `mine`.

    Digests are public to whoever calls this (sent by the other party, or equal to what it sent), so that the comparison
    need not be constant-time.

    Args:
        mine, theirs: uint8 `(n, size)` and `(m, size)`; within each, digests differ.

    Returns:
        int64 `(k,)` twice: `mine[a[i]]` equals `theirs[b[i]]`.

    Raises:
        RefusedError: more than `MAX_SAME_HEADS` of `theirs` begin alike.
    """
    order, heads = _sorted_heads(theirs)
    if (heads[MAX_SAME_HEADS:] == heads[:-MAX_SAME_HEADS]).any():
        raise RefusedError(f"digests: expected different ones, found more than {MAX_SAME_HEADS} that begin alike")
    wanted = _heads(mine)
    place = np.searchsorted(heads, wanted)
    left = np.arange(len(mine), dtype=np.int64)
    found_mine, found_theirs = [], []
    while len(
        left
    ):  # once, and at most MAX_SAME_HEADS + 1 times, but for the rare digests that share their first eight bytes
        inside = place < len(heads)
        left, place = left[inside], place[inside]
        same_head = heads[place] == wanted[left]
        left, place = left[same_head], place[same_head]
        same = (mine[left] == theirs[order[place]]).all(axis=1)
        found_mine.append(left[same])
        found_theirs.append(order[place[same]])
        left, place = left[~same], place[~same] + 1
    a = np.concatenate([*found_mine, np.empty(0, np.int64)])
    b = np.concatenate([*found_theirs, np.empty(0, np.int64)])
    by_mine = np.argsort(a, kind="stable")
    return a[by_mine], b[by_mine]


def num_repeated(rows: npt.NDArray[np.uint64]) -> int:
    """How many rows of uint64 `(n, 2)` repeat an earlier one."""
    if len(rows) < 2:
        return 0
    order = np.lexsort((rows[:, 1], rows[:, 0]))
    rows = rows[order]
    return int((rows[1:] == rows[:-1]).all(axis=1).sum())


def _heads(digests: Digests) -> npt.NDArray[np.uint64]:
    padded = np.zeros((len(digests), 8), np.uint8)
    padded[:, : min(8, digests.shape[1])] = digests[:, :8]
    return padded.view("<u8").reshape(-1)


def _sorted_heads(digests: Digests) -> tuple[Places, npt.NDArray[np.uint64]]:
    heads = _heads(digests)
    order = np.argsort(heads, kind="stable").astype(np.int64, copy=False)
    return order, heads[order]
