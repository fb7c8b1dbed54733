"""Transfer learning over shared secrets, with the arbiter as dealer: at each step each party learns its own gradient.

In every iteration each party's matrices are multiplied with the other's vectors (see `mathematics`), by a split triple
of D. Beaver, CRYPTO 1991 (see `hanse.crypto.sharing`): the owner of the matrices gets them and a·b's one share from a
seed, the owner of the vectors the other; both open what they hold, masked; the owner of the vectors sends its share of
the product. The product is opened to one party, so nothing is truncated: results are exact but for rounding matrices
to 2^−24 and vectors to 2^−20.

At the end the guest tells Φ: with it the host scores its own rows alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.channels.party import Party
from hanse.channels.protocol import Guarantee, Message, Protocol, Reveal
from hanse.core.arrays import Array
from hanse.core.codec import canonical_json
from hanse.core.errors import ConfigError, RefusedError
from hanse.core.seeds import key_of
from hanse.crypto import fixed_point, sharing
from hanse.crypto.aes import KEY_BYTES
from hanse.crypto.sharing import Ring
from hanse.vertical.transfer.mathematics import (
    SCALE,
    Descent,
    Settings,
    Table,
    Terms,
    first_weights,
    guest_terms,
    host_terms,
    translator,
)

VERSION = 1
MIN_ROWS = 20
MAX_ROWS = 1 << 14
MAX_COLUMNS = 1 << 10
MAX_CELLS = 1 << 25
"""Numbers in one party's matrices."""
MATRIX_BITS = 24
VECTOR_BITS = 20
LARGEST_VALUE = 256.0
"""Of a table, so that products stay within the range of fixed point, ±2^19."""
LARGEST_GRADIENT = 2.0**17

Sizes = tuple[int, int, int]
"""Dimensions, columns of the matrices' owner, length of a vector."""


def _protocol() -> Protocol:
    messages: list[Message] = []
    reveals: list[Reveal] = []
    for sender, to in (("guest", "host"), ("host", "guest")):
        messages += [
            Message("hello", sender, to, "int64", (4,)),
            Message("hello", sender, "arbiter", "int64", (5,)),
            Message("seed", "arbiter", sender, "uint8", (KEY_BYTES,)),
            Message("correction", "arbiter", sender, "uint64", (None, None)),
            Message("masked_matrix", sender, to, "uint64", (None, None, None)),
            Message("masked_vector", sender, to, "uint64", (None, None)),
            Message("product", sender, to, "uint64", (None, None)),
        ]
        reveals += [
            Reveal(to, sender, "shape", "how many common rows it has, and columns"),
            Reveal("arbiter", sender, "shape", "how many common rows it has, columns, dimensions and iterations"),
        ]
    messages.append(Message("translator", "guest", "host", "float64", (None,)))
    host_learns = "at each step, the gradient of its own weights; enough of them to solve for the common rows' labels"
    guest_learns = "at each step, the gradient of its own weights; enough of them to solve for the host's embeddings"
    reveals += [
        Reveal("host", "guest", "own_gradient", host_learns),
        Reveal("guest", "host", "own_gradient", guest_learns),
        Reveal("host", "guest", "translator", "the mean of the guest's embeddings times labels, over all its rows"),
    ]
    return Protocol(
        name="transfer/dealer",
        roles=("guest", "host", "arbiter"),
        messages=tuple(messages),
        guarantee=Guarantee(
            adversary="semi-honest",
            corrupted=1,
            computational_bits=128,
            statistical_bits=128,
            assumptions=("AES-128 is a pseudorandom permutation", "the arbiter colludes with neither party"),
        ),
        reveals=tuple(reveals),
    )


PROTOCOL = _protocol()


@dataclass(frozen=True, slots=True)
class Transferred:
    """What a party ends with.

    Attributes:
        weights: W, float64 `(num_columns, dimensions)`.
        translator: Φ, float64 `(dimensions,)`; known to both.
    """

    weights: Table
    translator: Table


@dataclass(slots=True)
class _Side:
    party: Party
    peer: str
    settings: Settings
    seed: bytes
    num_columns: int
    num_theirs: int
    num_rows: int


