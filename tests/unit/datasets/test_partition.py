"""Partitioners: nothing is lost or repeated, a seed decides, impossible arguments are refused, and skews are skewed."""

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hanse as hs
from hanse import datasets
from hanse.core.errors import ConfigError
from hanse.datasets import Partition

LABELS = np.random.default_rng(0).integers(0, 10, 2000)


def check(partition: Partition, size: int, num_sites: int | None = None) -> None:
    everything = sorted(index for part in partition.parts.values() for index in part.tolist())
    assert everything == list(range(size))
    assert num_sites is None or len(partition.parts) == num_sites
    assert list(partition.parts) == sorted(partition.parts) or num_sites is None
    for part in partition.parts.values():
        assert part.tolist() == sorted(part.tolist())


@settings(max_examples=60, deadline=None)
@given(data=st.data(), num_sites=st.integers(1, 12), seed=st.integers(0, 2**31))
def test_no_example_is_lost_or_repeated(data: st.DataObject, num_sites: int, seed: int) -> None:
    num = data.draw(st.integers(num_sites, 200))
    check(datasets.iid(num, num_sites, seed=seed), num, num_sites)
    alpha = data.draw(st.sampled_from([1e-3, 0.1, 1, 1e3]))
    least = data.draw(st.integers(0, num // num_sites))
    sizes = datasets.quantity(num, num_sites, alpha, seed=seed, min_size=least)
    check(sizes, num, num_sites)
    assert min(sizes.sizes.values()) >= least
    labels = data.draw(st.lists(st.integers(-3, 3), min_size=num, max_size=num))
    check(datasets.dirichlet(labels, num_sites, alpha, seed=seed, min_size=0), num, num_sites)
    per_site = data.draw(st.integers(1, num // num_sites))
    check(datasets.shards(labels, num_sites, per_site, seed=seed), num, num_sites)
    check(datasets.by_id(np.array(labels) + 3), num)
    check(datasets.columns(num, num_sites, seed=seed), num, num_sites)


def test_sizes_of_an_iid_cut_differ_by_one_at_most() -> None:
    assert sorted(datasets.iid(11, 4).sizes.values()) == [2, 3, 3, 3]


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: datasets.iid(2000, 7, seed=seed),
        lambda seed: datasets.dirichlet(LABELS, 7, 0.5, seed=seed),
        lambda seed: datasets.shards(LABELS, 7, 3, seed=seed),
        lambda seed: datasets.quantity(2000, 7, 0.5, seed=seed),
        lambda seed: datasets.columns(50, 7, seed=seed),
    ],
)
def test_a_seed_decides(make: Callable[[int], Partition]) -> None:
    def plain(partition: Partition) -> Any:
        return {site: part.tolist() for site, part in partition.parts.items()}

    assert plain(make(3)) == plain(make(3))
    assert plain(make(3)) != plain(make(4))


def evenness(partition: Partition) -> float:
    """Mean over sites of the share of each site's most frequent label."""
    _, counts = partition.counts(LABELS)
    return float((counts.max(axis=1) / np.maximum(counts.sum(axis=1), 1)).mean())


def test_label_skews_are_skewed_and_iid_is_not() -> None:
    """Thresholds hold for all of 200 seeds tried; these are seeds 0 to 4, so there is no false alarm."""
    for seed in range(5):
        assert evenness(datasets.iid(2000, 20, seed=seed)) < 0.25
        assert evenness(datasets.dirichlet(LABELS, 20, 1000.0, seed=seed)) < 0.25
        assert evenness(datasets.dirichlet(LABELS, 20, 0.1, seed=seed)) > 0.45
        _, counts = datasets.shards(LABELS, 20, 2, seed=seed).counts(LABELS)
        assert ((counts > 0).sum(axis=1) <= 4).all(), "two shards, each over one border of labels at most"
        assert evenness(datasets.shards(LABELS, 20, 2, seed=seed)) > 0.45


def test_label_shares_follow_the_dirichlet_distribution() -> None:
    """Mean and variance of one site's share of a label: 1/K and (1/K)(1 − 1/K)/(Kα + 1), over 4,000 labels' draws.

    Within five standard errors, so a false alarm has a chance below 1e-5; and the seed is fixed.
    """
    num_labels, each, num_sites, alpha = 4000, 400, 5, 0.5
    labels = np.repeat(np.arange(num_labels), each)
    _, counts = datasets.dirichlet(labels, num_sites, alpha, seed=1).counts(labels)
    shares = counts[0] / each
    mean = 1 / num_sites
    variance = mean * (1 - mean) / (num_sites * alpha + 1)
    assert abs(shares.mean() - mean) < 5 * (variance / num_labels) ** 0.5
    assert shares.var() == pytest.approx(variance, rel=0.1)


def test_quantity_skew_leaves_labels_alike() -> None:
    partition = datasets.quantity(2000, 10, 0.5, seed=2, min_size=20)
    sizes = list(partition.sizes.values())
    assert max(sizes) > 5 * min(sizes)
    assert evenness(partition) < 0.35


def test_natural_ids_are_the_sites() -> None:
    partition = datasets.by_id(["anna", "ben", "anna", "carl"])
    assert {site: part.tolist() for site, part in partition.parts.items()} == {"anna": [0, 2], "ben": [1], "carl": [3]}


def test_columns_may_be_given() -> None:
    partition = datasets.columns(4, {"bank": [3, 0], "shop": [1, 2]})
    X = np.arange(8).reshape(2, 4)
    assert {site: part.tolist() for site, part in partition.take(X).items()} == {
        "bank": [[0, 3], [4, 7]],
        "shop": [[1, 2], [5, 6]],
    }


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: datasets.iid(3, 4), "num_sites: expected at most 3 examples to be needed, found 4 × 1"),
        (lambda: datasets.iid(-3, 4), "num_examples: expected a whole number from 1, found -3"),
        (lambda: datasets.iid(3, 0), "num_sites: expected a whole number from 1, found 0"),
        (lambda: datasets.iid(3, True), "num_sites: expected a whole number"),
        (lambda: datasets.iid([0, 1], 2), "num_examples: expected a whole number from 1, found list"),
        (lambda: datasets.iid(3, 2, seed=-1), "seed: expected a whole number from 0, found -1"),
        (lambda: datasets.dirichlet([0, 1], 2, 0.0), "alpha: expected a finite number above 0, found 0.0"),
        (lambda: datasets.dirichlet([0, 1], 2, float("nan")), "alpha: expected"),
        (
            lambda: datasets.dirichlet([[0, 1]], 2, 1.0),
            r"labels: expected \(num_examples,\) numbers or texts, found int",
        ),
        (lambda: datasets.dirichlet([0.0, np.nan], 2, 1.0), "labels: expected finite numbers"),
        (lambda: datasets.dirichlet([0] * 20, 10, 1e-3, min_size=2), "min_size=2 examples, found 0"),
        (lambda: datasets.shards([0, 1, 1], 2, 2), "expected at most 3 shards of 3 examples, found 4"),
        (lambda: datasets.quantity(10, 3, 1.0, min_size=4), "found 3 × 4"),
        (lambda: datasets.by_id(["no name!"]), "site"),
        (lambda: datasets.by_id([]), "ids: expected"),
        (lambda: datasets.columns(3, {"a": [0, 1], "b": [1]}), "found 1 lost, 1 repeated and 0 that do not exist"),
        (lambda: datasets.columns(2, {"a": [0, 1, 7]}), "found 0 lost, 0 repeated and 1 that do not exist"),
        (lambda: datasets.iid(4, 2).take(np.ones(5)), "expected 4 along axis 0, found 5"),
        (lambda: datasets.iid(4, 2).sites("rows"), "at least one array"),
    ],
)
def test_impossible_arguments_are_refused(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        call()


def test_parts_go_into_a_simulation() -> None:
    X, y = np.arange(20.0).reshape(10, 2), np.arange(10) % 3
    app = hs.App()

    @app.query
    def query(config: Any, site: Any) -> Any:
        rows, labels = site.load("rows")
        assert len(rows) == len(labels)
        return [rows.sum(axis=0)], len(labels), {}

    sites = datasets.iid(10, 4).sites("rows", X, y)
    result = hs.simulate(app, sites, progress=False)
    assert result.arrays["0"].tolist() == X.sum(axis=0).tolist()


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_plot_shows_every_count_and_needs_nothing_from_outside(tmp_path: Path) -> None:
    labels = np.array(["<b>", "cat", "cat", "dog"])
    partition = datasets.by_id(["a", "a", "b", "b"])
    text = datasets.plot(partition, labels, tmp_path / "who.html", title="Cats & dogs")
    assert (tmp_path / "who.html").read_text(encoding="utf-8") == text
    assert "a, label cat: 1" in text
    assert "site b: examples 2" in text
    assert "Cats &amp; dogs" in text
    assert "<b>" not in text
    page = Page(text)
    assert not {"script", "link", "img"} & {tag for tag, _ in page.tags}
    assert not any(name in ("src", "href") for _, attributes in page.tags for name in attributes)
    rects = [attributes for tag, attributes in page.tags if tag == "rect"]
    assert len(rects) == 2 + 4  # sizes; a: <b>, cat; b: cat, dog


def test_areas_are_counts_and_columns_have_no_labels() -> None:
    partition = datasets.by_id(["a"] * 9 + ["b"])
    sides = [
        float(attributes["width"] or 0)
        for tag, attributes in Page(datasets.plot(partition, [0] * 10)).tags
        if tag == "rect"
    ][2:]
    assert sides[0] / sides[1] == pytest.approx(3, rel=0.02)
    assert "Labels" not in datasets.plot(datasets.columns(5, 2), [0] * 5)


def test_many_sites_get_bars_whose_heights_are_counts() -> None:
    partition = datasets.by_id([f"s{n:03}" for n in range(200) for _ in range(9 if n == 0 else 3)])
    text = datasets.plot(partition, [0] * partition.size)
    bars = [dict(attributes) for tag, attributes in Page(text).tags if tag == "rect"][200:]
    assert len({bar["width"] for bar in bars}) == 1
    assert float(bars[0]["height"] or 0) / float(bars[1]["height"] or 1) == pytest.approx(3, rel=0.02)
