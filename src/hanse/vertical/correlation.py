"""Pearson's correlation between one party's columns and another's, with a dealer.

D. Beaver, "Efficient Multiparty Protocols Using Circuit Randomization", CRYPTO 1991, for the one product XᵀY of
columns that each party standardises by itself (mean 0, variance 1). The arbiter deals a split triple (see
`hanse.crypto.sharing`) and hears nothing but shapes. Fixed point with 20 fraction bits; the product is opened, so
nothing is truncated: the result is exact but for rounding the inputs, at most 2^−20.

Correlations are exact enough to hold several rows at once: a party that makes up its columns for the purpose reads the
other's columns of few different values (yes or no) row by row, `ROWS_A_COLUMN` or not. `rows` in Reveals says so, for a
policy to refuse.

Rows must be aligned before, as by `hanse.vertical.psi`. Not here: correlations within one party, which it computes
alone; missing values.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.channels.party import Party
from hanse.channels.protocol import Guarantee, Message, Protocol, Reveal
from hanse.core.arrays import Array
from hanse.core.errors import ConfigError, RefusedError
from hanse.crypto import fixed_point, sharing
from hanse.crypto.aes import KEY_BYTES

Table = npt.NDArray[np.float64]

FRACTION_BITS = 20
MIN_ROWS = 20
MAX_ROWS = 1 << 20
MAX_COLUMNS = 1 << 12
MAX_CELLS = 1 << 25
"""Rows times columns of either party. The arbiter computes with tables of these sizes on the word of the parties: about
1.5 GB for two of them."""
ROWS_A_COLUMN = 4
"""Rows that there must be for each column of either party: with as many columns as rows, correlations give the rows
away. It stops no party that chooses its columns for that: see the module's text."""

_RESULT = "the correlation of every own column with every column of the other party"
_ROWS = (
    "if it chooses its own columns for it: low-entropy columns of the other party, such as yes or no, row by row, "
    "within the limit of rows for each column, too"
)
PROTOCOL = Protocol(
    name="statistics/correlation",
    roles=("guest", "host", "arbiter"),
    messages=(
        Message("shape", "guest", "host", "int64", (2,)),
        Message("shape", "host", "guest", "int64", (2,)),
        Message("shapes", "guest", "arbiter", "int64", (3,)),
        Message("shapes", "host", "arbiter", "int64", (3,)),
        Message("seed", "arbiter", "guest", "uint8", (KEY_BYTES,)),
        Message("seed", "arbiter", "host", "uint8", (KEY_BYTES,)),
        Message("correction", "arbiter", "host", "uint64", (None, None)),
        Message("masked", "guest", "host", "uint64", (None, None)),
        Message("masked", "host", "guest", "uint64", (None, None)),
        Message("product", "guest", "host", "uint64", (None, None)),
        Message("product", "host", "guest", "uint64", (None, None)),
    ),
    guarantee=Guarantee(
        adversary="semi-honest",
        corrupted=1,
        computational_bits=128,
        statistical_bits=128,
        assumptions=("AES-128 is a pseudorandom permutation", "the arbiter colludes with neither party"),
    ),
    reveals=(
        Reveal("guest", "host", "shape", "how many rows and columns the host has"),
        Reveal("host", "guest", "shape", "how many rows and columns the guest has"),
        Reveal("arbiter", "guest", "shape", "how many rows and columns the guest has"),
        Reveal("arbiter", "host", "shape", "how many rows and columns the host has"),
        Reveal("guest", "host", "correlation", _RESULT),
        Reveal("host", "guest", "correlation", _RESULT),
        Reveal("guest", "host", "rows", _ROWS),
        Reveal("host", "guest", "rows", _ROWS),
    ),
)


async def guest(party: Party, table: Table) -> Table:
    """The side whose columns are the result's rows.

    Args:
        party: in the role `guest`.
        table: float64, `(num_rows, num_columns)`, finite, in the common order.

    Returns:
        float64, `(guest's columns, host's columns)`: correlations, within 2^−20.

    Raises:
        ConfigError: too few rows for the columns, columns that are constant or not finite. RefusedError: the other
        party's rows do not fit, or it does not keep to the protocol. UnavailableError: a party is silent or gone.
    """
    x = standardised(table).T
    sizes = await _agree(party, "host", table)
    seed = (await party.recv("arbiter", "seed")).tobytes()
    a, first_c = sharing.split_first(sizes, seed)
    await party.send("host", "masked", x - a)
    f = _of_shape(await party.recv("host", "masked"), sizes[1:])
    mine = first_c + sharing.matmul(x, f)  # c₀ + a·f + e·f, since a + e = x
    await party.send("host", "product", mine)
    theirs = _of_shape(await party.recv("host", "product"), (sizes[0], sizes[2]))
    return _correlation(sharing.reveal(mine, theirs), sizes[1])


async def host(party: Party, table: Table) -> Table:
    """The side whose columns are the result's columns; arguments, result and errors as for `guest`."""
    y = standardised(table)
    sizes = await _agree(party, "guest", table)
    b = sharing.split_second(sizes, (await party.recv("arbiter", "seed")).tobytes())
    second_c = _of_shape(await party.recv("arbiter", "correction"), (sizes[0], sizes[2]))
    await party.send("guest", "masked", y - b)
    e = _of_shape(await party.recv("guest", "masked"), sizes[:2])
    mine = second_c + sharing.matmul(e, b)
    await party.send("guest", "product", mine)
    theirs = _of_shape(await party.recv("guest", "product"), (sizes[0], sizes[2]))
    return _correlation(sharing.reveal(theirs, mine), sizes[1])


