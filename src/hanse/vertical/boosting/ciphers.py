"""Ciphers under which hosts add up derivatives: Okamoto–Uchiyama, Paillier, and none at all with the same messages.

A `Keeper` is the guest's: it encrypts and decrypts, and no decrypted value leaves it. An `Adder` is a host's. The host
handles ciphertexts by the thousand, with one bound for all of them: how many rows a sum may have is checked once, for
the whole table (`Layout`), since no cell of a histogram holds a row twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hanse.core.arrays import Array
from hanse.core.errors import ConfigError, RefusedError
from hanse.crypto import okamoto_uchiyama, paillier
from hanse.crypto.gmp import gmpy2_module
from hanse.crypto.packing import Packing
from hanse.crypto.products import Products

BITS = 2048
_KEY_BYTES = BITS // 8
Numbers = Any
"""What an `Adder` holds: one number a row or a cell, in a form of its own."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How g and h lie in one message, and sums of several cells in one answer.

    A row's message is g · 2^h_bits + h. In an answer the sums of `per` cells lie one above the other, each with
    `offset` added, so that none is negative.

    Attributes:
        packing: of one row: h below, g signed above.
        per: cells of one answer.
    """

    packing: Packing
    per: int

    @classmethod
    def of(cls, g_most: int, h_most: int, num_rows: int, capacity_bits: int) -> "Layout":
        """For so many rows.

        Raises:
            ConfigError: not even one cell fits.
        """
        if num_rows * max(g_most, h_most) >= 1 << 53:
            raise ConfigError(f"rows: expected fewer for sums of derivatives that are exact, found {num_rows}")
        packing = Packing((h_most, g_most), num_rows)
        return cls(packing, capacity_bits // (sum(packing.widths) + 1))

    @property
    def h_bits(self) -> int:
        """Bits of the lower field, the highest of which is a guard."""
        return self.packing.widths[0]

    @property
    def bits(self) -> int:
        """Bits of a cell in an answer: those of the packing, and one for the sign of g."""
        return sum(self.packing.widths) + 1

    @property
    def offset(self) -> int:
        """What is added to a cell."""
        return 1 << self.bits - 1

    def messages(self, g: Array, h: Array) -> list[int]:
        """One integer a row; g, h: int64, within the bounds."""
        h_most, g_most = self.packing.largest
        if len(g) and (np.abs(g).max() > g_most or h.min() < 0 or h.max() > h_most):
            raise ConfigError("derivatives: expected values within their bounds")
        h_bits = self.h_bits
        return [(a << h_bits) + b for a, b in zip(g.tolist(), h.tolist(), strict=True)]

    def cells(self, answers: Sequence[int], num_cells: int) -> tuple[Array, Array]:
        """Σg and Σh of each cell, int64.

        Raises:
            RefusedError: sums of more rows than there are.
        """
        width, h_bits, per = self.bits, self.h_bits, range(self.per)
        cell_mask, h_mask = (1 << width) - 1, (1 << h_bits) - 1
        flat = [each >> width * at & cell_mask for each in answers for at in per][:num_cells]
        half = 1 << width - h_bits - 1
        g = np.array([(each >> h_bits) - half for each in flat], np.int64)
        h = np.array([each & h_mask for each in flat], np.int64)
        h_most, g_most = (each * self.packing.max_terms for each in self.packing.largest)
        if len(g) and (np.abs(g).max() > g_most or h.max() > h_most):
            raise RefusedError("sums: expected those of the table's rows, found larger ones")
        return g, h

    def num_answers(self, num_cells: int) -> int:
        """Ciphertexts that so many cells take."""
        return -(-num_cells // self.per)


class Keeper(Protocol):
    """The guest's side of a cipher."""

    capacity_bits: int

    def public(self) -> Array:
        """The public key as it travels: uint8, of two dimensions."""

    def encrypt(self, messages: Sequence[int], layout: Layout) -> Array:
        """Ciphertexts of rows: uint8, `(n, width)`."""

    def decrypt(self, answers: Array, layout: Layout) -> list[int]:
        """What answers hold.

        Raises:
            RefusedError: not ciphertexts, or messages beyond the layout.
        """


