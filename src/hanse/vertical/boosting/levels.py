"""Which node each row is in, level by level, and which nodes' sums follow from their parents'.

Every party holds the same: the guest tells hosts which nodes were split and who went left. Of two siblings the one with
fewer sampled rows is summed; the other's sums are the parent's minus these.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hanse.core.arrays import Array

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Level:
    """One level of one tree.

    Attributes:
        place: int64, `(num_rows,)`: the row's node among the `num_nodes` of this level, −1 where it is in a leaf.
        num_nodes: how many.
        parents: int64, `(num_nodes / 2,)`: the nodes of the level before that were split, whose children these are,
            two each; empty at the root.
        sample: the rows that are summed.
    """

    place: Array
    num_nodes: int
    parents: Array
    sample: Mask

    @classmethod
    def root(cls, sample: Mask) -> "Level":
        """Where a tree begins."""
        return cls(np.zeros(len(sample), np.int64), 1, np.empty(0, np.int64), sample)

    def below(self, grown: Mask, left: Mask) -> "Level":
        """The next level.

        Args:
            grown: `(num_nodes,)`: which nodes were split.
            left: `(num_rows,)`: which rows went left; of no matter where the row's node was not split.
        """
        order = np.cumsum(grown) - 1
        moves = (self.place >= 0) & grown[self.place]
        place = np.where(moves, 2 * order[self.place] + ~left, -1)
        return Level(place, 2 * int(grown.sum()), np.flatnonzero(grown), self.sample)

    @property
    def moving(self) -> Array:
        """Rows that are in a node of this level, int64."""
        return np.flatnonzero(self.place >= 0)

    def summed(self) -> tuple[Array, Array, Array]:
        """Which rows are summed, for which nodes.

        Returns:
            int64: the nodes that are summed; the rows, rising; and for each of these the place of its node among the
            nodes that are summed.
        """
        counts = np.bincount(self.place[self.sample & (self.place >= 0)], minlength=self.num_nodes)
        nodes = np.arange(1)
        if len(self.parents):
            pairs = counts.reshape(-1, 2)
            nodes = np.arange(len(pairs)) * 2 + (pairs[:, 1] < pairs[:, 0])
        among = np.full(self.num_nodes + 1, -1)  # the last one is that of rows in no node
        among[nodes] = np.arange(len(nodes))
        mine = np.where(self.sample, among[self.place], -1)
        rows = np.flatnonzero(mine >= 0)
        return nodes, rows, mine[rows]
