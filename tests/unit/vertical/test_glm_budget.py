"""What a training is short of perfect: counted anew, and against the largest values there are."""

from fractions import Fraction
from math import log2
from typing import Any

import numpy as np
import pytest

from hanse.core.errors import ConfigError
from hanse.crypto import rlwe
from hanse.vertical.glm import budget, dealer_free, key_holder, models, slots
from hanse.vertical.glm.series import RANGES, series_of
from hanse.vertical.glm.training import Training


def test_the_sum_is_that_of_every_number_of_every_step() -> None:
    """Step by step: 1000 rows in four batches, three classes, whose log sums have three pairs."""
    training, total = Training(epochs=3, batch_rows=250), Fraction(0)
    amplitude = {
        name: Fraction(float(np.hypot(one.cosines, one.sines).sum()))
        for name, one in (("logistic", series_of("logistic")), ("log sum", series_of("log sum")))
    }
    for _ in range(3 * 4):
        for name in ("logistic", "log sum"):
            numbers = 250 * 3
            total += numbers * amplitude[name] * 2**27 / rlwe.slot_modulus()
            ciphertexts = 3 * -(-numbers * 48 // 8192)
            total += Fraction(ciphertexts * 8192, 2**73)
        for _ in range(3 * (4 + 5)):  # a gradient for each class and column
            total += Fraction(43, 2) * 4 * 250 * 2**12 / 2**95
    found = budget.shortfall(training, 1000, 3, (4, 5), shared=False)
    assert found == pytest.approx(float(total), rel=1e-9)
    assert budget.shortfall(training, 1000, 3, (4, 5), shared=True) > found


@pytest.mark.parametrize("key", list(RANGES))
def test_what_is_masked_is_within_the_bound(key: Any) -> None:
    """The sum of products of factors, which is the series less its constant, at any angles."""
    series, rng = series_of(*key), np.random.default_rng(0)
    angles, others = rng.uniform(0, 2 * np.pi, (2, 4000))
    masked = (slots.holders_factors(angles, series) * slots.others_factors(others, series, 1.0)).sum(axis=-1)
    assert np.abs(masked).max() < 2 * np.hypot(series.cosines, series.sines).sum() * 2.0**slots.RESIDUAL_BITS
    assert np.abs(masked).max() < 2.0**34


def test_a_training_that_is_too_long_for_it_is_refused() -> None:
    training = Training(epochs=20, statistical_bits=40)
    bits = -log2(budget.shortfall(training, 10**6, 1, (30, 300), shared=False))
    assert 38 < bits < 40
    with pytest.raises(ConfigError, match=f"keeps to 40 in all, found one that keeps to {bits:.1f}"):
        budget.check(training, 10**6, 1, (30, 300), shared=False)
    budget.check(Training(epochs=20), 10**6, 1, (30, 300), shared=False)


def test_it_is_what_the_protocols_declare() -> None:
    for protocol in ("arbiter", "own-gradient", "dealer-free"):
        model = models.LogisticRegression(protocol=protocol, statistical_bits=35)
        assert model.declared(1).guarantee.statistical_bits == 35
    assert key_holder.protocol().guarantee.statistical_bits == Training().statistical_bits
    assert dealer_free.protocol(own_gradients=True).guarantee.statistical_bits == Training().statistical_bits
    assert models.LogisticRegression().declared(1).guarantee.statistical_bits == 128
