"""What peers may be asked to do, as plain values: who talks to whom, and how they average; and what each then plays."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from hanse.channels.local import ROOM
from hanse.channels.party import Party
from hanse.channels.protocol import Protocol
from hanse.core.arrays import Array
from hanse.core.errors import ConfigError
from hanse.peer import cyclic, gossip
from hanse.peer import ring as around
from hanse.peer.graph import (
    Graph,
    Mixing,
    check_mixing,
    complete,
    from_edges,
    metropolis_hastings,
    random_regular,
    ring,
)
from hanse.peer.trainer import Trainer

Program = Callable[[Party, Trainer, Array, int, int], Awaitable[Array]]
"""`await program(party, trainer, start, rounds, done)`: a peer's last vector."""


@dataclass(frozen=True, slots=True)
class Gossip:
    """Neighbours average with each other: D-PSGD.

    Args:
        graph: `ring`, `complete`, `random` (every peer has `degree` others), a `Graph`, or a list of edges (a, b).
        mixing: `metropolis` for Metropolis–Hastings weights, or a doubly stochastic matrix, peer → peer → weight.
        mix: `after` training, or `before` it as in Lian et al. 2017, Algorithm 1.

    Raises:
        ConfigError: another word.
    """

    graph: str | Graph | Sequence[tuple[str, str]] = "ring"
    degree: int = 4
    mixing: Literal["metropolis"] | Mixing = "metropolis"
    mix: str = "after"

    def __post_init__(self) -> None:
        if isinstance(self.graph, str) and self.graph not in ("ring", "complete", "random"):
            raise ConfigError(f"gossip.graph: expected ring, complete, random or edges, found {self.graph[:60]!r}")
        if self.mix not in ("after", "before"):
            raise ConfigError(f"gossip.mix: expected after or before, found {str(self.mix)[:60]!r}")
        if isinstance(self.mixing, str) and self.mixing != "metropolis":
            raise ConfigError(f"gossip.mixing: expected metropolis or a matrix, found {str(self.mixing)[:60]!r}")


@dataclass(frozen=True, slots=True)
class RingAllReduce:
    """All peers get the one mean after every round.

    Args:
        weights: `examples` or `equal`.

    Raises:
        ConfigError: another word.
    """

    weights: str = "examples"

    def __post_init__(self) -> None:
        if self.weights not in ("examples", "equal"):
            raise ConfigError(f"ring.weights: expected examples or equal, found {str(self.weights)[:60]!r}")


@dataclass(frozen=True, slots=True)
class Cyclic:
    """One model goes from peer to peer, in order of name; a round is one way around."""


Topology = Gossip | RingAllReduce | Cyclic


@dataclass(frozen=True, slots=True)
class Plan:
    """What the peers of a topology play.

    Attributes:
        apart: rounds that two peers may be apart at most.
    """

    protocol: Protocol
    program: Program
    apart: int = 1


def planned(topology: Topology, names: Sequence[str], seed: int, dtype: str, size: int | None) -> Plan:
    """The declaration and every peer's program.

    Args:
        names: the peers, two at least, sorted.
        seed: of a random graph.
        dtype: of vectors: `float32` or `float64`.
        size: elements of a vector, where that is known.

    Raises:
        ConfigError: a graph of others than these peers, a matrix that is none.
    """
    if isinstance(topology, Gossip):
        joined = graph_of(topology, names, seed)
        mixing = mixing_of(topology, joined)

        async def mix(party: Party, trainer: Trainer, start: Array, rounds: int, done: int) -> Array:
            return await gossip.peer(party, trainer, start, mixing[party.role], rounds, mix=topology.mix, done=done)

        return Plan(gossip.protocol(joined, dtype, size), mix, apart=joined.diameter)
    if isinstance(topology, RingAllReduce):

        async def reduce(party: Party, trainer: Trainer, start: Array, rounds: int, done: int) -> Array:
            return await around.peer(party, trainer, start, rounds, weights=topology.weights, done=done)

        return Plan(around.protocol(names), reduce)

    async def turn(party: Party, trainer: Trainer, start: Array, rounds: int, done: int) -> Array:
        return await cyclic.peer(party, trainer, start, rounds, done=done)

    return Plan(cyclic.protocol(names, dtype, size), turn)


def graph_of(topology: Gossip, names: Sequence[str], seed: int) -> Graph:
    """Who is joined to whom.

    Raises:
        ConfigError: a graph of others than these peers, or none.
    """
    if isinstance(topology.graph, str):
        if topology.graph == "random":
            joined = random_regular(names, topology.degree, seed)
        else:
            joined = ring(names) if topology.graph == "ring" else complete(names)
    elif isinstance(topology.graph, Graph):
        joined = topology.graph
    else:
        joined = from_edges(names, topology.graph)
    if list(joined.peers) != list(names):
        raise ConfigError(
            f"gossip.graph: expected the {len(names)} sites as its peers, found {len(joined.peers)} others"
        )
    if max(len(others) for others in joined.neighbours.values()) > ROOM:
        raise ConfigError(f"gossip.graph: expected at most {ROOM} neighbours of a peer")
    return joined


def mixing_of(topology: Gossip, joined: Graph) -> Mixing:
    """Every peer's row of weights, of itself and all its neighbours.

    Raises:
        ConfigError: a given matrix that is not doubly stochastic on the graph.
    """
    if isinstance(topology.mixing, str):
        return metropolis_hastings(joined)
    check_mixing(topology.mixing, joined)
    return {
        peer: {other: topology.mixing[peer].get(other, 0.0) for other in sorted((peer, *others))}
        for peer, others in joined.neighbours.items()
    }
