"""Products of many numbers modulo one: what sums of many ciphertexts are.

Over gmpy2, one by one; and where it pays and the processor has the instructions, eight at a time (`montgomery`), on as
many threads as numba has. The results are the same numbers.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from hanse.core.arrays import Array
from hanse.core.errors import RefusedError
from hanse.crypto import gmp
from hanse.crypto.gmp import gmpy2_module, montgomery_of

Numbers = list[Any]
"""mpz, each at least 0 and below the modulus."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Numbers that are added up again and again.

    Attributes:
        numbers: as they are.
        limbs: in Montgomery's form, if they are that many that it pays; otherwise None.
    """

    numbers: Numbers
    limbs: Array | None


class Products:
    """Arithmetic modulo one number.

    Args:
        modulus: odd.
        width: bytes of a number when it travels.
    """

    def __init__(self, modulus: int, width: int) -> None:
        self._gmpy2 = gmpy2_module()
        self.modulus = self._gmpy2.mpz(modulus)
        self.width = width

    def read(self, raw: Array) -> Numbers:
        """Numbers from outside.

        Args:
            raw: uint8, `(n, width)`, little-endian.

        Raises:
            RefusedError: one out of range or not coprime to the modulus.
        """
        content, width, mpz = raw.tobytes(), self.width, self._gmpy2.mpz
        found = [mpz(int.from_bytes(content[at : at + width], "little")) for at in range(0, len(content), width)]
        whole = mpz(1)
        for each in found:
            whole = whole * each % self.modulus
        # a product is coprime exactly where every factor is
        if self._gmpy2.gcd(whole, self.modulus) != 1 or (found and max(found) >= self.modulus):
            raise RefusedError("ciphertexts: expected numbers below the modulus and coprime to it, found others")
        return found

    def write(self, numbers: Sequence[Any]) -> Array:
        """Numbers as they travel: uint8, `(n, width)`."""
        content = b"".join(int(each).to_bytes(self.width, "little") for each in numbers)
        return np.frombuffer(content, np.uint8).reshape(-1, self.width)

    def by_cell(self, numbers: Numbers, cells: Array, num_cells: int) -> Numbers:
        """For each cell the product of its numbers; 1 where it has none.

        Args:
            numbers: one for each of `cells`.
            cells: integers from 0 to `num_cells` − 1.
        """
        one, modulus = self._gmpy2.mpz(1), self.modulus
        made = [one] * num_cells
        for cell, each in zip(cells.tolist(), numbers, strict=True):
            made[cell] = made[cell] * each % modulus
        return made

    def rows(self, numbers: Numbers, times: int) -> Rows:
        """Prepare numbers for `by_cells`, which each of them will go through some `times`."""
        pays = gmp.pays(len(numbers) * times) and self._montgomery is not None
        return Rows(numbers, self._montgomery.read(numbers) if pays else None)

    def by_cells(self, rows: Rows, places: Array, cells: Sequence[Array], sizes: Sequence[int]) -> list[Numbers]:
        """`by_cell` for several tables at a time.

        Args:
            rows: of `rows`.
            places: int64, `(n,)`: which of them.
            cells: for each table, integers `(n,)`.
            sizes: of each table, how many cells it has.
        """
        if rows.limbs is None:
            taken = [rows.numbers[at] for at in places.tolist()]
            return [self.by_cell(taken, each, size) for each, size in zip(cells, sizes, strict=True)]
        import numba

        starts = range(0, len(cells), 8)
        work = [(rows.limbs, places, cells[at : at + 8], sizes[at : at + 8]) for at in starts]
        with ThreadPoolExecutor(min(len(work), numba.get_num_threads())) as threads:
            tables = list(threads.map(lambda each: self._eight(*each), work))
        return [
            self._montgomery.write(table[lane, :size])
            for table, at in zip(tables, starts, strict=True)
            for lane, size in enumerate(sizes[at : at + 8])
        ]

    def _eight(self, limbs: Array, places: Array, cells: Sequence[Array], sizes: Sequence[int]) -> Array:
        tables: Array = self._montgomery.tables(max(sizes))
        lanes = np.zeros((8, len(places)), np.int32)
        lanes[: len(cells)] = cells
        self._montgomery.multiply_into(tables, lanes, limbs, places)
        return tables

    @cached_property
    def _montgomery(self) -> Any:
        return montgomery_of(int(self.modulus))

    def quotients(self, numbers: Numbers, divisors: Numbers) -> Numbers:
        """Each number divided by its divisor: one inversion for all (P. Montgomery, Math. Comp. 48, 1987)."""
        modulus = self.modulus
        before = [self._gmpy2.mpz(1)]
        for each in divisors:
            before.append(before[-1] * each % modulus)
        rest = self._gmpy2.invert(before[-1], modulus)
        made: Numbers = []
        for number, divisor, earlier in zip(reversed(numbers), reversed(divisors), reversed(before[:-1]), strict=True):
            made.append(number * (rest * earlier % modulus) % modulus)
            rest = rest * divisor % modulus
        return made[::-1]

    def shifted(self, numbers: Sequence[Any], per: int, bits: int) -> Numbers:
        """Of every `per` numbers, and of those that are left at the end, ∏ numbers[i]^(2^(i · bits)).

        By W. G. Horner's rule.
        """
        if not gmp.pays(len(numbers) * bits) or self._montgomery is None:
            return [self._horner(numbers[start : start + per], bits) for start in range(0, len(numbers), per)]
        padded = [*numbers, *([self._gmpy2.mpz(1)] * (-len(numbers) % per))]
        fields = self._montgomery.read(padded)
        return list(
            self._montgomery.write(self._montgomery.multiply_shifted(fields.reshape(-1, per, fields.shape[1]), bits))
        )

    def _horner(self, fields: Sequence[Any], bits: int) -> Any:
        result, times = fields[-1], 1 << bits
        for each in reversed(fields[:-1]):
            result = self._gmpy2.powmod(result, times, self.modulus) * each % self.modulus
        return result
