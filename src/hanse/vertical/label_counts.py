"""How many positive rows each bin of the host's columns holds, counted over encrypted labels, by two parties alone.

The guest holds a label of two values, encrypts it (`hanse.crypto.rlwe`) and sends it once. For each bin the host adds
up the labels of its rows, under encryption: a row of zeros and ones times the encrypted vector. Several bins share one
product, each in a field of as many bits as the number of rows has, so that the smallest product is not wasted on one
bin. Results are exact.

Who learns the counts is chosen. With `sees="guest"` the host masks all bits but those of the fields, and tells how many
rows each bin has: the guest learns both counts of every bin, in an order of the bins that the host drew, and with them
WOE and IV; the host learns nothing of the label. With `sees="host"` the host masks every bit, the guest returns what it
decrypts, and the host learns the positives of its own bins: what it needs to replace its columns by their WOE. It
tells IV, one number a column, which is all that the guest learns.

Rows must be aligned before, as by `hanse.vertical.psi`. Bins are the host's: it merges small ones before (see
`binning`).
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hanse.channels.party import Party
from hanse.channels.protocol import Guarantee, Message, Protocol, Reveal
from hanse.core.arrays import Array
from hanse.core.errors import ConfigError, RefusedError
from hanse.crypto import rlwe
from hanse.crypto.rlwe import Answer, Encrypted, PrivateKey, PublicKey
from hanse.vertical.binning import MAX_BINS, Counts, information_value, of_columns
from hanse.vertical.glm import wide

Sees = Literal["guest", "host"]
Places = npt.NDArray[np.int64]

SEES = ("guest", "host")
VERSION = 1
MIN_ROWS = 20
MAX_ROWS = 1 << 22
MAX_COLUMNS = 1 << 14
_LARGEST_PRODUCT_ROW = 1 << 32
"""The sum of the factors of one product, which `rlwe` bounds."""
_BLOCK_CELLS = 1 << 22
"""Factors of the products that are computed at a time."""


def protocol(sees: Sees = "guest") -> Protocol:
    """The declaration of one of the modes.

    Raises:
        ConfigError: another one.
    """
    if sees not in SEES:
        raise ConfigError(f"sees: expected one of {', '.join(SEES)}, found {sees!r:.40}")
    size, kept = rlwe.SIZE, rlwe.ANSWER_PRIMES[rlwe.NUM_PRIMES]
    messages = [
        Message("hello", "guest", "host", "int64", (2,)),
        Message("public_key", "guest", "host", "uint32", (2, rlwe.NUM_PRIMES, size)),
        Message("labels", "guest", "host", "uint32", (None, rlwe.NUM_PRIMES, size)),
        Message("label_seeds", "guest", "host", "uint8", (None, 16)),
        Message("hello", "host", "guest", "int64", (2,)),
        Message("bins", "host", "guest", "int64", (None,)),
        Message("heads", "host", "guest", "uint32", (None, kept, size)),
        Message("tails", "host", "guest", "uint32", (None, kept, None)),
    ]
    reveals = [
        Reveal("host", "guest", "shape", "how many rows the guest has"),
        Reveal("guest", "host", "shape", "how many rows, columns and products the host has, and bins in each column"),
    ]
    if sees == "guest":
        messages.append(Message("rows", "host", "guest", "int64", (None,)))
        counts = "for each bin of each of its columns, in an order drawn at random: its rows, and its positive rows"
        reveals.append(Reveal("guest", "host", "bin_counts", counts))
        encoded = "if it encrypts other numbers than a label: of each bin log2(rows) bits of which rows are in it"
        reveals.append(Reveal("guest", "host", "rows", encoded))
    else:
        messages += [
            Message("opened", "guest", "host", "uint64", (None, 2)),
            Message("iv", "host", "guest", "float64", (None,)),
        ]
        positives = (
            "how many rows of each bin of its own columns are positive; of a bin with one kind alone, all labels"
        )
        reveals += [
            Reveal("host", "guest", "label_counts", positives),
            Reveal("guest", "host", "information_value", "one number for each of its columns"),
        ]
    return Protocol(
        name=f"statistics/label-counts-{sees}",
        roles=("guest", "host"),
        messages=tuple(messages),
        guarantee=Guarantee(
            adversary="semi-honest",
            corrupted=1,
            computational_bits=128,
            statistical_bits=40,
            assumptions=rlwe.ASSUMPTIONS,
        ),
        reveals=tuple(reveals),
    )


@dataclass(frozen=True, slots=True)
class AtGuest:
    """What the guest learns of each of the host's columns.

    Attributes:
        information_values: float64, `(num_columns,)`.
        rows, positives: of the bins of each column, in an order that means nothing; None where the host sees them.
    """

    information_values: npt.NDArray[np.float64]
    rows: list[Counts] | None = None
    positives: list[Counts] | None = None


async def guest(party: Party, positive: npt.NDArray[np.bool_], *, sees: Sees) -> AtGuest:
    """The side with the label.

    Args:
        party: in the role `guest`.
        positive: bool, `(num_rows,)`, in the common order.
        sees: who learns the counts, as at the host.

    Raises:
        ConfigError: too few or too many rows, or a label of one value. RefusedError: the host's rows do not fit, or
            it does not keep to the protocol. UnavailableError: it is silent or gone.
    """
    rows = len(positive)
    _check_rows("guest", rows)
    total = int(np.count_nonzero(positive))
    if not 0 < total < rows:
        raise ConfigError("label: expected rows of two values, found one")
    key = PrivateKey()
    await party.send("host", "hello", np.array([VERSION, rows], np.int64))
    await party.send("host", "public_key", np.stack([key.public.body, key.public.other]).astype(np.uint32))
    encrypted = key.encrypt_vector(np.asarray(positive, np.int64).tolist())
    await party.send("host", "labels", encrypted.body)
    await party.send("host", "label_seeds", encrypted.seeds)
    their_rows, num_products = (int(each) for each in await party.recv("host", "hello"))
    if their_rows != rows:
        raise RefusedError(f"host: expected {rows} rows as here, found {their_rows}; align the rows first")
    num_bins = await party.recv("host", "bins")
    if not 1 <= len(num_bins) <= MAX_COLUMNS or num_bins.min() < 1 or num_bins.max() > MAX_BINS + 1:
        raise RefusedError(f"host: expected 1 to {MAX_COLUMNS} columns of 1 to {MAX_BINS + 1} bins, found others")
    if not 1 <= num_products <= num_bins.sum():
        raise RefusedError(f"host: expected 1 to {num_bins.sum()} products, found {num_products}")
    if sees == "host":
        for start, stop in _blocks(num_products, rows):
            opened = key.decrypt_products(await _answer(party), stop - start, rows)
            await party.send("host", "opened", wide.to_words(np.array(opened, object)))
        found = await party.recv("host", "iv")
        if found.shape != num_bins.shape or not np.isfinite(found).all():
            raise RefusedError(f"host: expected {len(num_bins)} finite information values, found others")
        return AtGuest(found.copy())
    sizes = await party.recv("host", "rows")
    by_column = of_columns(sizes, num_bins.tolist()) if sizes.shape == (num_bins.sum(),) else []
    if not by_column or sizes.min() < 0 or any(each.sum() != rows for each in by_column):
        raise RefusedError(f"host: expected the {rows} rows of each column in its bins, found others")
    fields = shared_products(sizes.tolist(), rows)
    if len(fields) != num_products:
        raise RefusedError(f"host: expected {len(fields)} products for its bins, found {num_products}")
    opened = []
    for start, stop in _blocks(num_products, rows):
        opened += key.decrypt_products(await _answer(party), stop - start, rows)
    positives = of_columns(_unpacked(opened, fields, rows), num_bins.tolist())
    if any((p > n).any() or p.sum() != total for p, n in zip(positives, by_column, strict=True)):
        raise RefusedError("host: expected all positive rows in the bins of each column, found others")
    values = [information_value(n, p) for n, p in zip(by_column, positives, strict=True)]
    return AtGuest(np.array(values), [each.copy() for each in by_column], positives)


async def host(party: Party, places: Sequence[Places], num_bins: Sequence[int], *, sees: Sees) -> list[Counts] | None:
    """The side with the columns.

    Args:
        party: in the role `host`.
        places: for each column the bin of each row, int64 `(num_rows,)`, in the common order.
        num_bins: of each column.
        sees: who learns the counts, as at the guest.

    Returns:
        With `sees="host"` the positive rows of the bins of each column, otherwise None.

    Raises:
        As for `guest`.
    """
    if not 1 <= len(places) <= MAX_COLUMNS or max(num_bins) > MAX_BINS + 1:
        raise ConfigError(f"bins: expected 1 to {MAX_COLUMNS} columns of at most {MAX_BINS + 1} bins, found others")
    rows = len(places[0])
    _check_rows("host", rows)
    orders = [_random_order(each) if sees == "guest" else np.arange(each) for each in num_bins]
    shuffled = [order[place] for order, place in zip(orders, places, strict=True)]
    sizes = np.concatenate([np.bincount(at, minlength=n) for at, n in zip(shuffled, num_bins, strict=True)])
    version, their_rows = (int(each) for each in await party.recv("guest", "hello"))
    if version != VERSION:
        raise RefusedError(f"guest: expected version {VERSION} of the protocol, found {version}")
    if their_rows != rows:
        raise RefusedError(f"guest: expected {rows} rows as here, found {their_rows}; align the rows first")
    fields = shared_products(sizes.tolist(), rows)
    await party.send("guest", "hello", np.array([rows, len(fields)], np.int64))
    await party.send("guest", "bins", np.array(num_bins, np.int64))
    if sees == "guest":
        await party.send("guest", "rows", sizes.astype(np.int64))
    body, other = (await party.recv("guest", "public_key")).astype(np.uint64)
    public = PublicKey(body, other)
    labels = Encrypted(await party.recv("guest", "labels"), await party.recv("guest", "label_seeds"))
    ends = np.cumsum(num_bins)
    opened: list[int] = []
    for start, stop in _blocks(len(fields), rows):
        masks = [_mask(len(bins), rows, sees) for bins in fields[start:stop]]
        factors = np.stack([_factors(bins, shuffled, ends, rows) for bins in fields[start:stop]])
        answer = public.inner_products(factors, labels, masks)
        await party.send("guest", "heads", answer.heads)
        await party.send("guest", "tails", answer.tails)
        if sees == "host":
            words = await party.recv("guest", "opened")
            if words.shape != (stop - start, 2):
                raise RefusedError(f"guest: expected {stop - start} opened products, found {len(words)}")
            opened += [value - mask for value, mask in zip(wide.from_words(words).tolist(), masks, strict=True)]
    if sees == "guest":
        return None
    positives = of_columns(_unpacked(opened, fields, rows), list(num_bins))
    total = positives[0].sum()
    by_column = of_columns(sizes, list(num_bins))
    if not 0 < total < rows or any(
        (p > n).any() or p.sum() != total for p, n in zip(positives, by_column, strict=True)
    ):
        raise RefusedError("guest: expected a label of two values, found something else")
    values = [information_value(n, p) for n, p in zip(by_column, positives, strict=True)]
    await party.send("guest", "iv", np.array(values))
    return positives


def simulate_view(
    role: str, reveals: Mapping[str, Any], *, sees: Sees, positive: npt.NDArray[np.bool_] | None = None
) -> list[tuple[str, Array]]:
    """What `role` receives in a run, made from its own input and what is revealed.

    Args:
        role: `guest` or `host`.
        reveals: of the guest `num_bins` and, with `sees="guest"`, `sizes` and `positives`, int64, flat; otherwise
            `num_products` and `values`. Of the host `rows` (how many there are), `num_products`, and `block`, how many
            products were opened at a time.
        sees: as in the run.
        positive: the guest's label.
    """
    if role == "host":
        key = PrivateKey()
        encrypted = key.encrypt_vector([0] * int(reveals["rows"]))
        public = np.stack([key.public.body, key.public.other]).astype(np.uint32)
        view: list[tuple[str, Array]] = [("hello", np.array([VERSION, reveals["rows"]], np.int64))]
        view += [("public_key", public), ("labels", encrypted.body), ("label_seeds", encrypted.seeds)]
        if sees == "host":  # the host's masks are its own: what is opened adds up to the counts under others as likely
            for start, stop in _blocks(int(reveals["num_products"]), int(reveals["rows"])):
                uniform = [_mask(0, 1, "host") for _ in range(stop - start)]
                view.append(("opened", wide.to_words(np.array(uniform, object))))
        return view
    assert positive is not None
    rows, key = len(positive), PrivateKey()
    num_bins = np.asarray(reveals["num_bins"], np.int64)
    if sees == "guest":
        fields = shared_products(np.asarray(reveals["sizes"]).tolist(), rows)
        width, flat = rows.bit_length(), np.asarray(reveals["positives"]).tolist()
        packed = [sum(flat[bin_] << width * at for at, bin_ in enumerate(bins)) for bins in fields]
        masks = [value + _mask(len(bins), rows, "guest") for value, bins in zip(packed, fields, strict=True)]
    else:
        masks = [_mask(0, 1, "host") for _ in range(int(reveals["num_products"]))]
    view = [("hello", np.array([rows, len(masks)], np.int64)), ("bins", num_bins)]
    if sees == "guest":
        view.append(("rows", np.asarray(reveals["sizes"], np.int64)))
    nothing = key.encrypt_vector([0] * rows)
    for start, stop in _blocks(len(masks), rows):
        zeros = np.zeros((stop - start, rows), np.int64)
        answer = key.public.inner_products(zeros, nothing, masks[start:stop])
        view += [("heads", answer.heads), ("tails", answer.tails)]
    return view if sees == "guest" else [*view, ("iv", np.asarray(reveals["values"], np.float64))]


def shared_products(sizes: Sequence[int], rows: int) -> list[range]:
    """Which bins share a product: ranges of them, as long as the factors stay within what a product takes.

    Args:
        sizes: rows of each bin, of all columns in order.
        rows: how many there are; a field has as many bits as this number.
    """
    width, found, start, total = rows.bit_length(), [], 0, 0
    for at, size in enumerate(sizes):
        field = at - start
        added = size << width * field
        if field and (total + added >= _LARGEST_PRODUCT_ROW or width * (field + 1) > rlwe.WIDE_BITS):
            found.append(range(start, at))
            start, total, added = at, 0, size
        total += added
    return [*found, range(start, len(sizes))]


def _blocks(num_products: int, rows: int) -> Iterator[tuple[int, int]]:
    """Products that are computed and sent at a time."""
    each = max(1, _BLOCK_CELLS // rows)
    return ((start, min(start + each, num_products)) for start in range(0, num_products, each))


def _factors(bins: range, places: Sequence[Places], ends: npt.NDArray[np.int64], rows: int) -> Places:
    """int64, `(rows,)`: 2^(width · field) for a row in the bin of that field, added up where fields have it, too."""
    factors = np.zeros(rows, np.int64)
    for field, bin_ in enumerate(bins):
        column = int(np.searchsorted(ends, bin_, side="right"))
        first = int(ends[column - 1]) if column else 0
        here = places[column] == bin_ - first
        if here.any():  # the field of an empty bin may lie above what a factor holds
            factors[here] += 1 << rows.bit_length() * field
    return factors


def _mask(num_fields: int, rows: int, sees: Sees) -> int:
    """Uniform modulo 2^112 in every bit above the fields; with `sees="host"` in all bits."""
    mask = int.from_bytes(os.urandom(rlwe.WIDE_BITS // 8), "little")
    below = num_fields * rows.bit_length() if sees == "guest" else 0
    return mask >> below << below


def _unpacked(opened: Sequence[int], fields: Sequence[range], rows: int) -> Counts:
    """The counts of all bins: int64, flat."""
    width = rows.bit_length()
    field = (1 << width) - 1
    return np.array(
        [value >> width * at & field for value, bins in zip(opened, fields, strict=True) for at in range(len(bins))],
        np.int64,
    )


def _random_order(count: int) -> Places:
    keys = np.frombuffer(os.urandom(8 * count), np.uint64)
    return np.argsort(keys, kind="stable").astype(np.int64)


async def _answer(party: Party) -> Answer:
    return Answer(await party.recv("host", "heads"), await party.recv("host", "tails"))


def _check_rows(whose: str, rows: int) -> None:
    if not MIN_ROWS <= rows <= MAX_ROWS:
        raise ConfigError(f"{whose}: expected {MIN_ROWS} to {MAX_ROWS} rows, found {rows}")
