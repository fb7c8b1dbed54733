"""Many powers of one base: E. Brickell, D. Gordon, K. McCurley, D. Wilson, "Fast exponentiation with precomputation",
EUROCRYPT 1992, with windows of eight bits over gmpy2, or of other widths.

An exponent of k bits costs k / 8 products. Which entries of the table are read depends on the exponent: not for a
secret that is used twice on a machine shared with an attacker who watches its caches, and not for messages: their small
ones would be the faster ones. It is for fresh randomness alone.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from hanse.core.arrays import Array
from hanse.crypto import gmp
from hanse.crypto.gmp import gmpy2_module, montgomery_of


class FixedBase:
    """base^e mod modulus for exponents below 2^exponent_bits.

    Args:
        base, modulus: as in base^e mod modulus.
        exponent_bits: the longest exponent.
        window_bits: w: a power costs exponent_bits / w products, and the table holds 2^w / w × exponent_bits numbers.
    """

    def __init__(self, base: int, modulus: int, exponent_bits: int, *, window_bits: int = 8) -> None:
        mpz = gmpy2_module().mpz
        self._modulus = mpz(modulus)
        self._limit = 1 << exponent_bits
        self._used = 0
        self._window_bits, self._num_windows = window_bits, -(-exponent_bits // window_bits)
        self._table: list[list[Any]] = []
        step = mpz(base) % self._modulus
        for _ in range(self._num_windows):
            row = [mpz(1)]
            for _ in range((1 << window_bits) - 1):
                row.append(row[-1] * step % self._modulus)
            self._table.append(row)
            step = row[-1] * step % self._modulus

    def powers(self, exponents: Sequence[int]) -> list[Any]:
        """`power` of many; once they are so many that it pays, eight at a time.

        Raises:
            ValueError: an exponent that is negative or too long.
        """
        self._used += len(exponents) * self._num_windows
        if not exponents or not gmp.pays(self._used) or self._eight is None:
            return [self.power(each) for each in exponents]
        if not 0 <= min(exponents) <= max(exponents) < self._limit:
            raise ValueError(f"expected exponents of at most {self._limit.bit_length() - 1} bits, not negative")
        montgomery, tables = self._eight
        made: list[Any] = montgomery.write(montgomery.multiply_chosen(tables, self._digits(exponents)))
        return made

    @cached_property
    def _eight(self) -> Any:
        """Montgomery's arithmetic and the table in its form, uint64 `(windows, entries, limbs)`; None without it."""
        montgomery = montgomery_of(int(self._modulus))
        return None if montgomery is None else (montgomery, np.stack([montgomery.read(row) for row in self._table]))

    def _digits(self, exponents: Sequence[int]) -> Array:
        """int64, `(n, num_windows)`."""
        width, count = self._window_bits, self._num_windows
        num_bytes = -(-width * count // 8)
        raw = b"".join(int(each).to_bytes(num_bytes, "little") for each in exponents)
        bits = np.unpackbits(np.frombuffer(raw, np.uint8).reshape(len(exponents), -1), axis=1, bitorder="little")
        windows = bits[:, : width * count].reshape(len(exponents), count, width)
        digits: Array = windows @ (1 << np.arange(width))
        return digits

    def power(self, exponent: int) -> Any:
        """base^exponent, an mpz.

        Raises:
            ValueError: an exponent that is negative or too long.
        """
        if not 0 <= exponent < self._limit:
            raise ValueError(f"expected an exponent of at most {self._limit.bit_length() - 1} bits, not negative")
        modulus, width = self._modulus, self._window_bits
        mask, rest = (1 << width) - 1, int(exponent)
        result = self._table[0][rest & mask]
        for row in self._table[1:]:
            rest >>= width
            result = result * row[rest & mask] % modulus
        return result
