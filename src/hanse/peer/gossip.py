"""D-PSGD: every peer trains, and averages with its neighbours.

X. Lian, C. Zhang, H. Zhang, C.-J. Hsieh, W. Zhang, J. Liu, "Can Decentralized Algorithms Outperform Centralized
Algorithms? A Case Study for Decentralized Parallel Stochastic Gradient Descent", NIPS 2017,
https://arxiv.org/abs/1705.09056, Algorithm 1, with a local training in the place of a gradient step:

    mix="before"    x_i ← Σ_j W_ij x_j + (train(x_i) − x_i)      Algorithm 1, lines 3 to 5
    mix="after"     x_i ← Σ_j W_ij train(x_j)                    local SGD with gossip

The second is Algorithm 1 of A. Koloskova, N. Loizou, S. Boreiri, M. Jaggi, S. U. Stich, "A Unified Theory of
Decentralized SGD with Changing Topology and Local Updates", ICML 2020, https://arxiv.org/abs/2003.10422; on the
complete graph with equal weights it is FedAvg with equal weights.

Sums are taken in order of the peers' names, in float64, and rounded once, so a peer's bits depend on nobody's speed.
"""

from collections.abc import Mapping

import numpy as np

from hanse.channels.party import Party
from hanse.channels.protocol import Guarantee, Message, Protocol, Reveal
from hanse.core.arrays import Array
from hanse.core.errors import RefusedError
from hanse.peer.graph import Graph
from hanse.peer.trainer import Trainer

OPEN = Guarantee(
    adversary="none",
    corrupted=0,
    computational_bits=0,
    statistical_bits=0,
    assumptions=("every peer follows the protocol and may see its neighbours' models",),
)


def protocol(graph: Graph, dtype: str, size: int | None) -> Protocol:
    """The declaration for a graph and vectors of `size` elements; of any number of them where it is not known."""
    edges = [(a, b) for a, others in graph.neighbours.items() for b in others]
    return Protocol(
        name="peer/gossip",
        roles=graph.peers,
        messages=tuple(Message("vector", a, b, dtype, (size,)) for a, b in edges),
        guarantee=OPEN,
        reveals=tuple(Reveal(b, a, "model", "each neighbour sees this peer's model in every round") for a, b in edges),
    )


async def peer(
    party: Party,
    trainer: Trainer,
    start: Array,
    weights: Mapping[str, float],
    rounds: int,
    *,
    mix: str = "after",
    done: int = 0,
    allow_nonfinite: bool = False,
) -> Array:
    """One peer's program.

    Args:
        start: float32 or float64, (n,): the first vector, the same at all peers; this peer's own after `done` rounds.
        weights: this peer's row of the mixing matrix, itself included.
        mix: `after` or `before` training; see the module's text.
        done: rounds that all have behind them.
        allow_nonfinite: take NaN and infinities from neighbours.

    Returns:
        This peer's last vector.

    Raises:
        RefusedError: what no honest neighbour sends, by its name.
    """
    vector = start
    for round_ in range(done + 1, rounds + 1):
        party.iteration = round_
        trained = trainer.train(round_, vector)
        sent = trained.vector if mix == "after" else vector
        mixed = await averaged(party, sent, weights, allow_nonfinite=allow_nonfinite)
        if mix == "before":
            mixed += trained.vector.astype(np.float64) - vector
        vector = mixed.astype(start.dtype)
        trainer.done(round_, vector, trained)
    return vector


async def averaged(
    party: Party, vector: Array, weights: Mapping[str, float], *, allow_nonfinite: bool = False
) -> Array:
    """Σ_j W_ij x_j over this peer and its neighbours, in order of name; float64."""
    others = [name for name in sorted(weights) if name != party.role]
    for name in others:
        await party.send(name, "vector", vector)
    total = np.zeros(vector.size)
    for name in sorted(weights):
        found = vector
        if name != party.role:
            found = sound(name, await party.recv(name, "vector"), vector.size, allow_nonfinite=allow_nonfinite)
        total += weights[name] * found.astype(np.float64)
    return total


def sound(sender: str, vector: Array, size: int, *, allow_nonfinite: bool) -> Array:
    """What a neighbour sent, if an honest one could have: it is judged here, or it would be laid to who trains on it.

    Raises:
        RefusedError: it is of another size, or holds NaN or infinity.
    """
    if vector.size != size:
        raise RefusedError(f"{sender} sent a vector of {vector.size} elements, expected {size}: the models differ")
    if not allow_nonfinite and not np.isfinite(vector).all():
        raise RefusedError(f"{sender} sent values that are not finite")
    return vector
