"""Several integers in one, so that one homomorphic addition adds them all.

Fields lie one above the other. Only the highest may hold negative values: a negative one below would borrow from its
neighbour. Every field has head-room for `max_terms` additions and a guard bit, so that no sum reaches the field above
and one of more terms, up to twice as many, is seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hanse.core.errors import ConfigError, RefusedError, TooLargeError


@dataclass(frozen=True, slots=True)
class Packing:
    """A layout of fields, lowest first.

    Attributes:
        largest: the largest value of each field, before any addition; for the last one the largest absolute value.
        max_terms: how many packed integers may be added up.

    Raises:
        ConfigError: no field, or a number below 1.

    Example:
        A gradient and its hessian, 20 and 16 bits, over 1000 rows: `Packing((2**16, 2**20), 1000)`.
    """

    largest: tuple[int, ...]
    max_terms: int

    def __post_init__(self) -> None:
        if not self.largest or min(*self.largest, self.max_terms) < 1:
            raise ConfigError("packing: expected at least one field, bounds from 1 on and max_terms from 1 on")

    @property
    def widths(self) -> tuple[int, ...]:
        """Bits of each field, the highest of which is the guard."""
        return tuple((each * self.max_terms).bit_length() + 1 for each in self.largest)

    @property
    def bound(self) -> int:
        """The largest absolute value of a sum of `max_terms` packed integers; a homomorphic cipher has to know it."""
        below = sum(self.widths[:-1])
        return (self.largest[-1] * self.max_terms << below) + (1 << below) - 1

    def pack(self, values: Sequence[int]) -> int:
        """One integer.

        Raises:
            ConfigError: not one value a field. TooLargeError: a value beyond its field, or a negative one below the
            last.
        """
        if len(values) != len(self.largest):
            raise ConfigError(f"packing: expected {len(self.largest)} values, found {len(values)}")
        values = [int(each) for each in values]  # those of NumPy wrap: abs(-2^63) is negative
        if abs(values[-1]) > self.largest[-1]:
            raise TooLargeError("packing: expected the last value within its bound")
        packed, shift = 0, 0
        for place, (value, width) in enumerate(zip(values, self.widths, strict=True)):
            if place < len(values) - 1 and not 0 <= value <= self.largest[place]:
                raise TooLargeError(f"packing: expected value {place} between 0 and its bound")
            packed += value << shift
            shift += width
        return packed

    def unpack(self, total: int) -> tuple[int, ...]:
        """The sums of the fields.

        Raises:
            RefusedError: more than `max_terms` packed integers can give. It is seen for certain up to twice as many.
        """
        values, rest = [], int(total)
        for width, largest in zip(self.widths[:-1], self.largest, strict=False):
            values.append(rest & ((1 << width) - 1))
            rest >>= width
            if values[-1] > largest * self.max_terms:
                raise RefusedError("packing: a field holds more than its terms can give")
        if abs(rest) > self.largest[-1] * self.max_terms:
            raise RefusedError("packing: the last field holds more than its terms can give")
        return (*values, rest)
