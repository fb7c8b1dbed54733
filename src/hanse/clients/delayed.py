"""Asynchronous training in several processes of one site: every batch is a step, and they are computed side by side.

M. Zinkevich, A. Smola, J. Langford, "Slow Learners are Fast", NIPS 2009, Algorithm 1, round-robin: process r of P takes
batches r, r + P, r + 2P, …, and computes their gradients while the others compute theirs. The first process holds the
parameters. It applies gradients in the order of the batches, and gives a process the new parameters as soon as its
gradient is applied:

    w_{i+1} = w_i − η ∇f_i(w_{i−P+1}),  or w_0 for the first ones;  the first process's own: w_i

That is a parameter server whose order of receipt is fixed, so that the same task gives the same bits; what a slow
process costs is said in docs/decisions/2026-11-29-asynchronous-in-turn.md. `data_parallel.py` starts the processes.
"""

import struct
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from hanse.clients.dropout import Masks
from hanse.clients.flat import FlatTrainer, rows_of
from hanse.clients.tensors import array_of_tensor, imported
from hanse.clients.training import Effort, Order

_LOSS = struct.Struct("<d")


def serve(
    trainer: FlatTrainer,
    module: Any,
    X: Any,
    y: Any,
    order: Order,
    effort: Effort,
    masks: Masks,
    links: Sequence[Connection],
) -> float:
    """The first process's part: compute every P-th gradient, apply all of them.

    Args:
        links: to the other processes, which `work`.

    Returns:
        The mean loss over the examples of all steps, each where its gradient was computed.

    Raises:
        EOFError, OSError: one of the others has ended.
    """
    batches = list(rows_of(order, trainer.training.batch_size))
    corrections = trainer.begin(module, effort)
    total = 0.0
    with imported().no_grad():  # but in `gradients`
        for number, rows in enumerate(batches):
            rank = number % (len(links) + 1)
            if rank:
                link = links[rank - 1]
                (loss,) = _LOSS.unpack(link.recv_bytes())
                for grads in trainer.grads:
                    link.recv_bytes_into(_view(grads))
            else:
                loss = float(trainer.gradients(module, X[rows], y[rows], masks))
            trainer.step(effort, corrections)
            total += loss * len(rows)
            if rank and number + len(links) + 1 < len(batches):
                for values in trainer.values:
                    link.send_bytes(_view(values))
    return total / order.size


def work(
    trainer: FlatTrainer,
    module: Any,
    X: Any,
    y: Any,
    order: Order,
    effort: Effort,
    masks: Masks,
    link: Connection,
    *,
    rank: int,
    count: int,
) -> None:
    """Another process's part: compute gradients of its own batches, from the newest parameters that it was given."""
    batches = list(rows_of(order, trainer.training.batch_size))
    trainer.begin(module, effort)
    with imported().no_grad():
        for number in range(rank, len(batches), count):
            if number >= count:
                for values in trainer.values:
                    link.recv_bytes_into(_view(values))
            rows = batches[number]
            loss = float(trainer.gradients(module, X[rows], y[rows], masks))
            link.send_bytes(_LOSS.pack(loss))
            for grads in trainer.grads:
                link.send_bytes(_view(grads))


def _view(tensor: Any) -> memoryview:
    """A vector's bytes, not copied."""
    bits: Any = array_of_tensor(tensor.view(imported().uint8))
    return memoryview(bits)
