"""Graphs and mixing matrices against their definitions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.core.errors import ConfigError
from hanse.peer import graph


def names(count: int) -> list[str]:
    return [f"p{i:02}" for i in range(count)]


@st.composite
def graphs(draw: st.DrawFn) -> graph.Graph:
    """A random tree and some more edges."""
    count = draw(st.integers(2, 9))
    peers = names(count)
    edges = [(peers[i], peers[draw(st.integers(0, i - 1))]) for i in range(1, count)]
    more = draw(st.lists(st.tuples(st.sampled_from(peers), st.sampled_from(peers)), max_size=9))
    return graph.from_edges(peers, [*edges, *((a, b) for a, b in more if a != b)])


@given(joined=graphs())
@settings(deadline=None)
def test_metropolis_hastings_is_doubly_stochastic_symmetric_and_leads_to_the_mean(joined: graph.Graph) -> None:
    mixing = graph.metropolis_hastings(joined)
    for peer, others in joined.neighbours.items():
        assert list(mixing[peer]) == sorted((peer, *others))
        for other in others:
            most = max(len(others), len(joined.neighbours[other]))
            assert mixing[peer][other] == float(Fraction(1, 1 + most)) == mixing[other][peer]
    matrix = graph.as_matrix(mixing)
    assert np.allclose(matrix.sum(axis=0), 1)
    assert np.allclose(matrix.sum(axis=1), 1)
    assert (np.diag(matrix) > 0).all()
    assert graph.mixing_rate(mixing) < 1
    graph.check_mixing(mixing, joined)


@pytest.mark.parametrize("count", [3, 4, 5, 8, 13])
def test_rate_of_a_ring_is_the_known_eigenvalue(count: int) -> None:
    """W = circulant(1/3, 1/3, 1/3): λ_k = (1 + 2 cos(2πk/n)) / 3."""
    eigenvalues = [abs(1 + 2 * np.cos(2 * np.pi * k / count)) / 3 for k in range(1, count)]
    assert graph.mixing_rate(graph.metropolis_hastings(graph.ring(names(count)))) == pytest.approx(max(eigenvalues))
    assert graph.mixing_rate(graph.metropolis_hastings(graph.complete(names(count)))) == pytest.approx(0, abs=1e-12)


@given(num=st.integers(3, 20), degree=st.integers(2, 5), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_random_regular_graphs(num: int, degree: int, seed: int) -> None:
    if degree >= num or num * degree % 2:
        with pytest.raises(ConfigError, match="there is none where each"):
            graph.random_regular(names(num), degree, seed)
        return
    found = graph.random_regular(list(reversed(names(num))), degree, seed)
    assert found.peers == tuple(names(num))
    assert {len(others) for others in found.neighbours.values()} == {degree}
    assert found.reach() == set(names(num))
    assert graph.random_regular(names(num), degree, seed) == found


def test_seeds_give_different_graphs() -> None:
    assert len({str(graph.random_regular(names(12), 3, seed)) for seed in range(20)}) > 15


@pytest.mark.parametrize(
    ("edges", "words"),
    [
        ([("p00", "p01")], "cut off: p02, p03"),
        ([("p00", "p00"), ("p00", "p01"), ("p01", "p02"), ("p02", "p03")], "p00 → p00"),
        ([("p00", "p09")], "between its peers, found p00 – p09"),
    ],
)
def test_what_is_no_graph(edges: list[tuple[str, str]], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        graph.from_edges(names(4), edges)


def test_edges_go_both_ways_and_there_is_somebody() -> None:
    with pytest.raises(ConfigError, match="in both directions"):
        graph.Graph({"a": ("b",), "b": ()})
    with pytest.raises(ConfigError, match="no peer at all"):
        graph.Graph({})


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"a": 0.5, "b": 0.6}, "add up to 1"),
        ({"a": 1.5, "b": -0.5}, "weights in"),
        ({"a": 0.5, "c": 0.5}, "weights in"),
        ({"a": 0.9, "b": 0.1}, "add up to 1"),
    ],
)
def test_a_matrix_that_does_not_lead_to_the_mean(row: dict[str, float], words: str) -> None:
    joined = graph.from_edges("abc", [("a", "b"), ("b", "c")])
    good = dict(graph.metropolis_hastings(joined))
    with pytest.raises(ConfigError, match=words):
        graph.check_mixing({**good, "a": row}, joined)