async def guest(
    party: Party, table: Table, signs: Table, common: npt.NDArray[np.int64], settings: Settings
) -> Transferred:
    """The source.

    Args:
        party: in the role `guest`.
        table: its columns as they are trained on, float64 `(N, num_columns)`, all its rows, the intercept first.
        signs: the label of each, −1 or 1.
        common: places of the common rows, in the common order.
        settings: as at the host.

    Raises:
        ConfigError: input that does not fit, or beyond the range of fixed point. RefusedError: the host has other rows
        or settings, or does not keep to the protocol. UnavailableError: a party is silent or gone.
    """
    if signs.shape != (len(table),) or not (np.abs(signs) == 1).all() or np.ptp(signs) == 0:
        raise ConfigError(f"label: expected −1 and 1, both, for {len(table)} rows; found something else")
    _check_table("guest", table)
    side = await _begin(party, "host", len(common), table.shape[1], settings)
    descent = Descent(first_weights(table.shape[1], settings, "guest"), settings)
    for at in range(settings.iterations):
        party.iteration = at
        descent.step(await _gradient(side, guest_terms(table, signs, common, descent.weights, settings), at))
    phi = translator(np.tanh(table @ descent.weights), signs)
    await party.send("host", "translator", phi)
    return Transferred(descent.weights, phi)


async def host(party: Party, table: Table, settings: Settings) -> Transferred:
    """The target; errors as for `guest`.

    Args:
        party: in the role `host`.
        table: its columns as they are trained on, float64 `(n, num_columns)`, of the common rows, in the common order.
        settings: as at the guest.
    """
    _check_table("host", table)
    side = await _begin(party, "guest", len(table), table.shape[1], settings)
    descent = Descent(first_weights(table.shape[1], settings, "host"), settings)
    for at in range(settings.iterations):
        party.iteration = at
        descent.step(await _gradient(side, host_terms(table, descent.weights, settings), at))
    phi = await party.recv("guest", "translator")
    if phi.shape != (settings.dimensions,) or not (np.abs(phi) <= SCALE).all():
        raise RefusedError(f"guest: expected {settings.dimensions} numbers within ±{SCALE:g}, found others")
    return Transferred(descent.weights, phi.copy())


async def arbiter(party: Party) -> None:
    """The dealer: learns sizes, sends what hides everything else.

    Raises:
        RefusedError: the parties name different or impossible sizes.
    """
    first, second = [(await party.recv(role, "hello")).tolist() for role in ("guest", "host")]
    rows, width, other, dimensions, iterations = first
    if second != [rows, other, width, dimensions, iterations]:
        raise RefusedError("arbiter: expected guest and host to name the same sizes, found different ones")
    Settings(dimensions=dimensions, iterations=iterations)
    for who, columns in (("guest", width), ("host", other)):
        _check_sizes(who, rows, columns, dimensions)
    seeds = {role: sharing.new_seed() for role in ("guest", "host")}
    for role, seed in seeds.items():
        await party.send(role, "seed", np.frombuffer(seed, np.uint8))
    for at in range(iterations):
        party.iteration = at
        for owner, peer, columns in (("guest", "host", width), ("host", "guest", other)):
            sizes = (dimensions, columns, dimensions + rows)
            a, share = _of_matrices(seeds[owner], at, sizes)
            b = _of_vectors(seeds[peer], at, sizes)
            await party.send(peer, "correction", _products(a, b) - share)


def simulate_view(
    role: str, terms: list[Terms], reveals: Mapping[str, Any], settings: Settings
) -> list[tuple[str, Array]]:
    """What `role` receives in a run, made from its own input and what is revealed.

    Args:
        role: `guest` or `host`.
        terms: its own of each iteration: they follow from its input and the gradients that it is told.
        reveals: `hello`, what the other said; `products`, the rest of its gradient in each iteration, uint64
            `(dimensions, num_columns)`, as in fixed point; of the host `translator`.
        settings: as in the run.
    """
    _, rows, other, _ = (int(each) for each in reveals["hello"])
    seed, uniform, d = sharing.new_seed(), sharing.new_seed(), settings.dimensions
    view: list[tuple[str, Array]] = [("hello", np.asarray(reveals["hello"], np.int64))]
    view.append(("seed", np.frombuffer(seed, np.uint8)))
    for at, own in enumerate(terms):
        matrix, vector, correction = sharing.expand(
            sharing.derive(uniform, at), (d, other, d + rows), (d, d + rows), (d, other)
        )
        mine = _own_share(own, _of_matrices(seed, at, own.matrix.shape), vector)
        view += [("masked_vector", vector), ("correction", correction), ("masked_matrix", matrix)]
        view.append(("product", reveals["products"][at] - mine))
    return view if role == "guest" else [*view, ("translator", np.asarray(reveals["translator"], np.float64))]


