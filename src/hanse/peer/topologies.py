"""What peers may be asked to do, as plain values: who talks to whom, and how they average; and what each then plays."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hanse.aggregation import Codec, RandomK, TopK
from hanse.aggregation.compression import encoded_layout
from hanse.channels.local import ROOM
from hanse.channels.party import Party
from hanse.channels.protocol import Protocol
from hanse.core.arrays import Array
from hanse.core.errors import ConfigError
from hanse.core.seeds import key_of
from hanse.peer import choco, cyclic, gossip
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

Memory = Mapping[str, Array]
"""What a program itself has kept of the last round that is done."""
Program = Callable[[Party, Trainer, Array, int, int, Memory], Awaitable[Array]]
"""`await program(party, trainer, start, rounds, done, memory)`: a peer's last vector."""

MAX_PARTS = 2
"""Messages that a peer sends to a neighbour in one round."""


@dataclass(frozen=True, slots=True)
class Gossip:
    """Neighbours average with each other: D-PSGD.

    Args:
        graph: `ring`, `complete`, `random` (every peer has `degree` others), a `Graph`, or a list of edges (a, b).
        mixing: `metropolis` for Metropolis–Hastings weights, or a doubly stochastic matrix, peer → peer → weight.
        mix: `after` training, or `before` it as in Lian et al. 2017, Algorithm 1.
        gamma: γ of CHOCO-SGD, in (0, 1]: how far a peer goes towards its neighbours in a round, where the app has a
            `compression`. None: 1 for codecs that round, `fraction` for those that leave elements out.

    Raises:
        ConfigError: another word, or γ out of range.
    """

    graph: str | Graph | Sequence[tuple[str, str]] = "ring"
    degree: int = 4
    mixing: Literal["metropolis"] | Mixing = "metropolis"
    mix: str = "after"
    gamma: float | None = None

    def __post_init__(self) -> None:
        gamma: object = self.gamma
        if gamma is not None and not (isinstance(gamma, int | float) and 0 < gamma <= 1):
            raise ConfigError(f"gossip.gamma: expected a number above 0, at most 1, found {str(gamma)[:40]}")
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
        saved: bytes that compression saves in a round, of all peers together.
    """

    protocol: Protocol
    program: Program
    apart: int = 1
    saved: int = 0


def planned(
    topology: Topology,
    names: Sequence[str],
    seed: int,
    dtype: str,
    size: int | None,
    codec: Codec | None = None,
    *,
    allow_nonfinite: bool = False,
) -> Plan:
    """The declaration and every peer's program.

    Args:
        names: the peers, two at least, sorted.
        seed: of a random graph.
        dtype: of vectors: `float32` or `float64`.
        size: elements of a vector, where that is known.
        codec: how vectors travel; None for as they are.
        allow_nonfinite: whether peers take NaN and infinities from each other, where nothing is compressed.

    Raises:
        ConfigError: a graph of others than these peers, a matrix that is none, compression where it does not go.
    """
    if codec is not None:
        return _compressed(topology, names, seed, dtype, size, codec)
    if isinstance(topology, Gossip):
        joined = graph_of(topology, names, seed)
        mixing = mixing_of(topology, joined)

        async def mix(party: Party, trainer: Trainer, start: Array, rounds: int, done: int, memory: Memory) -> Array:
            row = mixing[party.role]
            return await gossip.peer(
                party, trainer, start, row, rounds, mix=topology.mix, done=done, allow_nonfinite=allow_nonfinite
            )

        return Plan(gossip.protocol(joined, dtype, size), mix, apart=joined.diameter)
    if isinstance(topology, RingAllReduce):

        async def reduce(party: Party, trainer: Trainer, start: Array, rounds: int, done: int, memory: Memory) -> Array:
            return await around.peer(
                party, trainer, start, rounds, weights=topology.weights, done=done, allow_nonfinite=allow_nonfinite
            )

        return Plan(around.protocol(names, weights=topology.weights), reduce)

    async def turn(party: Party, trainer: Trainer, start: Array, rounds: int, done: int, memory: Memory) -> Array:
        return await cyclic.peer(party, trainer, start, rounds, done=done, allow_nonfinite=allow_nonfinite)

    return Plan(cyclic.protocol(names, dtype, size), turn)


def _compressed(
    topology: Topology, names: Sequence[str], seed: int, dtype: str, size: int | None, codec: Codec
) -> Plan:
    if not isinstance(topology, Gossip) or topology.mix != "after":
        raise ConfigError("peers: found compression, which goes with hs.Gossip(mix='after') only; leave it out")
    if size is None:
        raise ConfigError("peers: found compression of a model whose size nobody knows; give hs.App(initial=...)")
    joined = graph_of(topology, names, seed)
    mixing, gamma = mixing_of(topology, joined), gamma_of(topology, codec)

    async def mix(party: Party, trainer: Trainer, start: Array, rounds: int, done: int, memory: Memory) -> Array:
        def key(round_: int) -> int:
            return key_of(seed, round_=round_, phase="train", site=party.role, purpose="compression")

        row = mixing[party.role]
        return await choco.peer(
            party, trainer, start, row, rounds, codec=codec, gamma=gamma, key=key, done=done, memory=memory
        )

    layout = choco.layout_of(np.dtype(dtype), size)
    links = sum(len(others) for others in joined.neighbours.values())
    saved = links * (layout.nbytes - encoded_layout(layout, codec).nbytes)
    return Plan(choco.protocol(joined, codec, dtype, size), mix, joined.diameter, saved=saved)


def gamma_of(topology: Gossip, codec: Codec) -> float:
    """γ, given or by the codec. Sparse codecs diverged with γ = √fraction on random graphs of six peers."""
    if topology.gamma is not None:
        return float(topology.gamma)
    return float(codec.fraction) if isinstance(codec, TopK | RandomK) else 1.0


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
    if max(len(others) for others in joined.neighbours.values()) > ROOM // MAX_PARTS:
        raise ConfigError(f"gossip.graph: expected at most {ROOM // MAX_PARTS} neighbours of a peer")
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
