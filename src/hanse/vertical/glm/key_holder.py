"""Vertical generalised linear models with an arbiter that holds the key: parties see their own gradients, it sees none.

The classic arrangement of S. Hardy et al., "Private federated learning on vertically partitioned data via entity
resolution and additively homomorphic encryption", 2017 (arXiv 1711.10677), with three differences. There the arbiter
decrypts the gradients as they are; here each party masks its own uniformly first. There the sigmoid is its Taylor
polynomial, which grows without bound; here it is the series of `series`, bounded everywhere. And ciphertexts are those
of ring-LWE, of whole vectors. A step on the rows B of a batch, [·] for what is encrypted under the arbiter's key:

    host → guest      z_h + r_h                  r_h uniform, from a seed that the host and the arbiter share
    guest             δ = z_g + Σ (z_h + r_h)    uniform to it; z = δ − r, and only the arbiter knows r = Σ r_h
    arbiter → guest   [cos kr], [sin kr]
    guest → arbiter   the products of these with what δ makes of the series, each masked
    arbiter → guest   [ρ], its sums of these: mean(z) less the guest's masks
    guest → hosts     [d] = [ρ] + masks − y
    each → arbiter    [X_Bᵀd + mask], and the arbiter returns Xᵀd + mask

With several classes, the second to fourth line are repeated for each level of `softmax`. For linear models ρ is −r
itself. Each party moves its own weights in the clear, with any optimiser and penalty. Where X
has as many independent columns as the batch has rows, Xᵀd gives away d and with it labels; so batches with
rank(X) ≥ rows / 4 are refused, as in `dealer_free`, X being the columns of all data parties but one, which may look
together. Rows of high leverage in a party's own columns count less in its gradients (see `leverage`).

Rows must be aligned and in an order that nobody chose, as `hanse.vertical.psi` leaves them.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.channels.checkpoints import BEGINNING, Progress
from hanse.channels.party import Party
from hanse.channels.protocol import Guarantee, Message, Protocol, Reveal
from hanse.core.errors import ConfigError, RefusedError
from hanse.crypto import rlwe, sharing
from hanse.crypto.aes import KEY_BYTES
from hanse.crypto.rlwe import Answer, Encrypted, PrivateKey, PublicKey
from hanse.vertical.glm import budget, evaluation, softmax, wide
from hanse.vertical.glm.answers import gradient_revealed
from hanse.vertical.glm.columns import MAX_COLUMNS, MAX_ROWS, MIN_ROWS, Columns
from hanse.vertical.glm.dealer import Trained, data_roles, of_shape
from hanse.vertical.glm.dealer_free import check_rank, checked_weights, largest_rank, whole_table
from hanse.vertical.glm.descent import Descent, checked_change, checked_scores
from hanse.vertical.glm.evaluation import Evaluation
from hanse.vertical.glm.families import MAX_CLASSES, Response, Table
from hanse.vertical.glm.leverage import SINGLE_ROWS, weighed_down
from hanse.vertical.glm.precision import check_weights
from hanse.vertical.glm.slots import RESIDUAL_BITS, SCORE_BITS, TABLE_BITS
from hanse.vertical.glm.training import STATISTICAL_BITS, Batch, Training, batches, bounds, has_ended
from hanse.vertical.glm.wide import Integers
from hanse.vertical.parties import ARBITER, GUEST

VERSION = 2


def protocol(
    num_hosts: int = 1,
    *,
    early_stop: bool = False,
    any_leverage: bool = False,
    label_epsilon: float | None = None,
    statistical_bits: int = STATISTICAL_BITS,
) -> Protocol:
    """The declaration for that many hosts; `early_stop` for a training with a tolerance, `any_leverage` where rows of
    high leverage are accepted, `label_epsilon` where labels are answered by chance.
    """
    size, kept = rlwe.SIZE, rlwe.ANSWER_PRIMES[rlwe.NUM_PRIMES]
    vector, seeds = (None, rlwe.NUM_PRIMES, size), (None, KEY_BYTES)
    data = data_roles(num_hosts)
    messages = [
        *evaluation.messages(ARBITER, GUEST),
        Message("mean", ARBITER, GUEST, "uint32", vector),
        Message("mean_seeds", ARBITER, GUEST, "uint8", seeds),
    ]
    reveals = [Reveal(ARBITER, GUEST, "steps", "how many steps were taken, and when")]
    for host in data[1:]:
        messages += [
            Message("seed", ARBITER, host, "uint8", (KEY_BYTES,)),
            Message("masked_scores", host, GUEST, "uint64", (None, None, 2)),
            Message("residual", GUEST, host, "uint32", vector),
            Message("residual_seeds", GUEST, host, "uint8", seeds),
        ]
    for sender in data:
        others = [role for role in data if role != sender]
        messages += [Message("hello", sender, to, "int64", (7,)) for to in (*others, ARBITER)]
        messages += [
            Message("public_key", ARBITER, sender, "uint32", (2, rlwe.NUM_PRIMES, size)),
            Message("heads", sender, ARBITER, "uint32", (None, kept, size)),
            Message("tails", sender, ARBITER, "uint32", (None, kept, None)),
            Message("masked_gradient", ARBITER, sender, "uint64", (None, None, 2)),
        ]
        shape = "how many rows and columns it has, and their rank in a batch; of the guest also outputs"
        reveals += [Reveal(to, sender, "shape", shape) for to in (*others, ARBITER)]
        reveals += [gradient_revealed(to, sender, GUEST, label_epsilon) for to in others]
        if any_leverage:
            reveals += [Reveal(to, sender, *SINGLE_ROWS) for to in others]
        reveals += [Reveal(to, sender, "own_weights", "the weights of its own columns") for to in others]
        if early_stop:
            messages.append(Message("change", sender, ARBITER, "float64", (1,)))
            messages.append(Message("all_changes", ARBITER, sender, "float64", (1,)))
            reveals.append(Reveal(ARBITER, sender, "weight_change", "how far each epoch moved the sender's weights"))
            moved = "how far each epoch moved all weights together"
            reveals += [Reveal(to, sender, "weight_change", moved) for to in others]
    return Protocol(
        name="glm/key-holder" + ("-early-stop" if early_stop else ""),
        roles=(*data, ARBITER),
        messages=tuple(messages),
        guarantee=Guarantee(
            adversary="semi-honest",
            corrupted=num_hosts,
            computational_bits=128,
            statistical_bits=statistical_bits,
            assumptions=(*rlwe.ASSUMPTIONS, "the arbiter colludes with no other party"),
        ),
        reveals=tuple(reveals),
    )


@dataclass(slots=True)
class _Side:
    """A data party in the middle of a training."""

    party: Party
    training: Training
    evaluation: Evaluation | None
    """Of the mean function; None for the identity."""
    key: PublicKey
    columns: Columns
    table: npt.NDArray[np.int64]
    """X with TABLE_BITS, exact; with rows of high leverage weighed down."""
    outputs: int
    descent: Descent
    seed: bytes = b""
    """A host's, of its masks; at the guest empty."""
    response: Table | None = None
    sample_weights: Table | None = None
    awaited: dict[str, Any] = field(default_factory=dict)
    """What the next messages are to be: sizes, and what masks are in them. The simulator of views reads it."""