async def _begin(party: Party, peer: str, rows: int, columns: int, settings: Settings) -> _Side:
    text = canonical_json({name: float(getattr(settings, name)) for name in settings.__dataclass_fields__})
    digest = key_of(0, purpose=text.decode()) >> 65
    await party.send(peer, "hello", np.array([VERSION, rows, columns, digest], np.int64))
    version, their_rows, other, theirs = (int(each) for each in await party.recv(peer, "hello"))
    if version != VERSION:
        raise RefusedError(f"{peer}: expected version {VERSION} of the protocol, found {version}")
    if their_rows != rows:
        raise RefusedError(f"{peer}: expected {rows} common rows as here, found {their_rows}; align the rows first")
    if theirs != digest:
        raise RefusedError(f"{peer}: expected the settings of the training as here, found others")
    _check_sizes(party.role, rows, columns, settings.dimensions)
    _check_sizes(peer, rows, other, settings.dimensions)
    sizes = np.array([rows, columns, other, settings.dimensions, settings.iterations], np.int64)
    await party.send("arbiter", "hello", sizes)
    seed = (await party.recv("arbiter", "seed")).tobytes()
    return _Side(party, peer, settings, seed, columns, other, rows)


def _check_table(whose: str, table: Table) -> None:
    beyond = int((~(np.abs(table) <= LARGEST_VALUE)).any(axis=0).sum())
    if beyond:
        raise ConfigError(
            f"{whose}: expected columns within ±{LARGEST_VALUE:g}, found {beyond} that are not; take a smaller clip"
        )


def _check_sizes(whose: str, rows: int, columns: int, dimensions: int) -> None:
    if not MIN_ROWS <= rows <= MAX_ROWS:
        raise RefusedError(f"{whose}: expected {MIN_ROWS} to {MAX_ROWS} common rows, found {rows}")
    if not 1 <= columns <= MAX_COLUMNS or dimensions * columns * (dimensions + rows) > MAX_CELLS:
        raise RefusedError(
            f"{whose}: expected at most {MAX_COLUMNS} columns, and {MAX_CELLS} numbers in dimensions × columns × rows; "
            f"found {columns} columns, {dimensions} dimensions, {rows} rows"
        )


async def _gradient(side: _Side, terms: Terms, at: int) -> Table:
    """This party's gradient, `(num_columns, dimensions)`; the other's products are computed at the same time."""
    party, peer, d = side.party, side.peer, side.settings.dimensions
    theirs: Sizes = (d, side.num_theirs, d + side.num_rows)
    matrix, vector = _encoded(terms)
    a, share = _of_matrices(side.seed, at, terms.matrix.shape)
    b = _of_vectors(side.seed, at, theirs)
    await party.send(peer, "masked_vector", vector - b)
    await party.send(peer, "masked_matrix", matrix - a)
    opened = _of_shape(await party.recv(peer, "masked_vector"), (d, d + side.num_rows))
    correction = _of_shape(await party.recv("arbiter", "correction"), theirs[:2])
    # x·y = x·f + e·b + a·b for e = x − a, f = y − b: the owner of x has the first term, the other the second
    other = _of_shape(await party.recv(peer, "masked_matrix"), theirs)
    await party.send(peer, "product", correction + _products(other, b))
    rest = _of_shape(await party.recv(peer, "product"), (d, side.num_columns))
    total = share + _products(matrix, opened) + rest
    found = fixed_point.decode(total, MATRIX_BITS + VECTOR_BITS)
    if np.abs(found).max() > LARGEST_GRADIENT:
        raise RefusedError(f"{peer}: expected a gradient within the range of fixed point, found one beyond it")
    return terms.alone + found.T


def _own_share(terms: Terms, mask: tuple[Ring, Ring], opened: Ring) -> Ring:
    return mask[1] + _products(_encoded(terms)[0], opened)


def _encoded(terms: Terms) -> tuple[Ring, Ring]:
    return fixed_point.encode(terms.matrix, MATRIX_BITS), fixed_point.encode(terms.vector, VECTOR_BITS)


def _of_matrices(seed: bytes, at: int, sizes: tuple[int, ...]) -> tuple[Ring, Ring]:
    """The mask of one's matrices in an iteration, and one's share of their products."""
    d, columns, length = sizes
    a, share = sharing.expand(sharing.derive(seed, 2 * at), (d, columns, length), (d, columns))
    return a, share


def _of_vectors(seed: bytes, at: int, sizes: Sizes) -> Ring:
    """The mask of one's vectors in an iteration."""
    d, _, length = sizes
    return sharing.expand(sharing.derive(seed, 2 * at + 1), (d, length))[0]


def _products(matrices: Ring, vectors: Ring) -> Ring:
    """Each matrix times its vector modulo 2^64: `(d, p, l)` and `(d, l)` to `(d, p)`."""
    found: Ring = np.einsum("kpl,kl->kp", matrices, vectors)
    return found


def _of_shape(array: Array, shape: tuple[int, ...]) -> Array:
    if array.shape != shape:
        raise RefusedError(f"transfer: expected an array of {shape}, found {array.shape}")
    return array
