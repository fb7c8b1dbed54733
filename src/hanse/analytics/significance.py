"""Tails of distributions that tests need, without SciPy."""

import math

_TINY = 1e-300
_STEPS = 10_000


def chi_squared_tail(statistic: float, degrees: int) -> float:
    """P(X ≥ statistic) for χ² with that many degrees of freedom: Q(degrees / 2, statistic / 2).

    Series below a + 1, continued fraction above (NIST Digital Library of Mathematical Functions, 8.11.4 and 8.9.2).

    Args:
        statistic: ≥ 0.
        degrees: ≥ 1.
    """
    a, x = degrees / 2, statistic / 2
    if x <= 0:
        return 1.0
    front = math.exp(a * math.log(x) - x - math.lgamma(a))
    return 1.0 - front * _series(a, x) if x < a + 1 else front * _fraction(a, x)


def _series(a: float, x: float) -> float:
    term = total = 1.0 / a
    for n in range(1, _STEPS):
        term *= x / (a + n)
        total += term
        if term < total * 1e-17:
            break
    return total


def _fraction(a: float, x: float) -> float:
    """1 / (x + 1 − a − 1 (1 − a) / (x + 3 − a − …)), by Lentz's method."""
    b = x + 1 - a
    c, d = 1 / _TINY, 1 / b
    value = d
    for n in range(1, _STEPS):
        part = -n * (n - a)
        b += 2
        d = 1 / (part * d + b or _TINY)
        c = b + part / c or _TINY
        value *= d * c
        if abs(d * c - 1) < 1e-16:
            break
    return value
