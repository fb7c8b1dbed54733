"""Vertical generalised linear models by additive secret sharing, with the arbiter as dealer.

The SGD of P. Mohassel, Y. Zhang, "SecureML", IEEE S&P 2017, modulo 2^64 among the guest and any number of hosts, with
D. Beaver's masks (CRYPTO 1991), and three differences. Each party's table X is opened masked once per job, as
E = X − A; a step then multiplies E, X and A by fresh vectors alone. The mean function is a periodic series, evaluated
with one opening (see `series`). The one truncation of a step takes the dealer's pairs (see
`hanse.crypto.truncation`).

A step on the rows B of a batch, [·] for what is shared:

    f = [w] − [b]           opened      [z] = X_B·f + E_B·[b] + [A_B·b]
    δ = [z] − [r]           opened      [d] = Σ_k coefficients(δ) · [sin kr], [cos kr], less y; before it, where there
                                        are several classes, the same for each level of `softmax`, δ of differences
    g = [d] − [s]           opened      [G] = X_Bᵀ·g + E_Bᵀ·[s] + [A_Bᵀ·s]
    c = [G…] + [t]          opened      [v] = truncated(G + momentum·v + l2·w);   [w] = [w] − [v]

With sample weights u, [d] is first multiplied by u, which only the guest knows and which is opened masked once, too.
Weights, scores, residuals and gradients stay shared until the end, when each party learns the weights of its own
columns, the guest the intercept. With a tolerance, how far each epoch moved the weights is opened: one number.

Rows must be aligned and in an order that nobody chose, as `hanse.vertical.psi` leaves them.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from hanse.channels.checkpoints import BEGINNING, Progress
from hanse.channels.party import Party
from hanse.channels.protocol import Guarantee, Message, Protocol, Reveal
from hanse.core import scratch
from hanse.core.arrays import Array, Arrays
from hanse.core.errors import ConfigError, RefusedError
from hanse.crypto import fixed_point, sharing, truncation
from hanse.crypto.aes import KEY_BYTES
from hanse.crypto.sharing import Ring
from hanse.vertical.glm import dealt, softmax
from hanse.vertical.glm.columns import MAX_COLUMNS, MAX_ROWS, MIN_ROWS, Columns
from hanse.vertical.glm.dealt import DIFFERENCES, PAIR_BITS, Material, Plan, Shapes
from hanse.vertical.glm.families import MAX_CLASSES, Response, Table
from hanse.vertical.glm.plaintext import relative_weights
from hanse.vertical.glm.precision import (
    LARGEST_ANSWER,
    LARGEST_RESIDUAL,
    LINEAR_FACTOR_BITS,
    SAMPLE_WEIGHT_BITS,
    SCORE_BITS,
    TABLE_BITS,
    WEIGHT_BITS,
    Step,
    check_columns,
    check_weights,
    precision_of,
    step_of,
)
from hanse.vertical.glm.series import Integers, public_coefficients
from hanse.vertical.glm.training import Training, batches, bounds, first_step, has_ended
from hanse.vertical.parties import host_roles

VERSION = 2
BLOCK_ROWS = 4096
"""Rows of a masked table in one message."""
AHEAD = 64
"""Steps that the dealer deals before it hears that the guest has come so far."""
_TABLE, _STEPS = 0, 1  # numbers of seeds under a party's own; step i has _STEPS + i

_STEP_OPENINGS = (
    "masked_weights",
    "masked_differences",
    "masked_scores",
    "masked_means",
    "masked_residuals",
    "masked_update",
)
_ENDINGS = ("masked_change", "change", "weights")


def data_roles(num_hosts: int) -> tuple[str, ...]:
    """The guest and the hosts."""
    return ("guest", *host_roles(num_hosts))


def protocol(num_hosts: int = 1, *, early_stop: bool = False) -> Protocol:
    """The declaration for that many hosts; `early_stop` for a training with a tolerance."""
    data = data_roles(num_hosts)
    messages: list[Message] = []
    reveals: list[Reveal] = []
    for sender in data:
        others = [role for role in data if role != sender]
        messages += [Message("hello", sender, to, "int64", (6,)) for to in (*others, "arbiter")]
        messages.append(Message("seed", "arbiter", sender, "uint8", (KEY_BYTES,)))
        for to in others:
            names = ("masked_table", *_STEP_OPENINGS, *_ENDINGS)
            messages += [Message(name, sender, to, "uint64", (None, None)) for name in names]
        shape = "how many rows and columns it has; of the guest also outputs, and whether there are sample weights"
        reveals += [Reveal(to, sender, "shape", shape) for to in (*others, "arbiter")]
        if early_stop:
            moved = "how far each epoch moved all weights together"
            reveals += [Reveal(to, sender, "weight_change", moved) for to in others]
        for to in others:
            own = "the weights of its own columns, which all parties' columns and the label went into"
            reveals.append(Reveal(to, sender, "own_weights", own))
    messages += [Message("masked_sample_weights", "guest", to, "uint64", (None, 1)) for to in data[1:]]
    messages.append(Message("correction", "arbiter", "guest", "uint64", (None,)))
    messages.append(Message("progress", "guest", "arbiter", "int64", (1,)))
    reveals.append(Reveal("arbiter", "guest", "steps", "how many steps were taken, and when"))
    return Protocol(
        name="glm/dealer" + ("-early-stop" if early_stop else ""),
        roles=(*data, "arbiter"),
        messages=tuple(messages),
        guarantee=Guarantee(
            adversary="semi-honest",
            corrupted=num_hosts,
            computational_bits=128,
            statistical_bits=128,
            assumptions=("AES-128 is a pseudorandom permutation", "the arbiter colludes with no other party"),
        ),
        reveals=tuple(reveals),
    )


@dataclass(frozen=True, slots=True)
class Trained:
    """What one party ends with.

    Attributes:
        weights: of its own columns, float64 `(num_columns, num_outputs)`.
        changes: how far each epoch moved all weights; empty without a tolerance.
        num_steps: steps taken.
    """

    weights: Table
    changes: tuple[float, ...]
    num_steps: int


@dataclass(slots=True)
class _Side:
    """A data party in the middle of a training."""

    party: Party
    training: Training
    plan: Plan
    place: int
    """Of this party among the data parties; the guest's is 0."""
    num_rows: int
    seed: bytes
    table: Ring
    """Its own X."""
    opened: list[Ring]
    """E of every party."""
    sample_weights: Ring | None
    """The guest's u; at hosts None."""
    opened_sample_weights: Ring | None
    response: Table | None
    """The guest's y; at hosts None."""
    weights: Ring
    """This party's share of w, for all columns."""
    velocity: Ring

    @property
    def peers(self) -> list[str]:
        roles = self.party.protocol.roles[:-1]
        return [role for role in roles if role != self.party.role]

    @property
    def is_first(self) -> bool:
        return self.place == 0

    async def open(self, name: str, share: Ring) -> Ring:
        """Send this party's share to all and add up theirs."""
        for peer in self.peers:
            await self.party.send(peer, name, share)
        total = share.copy()
        for peer in self.peers:
            total += of_shape(await self.party.recv(peer, name), share.shape)
        return total


