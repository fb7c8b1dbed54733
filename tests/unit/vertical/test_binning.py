"""Bins, label counts and variance inflation: against loops over the pooled rows, and with their views simulated."""

from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hanse as hs
from hanse.channels.party import Party
from hanse.channels.schedule import Outcome, run_scheduled
from hanse.core.arrays import Array
from hanse.core.errors import ConfigError, JobFailed, RefusedError
from hanse.crypto import rlwe
from hanse.vertical import binned, inflation, label_counts
from hanse.vertical.binning import Bins, cut, information_value, transform, woe
from hanse.vertical.label_counts import Sees, shared_products
from hanse.vertical.psi import chase_miao
from hanse.vertical.tables import read_table

SHARED = Path(__file__).parents[4] / "shared" / "data" / "fate"
needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the example data of FATE in ../shared/data/fate")


# ---- bins ----


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.one_of(st.floats(-1e9, 1e9), st.integers(0, 3).map(float), st.just(float("nan"))), min_size=5),
    st.integers(2, 12),
    st.integers(1, 5),
    st.sampled_from(["quantile", "width"]),
)
def test_every_bin_has_its_rows_and_keeps_the_order(values: list[float], bins: int, least: int, method: Any) -> None:
    column = np.array(values)
    found = cut(column, num_bins=bins, min_rows=least, method=method)
    places = found.place(column)
    rows = np.bincount(places, minlength=found.num_bins)
    assert len(rows) == found.num_bins <= bins + 1
    assert rows.min() >= least or found.num_bins == 1
    known = ~np.isnan(column)
    order = np.argsort(column[known], kind="stable")
    assert (np.diff(places[known][order]) >= 0).all()
    for value in np.unique(column[known]):  # what is equal stays together
        assert len(set(places[column == value])) == 1
    missing = int((~known).sum())
    assert (found.missing == len(found.edges) + 1) == (missing >= least and known.sum() >= least)


def test_quantiles_of_numbers_from_1_to_100() -> None:
    column = np.random.default_rng(0).permutation(np.arange(1.0, 101.0))
    found = cut(column, num_bins=4, min_rows=20)
    assert found.edges.tolist() == [25, 50, 75]
    assert cut(column, num_bins=4, min_rows=26).edges.tolist() == [50]
    assert cut(column, num_bins=5, min_rows=1, method="width").edges == pytest.approx([20.8, 40.6, 60.4, 80.2])
    assert found.place(np.array([-1e300, 25, 25.5, 1e300, np.nan])).tolist() == [0, 0, 1, 3, 0]