async def guest(
    party: Party,
    columns: Columns,
    response: Response,
    training: Training,
    *,
    sample_weights: Table | None = None,
    start: Table | None = None,
    progress: Progress = BEGINNING,
    cipher: type[PublicKey] = PublicKey,
) -> Trained:
    """The party with the label; arguments and errors as for `dealer.guest`.

    Args:
        progress: epochs that are done, with this party's state after them.
        cipher: of the arbiter's key; `mock_rlwe.PublicKey` protects nothing and tells what the cipher costs.
    """
    u = checked_weights(columns, response, training, sample_weights)
    side = await _begin(party, columns, training, response.num_outputs, start, progress, cipher)
    side.response, side.sample_weights = response.values, u
    return await _train(side, progress)


async def host(
    party: Party,
    columns: Columns,
    training: Training,
    *,
    start: Table | None = None,
    progress: Progress = BEGINNING,
    cipher: type[PublicKey] = PublicKey,
) -> Trained:
    """A party with further columns; see `guest`."""
    side = await _begin(party, columns, training, 0, start, progress, cipher)
    side.seed = (await party.recv(ARBITER, "seed")).tobytes()
    return await _train(side, progress)


async def _begin(
    party: Party,
    columns: Columns,
    training: Training,
    outputs: int,
    start: Table | None,
    progress: Progress,
    cipher: type[PublicKey],
) -> _Side:
    """Agree on sizes and settings with all others, and hear the key."""
    rows, width = columns.values.shape
    cuts = bounds(rows, training.batch_rows)
    table = whole_table(columns, training)
    rank = largest_rank(table, cuts)
    changes = progress.state["changes"].tolist() if progress.number else []
    hello = [VERSION, rows, width, outputs, rank, _digest(training), int(has_ended(changes, training))]
    data = party.protocol.roles[:-1]
    for role in party.protocol.roles:
        if role != party.role:
            await party.send(role, "hello", np.array(hello, np.int64))
    hellos = [hello if role == party.role else (await party.recv(role, "hello")).tolist() for role in data]
    outputs = _agreed(training, data, hellos)
    table = weighed_down(table, cuts, training.max_leverage, training.high_leverage)
    begin = np.zeros((width, outputs)) if start is None else start
    if begin.shape != (width, outputs):
        raise ConfigError(f"start: expected weights of {(width, outputs)}, found {begin.shape}")
    check_weights(begin)
    body, other = (await party.recv(ARBITER, "public_key")).astype(np.uint64)
    descent = Descent.begun(rows, training, begin, columns.penalised, progress)
    key, mean = cipher(body, other), softmax.mean_of(training, outputs)
    awaited: dict[str, Any] = {}
    evaluated = None if mean is None else Evaluation(party, ARBITER, mean, key, awaited)
    return _Side(party, training, evaluated, key, columns, table, outputs, descent, awaited=awaited)