async def guest(
    party: Party,
    columns: Columns,
    response: Response,
    training: Training,
    *,
    sample_weights: Table | None = None,
    start: Table | None = None,
    progress: Progress = BEGINNING,
) -> Trained:
    """The party with the label.

    Args:
        party: in the role `guest`.
        columns: its own, with the intercept.
        response: of the same rows.
        training: as at all other parties.
        sample_weights: float64 `(num_rows,)`, ≥ 0; in fixed point with 8 bits below the largest.
        start: weights of its own columns to begin with.
        progress: epochs that are done, with this party's shares after them.

    Returns:
        Its weights.

    Raises:
        ConfigError: input or settings that do not fit the range, or a training that diverged. RefusedError: another
        party has other settings or rows, or does not keep to the protocol. UnavailableError: a party is silent or gone.
    """
    rows = len(columns.values)
    response.check_rows(rows)
    largest = max(LARGEST_ANSWER if training.label_epsilon else 1.0, LARGEST_RESIDUAL[training.family] / 2)
    if np.abs(response.values).max() > largest:
        raise ConfigError(
            f"label: expected at most {largest:g} times the usual size; found larger ones, hold them down"
        )
    u = None
    if sample_weights is not None:
        u = fixed_point.encode(relative_weights(sample_weights, rows)[:, None], SAMPLE_WEIGHT_BITS)
    side = await _begin(party, columns, training, (response.num_outputs, u is not None), u, response.values, start)
    return await _train(side, progress)