def test_woe_and_iv_by_hand() -> None:
    rows, positives = np.array([50, 30, 20]), np.array([30, 10, 0])
    expected = [
        log((30 / 40) / (20 / 60)),
        log((10 / 40) / (20 / 60)),
        log((0.5 / 40) / (20.5 / 60)),
    ]
    assert woe(rows, positives) == pytest.approx(expected, abs=1e-14)
    shares = [30 / 40 - 20 / 60, 10 / 40 - 20 / 60, 0.5 / 40 - 20.5 / 60]
    assert information_value(rows, positives) == pytest.approx(
        sum(a * b for a, b in zip(shares, expected, strict=True))
    )
    assert information_value(np.array([100]), np.array([40])) == 0
    assert transform(np.array([1.0, 9.0, 5.0]), Bins(np.array([2.0, 6.0]), 0), np.array([7.0, 8.0, 9.0])).tolist() == [
        7,
        9,
        8,
    ]
    with pytest.raises(ConfigError, match="both kinds"):
        woe(rows, rows)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_bins": 1}, "num_bins: expected a whole number from 2"),
        ({"min_rows": 0}, "min_rows"),
        ({"method": "magic"}, "expected one of quantile, width"),
        ({"min_rows": 41}, "at least 41 rows, found 40"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        cut(np.arange(40.0), **options)
    with pytest.raises(ConfigError, match="found 1 infinite"):
        cut(np.append(np.arange(40.0), np.inf))


# ---- counts ----


def run(
    positive: Any, places: Any, sizes: list[int], sees: Sees = "guest", seed: int = 0, kind: type[Party] = Party
) -> Outcome:
    async def guest(party: Party) -> Any:
        party.__class__ = kind
        return await label_counts.guest(party, positive, sees=sees)

    async def host(party: Party) -> Any:
        party.__class__ = kind
        return await label_counts.host(party, places, sizes, sees=sees)

    return run_scheduled(label_counts.protocol(sees), {"guest": guest, "host": host}, seed)


def people(seed: int, rows: int, sizes: list[int]) -> tuple[Any, list[Any]]:
    rng = np.random.default_rng(seed)
    positive = rng.random(rows) < 0.3
    positive[:2] = True, False
    return positive, [rng.integers(0, size, rows) ** 2 // max(1, size) for size in sizes]


@pytest.mark.parametrize("sees", ["guest", "host"])
@pytest.mark.parametrize(("rows", "sizes"), [(20, [1]), (700, [3, 12, 1, 5]), (9001, [2, 4])])
def test_counts_are_those_of_a_loop(rows: int, sizes: list[int], sees: Sees) -> None:
    positive, places = people(rows, rows, sizes)
    outcome = run(positive, places, sizes, sees, seed=rows)
    assert outcome.errors == {}
    pairs = [
        sorted((int((at == b).sum()), int((positive & (at == b)).sum())) for b in range(size))
        for at, size in zip(places, sizes, strict=True)
    ]
    found, answer = outcome.results["guest"], outcome.results["host"]
    if sees == "guest":
        assert answer is None
        told = [
            sorted(zip(n.tolist(), p.tolist(), strict=True)) for n, p in zip(found.rows, found.positives, strict=True)
        ]
        assert told == pairs
    else:
        assert found.rows is None
        for at, size, counts in zip(places, sizes, answer, strict=True):
            assert counts.tolist() == [int((positive & (at == b)).sum()) for b in range(size)]
    ivs = [information_value(*np.array(pair).T) for pair in pairs]
    assert found.information_values == pytest.approx(ivs, abs=1e-12)


@settings(max_examples=200, deadline=None)
@given(st.integers(20, 1 << 22), st.data())
def test_what_shares_a_product_fits_into_it(rows: int, data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(0, rows), min_size=1, max_size=40))
    found = shared_products(sizes, rows)
    assert [at for bins in found for at in bins] == list(range(len(sizes)))
    for bins in found:
        width = rows.bit_length()
        factors = sum(sizes[at] << width * field for field, at in enumerate(bins))
        assert len(bins) == 1 or (factors < 2**32 and width * len(bins) <= 112)
    assert rows < 2**32


def test_the_order_of_bins_is_drawn_anew() -> None:
    """What the guest sees says nothing of which bin is low: over runs, the first bin is in every place."""
    positive, _ = people(0, 200, [4])
    column = np.arange(200) // 50
    column[:10] = 3  # sizes 40, 50, 50, 60
    firsts = {run(positive, [column], [4], seed=s).results["guest"].rows[0].tolist().index(40) for s in range(40)}
    assert firsts == {0, 1, 2, 3}  # false alarm 4·(3/4)^40 = 4e-5


@pytest.mark.parametrize("sees", ["guest", "host"])
def test_the_views_are_made_from_what_is_revealed(sees: Sees) -> None:
    seen: dict[str, list[tuple[str, Array]]] = {"guest": [], "host": []}

    class Recording(Party):
        async def recv(self, sender: str, name: str) -> Array:
            value = await super().recv(sender, name)
            seen[self.role].append((name, value))
            return value

    positive, places = people(1, 300, [5, 9])
    outcome = run(positive, places, [5, 9], sees, kind=Recording)
    assert outcome.errors == {}
    real = dict(seen["guest"])
    num_products = int(real["hello"][1])
    reveals: dict[str, Any] = {"num_bins": [5, 9], "num_products": num_products, "rows": 300}
    if sees == "guest":
        reveals |= {"sizes": real["rows"], "positives": np.concatenate(outcome.results["guest"].positives)}
    else:
        reveals["values"] = outcome.results["guest"].information_values
    for role in ("guest", "host"):
        view = label_counts.simulate_view(role, reveals, sees=sees, positive=positive)
        assert [(n, v.dtype, v.shape) for n, v in view] == [(n, v.dtype, v.shape) for n, v in seen[role]]


@pytest.mark.parametrize("sees", ["guest", "host"])
def test_empty_bins_lie_beyond_what_a_factor_holds(sees: str) -> None:
    """Twenty bins of which three hold rows: in one product there are fields of bins without rows above the 63rd bit."""
    positive, places = people(3, 100, [3] * 2)
    outcome = run(positive, places, [20] * 2, sees)
    assert outcome.errors == {}


def test_all_bits_but_the_counts_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the guest decrypts is uniform above the fields; what the host gets back is uniform in all bits."""
    opened: list[int] = []
    decrypt = rlwe.PrivateKey.decrypt_products

    def recording(key: Any, answer: Any, num_rows: int, length: int) -> list[int]:
        found = decrypt(key, answer, num_rows, length)
        opened.extend(value % 2**112 for value in found)
        return found

    monkeypatch.setattr(rlwe.PrivateKey, "decrypt_products", recording)
    positive, places = people(2, 100, [20] * 30)
    for sees in ("guest", "host"):
        opened.clear()
        assert run(positive, places, [20] * 30, sees).errors == {}
        low = 64 if sees == "guest" else 0  # at most nine fields of seven bits
        bits = np.array([[value >> at & 1 for at in range(low, 112)] for value in opened])
        assert len(bits) >= 100
        # 6 sigma for at most 112 bits in two runs: false alarm below 1e-6
        assert np.abs(bits.mean(0) - 0.5).max() * 2 * np.sqrt(len(bits)) < 6


@pytest.mark.parametrize(
    ("role", "name", "change", "words"),
    [
        ("host", "bins", lambda v: v * 0, "1 to 16384 columns of 1 to 257 bins"),
        ("host", "bins", lambda v: v[:1], "expected the 100 rows of each column"),
        ("host", "rows", lambda v: v[::-1].copy() + np.arange(len(v)), "expected the 100 rows of each column"),
        ("host", "hello", lambda v: v + np.array([0, 1]), "products for its bins"),
        ("host", "hello", lambda v: v + np.array([1, 0]), "expected 100 rows as here, found 101"),
        ("host", "tails", lambda v: v[:, :, :1].copy(), "expected an answer of the agreed size"),
        ("host", "tails", lambda v: (v + 10**6) % 2**20, "expected all positive rows"),
        ("guest", "hello", lambda v: v + np.array([1, 0]), "expected version 1"),
        ("guest", "labels", lambda v: v[:0], "ciphertexts"),
        ("guest", "public_key", lambda v: v | 2**31, "expected a public key"),
    ],
)
def test_a_party_that_deviates_is_refused(role: str, name: str, change: Any, words: str) -> None:
    class Deviating(Party):
        async def send(self, to: str, name_: str, value: Array) -> None:
            if (self.role, name_) == (role, name):
                value = change(value).astype(value.dtype)
            await super().send(to, name_, value)

    outcome = run(*people(3, 100, [4, 3]), [4, 3], kind=Deviating)
    errors = [str(each) for each in outcome.errors.values() if isinstance(each, RefusedError)]
    assert words in "".join(errors)


def test_labels_and_rows_that_do_not_fit_are_refused() -> None:
    positive, places = people(4, 100, [3])
    assert "found one" in str(run(positive | True, places, [3]).errors["guest"])
    assert "20 to" in str(run(positive[:19], [places[0][:19]], [3]).errors["host"])
    assert "as here, found 100" in str(run(positive, [places[0][:90]], [3]).errors["host"])


# ---- as apps, on public data ----


def tables(name: str = "breast") -> dict[str, Any]:
    found: dict[str, Any] = {"notary": {}}
    for site, role in (("bank", "guest"), ("shop", "host")):
        label = "y" if role == "guest" else None
        table = read_table(next(iter(SHARED.glob(f"{name}_hetero_{role}.csv*"))), key="id", label=label)
        found[site] = {"d": {"id": table.ids, **dict(zip(table.names, table.values.T, strict=True))}}
        if label:
            found[site]["d"]["y"] = table.label
    return found


@needs_data
@pytest.mark.parametrize("sees", ["guest", "host"])
def test_binning_of_two_companies_is_that_of_the_pooled_table(sees: Sees) -> None:
    data = tables()
    data["shop"]["d"]["x0"][:40] = np.nan
    app = hs.vertical.Binning(dataset="d", key="id", label="y", num_bins=8, sees=sees)
    result = hs.simulate(app, data, roles={"guest": "bank", "host": "shop"})
    bank, shop = data["bank"]["d"], data["shop"]["d"]
    places = {each: at for at, each in enumerate(bank["id"].tolist())}
    y = bank["y"][[places[each] for each in shop["id"].tolist()]]
    arrays = {name.removeprefix("host/"): each for name, each in result.arrays.items() if name.startswith("host/")}
    assert len(arrays["bins"]) == len(result.arrays["guest/host_iv"]) == 20
    for at, bins in enumerate(binned.bins_of(arrays)):
        column = shop[f"x{at}"]
        counts = np.array(
            [(int((own := bins.place(column) == b).sum()), int(y[own].sum())) for b in range(bins.num_bins)]
        )
        assert counts[:, 0].min() >= 20
        assert result.arrays["guest/host_iv"][at] == pytest.approx(information_value(*counts.T), abs=1e-12)
        if sees == "host":
            assert binned.woe_of(arrays)[at] == pytest.approx(woe(*counts.T), abs=1e-12)
    assert ("guest/host_positives" in result.arrays) == (sees == "guest") == ("positives" not in arrays)
    assert result.arrays["guest/iv"].shape == (10,)
    assert arrays["missing"][0] == arrays["bins"][0] - 1


@needs_data
def test_inflation_of_two_companies_is_that_of_the_pooled_table() -> None:
    data = tables()
    for site, columns in (("bank", range(4, 10)), ("shop", range(6, 20, 2))):
        data[site]["d"] = {"id": data[site]["d"]["id"]} | {f"x{at}": data[site]["d"][f"x{at}"] for at in columns}
    roles = {"guest": "bank", "host": "shop", "arbiter": "notary"}
    result = hs.simulate(hs.vertical.VIF(dataset="d", key="id"), data, roles=roles)
    bank, shop = data["bank"]["d"], data["shop"]["d"]
    places = {each: at for at, each in enumerate(bank["id"].tolist())}
    order = [places[each] for each in shop["id"].tolist()]
    pooled = np.column_stack(
        [each[order] for name, each in bank.items() if name != "id"] + [v for n, v in shop.items() if n != "id"]
    )
    expected = []
    for at in range(pooled.shape[1]):  # by its definition: 1 / (1 − R²) of a regression on all others
        others = np.column_stack([np.ones(len(pooled)), np.delete(pooled, at, axis=1)])
        residual = pooled[:, at] - others @ np.linalg.lstsq(others, pooled[:, at], rcond=None)[0]
        expected.append(pooled[:, at].var() / residual.var())
    found = np.concatenate([result.arrays["guest/vif"], result.arrays["host/vif"]])
    assert found == pytest.approx(expected, rel=2e-3)
    assert max(expected) > 20


def test_a_column_that_the_other_party_holds_too_is_infinite() -> None:
    x = np.random.default_rng(0).standard_normal((200, 4))
    between = np.corrcoef(x.T, x.T[:2])[:4, 4:]

    async def side(party: Party, table: Any, cross: Any) -> Any:
        return await inflation.exchange(party, table, cross)

    programs = {"guest": lambda p: side(p, x, between), "host": lambda p: side(p, x[:, :2], between.T)}
    found = run_scheduled(inflation.PROTOCOL, programs, 0).results
    assert np.isinf(found["host"]).all()
    assert np.isinf(found["guest"]).tolist() == [True, True, False, False]
    twice = np.column_stack([x[:, 0], x[:, 0]])
    failed = run_scheduled(inflation.PROTOCOL, {**programs, "host": lambda p: side(p, twice, between.T)}, 0)
    assert "a sum of this party's others" in str(failed.errors["host"])
    view = inflation.simulate_view({"explained": np.eye(4)})
    assert [(n, v.shape) for n, v in view] == [("explained", (4, 4))]


@pytest.mark.parametrize("sent", [np.full((2, 2), 1.7e308), np.full((2, 2), np.nan), np.eye(3)])
def test_what_no_correlations_explain_is_refused(sent: Any) -> None:
    async def deviates(party: Party) -> None:
        await party.recv("host", "explained")
        await party.send("host", "explained", sent)

    table = np.random.default_rng(1).standard_normal((50, 2))
    programs = {"guest": deviates, "host": lambda party: inflation.exchange(party, table, np.zeros((2, 3)))}
    failed = run_scheduled(inflation.PROTOCOL, programs, 0).errors["host"]
    assert "guest: expected numbers of (2, 2)" in str(failed)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ([0.0, np.nan], "a label in every row"),
        ([0, 2], None),
        (["no", "yes"], None),
        ([1, 1], "2 to 64 values, found 1"),
        ([0, 1, 2], "of two values, found 3"),
    ],
)
def test_labels(label: list[Any], words: str | None) -> None:
    table = {"y": np.array(label)}
    if words is None:
        assert binned.positives_of(table, "d", "y").tolist() == [False, True]
        return
    with pytest.raises(ConfigError, match=words):
        binned.positives_of(table, "d", "y")


@pytest.mark.parametrize("sees", ["guest", "host"])
def test_every_class_is_counted_against_the_rest(sees: Sees) -> None:
    rng = np.random.default_rng(4)
    ids, y = np.arange(150), np.array(["low", "mid", "high"])[rng.integers(0, 3, 150)]
    shop = {"id": ids, "x": rng.standard_normal(150) + (y == "high"), "z": rng.standard_normal(150)}
    bank = {"id": ids[::-1], "y": y[::-1], "w": (rng.standard_normal(150) - (y == "low"))[::-1]}
    app = hs.vertical.Binning(dataset="d", key="id", label="y", num_bins=4, sees=sees)
    found = hs.simulate(app, {"bank": {"d": bank}, "shop": {"d": shop}}, roles={"guest": "bank", "host": "shop"})
    assert found.arrays["guest/host_iv"].shape == (3, 2)
    assert found.arrays["guest/iv"].shape == (3, 1)
    arrays = {name.removeprefix("host/"): each for name, each in found.arrays.items() if name.startswith("host/")}
    guests = {name.removeprefix("guest/"): each for name, each in found.arrays.items() if name.startswith("guest/")}
    for kind, value in enumerate(["high", "low", "mid"]):
        for columns, iv, bins in (
            ([shop["x"], shop["z"]], guests["host_iv"], binned.bins_of(arrays)),
            ([bank["w"][::-1]], guests["iv"], binned.bins_of(guests)),
        ):
            for at, (column, each) in enumerate(zip(columns, bins, strict=True)):
                own = [each.place(column) == b for b in range(each.num_bins)]
                rows, positives = (np.array([int((o & w).sum()) for o in own]) for w in (y == y, y == value))
                assert iv[kind, at] == pytest.approx(information_value(rows, positives), abs=1e-12)
                if sees == "host" and columns[0] is shop["x"]:
                    assert binned.woe_of(arrays, kind)[at] == pytest.approx(woe(rows, positives), abs=1e-12)
    if sees == "guest":
        sizes = guests["host_bins"]
        by_kind = [np.split(each, np.cumsum(sizes)[:-1]) for each in guests["host_positives"]]
        assert all(
            int(part.sum()) == int((y == v).sum()) for v, p in zip(np.unique(y), by_kind, strict=True) for part in p
        )
    assert "label_kinds" in {each.what for each in app.protocol.reveals}


def test_a_host_counts_no_more_often_than_a_label_has_values() -> None:
    async def guest(party: Party, site: Any) -> Any:
        await chase_miao.guest(party.part("psi"), np.arange(50))
        await party.part("classes").send("host", "kinds", np.array(2, np.int64))
        return None

    table = {"id": np.arange(50), "x": np.arange(50.0)}
    app = hs.vertical.Binning(dataset="d", key="id", label="y")
    app.programs["guest"] = guest
    with pytest.raises(JobFailed, match="expected a label of two values, or of 3 to 64"):
        hs.simulate(app, {"bank": {"d": table}, "shop": {"d": table}}, roles={"guest": "bank", "host": "shop"})


def test_no_label_at_the_guest_ends_it_for_both() -> None:
    table = {"id": np.arange(50), "x": np.arange(50.0)}
    app = hs.vertical.Binning(dataset="d", key="id", label="y")
    with pytest.raises(JobFailed, match="expected a column 'y' as the label"):
        hs.simulate(app, {"bank": {"d": table}, "shop": {"d": table}}, roles={"guest": "bank", "host": "shop"})


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (np.array(["red", None] * 20, object), "numbers or text in every row"),
        (np.array(["red", ""] * 20), "in every row, found 20 empty"),
        (np.array([0.0, np.nan] * 20), "in every row, found 20 none"),
    ],
)
def test_a_label_that_is_missing_somewhere_is_no_value_of_its_own(label: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        binned.label_of({"y": label}, "customers", "y")


@pytest.mark.parametrize("name", ["y", "text"])
def test_a_table_that_does_not_fit_is_refused_before_anybody_is_met(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[str] = []

    async def meets(party: Party, ids: Any) -> Any:
        met.append(party.role)
        raise ConfigError("met")

    monkeypatch.setattr(chase_miao, "host", meets)
    ids = np.arange(40)
    bank = {"id": ids, "y": ids % 2, "a": np.sqrt(ids)}
    shop = {"id": ids, "b": np.sqrt(ids), name: ids % 2 if name == "y" else ids.astype(str)}
    apps: list[Any] = [hs.vertical.Binning(dataset="d", key="id", label="y")]
    if name == "text":
        apps.append(hs.vertical.Correlation(dataset="d", key="id"))
    for app in apps:
        sites = {"bank": {"d": bank}, "shop": {"d": shop}, "notary": {}}
        if len(app.protocol.roles) == 2:
            del sites["notary"]
        roles = dict(zip(app.protocol.roles, sites, strict=True))
        with pytest.raises(JobFailed, match="host shop: ConfigError: data set d: expected"):
            hs.simulate(app, sites, roles=roles)
    assert met == []