def _digest(training: Training) -> int:
    return training.digest(*softmax.digests(training), b"key holder")


def _agreed(training: Training, data: tuple[str, ...], hellos: list[list[int]]) -> int:
    """Check what all data parties said; the number of outputs.

    Raises:
        RefusedError: another version, number of rows or setting, impossible sizes, or columns of too high a rank.
    """
    _, rows, _, outputs, _, _, ended = hellos[0]
    if not MIN_ROWS <= rows <= MAX_ROWS or not 1 <= outputs <= MAX_CLASSES or outputs == 2:
        raise RefusedError(f"guest: expected {MIN_ROWS} rows and more and 1 to {MAX_CLASSES} outputs, found others")
    cuts = bounds(rows, training.batch_rows)
    for role, (version, their_rows, width, their_outputs, rank, digest, over) in zip(data, hellos, strict=True):
        if version != VERSION:
            raise RefusedError(f"{role}: expected version {VERSION} of the protocol, found {version}")
        if their_rows != rows:
            raise RefusedError(f"{role}: expected {rows} rows as the guest has, found {their_rows}; align them first")
        if not 1 <= width <= MAX_COLUMNS or (role != GUEST and their_outputs):
            raise RefusedError(f"{role}: expected 1 to {MAX_COLUMNS} columns, and outputs of the guest alone")
        if digest != _digest(training) or over != ended:
            raise RefusedError(f"{role}: expected the settings of the training as here, found others")
        check_rank(role, rank, cuts)
    budget.check(training, rows, outputs, [hello[2] for hello in hellos], shared=False)
    ranks = [hello[4] for hello in hellos]
    check_rank("all data parties but one together", sum(ranks) - min(ranks), cuts)
    return outputs


async def _train(side: _Side, progress: Progress) -> Trained:
    party, descent = side.party, side.descent
    for batch in descent.batches(progress.number):
        party.iteration = batch.index
        z = checked_scores(side.columns.values[batch.rows] @ descent.weights)
        residual = await (_guests_residual if party.role == GUEST else _hosts_residual)(side, batch, z)
        gradient = await _gradient(side, side.table[batch.rows], residual)
        descent.step(batch, gradient / batch.num_rows)
        if batch.ends_epoch and side.training.tolerance:
            await party.send(ARBITER, "change", np.array([descent.squared_change()]))
            descent.close_epoch(checked_change(ARBITER, float((await party.recv(ARBITER, "all_changes"))[0])))
        if batch.ends_epoch:
            progress.keep(batch.epoch + 1, descent.state())
    check_weights(descent.weights)
    return Trained(descent.weights, tuple(descent.changes), descent.taken)


async def _hosts_residual(side: _Side, batch: Batch, z: Table) -> list[Encrypted]:
    """Send masked scores; [d] of each output, as the guest made it."""
    masks = _score_masks(side.seed, batch, side.outputs)
    whole = wide.from_floats(z, _score_bits(side.training)) + masks
    await side.party.send(GUEST, "masked_scores", wide.to_words(whole))
    side.awaited["vector"] = batch.num_rows
    return [
        Encrypted(await side.party.recv(GUEST, "residual"), await side.party.recv(GUEST, "residual_seeds"))
        for _ in range(side.outputs)
    ]