class Adder(Protocol):
    """A host's side of a cipher."""

    capacity_bits: int

    def read(self, raw: Array) -> Numbers:
        """Ciphertexts from outside.

        Raises:
            RefusedError: one out of range or not coprime to the modulus.
        """

    def rows(self, parts: Sequence[Numbers], times: int) -> Any:
        """Rows' numbers, chunk after chunk, made ready to be added up some `times` each."""

    def by_cells(self, rows: Any, places: Array, cells: Sequence[Array], sizes: Sequence[int]) -> list[Numbers]:
        """For each of several tables, sums over the rows at `places` by cell."""

    def join(self, parts: Sequence[Numbers]) -> Numbers:
        """Several in a row."""

    def take(self, numbers: Numbers, places: Array) -> Numbers:
        """Some of them."""

    def by_cell(self, numbers: Numbers, cells: Array, num_cells: int) -> Numbers:
        """Sums over the numbers of each cell; of nothing where it has none."""

    def minus(self, numbers: Numbers, others: Numbers) -> Numbers:
        """Differences."""

    def answers(self, numbers: Numbers, layout: Layout) -> Array:
        """Packed, re-randomised and ready to be sent: uint8, `(n, width)`."""


class ModularAdder:
    """An adder whose ciphertexts are numbers modulo one: Okamoto–Uchiyama, Paillier."""

    def __init__(self, public: Any, products: Products, capacity_bits: int) -> None:
        self.capacity_bits = capacity_bits
        self._public, self._products = public, products
        self._constants: dict[int, Any] = {}

    def read(self, raw: Array) -> Numbers:
        """See `Adder.read`."""
        return self._products.read(raw)

    def rows(self, parts: Sequence[Numbers], times: int) -> Any:
        """See `Adder.rows`."""
        return self._products.rows(self.join(parts), times)

    def by_cells(self, rows: Any, places: Array, cells: Sequence[Array], sizes: Sequence[int]) -> list[Numbers]:
        """See `Adder.by_cells`."""
        return self._products.by_cells(rows, places, cells, sizes)

    def join(self, parts: Sequence[Numbers]) -> Numbers:
        """See `Adder.join`."""
        return [each for part in parts for each in part]

    def take(self, numbers: Numbers, places: Array) -> Numbers:
        """See `Adder.take`."""
        return [numbers[at] for at in places.tolist()]

    def by_cell(self, numbers: Numbers, cells: Array, num_cells: int) -> Numbers:
        """See `Adder.by_cell`."""
        return self._products.by_cell(numbers, cells, num_cells)

    def minus(self, numbers: Numbers, others: Numbers) -> Numbers:
        """See `Adder.minus`."""
        return self._products.quotients(numbers, others)

    def answers(self, numbers: Numbers, layout: Layout) -> Array:
        """See `Adder.answers`."""
        bits, offset, per = layout.bits, layout.offset, layout.per
        made = self._products.shifted(numbers, per, bits)
        for at, each in enumerate(made):
            constant = sum(offset << bits * field for field in range(min(per, len(numbers) - at * per)))
            made[at] = each * self._known(constant) % self._products.modulus
        return self._products.write(self._masked(made))

    def _known(self, message: int) -> Any:
        """A ciphertext that hides nothing."""
        if message not in self._constants:
            self._constants[message] = self._plain(message)
        return self._constants[message]

    def _plain(self, message: int) -> Any:
        if isinstance(self._public, paillier.PublicKey):
            return (1 + message * self._public.n) % self._products.modulus
        return gmpy2_module().powmod(self._public.g, message, self._products.modulus)

    def _masked(self, numbers: Sequence[Any]) -> list[Any]:
        if isinstance(self._public, paillier.PublicKey):
            return self._public.rerandomise_all(numbers)
        sealed = [okamoto_uchiyama.Ciphertext(each, 0) for each in numbers]
        return [each.value for each in self._public.rerandomise_all(sealed)]


