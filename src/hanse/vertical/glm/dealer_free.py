"""Vertical generalised linear models of two parties without a third: ring-LWE instead of a dealer.

Two modes. With **shared weights** nobody sees a weight, score, residual or gradient before the end, as with a dealer.
With **own gradients** each party holds its weights in the clear and learns, at each step, the gradient of its own
columns, Xᵀd: cheaper, and it takes every optimiser and penalty, and it tells more. Where X has as many independent
columns as the batch has rows, Xᵀd gives away d and with it the labels (as in the protocol of FATE before its masked
batches); so batches with rank(X) ≥ rows / 4 are refused, and rows of high leverage count less in gradients (see
`leverage`). A step on the rows B of a batch:

    shared weights    z₀ + z₁ = X_B·(w₀ + w₁): X·w of the other's share, encrypted by the other
    own gradients     z₀ = X_B·w of the guest's columns and weights, z₁ of the host's: no message
    d₀ + d₁ = mean(z₀ + z₁) − y          the series of `series` and, of several classes, `softmax`: sin and cos of
                                         k(z₀ + z₁) by the addition theorems, the host's factors encrypted slot by
                                         slot, the guest's in the clear (`evaluation`)
    G₀ + G₁ = X_Bᵀ·(d₀ + d₁)             Xᵀ·d of the other's share, encrypted by the other
    own gradients: each returns to the other its share of the other's G

All shares are modulo 2^112. There, truncating each share by itself (P. Mohassel, Y. Zhang, "SecureML", IEEE S&P 2017,
theorem 1) is off by at most one unit but with probability |x| / 2^111. What that and the rest add up to over a training
is bounded by `budget`.

Rows must be aligned and in an order that nobody chose, as `hanse.vertical.psi` leaves them.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.channels.checkpoints import BEGINNING, Progress
from hanse.channels.party import Party
from hanse.channels.protocol import Guarantee, Message, Protocol, Reveal
from hanse.core.arrays import Arrays
from hanse.core.errors import ConfigError, RefusedError
from hanse.crypto import rlwe
from hanse.crypto.rlwe import Answer, Encrypted, PrivateKey, PublicKey
from hanse.vertical.glm import budget, evaluation, softmax, wide
from hanse.vertical.glm.answers import gradient_revealed
from hanse.vertical.glm.budget import LARGEST_ROW
from hanse.vertical.glm.columns import MAX_COLUMNS, MAX_ROWS, MIN_ROWS, Columns
from hanse.vertical.glm.dealer import Trained, of_shape
from hanse.vertical.glm.descent import Descent, checked_change, checked_scores
from hanse.vertical.glm.evaluation import Evaluation
from hanse.vertical.glm.families import MAX_CLASSES, Response, Table
from hanse.vertical.glm.leverage import SINGLE_ROWS, weighed_down
from hanse.vertical.glm.plaintext import relative_weights
from hanse.vertical.glm.precision import check_columns, check_weights
from hanse.vertical.glm.slots import FACTOR_BITS, RESIDUAL_BITS, SCORE_BITS, TABLE_BITS, WEIGHT_BITS
from hanse.vertical.glm.training import STATISTICAL_BITS, Batch, Training, batches, bounds, first_step
from hanse.vertical.glm.wide import Integers

VERSION = 2
MAX_BATCH = 8192
ROWS_A_RANK = 4


def protocol(
    *,
    own_gradients: bool,
    early_stop: bool = False,
    any_leverage: bool = False,
    label_epsilon: float | None = None,
    statistical_bits: int = STATISTICAL_BITS,
) -> Protocol:
    """The declaration of one of the modes; `any_leverage` where rows of high leverage are accepted,
    `label_epsilon` where labels are answered by chance.
    """
    size, kept = rlwe.SIZE, rlwe.ANSWER_PRIMES[rlwe.NUM_PRIMES]
    whole = (rlwe.NUM_PRIMES, size)
    messages = evaluation.messages("host", "guest")
    reveals: list[Reveal] = []
    for sender, to in (("guest", "host"), ("host", "guest")):
        messages += [
            Message("hello", sender, to, "int64", (6,)),
            Message("public_key", sender, to, "uint32", (2, *whole)),
            Message("vector", sender, to, "uint32", (None, *whole)),
            Message("vector_seeds", sender, to, "uint8", (None, 16)),
            Message("heads", sender, to, "uint32", (None, kept, size)),
            Message("tails", sender, to, "uint32", (None, kept, None)),
        ]
        reveals.append(Reveal(to, sender, "shape", "how many rows and columns it has; of the guest also outputs"))
        if own_gradients:
            messages.append(Message("masked_gradient", sender, to, "uint64", (None, None, 2)))
            reveals.append(gradient_revealed(to, sender, "guest", label_epsilon))
            if any_leverage:
                reveals.append(Reveal(to, sender, *SINGLE_ROWS))
        else:
            messages.append(Message("weights", sender, to, "uint64", (None, None, 2)))
        reveals.append(Reveal(to, sender, "own_weights", "the weights of its own columns"))
        if early_stop:
            messages.append(Message("change", sender, to, "float64", (1,)))
            reveals.append(Reveal(to, sender, "weight_change", "how far each epoch moved the sender's weights"))
    return Protocol(
        name="glm/own-gradient" if own_gradients else "glm/dealer-free",
        roles=("guest", "host"),
        messages=tuple(messages),
        guarantee=Guarantee(
            adversary="semi-honest",
            corrupted=1,
            computational_bits=128,
            statistical_bits=statistical_bits,
            assumptions=rlwe.ASSUMPTIONS,
        ),
        reveals=tuple(reveals),
    )


@dataclass(slots=True)
class _Side:
    """A party in the middle of a training."""

    party: Party
    training: Training
    evaluation: Evaluation | None
    """Of the mean function; None for the identity."""
    own_gradients: bool
    key: PrivateKey
    theirs: PublicKey
    table: npt.NDArray[np.int64]
    """X with TABLE_BITS, exact; with own gradients with rows of high leverage weighed down."""
    values: Table
    penalised: npt.NDArray[np.bool_]
    num_theirs: int
    outputs: int
    response: Table | None
    sample_weights: Table | None
    awaited: dict[str, Any] = field(default_factory=dict)
    """What the next messages are to be: sizes, and what is added to them. The simulator of views reads it."""

    @property
    def is_guest(self) -> bool:
        return self.party.role == "guest"

    @property
    def peer(self) -> str:
        return "host" if self.is_guest else "guest"


async def guest(
    party: Party,
    columns: Columns,
    response: Response,
    training: Training,
    *,
    own_gradients: bool,
    sample_weights: Table | None = None,
    start: Table | None = None,
    progress: Progress = BEGINNING,
    cipher: type[PrivateKey] = PrivateKey,
) -> Trained:
    """The party with the label; arguments and errors as for `dealer.guest`.

    Args:
        own_gradients: which mode; see the module's text.
        progress: epochs that are done, with this party's state after them.
        cipher: `rlwe.PrivateKey`; `mock_rlwe.PrivateKey` protects nothing and tells what the cipher costs.
    """
    u = checked_weights(columns, response, training, sample_weights)
    side = await _begin(party, columns, training, own_gradients, response.num_outputs, response.values, u, cipher)
    return await _train(side, start, progress)


async def host(
    party: Party,
    columns: Columns,
    training: Training,
    *,
    own_gradients: bool,
    start: Table | None = None,
    progress: Progress = BEGINNING,
    cipher: type[PrivateKey] = PrivateKey,
) -> Trained:
    """The party with further columns; see `guest`."""
    return await _train(await _begin(party, columns, training, own_gradients, 0, None, None, cipher), start, progress)


async def _begin(
    party: Party,
    columns: Columns,
    training: Training,
    own_gradients: bool,
    outputs: int,
    response: Table | None,
    sample_weights: Table | None,
    cipher: type[PrivateKey] = PrivateKey,
) -> _Side:
    rows, width = columns.values.shape
    if not own_gradients and (training.optimiser != "sgd" or training.l1 or training.tolerance):
        raise ConfigError("training: expected sgd without l1 and tolerance where gradients are not seen")
    table = whole_table(columns, training)
    cuts = bounds(rows, training.batch_rows)
    rank = largest_rank(table, cuts) if own_gradients else 0
    digest = training.digest(*softmax.digests(training), b"own" if own_gradients else b"shared")
    peer = "host" if party.role == "guest" else "guest"
    await party.send(peer, "hello", np.array([VERSION, rows, width, outputs, rank, digest], np.int64))
    version, their_rows, num_theirs, their_outputs, their_rank, their_digest = (
        int(each) for each in await party.recv(peer, "hello")
    )
    if version != VERSION:
        raise RefusedError(f"{peer}: expected version {VERSION} of the protocol, found {version}")
    if their_rows != rows or not MIN_ROWS <= rows <= MAX_ROWS:
        raise RefusedError(f"{peer}: expected {rows} rows as here, found {their_rows}; align the rows first")
    if not 1 <= num_theirs <= MAX_COLUMNS:
        raise RefusedError(f"{peer}: expected 1 to {MAX_COLUMNS} columns, found {num_theirs}")
    if their_digest != digest:
        raise RefusedError(f"{peer}: expected the settings of the training as here, found others")
    outputs = outputs or their_outputs
    if not 1 <= outputs <= MAX_CLASSES or outputs == 2 or (party.role == "guest" and their_outputs):
        raise RefusedError(f"{peer}: expected 1 to {MAX_CLASSES} outputs, named by the guest alone")
    budget.check(training, rows, outputs, (width, num_theirs), shared=not own_gradients)
    if own_gradients:
        check_rank(party.role, rank, cuts)
        check_rank(peer, their_rank, cuts)
        table = weighed_down(table, cuts, training.max_leverage, training.high_leverage)
    key = cipher()
    await party.send(peer, "public_key", np.stack([key.public.body, key.public.other]).astype(np.uint32))
    body, other = (await party.recv(peer, "public_key")).astype(np.uint64)
    theirs, mean = type(key.public)(body, other), softmax.mean_of(training, outputs)
    awaited: dict[str, Any] = {}
    its_key = theirs if party.role == "guest" else key
    return _Side(
        party=party,
        training=training,
        evaluation=None if mean is None else Evaluation(party, peer, mean, its_key, awaited),
        own_gradients=own_gradients,
        key=key,
        theirs=theirs,
        table=table,
        values=columns.values,
        penalised=columns.penalised,
        num_theirs=num_theirs,
        outputs=outputs,
        response=response,
        sample_weights=sample_weights,
        awaited=awaited,
    )


def checked_weights(
    columns: Columns, response: Response, training: Training, sample_weights: Table | None
) -> Table | None:
    """Check what a guest starts with under encryption; its sample weights as parts of the largest.

    Raises:
        ConfigError: arrays of different rows, or sample weights of a linear model.
    """
    response.check_rows(len(columns.values))
    if sample_weights is None:
        return None
    if training.family == "linear":
        raise ConfigError("sample weights: not for linear models under encryption; take the protocol dealer")
    return relative_weights(sample_weights, len(columns.values))


def whole_table(columns: Columns, training: Training) -> npt.NDArray[np.int64]:
    """X as integers with TABLE_BITS.

    Raises:
        ConfigError: batches that are too large, or columns beyond the range of fixed point.
    """
    cuts = bounds(len(columns.values), training.batch_rows)
    if max(stop - start for start, stop in cuts) > MAX_BATCH:
        raise ConfigError(f"batch_rows: expected at most {MAX_BATCH} under encryption, found {training.batch_rows}")
    check_columns(columns.values, cuts)
    table = np.rint(columns.values * 2.0**TABLE_BITS).astype(np.int64)
    if int(np.abs(table).sum(axis=1).max()) >= LARGEST_ROW << TABLE_BITS:
        raise ConfigError(f"table: expected absolute values of a row below {LARGEST_ROW} in all; clip outliers")
    return table


def largest_rank(table: npt.NDArray[np.int64], cuts: list[tuple[int, int]]) -> int:
    """Of a batch; where columns are few enough anyway, their number."""
    if all(table.shape[1] * ROWS_A_RANK < stop - start for start, stop in cuts):
        return int(table.shape[1])
    return max(int(np.linalg.matrix_rank(table[start:stop].astype(np.float64))) for start, stop in cuts)


def check_rank(who: str, rank: int, cuts: list[tuple[int, int]]) -> None:
    """Refuse a party whose own gradients would tell it labels.

    Raises:
        RefusedError: a rank of a quarter of the rows of a batch, or more.
    """
    smallest = min(stop - start for start, stop in cuts)
    if not 0 < rank * ROWS_A_RANK < smallest:
        raise RefusedError(
            f"{who}: expected columns of rank below a quarter of the rows of a batch, {smallest}, found {rank}; "
            f"their gradients would give labels away: take larger batches, or shared weights"
        )


async def _train(side: _Side, start: Table | None, progress: Progress) -> Trained:
    shape = (side.table.shape[1], side.outputs)
    if start is not None and start.shape != shape:
        raise ConfigError(f"start: expected weights of {shape}, found {start.shape}")
    begin = np.zeros(shape) if start is None else start
    check_weights(begin)
    if side.own_gradients:
        weights, changes, taken = await _descend(side, begin, progress)
    else:
        weights, changes, taken = await _descend_shared(side, begin, progress)
    check_weights(weights)
    return Trained(weights, changes, taken)


# ---- own gradients ----


async def _descend(side: _Side, start: Table, progress: Progress) -> tuple[Table, tuple[float, ...], int]:
    """All steps on weights that this party holds."""
    descent = Descent.begun(len(side.table), side.training, start, side.penalised, progress)
    for batch in descent.batches(progress.number):
        side.party.iteration = batch.index
        x = side.table[batch.rows]
        d = await _residuals(side, checked_scores(side.values[batch.rows] @ descent.weights), batch, 1.0)
        local, masks, shares = await _gradients(side, x, d)
        side.awaited["sum"] = local + masks
        await side.party.send(side.peer, "masked_gradient", wide.to_words(shares))
        returned = wide.from_words(of_shape(await side.party.recv(side.peer, "masked_gradient"), (*local.shape, 2)))
        gradient = wide.to_floats(local + masks + returned, TABLE_BITS + RESIDUAL_BITS)
        descent.step(batch, gradient / batch.num_rows)
        if batch.ends_epoch and side.training.tolerance:
            own = descent.squared_change()
            await side.party.send(side.peer, "change", np.array([own]))
            (other,) = await side.party.recv(side.peer, "change")
            descent.close_epoch(own + checked_change(side.peer, other))
        if batch.ends_epoch:
            progress.keep(batch.epoch + 1, descent.state())
    return descent.weights, tuple(descent.changes), descent.taken


# ---- shared weights ----

_SHARES = ("own", "theirs", "own_velocity", "their_velocity")
"""What a checkpoint holds."""


async def _descend_shared(side: _Side, start: Table, progress: Progress) -> tuple[Table, tuple[float, ...], int]:
    """All steps on shares; own weights at the end, once the other has sent its share of them."""
    training = side.training
    own = wide.from_floats(start, WEIGHT_BITS)
    theirs = wide.zeros(side.num_theirs, side.outputs)
    velocities = wide.zeros(*own.shape), wide.zeros(*theirs.shape)
    penalised = side.penalised
    other_penalised = np.ones(side.num_theirs, np.bool_)
    if not side.is_guest:
        other_penalised[0] = False  # the guest's first column is the intercept
    taken = first_step(len(side.table), training, progress.number)
    if progress.number:
        own, theirs, *moved = (
            wide.from_words(of_shape(progress.state[name], (*like.shape, 2)))
            for name, like in zip(_SHARES, (own, theirs, own, theirs), strict=True)
        )
        velocities = moved[0], moved[1]
    for batch in batches(len(side.table), training, progress.number):
        side.party.iteration = batch.index
        x = side.table[batch.rows]
        z = await _shared_scores(side, x, own, theirs)
        factor, exponent = np.frexp(training.learning_rate / batch.num_rows)
        d = await _residuals(side, z, batch, float(factor))
        local, masks, shares = await _gradients(side, x, d)
        shift = TABLE_BITS + RESIDUAL_BITS - int(exponent) - WEIGHT_BITS
        if not 1 <= shift <= 40:
            raise ConfigError("learning_rate: too small or too large for fixed point")
        moved = []
        for gradient, weights, velocity, mask in (
            (local + masks, own, velocities[0], penalised),
            (shares, theirs, velocities[1], other_penalised),
        ):
            decay = round(training.learning_rate * training.l2 * 2.0**shift) * mask.astype(object)[:, None]
            total = gradient + velocity * round(training.momentum * 2.0**shift) + weights * decay
            moved.append(wide.truncate(total, shift, is_first=side.is_guest))
        velocities = moved[0], moved[1]
        own, theirs = wide.reduce(own - moved[0]), wide.reduce(theirs - moved[1])
        taken = batch.index + 1
        if batch.ends_epoch:
            words = [wide.to_words(each) for each in (own, theirs, *velocities)]
            progress.keep(batch.epoch + 1, Arrays(zip(_SHARES, words, strict=True)))
    side.awaited["sum"] = own
    await side.party.send(side.peer, "weights", wide.to_words(theirs))
    rest = wide.from_words(of_shape(await side.party.recv(side.peer, "weights"), (*own.shape, 2)))
    return wide.to_floats(own + rest, WEIGHT_BITS), (), taken


async def _shared_scores(side: _Side, x: npt.NDArray[np.int64], own: Integers, theirs: Integers) -> Integers:
    """This party's share of z, `(rows, outputs)`, with SCORE_BITS."""
    columns = []
    for at in range(side.outputs):
        opened, masks = await _exchange(side, theirs[:, at].tolist(), x, len(x))
        columns.append(wide.product(x, own[:, at]) + opened + masks)
    return wide.reduce(np.stack(columns, axis=1))


