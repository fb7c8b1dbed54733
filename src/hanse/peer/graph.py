"""Graphs of peers and mixing matrices.

L. Xiao, S. Boyd, S.-J. Kim, "Distributed average consensus with least-mean-square deviation", Journal of Parallel and
Distributed Computing 67, 2007, section 2: Metropolis–Hastings weights, W_ij = 1 / (1 + max(d_i, d_j)) for neighbours,
make a symmetric, doubly stochastic matrix from what two neighbours know of each other. Repeated averaging then leads
everybody to the mean, and the distance to it shrinks by |λ_2(W)| at least in every step (X. Lian et al., NIPS 2017,
Assumption 1.3): `mixing_rate`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.core.errors import ConfigError
from hanse.core.seeds import generator, key_of

MAX_TRIES = 1000
"""Pairings that are drawn for a random regular graph before its arguments are said to be hopeless."""


@dataclass(frozen=True, slots=True)
class Graph:
    """An undirected, connected graph without loops.

    Args:
        neighbours: peer → its neighbours, sorted by name; peers are sorted, too.

    Raises:
        ConfigError: an edge in one direction only, to oneself, to nobody, or peers that cannot reach each other.
    """

    neighbours: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        for peer, others in self.neighbours.items():
            for other in others:
                if other == peer or peer not in self.neighbours.get(other, ()):
                    raise ConfigError(
                        f"graph: expected edges between two of its peers in both directions, found {peer[:60]} → "
                        f"{other[:60]}"
                    )
        lost = set(self.neighbours) - self.reach()
        if not self.neighbours or lost:
            named = ", ".join(sorted(lost)[:4]) or "no peer at all"
            raise ConfigError(f"graph: expected that every peer can reach every other, found cut off: {named}")

    @property
    def peers(self) -> tuple[str, ...]:
        """All of them, sorted."""
        return tuple(self.neighbours)

    @property
    def diameter(self) -> int:
        """Steps between the two peers that are furthest apart."""
        longest = 0
        for peer in self.peers:
            seen, front, steps = {peer}, {peer}, -1
            while front:
                front = {other for each in front for other in self.neighbours[each]} - seen
                seen |= front
                steps += 1
            longest = max(longest, steps)
        return longest

    def reach(self) -> set[str]:
        """Whom the first peer can reach."""
        found, left = set(self.peers[:1]), list(self.peers[:1])
        while left:
            new = set(self.neighbours[left.pop()]) - found
            found |= new
            left += new
        return found


def from_edges(peers: Iterable[str], edges: Iterable[tuple[str, str]]) -> Graph:
    """A given graph.

    Raises:
        ConfigError: see `Graph`.
    """
    found: dict[str, set[str]] = {peer: set() for peer in sorted(peers)}
    for a, b in edges:
        if a not in found or b not in found:
            raise ConfigError(f"graph: expected edges between its peers, found {a[:60]} – {b[:60]}")
        found[a].add(b)
        found[b].add(a)
    return Graph({peer: tuple(sorted(others)) for peer, others in found.items()})


def ring(peers: Sequence[str]) -> Graph:
    """Every peer has the one before and the one behind it, in order of name."""
    names = sorted(peers)
    pairs = zip(names, [*names[1:], names[0]], strict=True)
    return from_edges(names, [(a, b) for a, b in pairs if a != b])


def complete(peers: Sequence[str]) -> Graph:
    """Every peer has all others."""
    names = sorted(peers)
    return from_edges(names, [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]])


def random_regular(peers: Sequence[str], degree: int, seed: int = 0) -> Graph:
    """Every peer has `degree` others, drawn by a seed: connected pairings of the configuration model without loops or
    repeated edges, as they come (B. Bollobás, "A probabilistic proof of an asymptotic formula for the number of
    labelled regular graphs", European Journal of Combinatorics 1, 1980).

    Raises:
        ConfigError: there is no such graph, or it would take too long to draw one (degrees above 8 or so).
    """
    names = sorted(peers)
    num = len(names)
    if not 0 < degree < num or num * degree % 2:
        raise ConfigError(f"graph: there is none where each of {num} peers has {degree} neighbours")
    if degree == num - 1:
        return complete(names)
    rng = generator(key_of(seed, purpose="graph"))
    for _ in range(MAX_TRIES):
        edges = _pairing(num, degree, rng)
        if edges is None:
            continue
        try:
            return from_edges(names, [(names[a], names[b]) for a, b in edges])
        except ConfigError:  # it fell into parts
            continue
    raise ConfigError(f"graph: drew no connected graph of {num} peers with {degree} neighbours each; take fewer or all")


def _pairing(num: int, degree: int, rng: np.random.Generator) -> set[tuple[int, int]] | None:
    """Pairs of ends that still fit, until none is left or none fits."""
    edges: set[tuple[int, int]] = set()
    ends = np.repeat(np.arange(num), degree)
    while ends.size:
        rng.shuffle(ends)
        left = []
        for a, b in ends.reshape(-1, 2).tolist():
            pair = (min(a, b), max(a, b))
            if a == b or pair in edges:
                left += [a, b]
            else:
                edges.add(pair)
        if len(left) == ends.size:
            return None
        ends = np.array(left, dtype=ends.dtype)
    return edges


Mixing = Mapping[str, Mapping[str, float]]
"""Row by row: peer → who counts how much in its average, itself included, sorted by name."""


def metropolis_hastings(graph: Graph) -> Mixing:
    """W_ij = 1 / (1 + max(d_i, d_j)) for neighbours, W_ii = 1 − Σ_j W_ij: doubly stochastic and symmetric."""
    degree = {peer: len(others) for peer, others in graph.neighbours.items()}
    made = {}
    for peer, others in graph.neighbours.items():
        row = {other: 1 / (1 + max(degree[peer], degree[other])) for other in others}
        row[peer] = 1 - math.fsum(row.values())
        made[peer] = dict(sorted(row.items()))
    return made


def check_mixing(mixing: Mixing, graph: Graph) -> None:
    """Refuse a given matrix that does not lead to the mean.

    Raises:
        ConfigError: rows or columns that do not add up to 1, negative weights, or weights where there is no edge.
    """
    for peer in graph.peers:
        row = mixing.get(peer, {})
        wrong = set(row) - {peer, *graph.neighbours[peer]}
        if wrong or any(not 0 <= weight <= 1 for weight in row.values()):
            raise ConfigError(f"mixing: expected weights in [0, 1] of {peer[:60]} and its neighbours, found others")
        column = math.fsum(mixing.get(other, {}).get(peer, 0.0) for other in graph.peers)
        if abs(math.fsum(row.values()) - 1) > 1e-9 or abs(column - 1) > 1e-9:
            raise ConfigError(f"mixing: expected rows and columns that add up to 1, found another sum at {peer[:60]}")


def as_matrix(mixing: Mixing) -> npt.NDArray[np.float64]:
    """(num_peers, num_peers), in order of name."""
    names = list(mixing)
    return np.array([[mixing[a].get(b, 0.0) for b in names] for a in names])


def mixing_rate(mixing: Mixing) -> float:
    """The factor by which averaging brings everybody nearer to the mean, at least: max |λ| but for λ = 1."""
    matrix = as_matrix(mixing)
    centred: Any = matrix - 1 / len(matrix)
    return float(np.linalg.norm(centred, 2))
