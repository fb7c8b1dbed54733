"""Protocols as apps: intersection and correlation of data sets with identifiers, in one process."""

from typing import Any

import numpy as np
import pytest

import hanse as hs
from hanse.core.errors import ConfigError, JobFailed
from hanse.vertical import correlated
from hanse.vertical.intersection import identifiers

ROLES = {"guest": "bank", "host": "shop", "arbiter": "notary"}
PAIR = {"guest": "bank", "host": "shop"}


def tables(num_common: int = 60) -> dict[str, dict[str, Any]]:
    rng = np.random.default_rng(5)
    common = [f"c{i}" for i in range(num_common)]
    found: dict[str, dict[str, Any]] = {"notary": {}}
    for site, own, columns in (("bank", 30, 2), ("shop", 50, 3)):
        ids = np.array(common + [f"{site}{i}" for i in range(own)])
        order = rng.permutation(len(ids))
        table: dict[str, Any] = {"id": ids[order]}
        for number in range(columns):
            table[f"x{number}"] = rng.normal(size=len(ids)) * 10 ** (3 * number)
        found[site] = {"customers": table}
    return found


def pooled(data: dict[str, dict[str, Any]]) -> np.ndarray[Any, Any]:
    """By a dictionary and numpy, over the joined rows."""
    bank, shop = data["bank"]["customers"], data["shop"]["customers"]
    place = {each: at for at, each in enumerate(shop["id"])}
    joined = [(at, place[each]) for at, each in enumerate(bank["id"]) if each in place]
    mine = np.array([[bank[c][i] for c in ("x0", "x1")] for i, _ in joined])
    theirs = np.array([[shop[c][j] for c in ("x0", "x1", "x2")] for _, j in joined])
    return np.corrcoef(mine.T, theirs.T)[:2, 2:]


def test_correlation_of_the_common_rows_is_numpy_s() -> None:
    data = tables()
    result = hs.simulate(hs.vertical.Correlation(dataset="customers", key="id"), data, roles=ROLES)
    for role in ("guest", "host"):
        assert np.abs(result.arrays[f"{role}/correlation"] - pooled(data)).max() < 1e-5
    assert result.metrics["guest_common"] == 60
    assert result.rounds[0].by_site["notary"]["received_messages"] == 2


def test_what_both_protocols_reveal_is_what_it_reveals() -> None:
    said = {(each.to, each.about, each.what) for each in hs.vertical.Correlation(dataset="d", key="k").protocol.reveals}
    assert {("host", "guest", "intersection"), ("guest", "host", "rows"), ("arbiter", "host", "shape")} <= said
    assert ("server", "guest", "common") in said
    assert correlated.PROTOCOL.guarantee.statistical_bits == 40


def test_too_few_common_rows_end_it_for_all() -> None:
    with pytest.raises(JobFailed, match="expected 20 to"):
        hs.simulate(hs.vertical.Correlation(dataset="customers", key="id"), tables(5), roles=ROLES)


@pytest.mark.parametrize("protocol", ["default", "diffie-hellman"])
def test_intersection_of_text(protocol: str) -> None:
    if protocol != "default":
        pytest.importorskip("gmpy2", reason="the fallback needs gmpy2 (extra `vertical`)")
    data = tables()
    app = hs.vertical.Intersection(dataset="customers", key="id", protocol=protocol)
    result = hs.simulate(app, {site: data[site] for site in ("bank", "shop")}, roles=PAIR)
    mine = data["bank"]["customers"]["id"][result.arrays["guest/places"]]
    assert mine.tolist() == data["shop"]["customers"]["id"][result.arrays["host/places"]].tolist()
    assert sorted(mine) == sorted(f"c{i}" for i in range(60))


def test_no_common_customer_is_an_end_like_any_other() -> None:
    data = {"bank": {"d": {"id": np.arange(5)}}, "shop": {"d": {"id": np.arange(10, 15)}}}
    result = hs.simulate(hs.vertical.Intersection(dataset="d", key="id"), data, roles=PAIR)
    assert result.metrics["guest_common"] == 0
    assert result.arrays["host/places"].shape == (0,)


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([1, 2, 2], "found 1 that repeat another"),
        ([1.5, 2.0], "expected whole numbers or text"),
        ([1.0, np.nan], "expected whole numbers or text"),
        (["a", "b"], "expected one kind, found"),
    ],
)
def test_bad_identifiers_are_named_without_one(ids: list[Any], words: str) -> None:
    data = {"bank": {"d": {"id": np.array(ids)}}, "shop": {"d": {"id": np.array([1, 2])}}}
    with pytest.raises(JobFailed, match=words):
        hs.simulate(hs.vertical.Intersection(dataset="d", key="id"), data, roles=PAIR)


def test_a_column_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="expected a column 'id', found none"):
        identifiers((np.ones((2, 2)), np.ones(2)), "d", "id")
    assert identifiers({"id": np.array([1.0, 2.0])}, "d", "id").dtype == np.int64  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="expected one of default"):
        hs.vertical.Intersection(dataset="d", key="id", protocol="rsa")
    with pytest.raises(ConfigError, match="others in name"):
        correlated.numbers({"id": [1], "name": np.array(["x"])}, "d", "id")