# ---- what both modes share ----


async def _exchange(
    side: _Side, vector: Sequence[int], matrix: npt.NDArray[np.int64], num_their_rows: int
) -> tuple[Integers, Integers]:
    """Products in both directions at once.

    Args:
        vector: this party's, which the other's matrix is multiplied by.
        matrix: this party's, which the other's vector is multiplied by.
        num_their_rows: rows of the other's matrix.

    Returns:
        Of (their matrix) @ vector this party's share, `(num_their_rows,)`; of matrix @ (their vector) likewise.
    """
    party, peer = side.party, side.peer
    side.awaited |= {"vector": matrix.shape[1], "product": (num_their_rows, len(vector))}
    encrypted = side.key.encrypt_vector(vector)
    await party.send(peer, "vector", encrypted.body)
    await party.send(peer, "vector_seeds", encrypted.seeds)
    theirs = Encrypted(await party.recv(peer, "vector"), await party.recv(peer, "vector_seeds"))
    masks = [int.from_bytes(os.urandom(rlwe.WIDE_BITS // 8), "little") for _ in range(len(matrix))]
    answer = side.theirs.inner_products(matrix, theirs, masks)
    await party.send(peer, "heads", answer.heads)
    await party.send(peer, "tails", answer.tails)
    answered = Answer(await party.recv(peer, "heads"), await party.recv(peer, "tails"))
    opened = side.key.decrypt_products(answered, num_their_rows, len(vector))
    return np.array(opened, object), -np.array(masks, object)


async def _gradients(side: _Side, x: npt.NDArray[np.int64], d: Integers) -> tuple[Integers, Integers, Integers]:
    """Of own columns: what this party computes alone, and its mask; of the other's columns: its share."""
    local, masks, shares = [], [], []
    transposed = np.ascontiguousarray(x.T)
    for at in range(side.outputs):
        opened, mask = await _exchange(side, d[:, at].tolist(), transposed, side.num_theirs)
        local.append(wide.product(transposed, d[:, at]))
        masks.append(mask)
        shares.append(opened)
    return tuple(np.stack(each, axis=1) for each in (local, masks, shares))  # type: ignore[return-value]


async def _residuals(side: _Side, z: Any, batch: Batch, factor: float) -> Integers:
    """This party's share of factor · u · (mean(z₀ + z₁) − y), `(rows, outputs)`, with RESIDUAL_BITS.

    Args:
        z: its share of z: float64 with own gradients, otherwise integers with SCORE_BITS modulo 2^112.
    """
    scale: Any = factor
    if side.sample_weights is not None:
        scale = factor * side.sample_weights[batch.rows][:, None]
    if side.evaluation is None:
        share = _linear(z, factor, is_first=side.is_guest)
    else:
        share = await side.evaluation.share(z, scale)
    if side.response is not None:
        share = share - wide.from_floats(scale * side.response[batch.rows], RESIDUAL_BITS)
    return share


def _linear(z: Any, factor: float, *, is_first: bool) -> Integers:
    if z.dtype == np.float64:
        return wide.from_floats(factor * z, RESIDUAL_BITS)
    whole = round(factor * 2.0**FACTOR_BITS)
    return wide.truncate(z * whole, SCORE_BITS + FACTOR_BITS - RESIDUAL_BITS, is_first=is_first)
