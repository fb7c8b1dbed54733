"""A mean function as a bounded periodic series, for evaluation on additive shares with one opening.

    mean(z) ≈ c + Σ_k [ a_k cos(2πkz/P) + b_k sin(2πkz/P) ],   k = 1 … K

The period P is a power of two, so that shares modulo 2^64 of z in fixed point are angles as they are. With z = δ + r,
δ opened and r the dealer's, sin and cos of k(δ + r) are linear in the dealer's shares of sin(kr) and cos(kr): no
product of secrets, no truncation. The fit is least squares on the range where it is to hold, which leaves the rest of
the period to bend back smoothly and so needs few terms; counts are fitted to the relative error, below a mean of 0.2
to the absolute one. Outside the range the series is still bounded, and wrong.

The coefficients beside a share are public integers, and parties whose integers differ in one bit would end with noise.
So they are made by integer arithmetic from one table of sines, and `Series.digest` is compared before the start.
"""

import hashlib
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from hanse.core.errors import ConfigError
from hanse.vertical.glm.families import Table
from hanse.vertical.glm.series_coefficients import COEFFICIENTS

Integers = npt.NDArray[np.int64]

TABLE_BITS = 14
"""The opened angle is rounded to one of 2^14 places of the period: at period 64, z to 2^-9."""
_QUARTER = 1 << TABLE_BITS - 2
_MASK = (1 << TABLE_BITS) - 1
_SINE_BITS = 20
_COEFFICIENT_BITS = 20


@dataclass(frozen=True, slots=True)
class Range:
    """On which scores a series holds.

    Attributes:
        low, high: the range of z.
        period_bits: the period is 2^period_bits.
        terms: K.
    """

    low: float
    high: float
    period_bits: int
    terms: int


RANGES = {
    ("logistic", False): Range(-27.0, 27.0, 6, 24),
    ("logistic", True): Range(-115.0, 115.0, 8, 96),
    ("poisson", False): Range(-8.0, 4.0, 5, 24),
    ("poisson", True): Range(-16.0, 4.0, 6, 32),
    ("log sum", False): Range(-27.0, 27.0, 6, 24),
    ("log sum", True): Range(-115.0, 115.0, 8, 96),
}
"""By family, and whether a wide range is asked for. The sigmoid's error is at most 0.0005 within its range, that of
`log sum`, log(2 cosh(x/2)), which a softmax is made of (see `softmax`), at most 0.0002."""


@dataclass(frozen=True, slots=True)
class Series:
    """Coefficients of one mean function.

    Attributes:
        range: where it holds.
        constant: c.
        cosines, sines: a and b, float64 `(K,)`.
    """

    range: Range
    constant: float
    cosines: Table
    sines: Table

    @property
    def largest(self) -> float:
        """A bound of the series' absolute value, for every z."""
        z = np.linspace(0.0, 2.0**self.range.period_bits, 1 << 15)
        return float(np.abs(self(z)).max()) + 0.01

    def __call__(self, z: Table) -> Table:
        """The series at z, float64: what the protocol computes but for rounding."""
        total = np.full(np.shape(z), self.constant)
        for k, (a, b) in enumerate(zip(self.cosines, self.sines, strict=True), start=1):
            angle = 2 * np.pi * k / 2.0**self.range.period_bits * z
            total += a * np.cos(angle) + b * np.sin(angle)
        return total

    def integers(self, scale: float) -> tuple[Integers, Integers]:
        """a and b times `scale` with 20 fraction bits."""
        factor = scale * 2.0**_COEFFICIENT_BITS
        return tuple(np.rint(each * factor).astype(np.int64) for each in (self.cosines, self.sines))  # type: ignore[return-value]

    def digest(self) -> bytes:
        """Of all that parties must hold alike, bit for bit."""
        parts = (*self.integers(1.0), sine_table(), np.array([self.constant * 2.0**40]).astype(np.int64))
        return hashlib.sha256(b"".join(each.astype("<i8").tobytes() for each in parts)).digest()


@cache
def series_of(family: str, wide: bool = False) -> Series:
    """The series of a family's mean function, or of `log sum`.

    Raises:
        ConfigError: a family without a series.
    """
    if (family, wide) not in RANGES:
        raise ConfigError(f"series: expected logistic or poisson, found {family!r}")
    where = RANGES[family, wide]
    constant, cosines, sines = COEFFICIENTS[family, wide]
    a, b = (np.array(each or [0] * where.terms) / 2.0**_COEFFICIENT_BITS for each in (cosines, sines))
    return Series(where, constant / 2.0**_COEFFICIENT_BITS, a, b)


@cache
def sine_table() -> Integers:
    """sin(2πi / 2^14) with 20 fraction bits, int64, read-only."""
    table = np.rint(np.sin(2 * np.pi * np.arange(1 << TABLE_BITS) / (1 << TABLE_BITS)) * 2.0**_SINE_BITS)
    values = table.astype(np.int64)
    values.flags.writeable = False
    return values


def public_coefficients(
    opened: npt.NDArray[np.uint64], fraction_bits: int, series: Series, scale: float, bits: int
) -> tuple[Integers, Integers]:
    """What multiplies the shares of sin(kr) and of cos(kr), once δ is opened.

    Args:
        opened: δ modulo 2^64, uint64, any shape, with `fraction_bits`.
        series: whose mean function.
        scale: a public factor, 0 < scale ≤ 1.
        bits: fraction bits of the result.

    Returns:
        int64, `(K, *opened.shape)` each.
    """
    shift = fraction_bits + series.range.period_bits - TABLE_BITS
    place = ((opened + np.uint64(1 << shift - 1)) >> np.uint64(shift)).astype(np.int64) & _MASK
    orders = np.arange(1, series.range.terms + 1).reshape(-1, *([1] * opened.ndim))
    angles = (orders * place) & _MASK
    sine, cosine = sine_table()[angles], sine_table()[(angles + _QUARTER) & _MASK]
    a, b = (each.reshape(orders.shape) for each in series.integers(scale))
    drop = _SINE_BITS + _COEFFICIENT_BITS - bits
    # cos(k(δ+r)) = cos kδ cos kr − sin kδ sin kr;  sin(k(δ+r)) = sin kδ cos kr + cos kδ sin kr
    half = 1 << drop - 1
    return (b * cosine - a * sine + half) >> drop, (b * sine + a * cosine + half) >> drop


def angles_of(mask: npt.NDArray[np.uint64], fraction_bits: int, series: Series, bits: int) -> tuple[Integers, Integers]:
    """The dealer's part: sin(kr) and cos(kr) with `bits` fraction bits, int64, `(K, *mask.shape)` each."""
    period = np.uint64((1 << fraction_bits + series.range.period_bits) - 1)
    turn = np.exp(2j * np.pi * (mask & period) / float(int(period) + 1))
    powers = np.cumprod(np.broadcast_to(turn, (series.range.terms, *mask.shape)), axis=0)
    return tuple(np.rint(each * 2.0**bits).astype(np.int64) for each in (powers.imag, powers.real))  # type: ignore[return-value]
