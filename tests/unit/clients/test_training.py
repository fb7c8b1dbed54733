"""Declared trainings: what is refused, and batch orders that are the same one by one and all at once."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hanse as hs
from hanse.clients.training import Training, effort_of, held_out, order_of, orders_of, philox_words, steps_of
from hanse.core.errors import ConfigError

PLAIN = Training("mse", hs.SGD(0.1))


@given(keys=st.lists(st.integers(0, 2**128 - 1), min_size=1, max_size=5), count=st.integers(1, 40))
def test_philox_words_are_numpys(keys: list[int], count: int) -> None:
    expected = [np.random.Philox(key=key).random_raw(count) for key in keys]
    assert np.array_equal(philox_words(keys, count), expected)


@given(sizes=st.lists(st.integers(0, 30), max_size=8), epochs=st.integers(1, 4), seed=st.integers(0, 99))
def test_orders_of_many_are_those_of_each(sizes: list[int], epochs: int, seed: int) -> None:
    keys = [seed * 1000 + place for place in range(len(sizes))]
    together = orders_of(keys, sizes, epochs)
    assert len(together) == len(sizes)
    for key, size, order in zip(keys, sizes, together, strict=True):
        assert order.shape == (epochs, size)
        assert np.array_equal(order, order_of(key, size, epochs))


def test_an_order_is_a_permutation_another_one_in_each_epoch_and_for_each_key() -> None:
    first, second = order_of(1, 50, 2)
    assert sorted(first) == sorted(second) == list(range(50))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, order_of(2, 50, 1)[0])


def test_first_places_are_uniform() -> None:
    # χ² of 8 cells with 7 degrees of freedom: above 24.3 in one of a thousand runs; keys are fixed, so it is one run
    counts = np.bincount([order_of(key, 8, 1)[0, 0] for key in range(4000)], minlength=8)
    assert ((counts - 500) ** 2 / 500).sum() < 24.3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: hs.SGD(0), "lr: expected a number above 0"),
        (lambda: hs.SGD(float("nan")), "lr: expected a number above 0"),
        (lambda: hs.SGD(0.1, momentum=1.0), "momentum: expected a number from 0 and below 1"),
        (lambda: hs.SGD(0.1, nesterov=True), "nesterov: expected momentum above 0"),
        (lambda: hs.SGD(0.1, weight_decay=-1), "weight_decay: expected"),
        (lambda: hs.Adam(beta_1=1), "beta_1: expected"),
        (lambda: hs.Adam(epsilon=0), "epsilon: expected a number above 0"),
        (lambda: Training("l1", hs.SGD(0.1)), "loss: expected one of cross_entropy"),
        (lambda: Training("mse", 0.1), "optimizer: expected hs.SGD"),  # type: ignore[arg-type]
        (lambda: Training("mse", hs.SGD(0.1), epochs=0), "epochs: expected a whole number"),
        (lambda: Training("mse", hs.SGD(0.1), batch_size=2.0), "batch_size: expected a whole"),  # type: ignore[arg-type]
        (lambda: held_out(10, 1.0, 0), "test: expected a share"),
        (lambda: effort_of(PLAIN, {"client_lr": "fast"}), "client_lr: expected a number"),
        (lambda: effort_of(PLAIN, {"lr": -1}), "config: lr: expected a number"),
        (lambda: effort_of(PLAIN, {"work": "half"}), "config: work: expected a number"),
        (lambda: effort_of(PLAIN, {"epochs": 1.5}), "epochs: expected a whole number"),
        (lambda: effort_of(PLAIN, {"wants": ["magic"]}), "cannot say"),
        (lambda: effort_of(PLAIN, {"contrast_mu": 0.1}), r"found MOON.*hs\.contrast"),
        (lambda: effort_of(Training("mse", hs.SGD(0.1, 0.9)), {"wants": ["client_lr"]}), "without momentum"),
    ],
)
def test_what_is_wrong_is_refused_by_name(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_task_may_change_learning_rate_and_epochs() -> None:
    effort = effort_of(PLAIN, {"client_lr": 0.01, "epochs": 3, "proximal_mu": 0.5, "wants": ["num_steps"]})
    assert (effort.lr, effort.epochs, effort.proximal_mu, effort.wants) == (0.01, 3, 0.5, ("num_steps",))
    assert effort.can_be_stacked
    assert not effort_of(PLAIN, {"wants": ["loss_before"]}).can_be_stacked


def test_the_rate_of_the_app_is_used_and_the_tasks_own_is_above_it() -> None:
    declared = PLAIN.optimizer.lr
    assert [effort_of(PLAIN, config).lr for config in ({}, {"lr": 0.02}, {"lr": 0.02, "client_lr": 0.03})] == [
        declared,
        0.02,
        0.03,
    ]


def test_a_part_of_the_work_is_a_part_of_the_epochs_and_at_least_one() -> None:
    found = [effort_of(PLAIN, {"epochs": 10, "work": work}).epochs for work in (1.0, 0.26, 0.001, 7.0)]
    assert found == [10, 3, 1, 10]


@given(num=st.integers(2, 50), share=st.floats(0, 0.99))
def test_held_out_examples_are_a_partition(num: int, share: float) -> None:
    parts = held_out(num, share, 3)
    if parts is not None:
        assert sorted([*parts[0], *parts[1]]) == list(range(num))
        assert len(parts[0]) > 0
        assert len(parts[1]) >= share * num


def test_steps() -> None:
    assert [steps_of(n, 10, 2) for n in (1, 10, 11)] == [2, 2, 4]