class OkamotoUchiyama:
    """The guest's side of Okamoto–Uchiyama; a key is for one run."""

    capacity_bits = okamoto_uchiyama.MESSAGE_BITS

    def __init__(self) -> None:
        self._key = okamoto_uchiyama.generate()
        self._products = Products(self._key.public.n, _KEY_BYTES)

    def public(self) -> Array:
        """See `Keeper.public`."""
        key = self._key.public
        return self._products.write([key.n, key.g, key.h])

    def encrypt(self, messages: Sequence[int], layout: Layout) -> Array:
        """See `Keeper.encrypt`."""
        bound = layout.packing.bound
        return self._products.write([each.value for each in self._key.encrypt_all(messages, bound)])

    def decrypt(self, answers: Array, layout: Layout) -> list[int]:
        """See `Keeper.decrypt`."""
        bound = (1 << layout.bits * layout.per) - 1
        found = [self._key.decrypt(okamoto_uchiyama.Ciphertext(each, bound)) for each in self._products.read(answers)]
        return [_not_negative(each) for each in found]

    @staticmethod
    def adder(public: Array) -> ModularAdder:
        """A host's side, of a key that came from outside."""
        n, g, h = _integers(public, (3, _KEY_BYTES))
        key = okamoto_uchiyama.PublicKey(n, g, h)
        return ModularAdder(key, Products(n, _KEY_BYTES), okamoto_uchiyama.MESSAGE_BITS)


class Paillier:
    """The guest's side of Paillier."""

    capacity_bits = BITS - 2

    def __init__(self) -> None:
        self._key = paillier.generate(BITS)
        self._products = Products(self._key.public.n_squared, 2 * _KEY_BYTES)

    def public(self) -> Array:
        """See `Keeper.public`."""
        return self._products.write([self._key.public.n, self._key.public.h_n])

    def encrypt(self, messages: Sequence[int], layout: Layout) -> Array:
        """See `Keeper.encrypt`."""
        return self._products.write(self._key.public.encrypt_all(messages))

    def decrypt(self, answers: Array, layout: Layout) -> list[int]:
        """See `Keeper.decrypt`."""
        return [_not_negative(self._key.decrypt(each)) for each in self._products.read(answers)]

    @staticmethod
    def adder(public: Array) -> ModularAdder:
        """A host's side, of a key that came from outside."""
        n, h_n = _integers(public, (2, 2 * _KEY_BYTES))
        key = paillier.PublicKey(n, h_n)
        if n.bit_length() != BITS:
            raise RefusedError(f"paillier key: expected a modulus of {BITS} bits")
        return ModularAdder(key, Products(key.n_squared, 2 * _KEY_BYTES), BITS - 2)


class Mock:
    """No encryption, with the messages and sizes of Okamoto–Uchiyama: it tells what a training costs without a cipher.

    **Guarantee.** None. **Reveals.** Everything: to each host every row's derivatives, from which labels follow.
    """

    capacity_bits = okamoto_uchiyama.MESSAGE_BITS

    def public(self) -> Array:
        """See `Keeper.public`."""
        return np.zeros((3, _KEY_BYTES), np.uint8)

    def encrypt(self, messages: Sequence[int], layout: Layout) -> Array:
        """See `Keeper.encrypt`."""
        content = b"".join((each % (1 << 8 * _KEY_BYTES)).to_bytes(_KEY_BYTES, "little") for each in messages)
        return np.frombuffer(content, np.uint8).reshape(-1, _KEY_BYTES)

    def decrypt(self, answers: Array, layout: Layout) -> list[int]:
        """See `Keeper.decrypt`."""
        return [int.from_bytes(each.tobytes(), "little") for each in answers]

    @staticmethod
    def adder(public: Array) -> "MockAdder":
        """A host's side."""
        _integers(public, (3, _KEY_BYTES))
        return MockAdder()


