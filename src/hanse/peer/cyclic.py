"""Cyclic training: one model goes from peer to peer, and each trains on it before it passes it on.

K. Chang et al., "Distributed deep learning networks among institutions for medical imaging", Journal of the American
Medical Informatics Association 25, 2018: cyclical weight transfer. A round is one way around; with one training step a
stay it is stochastic gradient descent over the peers' data in their order.
"""

from collections.abc import Sequence

import numpy as np

from hanse.channels.party import Party
from hanse.channels.protocol import Message, Protocol, Reveal
from hanse.core.arrays import Array
from hanse.peer.gossip import OPEN, sound
from hanse.peer.trainer import Trained, Trainer


def protocol(peers: Sequence[str], dtype: str, size: int | None) -> Protocol:
    """The declaration for two peers or more, in the order of their turns, and vectors of `size` elements, or of any."""
    links = list(zip(peers, [*peers[1:], peers[0]], strict=True))
    return Protocol(
        name="peer/cyclic",
        roles=tuple(peers),
        messages=(
            *(Message("vector", a, b, dtype, (size,)) for a, b in links),
            *(Message("last", a, b, dtype, (size,)) for a, b in links),
        ),
        guarantee=OPEN,
        reveals=tuple(Reveal(b, a, "model", "what the peer before trained, in every round") for a, b in links),
    )


async def peer(
    party: Party, trainer: Trainer, start: Array, rounds: int, *, done: int = 0, allow_nonfinite: bool = False
) -> Array:
    """One peer's program.

    Args:
        start: float32 or float64, (n,): the first vector; the first peer's counts. What this peer passed on last, where
            rounds are done.
        done: rounds that all have behind them.
        allow_nonfinite: take NaN and infinities from the peer before.

    Returns:
        The last vector, the same at all peers: it goes around once more at the end.

    Raises:
        RefusedError: what no honest peer sends, by the name of the one before.
    """
    ring = party.protocol.roles
    place = ring.index(party.role)
    behind, before = ring[(place + 1) % len(ring)], ring[place - 1]
    vector = start

    async def taken(name: str) -> Array:
        return sound(before, await party.recv(before, name), start.size, allow_nonfinite=allow_nonfinite)

    if 0 < done < rounds and behind == ring[0]:  # the session that broke may have taken it along
        await party.send(behind, "vector", vector)
    for round_ in range(done + 1, rounds + 1):
        party.iteration = round_
        if place or round_ > 1:
            vector = await taken("vector")
        trained: Trained = trainer.train(round_, vector)
        vector = trained.vector.astype(start.dtype)
        trainer.done(round_, vector, trained)
        if behind != ring[0] or round_ < rounds:
            await party.send(behind, "vector", vector)
    if place < len(ring) - 1:
        vector = await taken("last")
    if place != len(ring) - 2:
        await party.send(behind, "last", vector)
    return np.array(vector)
