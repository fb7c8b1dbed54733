"""Correlation between parties: against numpy.corrcoef, at its bounds, with bad input, and its view simulated."""

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.channels.party import Party
from hanse.channels.schedule import Outcome, run_scheduled
from hanse.core.arrays import Array
from hanse.core.errors import ConfigError, RefusedError, UnavailableError
from hanse.crypto import sharing
from hanse.vertical import correlation


def run(x: Any, y: Any, seed: int = 0, kind: type[Party] = Party) -> Outcome:
    def program(role: str, *arguments: Any) -> Any:
        async def body(party: Party) -> Any:
            party.__class__ = kind
            return await getattr(correlation, role)(party, *arguments)

        return body

    programs = {"guest": program("guest", x), "host": program("host", y), "arbiter": program("arbiter")}
    return run_scheduled(correlation.PROTOCOL, programs, seed)


def tables(seed: int, rows: int, a: int, b: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((rows, 1))
    scale = 2.0 ** rng.integers(-60, 60, a + b)
    both = (common * rng.standard_normal(a + b) + rng.standard_normal((rows, a + b)) ** 3) * scale
    return both[:, :a], both[:, a:]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(20, 200), st.integers(1, 5), st.integers(1, 5))
def test_it_is_pearson_s(seed: int, rows: int, a: int, b: int) -> None:
    x, y = tables(seed, rows, a, b)
    outcome = run(x, y, seed)
    assert outcome.errors == {}
    expected = np.corrcoef(x.T, y.T)[:a, a:]
    assert np.abs(outcome.results["guest"] - expected).max() <= 2.0**-20
    assert np.array_equal(outcome.results["guest"], outcome.results["host"])
    assert outcome.results["arbiter"] is None