async def host(
    party: Party,
    columns: Columns,
    training: Training,
    *,
    start: Table | None = None,
    progress: Progress = BEGINNING,
) -> Trained:
    """A party with further columns; arguments, result and errors as for `guest`."""
    return await _train(await _begin(party, columns, training, (0, False), None, None, start), progress)


async def arbiter(party: Party, training: Training, progress: Progress = BEGINNING) -> None:
    """The dealer: learns sizes and how far the others are, sends what hides everything else.

    Raises:
        RefusedError: the parties name different settings or impossible sizes.
    """
    data = party.protocol.roles[:-1]
    hellos = [(await party.recv(role, "hello")).tolist() for role in data]
    plan, rows = _agreed(training, hellos)
    seeds = {role: sharing.new_seed() for role in data}
    for role in data:
        await party.send(role, "seed", np.frombuffer(seeds[role], np.uint8))
    masks = [_table_mask(seed, rows, width) for seed, width in zip(seeds.values(), plan.columns, strict=True)]
    tables = [table for table, _ in masks]
    sample_weights = masks[0][1] if plan.weighted else None
    reached = first_step(rows, training, progress.number)
    for batch in batches(rows, training, progress.number):
        party.iteration = batch.index
        while batch.index >= reached + AHEAD:
            reached = await _progress(party, reached)
            if reached < 0:
                return
        await party.send(
            "guest",
            "correction",
            dealt.correction(
                plan,
                plan.shapes(batch.num_rows, closes=batch.ends_epoch and training.tolerance > 0),
                [sharing.derive(seed, _STEPS + batch.index) for seed in seeds.values()],
                step_of(training, plan.precision, batch.num_rows),
                [table[batch.rows] for table in tables],
                None if sample_weights is None else sample_weights[batch.rows],
            ),
        )
    while reached >= 0:
        reached = await _progress(party, reached)


async def _progress(party: Party, before: int) -> int:
    """How far the guest is, or −1 if it needs no more."""
    (reached,) = (await party.recv("guest", "progress")).tolist()
    if reached != -1 and reached <= before:
        raise RefusedError("guest: expected progress that grows, found less")
    return int(reached)


async def _begin(
    party: Party,
    columns: Columns,
    training: Training,
    outputs: tuple[int, bool],
    sample_weights: Ring | None,
    response: Table | None,
    start: Table | None,
) -> _Side:
    """Agree on sizes, get a seed, and open all tables masked."""
    rows, width = columns.values.shape
    data = party.protocol.roles[:-1]
    if training.optimiser != "sgd" or training.l1:
        raise ConfigError("training: expected sgd (with momentum) and no l1 with a dealer: gradients are not seen")
    cuts = bounds(rows, training.batch_rows)
    precision_of(training, max(stop - start for start, stop in cuts), weighted=outputs[1])
    check_columns(columns.values, cuts)
    hello = [VERSION, rows, width, outputs[0], int(outputs[1]), _digest(training)]
    for role in party.protocol.roles:
        if role != party.role:
            await party.send(role, "hello", np.array(hello, np.int64))
    hellos = [hello if role == party.role else (await party.recv(role, "hello")).tolist() for role in data]
    plan, _ = _agreed(training, hellos)
    place = data.index(party.role)
    weights = np.zeros((plan.width, plan.outputs), np.uint64)
    if start is not None:
        if start.shape != (width, plan.outputs):
            raise ConfigError(f"start: expected weights of {(width, plan.outputs)}, found {start.shape}")
        check_weights(start)
        weights[plan.parts()[place]] = fixed_point.encode(start, WEIGHT_BITS)
    seed = (await party.recv("arbiter", "seed")).tobytes()
    table = fixed_point.encode(columns.values, TABLE_BITS)
    side = _Side(
        party=party,
        training=training,
        plan=plan,
        place=place,
        num_rows=rows,
        seed=seed,
        table=table,
        opened=[scratch.empty((rows, each), np.uint64) for each in plan.columns],
        sample_weights=sample_weights,
        opened_sample_weights=None,
        response=response,
        weights=weights,
        velocity=np.zeros_like(weights),
    )
    await _open_tables(side)
    return side