async def arbiter(party: Party) -> None:
    """The dealer: learns the shapes, sends what hides the product.

    Raises:
        RefusedError: the parties name different or impossible shapes.
    """
    named = [(await party.recv(role, "shapes")).tolist() for role in ("guest", "host")]
    if named[0] != named[1]:
        raise RefusedError("arbiter: expected guest and host to name the same shapes, found different ones")
    columns, rows, other_columns = named[0]
    _check_shape("guest", rows, columns)
    _check_shape("host", rows, other_columns)
    seeds = sharing.new_seed(), sharing.new_seed()
    for role, seed in zip(("guest", "host"), seeds, strict=True):
        await party.send(role, "seed", np.frombuffer(seed, np.uint8))
    await party.send("host", "correction", sharing.deal_split((columns, rows, other_columns), *seeds))


def standardised(table: Table) -> fixed_point.Ring:
    """Columns of mean 0 and variance 1 in fixed point: uint64, of the table's shape.

    Raises:
        ConfigError: not a table, too few rows, or columns that are constant or not finite (how many, not which).
    """
    if table.ndim != 2:
        raise ConfigError(f"table: expected rows and columns, found {table.ndim} dimensions")
    try:
        _check_shape("table", *table.shape)
    except RefusedError as error:
        raise ConfigError(str(error)) from None
    bad = int((~np.isfinite(table)).any(axis=0).sum())
    if bad:
        raise ConfigError(f"table: expected finite columns, found {bad} that are not")
    exponents = np.frexp(np.abs(table).max(axis=0))[1]
    scaled = np.ldexp(table, -exponents)  # so that no square overflows; powers of two round nothing
    centred = scaled - scaled.mean(axis=0)
    centred -= centred.mean(axis=0)  # of a column far from 0 the first mean is rounded, too
    deviation = np.sqrt((centred**2).mean(axis=0))
    constant = int((deviation <= 1e-14).sum())
    if constant:
        raise ConfigError(f"table: expected columns that vary, found {constant} that are constant")
    return fixed_point.encode(centred / deviation, FRACTION_BITS)


def simulate_view(role: str, table: Table, reveals: Mapping[str, Any]) -> list[tuple[str, Array]]:
    """What `role` receives in a run, from its own input and what is revealed; see `chase_miao.simulate_view`.

    Args:
        role: `guest` or `host`.
        table: its columns.
        reveals: `columns`, the peer's number, and `product`, the opened integers, uint64 `(guest's, host's columns)`:
            the correlations as they are computed.
    """
    rows, own = table.shape
    other, product = int(reveals["columns"]), reveals["product"]
    seed, uniform = sharing.new_seed(), sharing.new_seed()
    shape, key = ("shape", np.array([rows, other], np.int64)), ("seed", np.frombuffer(seed, np.uint8))
    if role == "guest":
        sizes = (own, rows, other)
        (masked,) = sharing.expand(uniform, (rows, other))
        mine = sharing.split_first(sizes, seed)[1] + sharing.matmul(standardised(table).T, masked)
        return [shape, key, ("masked", masked), ("product", product - mine)]
    sizes = (other, rows, own)
    masked, correction = sharing.expand(uniform, (other, rows), (other, own))
    mine = correction + sharing.matmul(masked, sharing.split_second(sizes, seed))
    return [shape, key, ("correction", correction), ("masked", masked), ("product", product - mine)]


async def _agree(party: Party, peer: str, table: Table) -> sharing.Sizes:
    """Exchange shapes with the peer and name both to the arbiter: guest's columns, rows, host's columns."""
    rows, own = table.shape
    await party.send(peer, "shape", np.array([rows, own], np.int64))
    their_rows, other = (int(each) for each in await party.recv(peer, "shape"))
    if their_rows != rows:
        raise RefusedError(f"{peer}: expected {rows} rows as here, found {their_rows}; align the rows first")
    _check_shape(peer, their_rows, other)
    sizes = (own, rows, other) if party.role == "guest" else (other, rows, own)
    await party.send("arbiter", "shapes", np.array(sizes, np.int64))
    return sizes


def _check_shape(whose: str, rows: int, columns: int) -> None:
    if not MIN_ROWS <= rows <= MAX_ROWS:
        raise RefusedError(f"{whose}: expected {MIN_ROWS} to {MAX_ROWS} rows, found {rows}")
    if not 1 <= columns <= min(MAX_COLUMNS, rows // ROWS_A_COLUMN):
        raise RefusedError(
            f"{whose}: expected 1 to {min(MAX_COLUMNS, rows // ROWS_A_COLUMN)} columns for {rows} rows, found {columns}"
        )
    if rows * columns > MAX_CELLS:
        raise RefusedError(f"{whose}: expected at most {MAX_CELLS} cells, found {rows} rows of {columns} columns")


def _correlation(product: fixed_point.Ring, rows: int) -> Table:
    return fixed_point.decode(product, 2 * FRACTION_BITS) / rows


def _of_shape(array: Array, shape: tuple[int, ...]) -> Array:
    if array.shape != shape:
        raise RefusedError(f"correlation: expected an array of {shape}, found {array.shape}")
    return array