_LIMB_BITS = 32
_LIMBS = 4
"""Of a row's message, which has 108 bits at most: two fields of 53 bits and a guard each."""


class MockAdder:
    """See `Mock`. Numbers are four limbs of 32 bits, int64 `(n, 4)`, the highest signed, so that sums do not carry."""

    capacity_bits = okamoto_uchiyama.MESSAGE_BITS

    def read(self, raw: Array) -> Numbers:
        """See `Adder.read`."""
        limbs = np.ascontiguousarray(raw[:, : 4 * _LIMBS]).view("<u4").astype(np.int64)
        limbs[:, -1] = _signed(limbs[:, -1])
        return limbs

    def rows(self, parts: Sequence[Numbers], times: int) -> Any:
        """See `Adder.rows`."""
        return self.join(parts) if parts else np.zeros((0, _LIMBS), np.int64)

    def by_cells(self, rows: Any, places: Array, cells: Sequence[Array], sizes: Sequence[int]) -> list[Numbers]:
        """See `Adder.by_cells`."""
        taken = rows[places].T.astype(np.float64)
        return [self._sums(taken, each, size) for each, size in zip(cells, sizes, strict=True)]

    def join(self, parts: Sequence[Numbers]) -> Numbers:
        """See `Adder.join`."""
        return np.concatenate(parts)

    def take(self, numbers: Numbers, places: Array) -> Numbers:
        """See `Adder.take`."""
        return numbers[places]

    def by_cell(self, numbers: Numbers, cells: Array, num_cells: int) -> Numbers:
        """See `Adder.by_cell`."""
        return self._sums(numbers.T.astype(np.float64), cells, num_cells)

    def _sums(self, limbs: Array, cells: Array, num_cells: int) -> Numbers:
        sums = [np.bincount(cells, weights=limb, minlength=num_cells) for limb in limbs]
        return np.stack(sums, axis=1).astype(np.int64)  # exact below 2^53

    def minus(self, numbers: Numbers, others: Numbers) -> Numbers:
        """See `Adder.minus`."""
        return numbers - others

    def answers(self, numbers: Numbers, layout: Layout) -> Array:
        """See `Adder.answers`."""
        bits, offset = layout.bits, layout.offset
        whole = [sum(limb << _LIMB_BITS * at for at, limb in enumerate(limbs)) + offset for limbs in numbers.tolist()]
        made = [
            sum(each << bits * at for at, each in enumerate(whole[start : start + layout.per]))
            for start in range(0, len(whole), layout.per)
        ]
        content = b"".join((each % (1 << 8 * _KEY_BYTES)).to_bytes(_KEY_BYTES, "little") for each in made)
        return np.frombuffer(content, np.uint8).reshape(-1, _KEY_BYTES)


KEEPERS: dict[str, Any] = {"okamoto-uchiyama": OkamotoUchiyama, "paillier": Paillier, "mock": Mock}
WIDTHS = {"okamoto-uchiyama": _KEY_BYTES, "paillier": 2 * _KEY_BYTES, "mock": _KEY_BYTES}
"""Bytes of a ciphertext."""
KEY_PARTS = {"okamoto-uchiyama": 3, "paillier": 2, "mock": 3}


def _integers(public: Array, shape: tuple[int, int]) -> list[int]:
    if public.shape != shape:
        raise RefusedError(f"public key: expected {shape[0]} numbers of {shape[1]} bytes")
    return [int.from_bytes(each.tobytes(), "little") for each in public]


def _not_negative(message: int) -> int:
    if message < 0:
        raise RefusedError("sums: expected messages of the agreed layout, found others")
    return message


def _signed(limb: Array) -> Array:
    return (limb ^ (1 << 31)) - (1 << 31)
