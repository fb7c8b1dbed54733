"""All-reduce around a ring: every peer ends with the same mean, and each link carries about two vectors.

P. Patarasuk, X. Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", Journal of Parallel and
Distributed Computing 69, 2009, section 4: the vector is cut into as many chunks as there are peers; in n − 1 steps each
peer adds its own part to a chunk that goes around, and in n − 1 more the finished chunks go around.

Sums are float64 and each chunk is added up in one order, from one peer on around the ring, so all peers get the same
bits; they are those of a server's sum but for rounding, and exactly those for whole numbers below 2^53.
"""

from collections.abc import Sequence

import numpy as np

from hanse.channels.party import Party
from hanse.channels.protocol import Message, Protocol, Reveal
from hanse.core.arrays import Array
from hanse.core.errors import RefusedError
from hanse.peer.gossip import OPEN, sound
from hanse.peer.trainer import Trainer


def protocol(peers: Sequence[str], *, weights: str = "examples") -> Protocol:
    """The declaration for two peers or more, in the order of the ring; `weights` as for `peer`."""
    links = list(zip(peers, [*peers[1:], peers[0]], strict=True))
    detail = "the peer before sends its own part of one chunk, and partial sums of all others; all learn the mean"
    reveals = [Reveal(b, a, "model", detail) for a, b in links]
    if weights == "examples":
        counts = "how many examples it and some peers before it have together; all learn the number of all"
        reveals += [Reveal(b, a, "examples", counts) for a, b in links]
    return Protocol(
        name="peer/ring",
        roles=tuple(peers),
        messages=tuple(Message("chunk", a, b, "float64", (None,)) for a, b in links),
        guarantee=OPEN,
        reveals=tuple(reveals),
    )


async def peer(
    party: Party,
    trainer: Trainer,
    start: Array,
    rounds: int,
    *,
    weights: str = "examples",
    done: int = 0,
    allow_nonfinite: bool = False,
) -> Array:
    """One peer's program: train, then the mean over all peers weighted by examples (or equally).

    Args:
        start: float32 or float64, (n,): the first vector, the same at all peers.
        done: rounds that all have behind them; `start` is what they came to.
        allow_nonfinite: take NaN and infinities.

    Returns:
        The last vector, the same at all peers.

    Raises:
        RefusedError: weights that add up to no number, or what no honest peer sends, by its name: the one behind it
            is the first who is sent what it has spoilt.
    """
    vector = start
    for round_ in range(done + 1, rounds + 1):
        party.iteration = round_
        trained = trainer.train(round_, vector)
        weight = float(trained.num_examples) if weights == "examples" else 1.0
        terms = np.append(trained.vector.astype(np.float64) * weight, weight)
        total = await all_reduce(party, terms, allow_nonfinite=allow_nonfinite)
        if not 0 <= total[-1] < np.inf:
            raise RefusedError("ring: expected a finite sum of weights from 0 on, found another")
        if total[-1] > 0:  # where nobody counted an example, the model stays
            vector = (total[:-1] / total[-1]).astype(start.dtype)
        trainer.done(round_, vector, trained)
    return vector


async def all_reduce(party: Party, vector: Array, *, allow_nonfinite: bool = False) -> Array:
    """The sum of every peer's vector.

    Args:
        vector: float64, (n,), of one length at all peers; is not changed.
    """
    ring = party.protocol.roles
    num, place = len(ring), ring.index(party.role)
    chunks = np.array_split(vector.copy(), num)
    behind, before = ring[(place + 1) % num], ring[place - 1]

    async def received(size: int) -> Array:
        return sound(before, await party.recv(before, "chunk"), size, allow_nonfinite=allow_nonfinite)

    for step in range(num - 1):
        await party.send(behind, "chunk", chunks[(place - step) % num])
        arriving = (place - step - 1) % num
        chunks[arriving] = await received(chunks[arriving].size) + chunks[arriving]
    for step in range(num - 1):
        await party.send(behind, "chunk", chunks[(place + 1 - step) % num])
        arriving = (place - step) % num
        chunks[arriving] = await received(chunks[arriving].size)
    return np.concatenate(chunks)