@pytest.mark.parametrize("seed", range(5))
def test_columns_far_from_zero(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = 8e11 + rng.standard_normal((30, 3))
    y = 0.5 * (x - 8e11) + rng.standard_normal((30, 3)) + 7e11
    outcome = run(x, y)
    assert outcome.errors == {}
    exact = [[Fraction(value) for value in column] for column in (*x.T, *y.T)]
    centred = np.array([[float(value - sum(each) / len(each)) for value in each] for each in exact])
    assert np.abs(outcome.results["guest"] - np.corrcoef(centred)[:3, 3:]).max() <= 2.0**-20


def test_columns_chosen_for_it_read_yes_and_no_row_by_row() -> None:
    """Within the limit of rows for each column. So it has to be declared, by a word that a policy can refuse."""
    rows, weights = 40, np.array([1.0, 2.0, 4.0, 8.0])
    y = np.random.default_rng(4).integers(0, 2, rows).astype(float)
    x = np.kron(np.eye(rows // 4), weights[:, None])
    found = run(x, y[:, None]).results["guest"][:, 0]
    choices = np.array(list(itertools.product((0.0, 1.0), repeat=4)))
    sums = choices @ weights / rows  # of each choice of four bits
    guesses = []
    for ones in range(1, rows):
        mean = ones / rows
        told = (sums - mean * weights.sum() / rows) / (x[:, 0].std() * np.sqrt(mean * (1 - mean)))
        distance = np.abs(told - found[:, None])
        if distance.min(axis=1).max() < 2.0**-18:
            guesses.append(choices[distance.argmin(axis=1)].ravel())
    assert any(np.array_equal(guess, y) for guess in guesses)
    assert len(guesses) == 1
    assert {(each.to, each.about) for each in correlation.PROTOCOL.reveals if each.what == "rows"} == {
        ("guest", "host"),
        ("host", "guest"),
    }


def test_perfect_correlation_at_many_rows() -> None:
    """The largest sums: ±rows, and one row that holds all of the variance."""
    rows = 1 << 17
    x = np.zeros((rows, 2))
    x[0, 0] = 1e300
    x[:, 1] = np.arange(rows)
    outcome = run(x, np.column_stack([-x[:, 0], x[:, 1], -x[:, 1]]))
    assert outcome.errors == {}
    expected = np.corrcoef(np.column_stack([x[:, 0] / 1e300, x[:, 1]]).T)[0, 1]
    wanted = np.array([[-1, expected, -expected], [-expected, 1, -1]])
    assert np.abs(outcome.results["guest"] - wanted).max() <= 2.0**-20


def test_more_rows_than_its_ring_holds_are_refused() -> None:
    assert correlation.MAX_ROWS * 2.0 ** (2 * correlation.FRACTION_BITS) < 2.0**62
    with pytest.raises(RefusedError, match="rows, found"):
        correlation._check_shape("host", correlation.MAX_ROWS + 1, 1)


def test_a_table_that_would_fill_the_arbiter_s_memory_is_refused() -> None:
    """Each party's word is two numbers; the arbiter computes with tables of that size."""

    async def liar(party: Party) -> None:
        sizes = (correlation.MAX_COLUMNS, correlation.MAX_ROWS, correlation.MAX_COLUMNS)
        await party.send("arbiter", "shapes", np.array(sizes, np.int64))

    outcome = run_scheduled(correlation.PROTOCOL, {"guest": liar, "host": liar, "arbiter": correlation.arbiter}, 0)
    assert "cells" in str(outcome.errors["arbiter"])


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (np.ones(30), "found 1 dimensions"),
        (np.arange(19.0)[:, None], "expected 20 to"),
        (np.random.default_rng(0).random((40, 11)), "expected 1 to 10 columns"),
        (np.zeros((40, 0)), "expected 1 to 10 columns"),
        (np.column_stack([np.arange(40.0), np.full(40, 7.25)]), "found 1 that are constant"),
        (np.column_stack([np.arange(40.0), np.where(np.arange(40) == 3, np.nan, 7.25)]), "found 1 that are not"),
        (np.column_stack([np.arange(40.0), np.where(np.arange(40) == 3, np.inf, 7.25)]), "found 1 that are not"),
    ],
)
def test_bad_columns_are_refused_without_their_values(table: Any, words: str) -> None:
    outcome = run(table, np.random.default_rng(1).random((40, 2)))
    assert isinstance(outcome.errors["guest"], ConfigError)
    assert words in str(outcome.errors["guest"])
    assert "7.25" not in str(outcome.errors["guest"])
    assert all(isinstance(outcome.errors[role], UnavailableError) for role in ("host", "arbiter"))
    assert outcome.elapsed_s == 0


def test_different_numbers_of_rows_are_refused() -> None:
    outcome = run(*(np.random.default_rng(1).random((rows, 2)) for rows in (40, 41)))
    assert isinstance(outcome.errors["guest"], RefusedError)
    assert "expected 40 rows as here, found 41" in str(outcome.errors["guest"])


@pytest.mark.parametrize(
    ("role", "name", "words", "refuser"),
    [
        ("guest", "shapes", "same shapes", "arbiter"),
        ("arbiter", "correction", "expected an array", "host"),
        ("guest", "masked", "expected an array", "host"),
        ("host", "masked", "expected an array", "guest"),
        ("host", "product", "expected an array", "guest"),
        ("host", "shape", "rows", "guest"),
    ],
)
def test_a_party_that_deviates_is_refused(role: str, name: str, words: str, refuser: str) -> None:
    class Deviating(Party):
        async def send(self, to: str, name_: str, value: Array) -> None:
            if (self.role, name_) == (role, name):
                value = value[1:] if value.ndim == 2 else value + 1
            await super().send(to, name_, value)

    outcome = run(*tables(0, 40, 2, 3), kind=Deviating)
    assert isinstance(outcome.errors[refuser], RefusedError)
    assert words in str(outcome.errors[refuser])


def test_the_view_is_made_from_own_input_and_what_is_revealed() -> None:
    x, y = tables(3, 2000, 3, 2)
    seen: dict[str, list[tuple[str, Array]]] = {"guest": [], "host": [], "arbiter": []}

    class Recording(Party):
        async def recv(self, sender: str, name: str) -> Array:
            value = await super().recv(sender, name)
            seen[self.role].append((name, value))
            return value

    assert run(x, y, kind=Recording).errors == {}
    product = sharing.matmul(correlation.standardised(x).T, correlation.standardised(y))
    for role, table, other in (("guest", x, 2), ("host", y, 3)):
        simulated = correlation.simulate_view(role, table, {"columns": other, "product": product})
        real = seen[role]
        assert [(n, v.dtype, v.shape) for n, v in simulated] == [(n, v.dtype, v.shape) for n, v in real]
        for view in (dict(simulated), dict(real)):  # both open to the revealed product
            seed, masked = view["seed"].tobytes(), view["masked"]
            if role == "guest":
                first_c = sharing.split_first((3, 2000, 2), seed)[1]
                mine = first_c + sharing.matmul(correlation.standardised(x).T, masked)
            else:
                mine = view["correction"] + sharing.matmul(masked, sharing.split_second((3, 2000, 2), seed))
            assert np.array_equal(mine + view["product"], product)
        masked = np.ascontiguousarray(dict(real)["masked"]).reshape(-1)
        bits = np.unpackbits(masked.view(np.uint8).reshape(-1, 8), axis=1)
        # 5 sigma at 64 bits for each of two parties: false alarm 7e-5.
        assert np.abs(bits.mean(axis=0) - 0.5).max() * 2 * np.sqrt(len(bits)) < 5
    assert [name for name, _ in seen["arbiter"]] == ["shapes", "shapes"]
