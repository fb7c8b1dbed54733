"""The series of mean functions: against the functions, the fit that they come from, and Python's own sine."""

import math
from typing import Any

import numpy as np
import pytest

from hanse.core.errors import ConfigError
from hanse.vertical.glm import series as series_room
from hanse.vertical.glm.families import FAMILIES
from hanse.vertical.glm.series import RANGES, angles_of, public_coefficients, series_of, sine_table

CASES = list(RANGES)
RIDGE = {"logistic": 1e-7, "poisson": 1e-9}
FRACTION_BITS = 40


def function(family: str, z: Any) -> Any:
    """What the series stands for."""
    return np.logaddexp(z / 2, -z / 2) if family == "log sum" else FAMILIES[family].mean(z)


def fit(family: str, wide: bool) -> tuple[float, Any, Any]:
    """Weighted least squares over the range; this is where `series_coefficients` comes from."""
    where = RANGES[family, wide]
    period = 2.0**where.period_bits
    z = np.arange(-period / 2, period / 2, period / 4096)
    target = function(family, z)
    inside = (z >= where.low) & (z <= where.high)
    angles = 2 * np.pi / period * np.outer(z, np.arange(1, where.terms + 1))
    if family == "log sum":  # even, and in one piece over the whole period but for a corner at its ends
        columns, weight = np.hstack([np.cos(angles), np.ones((len(z), 1))]), np.where(inside, 1.0, 1e-6)
        found = np.linalg.solve((columns.T * weight) @ columns, columns.T @ (weight * target))
        return float(found[-1]), found[:-1], np.zeros(where.terms)
    weight = inside / (1.0 if family == "logistic" else (target + 0.2) ** 2)
    is_odd = family == "logistic"  # the sigmoid but for ½
    columns = np.sin(angles) if is_odd else np.hstack([np.sin(angles), np.cos(angles), np.ones((len(z), 1))])
    normal = (columns.T * weight) @ columns + RIDGE[family] * len(z) * np.eye(columns.shape[1])
    found = np.linalg.solve(normal, columns.T @ (weight * (target - 0.5 if is_odd else target)))
    if is_odd:
        return 0.5, np.zeros(where.terms), found
    return float(found[-1]), found[where.terms : -1], found[: where.terms]


@pytest.mark.parametrize(("family", "wide"), CASES)
def test_the_coefficients_are_those_of_the_fit(family: str, wide: bool) -> None:
    constant, cosines, sines = fit(family, wide)
    series = series_of(family, wide)
    assert abs(series.constant - constant) < 1e-5
    assert np.abs(series.cosines - cosines).max() < 1e-5
    assert np.abs(series.sines - sines).max() < 1e-5


@pytest.mark.parametrize(
    ("family", "wide", "error", "low", "high"),
    [
        ("logistic", False, 0.0005, -0.01, 1.01),
        ("logistic", True, 0.0005, -0.01, 1.01),
        ("poisson", False, 0.3, -35.0, 90.0),
        ("poisson", True, 0.5, -50.0, 110.0),
        ("log sum", False, 0.0002, 0.69, 16.0),
        ("log sum", True, 0.0002, 0.69, 64.0),
    ],
)
def test_close_within_its_range_and_bounded_everywhere(
    family: str, wide: bool, error: float, low: float, high: float
) -> None:
    series = series_of(family, wide)
    z = np.linspace(series.range.low, series.range.high, 20_001)
    difference = np.abs(series(z) - function(family, z))
    assert difference.max() < error
    assert difference[z <= 1].max() < 0.004
    everywhere = series(np.linspace(-1e4, 1e4, 200_001))
    assert low < everywhere.min()
    assert everywhere.max() < high
    assert np.abs(everywhere).max() <= series.largest


@pytest.mark.parametrize(("family", "wide"), CASES)
def test_opened_and_dealt_parts_meet_in_the_mean(family: str, wide: bool) -> None:
    """For every z modulo 2^64, beyond the range, too: the sum of products is the series at z."""
    series, rng = series_of(family, wide), np.random.default_rng(1)
    z = np.concatenate([rng.uniform(-20, 20, 200), rng.uniform(-2e6, 2e6, 50)])
    ring = np.rint(z * 2.0**FRACTION_BITS).astype(np.int64).view(np.uint64)
    r = rng.integers(0, 2**64, z.shape, np.uint64)
    bits, scale = 14, 0.7
    sine_parts, cosine_parts = public_coefficients(ring - r, FRACTION_BITS, series, scale, bits)
    sines, cosines = angles_of(r, FRACTION_BITS, series, bits)
    found = (sine_parts * sines + cosine_parts * cosines).sum(0) * 2.0 ** (-2 * bits) + scale * series.constant
    slope = np.abs(np.gradient(series(np.linspace(0, 2.0**series.range.period_bits, 1 << 15)))).max() * (1 << 15)
    rounded = (
        slope / 2.0**series.range.period_bits * 2.0 ** (series.range.period_bits - 15)
    )  # δ to a place of the table
    assert np.abs(found - scale * series(z)).max() < scale * rounded + 0.01


def test_the_table_is_python_s_sine() -> None:
    table = sine_table()
    assert all(
        abs(value - math.sin(2 * math.pi * at / 2**14) * 2**20) <= 0.501 for at, value in enumerate(table.tolist())
    )


def test_the_digest_sees_one_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    before = series_of("logistic").digest()
    table = sine_table().copy()
    table[77] += 1
    monkeypatch.setattr(series_room, "sine_table", lambda: table)
    assert series_of("logistic").digest() != before
    assert series_of("poisson").digest() != series_of("poisson", True).digest()


def test_a_family_without_a_series_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected logistic or poisson"):
        series_of("linear")
