"""CHOCO-SGD: gossip in which peers send compressed differences, and still agree.

A. Koloskova, S. U. Stich, M. Jaggi, "Decentralized Stochastic Optimization and Gossip Algorithms with Compressed
Communication", ICML 2019, https://arxiv.org/abs/1902.00340, Algorithm 2, with a local training in the place of a
gradient step. Every peer has a public copy x̂_i of its model, which all its neighbours know; what it sends moves that
copy towards the model, so that what a codec leaves out is sent later (their form of error feedback):

    y_i ← train(x_i),   q_i ← Q(y_i − x̂_i),   x̂_j ← x̂_j + q_j,   x_i ← y_i + γ Σ_j W_ij (x̂_j − x̂_i)

A peer keeps x̂_i and s_i = Σ_j W_ij x̂_j, and no copy for each neighbour. Copies begin at the first model, which all
know, and not at 0. Q must bring a copy nearer to the model on average, so random-k is taken without its factor n/k.
With a Q that leaves nothing out and γ = 1 this is D-PSGD.

The vector is compressed as one array. Copies are float64 and the same bits at all who hold them.
"""

from collections.abc import Callable, Mapping

import numpy as np

from hanse.aggregation import ArraySource, Codec, RandomK, decoded, encode_update
from hanse.aggregation.compression import encoded_layout
from hanse.channels.party import Party
from hanse.channels.protocol import Message, Protocol, Reveal
from hanse.core.arrays import Array, Arrays, ArraySpec, Layout
from hanse.core.errors import CodecError, RefusedError, TaskError, UpdateError
from hanse.core.seeds import generator
from hanse.peer.gossip import OPEN
from hanse.peer.graph import Graph
from hanse.peer.trainer import Trainer

VECTOR = "vector"


def protocol(graph: Graph, codec: Codec, dtype: str, size: int) -> Protocol:
    """The declaration for a graph and vectors of `size` elements: a message for each part of what the codec sends."""
    edges = [(a, b) for a, others in graph.neighbours.items() for b in others]
    parts = encoded_layout(layout_of(np.dtype(dtype), size), codec).specs
    detail = "each neighbour sees the copy that this peer moves towards its model in every round"
    return Protocol(
        name="peer/choco",
        roles=graph.peers,
        messages=tuple(Message(each.name, a, b, str(each.dtype), each.shape) for a, b in edges for each in parts),
        guarantee=OPEN,
        reveals=tuple(Reveal(b, a, "model", detail) for a, b in edges),
    )


async def peer(
    party: Party,
    trainer: Trainer,
    start: Array,
    weights: Mapping[str, float],
    rounds: int,
    *,
    codec: Codec,
    gamma: float,
    key: Callable[[int], int],
    done: int = 0,
    memory: Mapping[str, Array] | None = None,
) -> Array:
    """One peer's program.

    Args:
        start: float32 or float64, (n,): the first vector, the same at all peers.
        weights: this peer's row of the mixing matrix, itself included.
        gamma: γ in (0, 1].
        key: round → the key of the stream that the codec draws from.
        done: rounds that are done; `start` is then this peer's own vector behind them.
        memory: what `Trainer.done` was given with the last of them.

    Returns:
        This peer's last vector.

    Raises:
        TaskError: `bad_reply`, values that the codec cannot send. RefusedError: what no honest neighbour sends, by its
            name.
    """
    layout = layout_of(start.dtype, start.size)
    names = [spec.name for spec in encoded_layout(layout, codec).specs]
    others = [name for name in sorted(weights) if name != party.role]
    scale = codec.fraction if isinstance(codec, RandomK) else 1.0
    vector, copy = start, start.astype(np.float64)
    mixed = copy * sum(weights[name] for name in sorted(weights))
    if done:
        kept = memory or {}
        copy, mixed = kept["copy"], kept["mixed"]
    for round_ in range(done + 1, rounds + 1):
        party.iteration = round_
        trained = trainer.train(round_, vector)
        half = trained.vector.astype(np.float64)
        try:
            own = encode_update(Arrays({VECTOR: (half - copy).astype(start.dtype)}), codec, generator(key(round_)))
        except UpdateError as error:
            raise TaskError("bad_reply", f"train: {error}; see hs.App(compression=...)") from None
        for other in others:
            for name in names:
                await party.send(other, name, own[name])
        moved: Array = np.zeros(0)
        for sender in sorted(weights):
            sent = own
            if sender != party.role:
                sent = Arrays([(name, await party.recv(sender, name)) for name in names])
            step = scale * _step(sent, layout, codec, sender)
            moved = step if sender == party.role else moved
            mixed += weights[sender] * step
        copy += moved
        vector = (half + gamma * (mixed - copy)).astype(start.dtype)
        trainer.done(round_, vector, trained, {"copy": copy, "mixed": mixed})
    return vector


def layout_of(dtype: "np.dtype[np.generic]", size: int) -> Layout:
    """What is compressed: the vector as one array."""
    return Layout((ArraySpec(VECTOR, dtype, (size,)),))


def _step(sent: Arrays, layout: Layout, codec: Codec, sender: str) -> Array:
    """q of one peer, float64."""
    try:
        step = decoded(ArraySource(sent), layout, codec).block(0, 0, layout.size).astype(np.float64)
    except CodecError as error:
        raise RefusedError(f"{sender} sent what no codec makes: {error}") from None
    if not np.isfinite(step).all():
        raise RefusedError(f"{sender} sent values that are not finite")
    return step