async def _guests_residual(side: _Side, batch: Batch, z: Table) -> list[Encrypted]:
    """[d] of each output, with RESIDUAL_BITS, made and told to all hosts."""
    party, hosts = side.party, side.party.protocol.roles[1:-1]
    side.awaited |= {"scores": z.shape, "vector": batch.num_rows}
    opened = wide.from_floats(z, _score_bits(side.training))
    for each in hosts:
        opened = opened + wide.from_words(of_shape(await party.recv(each, "masked_scores"), (*z.shape, 2)))
    assert side.response is not None
    scale: Any = 1.0 if side.sample_weights is None else side.sample_weights[batch.rows][:, None]
    known = opened if side.evaluation is None else await side.evaluation.share(opened, scale)
    known = known - wide.from_floats(scale * side.response[batch.rows], RESIDUAL_BITS)
    residuals = []
    for at in range(side.outputs):
        mean = Encrypted(await party.recv(ARBITER, "mean"), await party.recv(ARBITER, "mean_seeds"))
        residuals.append(side.key.plus(mean, known[:, at].tolist()))
        for each in hosts:
            await party.send(each, "residual", residuals[-1].body)
            await party.send(each, "residual_seeds", residuals[-1].seeds)
    return residuals


async def _gradient(side: _Side, x: npt.NDArray[np.int64], residuals: list[Encrypted]) -> Table:
    """Xᵀd, decrypted by the arbiter under a uniform mask: float64 `(num_columns, outputs)`."""
    transposed = np.ascontiguousarray(x.T)
    masks = wide.zeros(len(transposed), side.outputs)
    for at, residual in enumerate(residuals):
        drawn = [int.from_bytes(os.urandom(rlwe.WIDE_BITS // 8), "little") for _ in range(len(transposed))]
        answer = side.key.inner_products(transposed, residual, drawn)
        await side.party.send(ARBITER, "heads", answer.heads)
        await side.party.send(ARBITER, "tails", answer.tails)
        masks[:, at] = drawn
    side.awaited["masks"] = masks
    words = of_shape(await side.party.recv(ARBITER, "masked_gradient"), (*masks.shape, 2))
    return wide.to_floats(wide.from_words(words) - masks, TABLE_BITS + RESIDUAL_BITS)


async def arbiter(
    party: Party, training: Training, progress: Progress = BEGINNING, *, cipher: Callable[[], PrivateKey] = PrivateKey
) -> None:
    """Who holds the key: decrypts what is masked, encrypts what only it knows.

    Raises:
        RefusedError: the parties name different settings or impossible sizes, or send no ciphertexts.
    """
    data = party.protocol.roles[:-1]
    hellos = [(await party.recv(role, "hello")).tolist() for role in data]
    outputs, rows = _agreed(training, data, hellos), hellos[0][1]
    key = cipher()
    seeds = [sharing.new_seed() for _ in data[1:]]
    for role in data:
        await party.send(role, "public_key", np.stack([key.public.body, key.public.other]).astype(np.uint32))
    for role, seed in zip(data[1:], seeds, strict=True):
        await party.send(role, "seed", np.frombuffer(seed, np.uint8))
    mean = softmax.mean_of(training, outputs)
    evaluated = None if mean is None else Evaluation(party, GUEST, mean, key)
    for batch in () if hellos[0][-1] else batches(rows, training, progress.number):
        party.iteration = batch.index
        mask = sum((_score_masks(seed, batch, outputs) for seed in seeds), wide.zeros(batch.num_rows, outputs))
        share = -mask if evaluated is None else await evaluated.share(-mask)
        for at in range(outputs):
            encrypted = key.encrypt_vector(share[:, at].tolist())
            await party.send(GUEST, "mean", encrypted.body)
            await party.send(GUEST, "mean_seeds", encrypted.seeds)
        for role, hello in zip(data, hellos, strict=True):
            await _decrypt(party, key, role, hello[2], batch.num_rows, outputs)
        if batch.ends_epoch and training.tolerance:
            told = [checked_change(role, float((await party.recv(role, "change"))[0])) for role in data]
            for role in data:
                await party.send(role, "all_changes", np.array([sum(told)]))
            if has_ended([float(np.sqrt(sum(told)))], training):
                return


async def _decrypt(party: Party, key: PrivateKey, role: str, width: int, rows: int, outputs: int) -> None:
    """Decrypt a party's masked gradient for it."""
    columns = []
    for _ in range(outputs):
        answer = Answer(await party.recv(role, "heads"), await party.recv(role, "tails"))
        columns.append(key.decrypt_products(answer, width, rows))
    await party.send(role, "masked_gradient", wide.to_words(np.array(columns, object).T))


def _score_bits(training: Training) -> int:
    """Fraction bits of opened scores; those of linear models are residuals as they are."""
    return RESIDUAL_BITS if training.family == "linear" else SCORE_BITS


def _score_masks(seed: bytes, batch: Batch, outputs: int) -> Integers:
    """A host's r of a step, uniform modulo 2^112; of a seed that is used for one session."""
    (words,) = sharing.expand(sharing.derive(seed, batch.index), (batch.num_rows, outputs, 2))
    return wide.from_words(words)