async def _open_tables(side: _Side) -> None:
    """Exchange E = X − A, block by block in step, so that nobody's messages pile up."""
    mask, weights_mask = _table_mask(side.seed, *side.table.shape)
    own = side.opened[side.place]
    np.subtract(side.table, mask, out=own)
    roles = side.party.protocol.roles[:-1]
    for start in range(0, side.num_rows, BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        for peer in side.peers:
            await side.party.send(peer, "masked_table", own[rows])
        for peer in side.peers:
            theirs = side.opened[roles.index(peer)][rows]
            theirs[:] = of_shape(await side.party.recv(peer, "masked_table"), theirs.shape)
    if side.sample_weights is not None:
        side.opened_sample_weights = side.sample_weights - weights_mask
        for peer in side.peers:
            await side.party.send(peer, "masked_sample_weights", side.opened_sample_weights)
    elif side.plan.weighted:
        received = await side.party.recv("guest", "masked_sample_weights")
        side.opened_sample_weights = of_shape(received, (side.num_rows, 1))


async def _train(side: _Side, progress: Progress) -> Trained:
    weights, changes, num_steps = await _steps(side, progress)
    parts = side.plan.parts()
    roles = side.party.protocol.roles[:-1]
    for peer in side.peers:
        await side.party.send(peer, "weights", weights[parts[roles.index(peer)]])
    own = weights[parts[side.place]].copy()
    for peer in side.peers:
        own += of_shape(await side.party.recv(peer, "weights"), own.shape)
    found = fixed_point.decode(own, WEIGHT_BITS)
    check_weights(found)
    return Trained(found, changes, num_steps)


async def _steps(side: _Side, progress: Progress) -> tuple[Ring, tuple[float, ...], int]:
    """All steps; this party's share of the weights."""
    party, training = side.party, side.training
    first = taken = first_step(side.num_rows, training, progress.number)
    changes: list[float] = []
    if progress.number:
        side.weights, side.velocity = (_kept(progress, name, side.weights.shape) for name in ("weights", "velocity"))
        changes = progress.state["changes"].tolist()
    before = side.weights
    for batch in () if has_ended(changes, training) else batches(side.num_rows, training, progress.number):
        party.iteration = batch.index
        if side.is_first and batch.index > first and batch.index % (AHEAD // 2) == 0:
            await party.send("arbiter", "progress", np.array([batch.index], np.int64))
        closes = batch.ends_epoch and training.tolerance > 0
        dealt_now = await _material(side, batch.index, side.plan.shapes(batch.num_rows, closes=closes))
        await _step(side, batch.rows, dealt_now, step_of(training, side.plan.precision, batch.num_rows))
        taken = batch.index + 1
        if closes:
            changes.append(await _change(side, before, dealt_now))
            before = side.weights
        if batch.ends_epoch:
            state = {"weights": side.weights, "velocity": side.velocity, "changes": np.array(changes)}
            progress.keep(batch.epoch + 1, Arrays(state))
            if has_ended(changes, training):
                break
    if side.is_first:
        await party.send("arbiter", "progress", np.array([-1], np.int64))
    return side.weights, tuple(changes), taken


def _kept(progress: Progress, name: str, shape: tuple[int, ...]) -> Ring:
    return np.array(of_shape(progress.state[name], shape), np.uint64)


async def _step(side: _Side, batch: slice, dealt_now: Material, step: Step) -> None:
    """One step, as in the module's text."""
    plan, x = side.plan, side.table[batch]
    own = plan.parts()[side.place]
    opened = [table[batch] for table in side.opened]

    f = await side.open("masked_weights", side.weights - dealt_now["weights"])
    z = dealt_now["forward"] + sharing.thin(x, f[own])
    for table, part in zip(opened, plan.parts(), strict=True):
        z += sharing.thin(table, dealt_now["weights"][part])

    d = await _residuals(side, z, dealt_now, batch, step)

    g = await side.open("masked_residuals", d - dealt_now["residuals"])
    gradient = dealt_now["backward"]
    gradient = gradient + np.concatenate([sharing.thin_transposed(table, dealt_now["residuals"]) for table in opened])
    gradient[own] += sharing.thin_transposed(x, g)

    total = gradient + side.velocity * np.uint64(step.keep)
    penalised = total[1:]  # all but the guest's first column, the intercept
    penalised += side.weights[1:] * np.uint64(step.decay)
    masked = truncation.masked(total, dealt_now["update"], is_first=side.is_first)
    c = await side.open("masked_update", masked)
    side.velocity = truncation.truncate(c, dealt_now["quotient"], dealt_now["top"], step.shift, is_first=side.is_first)
    side.weights = side.weights - side.velocity


async def _residuals(side: _Side, z: Ring, dealt_now: Material, batch: slice, step: Step) -> Ring:
    """This party's share of factor·u·(mean(z) − y), with the fraction bits of residuals."""
    plan, bits = side.plan, side.plan.precision.means
    factor = step.factor
    score_bits = SCORE_BITS
    if plan.mean is not None and plan.mean.log_sums is not None:
        z = await softmax.against_rest(z, SCORE_BITS, plan.mean.log_sums, partial(_pairs, side, dealt_now))
        score_bits += len(plan.pairs)
    if plan.mean is None:
        whole = round(step.factor * 2.0**LINEAR_FACTOR_BITS)
        factor = whole / 2.0**LINEAR_FACTOR_BITS
        share = truncation.masked(z * np.uint64(whole), dealt_now["scores"], is_first=side.is_first)
        c = await side.open("masked_scores", share)
        quotient, top = dealt_now["score_quotient"], dealt_now["score_top"]
        mean = truncation.truncate(c, quotient, top, plan.score_shift, is_first=side.is_first)
    else:
        delta = await side.open("masked_scores", z - dealt_now["scores"])
        shares = dealt_now["sines of scores"], dealt_now["cosines of scores"]
        series = plan.mean.series
        coefficients = public_coefficients(delta, score_bits, series, factor, bits - plan.precision.dealt)
        mean = _evaluated(coefficients, shares, side.is_first * series.constant * factor, bits)
    if plan.weighted:
        assert side.opened_sample_weights is not None
        m = await side.open("masked_means", mean - dealt_now["means"])
        mean = dealt_now["product"] + side.opened_sample_weights[batch] * dealt_now["means"]
        if side.sample_weights is not None:
            mean += side.sample_weights[batch] * m
    if side.response is not None:
        y = factor * side.response[batch]
        if side.sample_weights is not None:
            y = y * fixed_point.decode(side.sample_weights[batch], SAMPLE_WEIGHT_BITS)
        mean = mean - fixed_point.encode(y, plan.precision.residuals)
    return mean


async def _pairs(side: _Side, dealt_now: Material, level: int, differences: Ring, bits: int) -> Ring:
    """A share of log(2 cosh(x/2)) of differences, see `softmax.Evaluate`."""
    assert side.plan.mean is not None
    assert side.plan.mean.pairs is not None
    series, mask = side.plan.mean.pairs, f"{DIFFERENCES}{level}"
    delta = await side.open("masked_differences", differences - dealt_now[mask])
    coefficients = public_coefficients(delta, bits, series, 1.0, bits + 1 - PAIR_BITS)
    shares = dealt_now[f"sines of {mask}"], dealt_now[f"cosines of {mask}"]
    return _evaluated(coefficients, shares, side.is_first * series.constant, bits + 1)


def _evaluated(coefficients: tuple[Integers, Integers], shares: tuple[Ring, Ring], constant: float, bits: int) -> Ring:
    """A share of a series, with `bits` fraction bits: Σ of public coefficients times shares of sines and cosines."""
    total = sum(
        (public.view(np.uint64) * share).sum(axis=0) for public, share in zip(coefficients, shares, strict=True)
    )
    return np.asarray(total + np.uint64(round(constant * 2.0**bits)), np.uint64)


async def _material(side: _Side, index: int, shapes: Shapes) -> Material:
    """This party's masks and shares of step `index`."""
    seed = sharing.derive(side.seed, _STEPS + index)
    if not side.is_first:
        return dealt.host_material(shapes, seed)
    correction = await side.party.recv("arbiter", "correction")
    return dealt.guest_material(shapes, seed, of_shape(correction, (shapes.num_derived,)))


async def _change(side: _Side, before: Ring, dealt_now: Material) -> float:
    """How far the weights moved since `before`: |Δ|² = Σe² + 2Σe·m + Σm² with e = Δ − m opened."""
    mask = dealt_now["change"]
    e = await side.open("masked_change", side.weights - before - mask)
    share = dealt_now["squares"] + (np.uint64(2) * e * mask).sum(dtype=np.uint64)
    if side.is_first:
        share = share + (e * e).sum(dtype=np.uint64)
    squared = await side.open("change", share)
    return float(np.sqrt(np.maximum(fixed_point.decode(squared, 2 * WEIGHT_BITS)[0, 0], 0.0)))


def _table_mask(seed: bytes, rows: int, width: int) -> tuple[Ring, Ring]:
    """A of a party, and, for the guest, the mask of its sample weights."""
    mask, weights = sharing.expand(sharing.derive(seed, _TABLE), (rows, width), (rows, 1))
    return mask, weights


def _digest(training: Training) -> int:
    """Of the settings and of every public number that all parties must hold alike."""
    return training.digest(*softmax.digests(training))


def _agreed(training: Training, hellos: list[list[int]]) -> tuple[Plan, int]:
    """Sizes, once all data parties say the same.

    Args:
        hellos: of the guest and the hosts: version, rows, columns, outputs, whether weighted, digest.
    """
    _, rows, _, outputs, weighted, _ = hellos[0]
    for at, (version, their_rows, width, theirs, flag, digest) in enumerate(hellos):
        who = "guest" if at == 0 else f"host {at}"
        if version != VERSION:
            raise RefusedError(f"{who}: expected version {VERSION} of the protocol, found {version}")
        if their_rows != rows or not MIN_ROWS <= rows <= MAX_ROWS:
            raise RefusedError(f"{who}: expected as many rows as at the guest, {MIN_ROWS} to {MAX_ROWS}, found others")
        if not 1 <= width <= MAX_COLUMNS:
            raise RefusedError(f"{who}: expected 1 to {MAX_COLUMNS} columns, found {width}")
        if digest != _digest(training):
            raise RefusedError(f"{who}: expected the settings of the training and its tables as here, found others")
        if (not 1 <= theirs <= MAX_CLASSES or theirs == 2 or flag not in (0, 1)) if at == 0 else (theirs or flag):
            raise RefusedError(f"{who}: expected sizes of the response from the guest alone")
    largest = max(stop - start for start, stop in bounds(rows, training.batch_rows))
    precision = precision_of(training, largest, weighted=bool(weighted))
    plan = Plan(
        columns=tuple(hello[2] for hello in hellos),
        outputs=outputs,
        weighted=bool(weighted),
        mean=softmax.mean_of(training, outputs),
        precision=precision,
        score_shift=SCORE_BITS + LINEAR_FACTOR_BITS - precision.means,
    )
    return plan, rows


def of_shape(array: Array, shape: tuple[int, ...]) -> Array:
    if array.shape != shape:
        raise RefusedError(f"glm: expected an array of {shape}, found {array.shape}")
    return array
