"""Joins over private set intersection: against SQLite, with bad input, and what follows intersection simulated."""

import json
import sqlite3
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hanse as hs
from hanse.channels.party import Party
from hanse.channels.schedule import run_scheduled
from hanse.channels.spec import RoleSpec
from hanse.core.arrays import Array
from hanse.core.errors import ConfigError, JobFailed, RefusedError, TooLargeError
from hanse.core.stream import Stream
from hanse.vertical import alignment
from hanse.vertical.alignment import NONE, Holdings
from hanse.vertical.intersection import Intersection
from hanse.vertical.psi import chase_miao
from hanse.vertical.psi.ids import kind_in_words
from hanse.vertical.psi.keys import read_key

KEYS: list[tuple[Any, str, str]] = [
    ("email", "all", "{a}.email = {b}.email"),
    (["name", "born"], "all", "{a}.name = {b}.name AND {a}.born = {b}.born"),
    (["email", "born"], "any", "{a}.email = {b}.email OR {a}.born = {b}.born"),
    (["email", ["name", "born"]], "any", "{a}.email = {b}.email OR ({a}.name = {b}.name AND {a}.born = {b}.born)"),
]
HOSTS = ("shop", "telco")


def rows_of(key: Any) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    missing = None if key != "email" else "zzz"  # one column has no missing values
    email = st.sampled_from(["a", "b", "c", "ab", missing])
    name, born = st.sampled_from(["x", "xy", "1:x", None]), st.sampled_from([1, 2, 12, None])
    return st.lists(st.tuples(email, name, born), max_size=6)


def table(rows: list[tuple[Any, ...]]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for at, name in enumerate(("email", "name", "born")):
        columns[name] = np.array([row[at] for row in rows], object)
    columns["born"] = np.array([np.nan if each is None else each for each in columns["born"]], np.float64)
    return columns


def by_sql(tables: dict[str, list[tuple[Any, ...]]], on: str, join: str) -> Counter[tuple[int, ...]]:
    """Row numbers of every joined row, by a database that knows nothing of us."""
    db = sqlite3.connect(":memory:")
    for name, rows in tables.items():
        db.execute(f"CREATE TABLE {name}(row INTEGER, email TEXT, name TEXT, born INTEGER)")
        db.executemany(f"INSERT INTO {name} VALUES(?, ?, ?, ?)", [(at, *row) for at, row in enumerate(rows)])
    hosts = [name for name in tables if name != "bank"]
    what = ", ".join(f"COALESCE({name}.row, -1)" for name in ("bank", *hosts))
    joins = " ".join(f"{join} JOIN {name} ON {on.format(a='bank', b=name)}" for name in hosts)
    return Counter(db.execute(f"SELECT {what} FROM bank {joins}"))


@pytest.mark.parametrize(("key", "match", "on"), KEYS, ids=["one", "together", "any", "any-together"])
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_joined_rows_are_those_of_sql(key: Any, match: str, on: str, data: st.DataObject) -> None:
    hosts = HOSTS[: data.draw(st.integers(1, 2))]
    join = data.draw(st.sampled_from(["inner", "left"]))
    tables = {site: data.draw(rows_of(key)) for site in ("bank", *hosts)}
    app = Intersection(dataset="d", key=key, match=match, join=join, repeated="pairs")
    sites = {site: {"d": table(rows)} for site, rows in tables.items()}
    roles: dict[str, Any] = {"guest": "bank", "host": list(hosts)}
    result = hs.simulate(app, sites, roles=roles)
    names = ("guest", *app.cast(role_names(roles)).protocol.roles[1:])
    places = [result.arrays[f"{role}/places"].tolist() for role in names]
    found = Counter(zip(*places, strict=True))
    assert found == by_sql(tables, on, join)
    assert result.metrics["guest_common"] == sum(count for row, count in found.items() if NONE not in row)


def role_names(roles: dict[str, Any]) -> list[str]:
    hosts = roles["host"]
    return ["guest", *(["host"] if len(hosts) == 1 else [f"host-{at + 1}" for at in range(len(hosts))])]


def test_columns_together_are_not_their_texts_glued() -> None:
    bank, shop = {"a": ["x1", "p"], "b": ["2", "q"]}, {"a": ["x", "p"], "b": ["12", "q"]}
    app = Intersection(dataset="d", key=["a", "b"])
    result = hs.simulate(app, {"bank": {"d": bank}, "shop": {"d": shop}}, roles={"guest": "bank", "host": "shop"})
    assert result.arrays["guest/places"].tolist() == [1]
    other: Any = Intersection(dataset="d", key=["a", "b"], match="any").table(bank).ids
    together: Any = app.table(bank).ids
    assert not set(together) & set(other)


@pytest.mark.parametrize("join", ["inner", "left"])
@pytest.mark.parametrize("num_hosts", [1, 2, 3])
def test_joins_of_unique_rows(join: str, num_hosts: int) -> None:
    hosts = ["shop", "telco", "city"][:num_hosts]
    rng = np.random.default_rng(3)
    ids = {site: rng.permutation(60)[:40] for site in ("bank", *hosts)}
    roles = {"guest": "bank", "host": hosts}
    app = Intersection(dataset="d", key="id", join=join)
    result = hs.simulate(app, {site: {"d": {"id": each}} for site, each in ids.items()}, roles=roles)
    places = [result.arrays[f"{role}/places"] for role in role_names(roles)]
    mine = ids["bank"][places[0]]
    wanted = set(ids["bank"]) if join == "left" else set(ids["bank"]).intersection(*(ids[host] for host in hosts))
    assert set(mine) == wanted
    assert len(mine) == len(wanted)
    for host, rows in zip(hosts, places[1:], strict=True):
        there = rows != NONE
        assert ids[host][rows[there]].tolist() == mine[there].tolist()
        assert not set(mine[~there]) & set(ids[host])
        assert result.metrics["guest_rows"] == 40
    assert (result.metrics.get("host_joined" if num_hosts == 1 else "host-1_joined") == 40) == (join == "left")


def in_two(values: list[str]) -> Iterator[list[str]]:
    yield from (values[:7], values[7:])


@pytest.mark.parametrize("join", ["inner", "left"])
def test_a_key_that_is_read_piece_by_piece(join: str) -> None:
    ids = {"bank": [f"{at}" for at in range(30)], "shop": [f"{at}" for at in range(50, 20, -1)]}
    sites = {site: {"d": {"id": Stream(partial(in_two, each))}} for site, each in ids.items()}
    roles = {"guest": "bank", "host": "shop"}
    result = hs.simulate(Intersection(dataset="d", key="id", join=join), sites, roles=roles)
    mine = [ids["bank"][at] for at in result.arrays["guest/places"]]
    theirs = [ids["shop"][at] if at != NONE else None for at in result.arrays["host/places"]]
    both = set(ids["bank"]) & set(ids["shop"])
    assert set(mine) == (both if join == "inner" else set(ids["bank"]))
    assert theirs == [each if each in both else None for each in mine]
    for bad in ({"repeated": "pairs"}, {"only_count": True}, {"key": ["id", "id2"]}, {"protocol": "diffie-hellman"}):
        with pytest.raises(ConfigError, match=r"expected a .* in memory"):
            Intersection(**({"dataset": "d", "key": "id"} | bad)).table(
                {"id": sites["bank"]["d"]["id"], "id2": sites["bank"]["d"]["id"]}
            )


def test_the_number_alone_as_an_app() -> None:
    pytest.importorskip("gmpy2", reason="counting needs gmpy2 (extra `vertical`)")
    sites = {"bank": {"d": {"id": np.arange(30)}}, "shop": {"d": {"id": np.arange(20, 45)}}}
    app = Intersection(dataset="d", key="id", only_count=True)
    result = hs.simulate(app, sites, roles={"guest": "bank", "host": "shop"})
    assert result.metrics["guest_common"] == 10
    assert not result.arrays
    assert not [name for name in result.metrics if name.startswith("host") and "common" in name]
    with pytest.raises(ConfigError, match="expected one host, found 2"):
        app.spec({"guest": "bank", "host": ["shop", "telco"]})


# ---- bad input ----


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"match": "some"}, "match: expected one of all, any"),
        ({"join": "right"}, "join: expected one of inner, left"),
        ({"repeated": "first"}, "repeated: expected one of refuse, pairs"),
        ({"key": []}, "expected the name of a column"),
        ({"key": [["a"], []], "match": "any"}, "expected the name of a column"),
        ({"key": ["a", "a"], "match": "any"}, "each once"),
        ({"key": ["a", "a"]}, "each once"),
        ({"key": [f"c{at}" for at in range(16)]}, "at most 15 columns"),
        ({"only_count": True, "join": "left"}, "only_count"),
        ({"only_count": True, "key": ["a", "b"], "match": "any"}, "only_count"),
    ],
)
def test_what_nobody_can_mean_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Intersection(**({"dataset": "d", "key": "id"} | changes))


@pytest.mark.parametrize(
    ("key", "match", "bank", "shop", "words"),
    [
        (["a", "b"], "all", {"a": ["x", "x"], "b": [1, 1]}, None, "found 1 that repeat another"),
        (["a", "b"], "any", {"a": ["x", "y"], "b": [1, 1]}, None, "found 1 that repeat another"),
        (["a", "b"], "all", {"a": ["x", "y"], "b": [1.5, 1]}, None, "expected whole numbers or text"),
        (["a", "b"], "all", {"a": ["x", "y"]}, None, "expected a column 'b', found none"),
        (["a", "b"], "all", None, {"a": ["x"], "b": ["1"]}, r"text \+ whole numbers at .*text \+ text at"),
        (["a", "b"], "any", None, {"a": ["x"], "b": ["1"]}, "text or whole numbers at .*text or text at"),
    ],
)
def test_bad_keys_are_named_without_a_value(key: Any, match: str, bank: Any, shop: Any, words: str) -> None:
    good = {"a": ["x", "y"], "b": [1, 2]}
    sites = {"bank": {"d": bank or good}, "shop": {"d": shop or good}}
    with pytest.raises(JobFailed, match=words) as caught:
        hs.simulate(Intersection(dataset="d", key=key, match=match), sites, roles={"guest": "bank", "host": "shop"})
    assert "'x'" not in str(caught.value)


def test_kinds_in_words() -> None:
    assert kind_in_words(0b01_10) == "text + whole numbers"
    assert kind_in_words(0b01_00_10_11) == "text or whole numbers + bytes"
    for number in (-1, 0, 0b01_00, 0b01_00_00_01, 4**40):
        assert kind_in_words(number) is None
    deepest = read_key([f"c{at}" for at in range(15)], "any")
    assert len(deepest.alternatives) == 15


def test_no_table_is_joined_to_more_rows_than_fit() -> None:
    ten = Holdings(np.zeros(10, np.int64), np.arange(10))
    with pytest.raises(ConfigError, match="at most 99 joined rows, found 100"):
        alignment.join(10, [(ten, ten)], left=False, most=99)
    assert len(alignment.join(10, [(ten, Holdings(ten.places[:9], ten.rows[:9]))], left=True, most=99).own) == 90
    for wrong in (0, alignment.MAX_JOINED + 1, 1e6):
        with pytest.raises(ConfigError, match="max_joined: expected a whole number from 1 to"):
            Intersection(dataset="d", key="id", max_joined=wrong)  # type: ignore[arg-type]


def test_what_a_host_says_is_counted_before_it_takes_memory() -> None:
    """One identifier in 100,000 rows of each side, or pair after pair with the next host: 10^10 rows, 80 GB each."""
    many = Holdings(np.zeros(100_000, np.int64), np.arange(100_000))
    singles = Holdings(np.arange(100_000), np.arange(100_000))
    few = Holdings(np.arange(100_000), np.zeros(100_000, np.int64))
    tracemalloc.start()
    try:
        for hosts in ([(many, many)], [(singles, singles), (few, singles), (few, singles)]):
            with pytest.raises(ConfigError, match="expected at most 1000000 joined rows"):
                alignment.join(100_000, hosts, left=False, most=1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 40e6
    finally:
        tracemalloc.stop()


def test_more_holders_than_are_taken_are_refused_before_they_are_looked_at() -> None:
    app = Intersection(dataset="d", key="id", repeated="pairs", max_joined=500)
    table = app.table({"id": np.repeat(np.arange(20), 2)})

    async def host(party: Party) -> Any:
        names = {"host": "host"}
        common = await chase_miao.host(party.part("psi-host", names), table.ids)
        pairs = np.column_stack([np.arange(2000) % len(common), np.arange(2000)])
        await party.part("rows-host", names).send("guest", "holders", pairs)

    async def guest(party: Party) -> Any:
        return await app.guest(party, table, ("host",))

    outcome = run_scheduled(app.whole(("host",)), {"guest": guest, "host": host}, 2)
    assert isinstance(outcome.errors["guest"], TooLargeError)
    assert "host sent more of rows-host/holders than is taken here" in str(outcome.errors["guest"])


@pytest.mark.parametrize(
    ("pairs", "rows", "words"),
    [
        ([[0, 0]], [0], "rows that hold each of 2 identifiers"),
        ([[0, 0], [1, 1], [2, 2]], [0], "rows that hold each of 2 identifiers"),
        ([[0, 0], [1, -1]], [0], "rows that hold each of 2 identifiers"),
        ([[0, 0], [1, 7]], [0], "rows that hold each of 2 identifiers"),
        ([[0, 0], [0, 0], [1, 1]], [0], "rows that hold each of 2 identifiers"),
        ([[0, 0], [1, 1]], [2], "expected rows from 0 to 1"),
        ([[0, 0], [1, 1]], [NONE], "expected rows from 0 to 1"),
        ([[0, 0], [1, 1]], [0, 0], "expected each row once"),
    ],
)
def test_a_peer_that_deviates_after_intersection(pairs: Any, rows: Any, words: str) -> None:
    async def guest(party: Party) -> Any:
        await alignment.hear_holders(party, 2)
        await alignment.guest(party, np.array(rows))

    async def host(party: Party) -> Any:
        await party.send("guest", "holders", np.array(pairs, np.int64))
        return await alignment.host(party, np.array([5, 6]))

    outcome = run_scheduled(alignment.declared(linked=True), {"guest": guest, "host": host}, 1)
    error = outcome.errors.get("guest") or outcome.errors["host"]
    assert isinstance(error, RefusedError)
    assert words in str(error)


# ---- what is revealed ----


def test_what_each_join_declares() -> None:
    def said(**options: Any) -> set[tuple[str, str, str]]:
        spec = Intersection(dataset="d", **options).spec({"guest": "bank", "host": "shop"})
        assert RoleSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
        return {(each.to, each.about, each.what) for each in spec.protocol.reveals}

    plain = said(key="id")
    assert said(key=["a", "b"]) == plain
    assert said(key="id", join="left") - plain == {
        ("host", "guest", "common_rows"),
        ("host", "guest", "joined"),
        ("server", "guest", "joined"),
        ("server", "host", "joined"),
    }
    linked = {("host", "guest", "common_rows"), ("guest", "host", "holders")}
    assert said(key="id", repeated="pairs") - plain == linked
    assert said(key=["a", "b"], match="any") - plain == linked
    counted = said(key="id", only_count=True)
    assert ("guest", "host", "cardinality") in counted
    assert not {each for each in counted if each[2] == "intersection" or each[:3] == ("server", "host", "common")}


@pytest.mark.parametrize("left", [False, True])
def test_the_view_is_made_of_what_is_revealed(left: bool) -> None:
    rng = np.random.default_rng(1)
    bank = {"e": rng.integers(0, 12, 30), "p": rng.integers(0, 12, 30)}
    shop = {"e": rng.integers(4, 16, 25), "p": rng.integers(4, 16, 25)}
    app = Intersection(dataset="d", key=["e", "p"], match="any", repeated="pairs", join="left" if left else "inner")
    seen: dict[str, list[tuple[str, Array]]] = {"guest": [], "host": []}
    tables = {role: app.table(source) for role, source in (("guest", bank), ("host", shop))}

    async def play(party: Party) -> Any:
        plain = party.recv

        async def recv(sender: str, name: str) -> Array:
            value = await plain(sender, name)
            if name.startswith("rows-host/"):
                seen[party.role].append((name.partition("/")[2], value))
            return value

        party.recv = recv  # type: ignore[method-assign]
        return await getattr(app, party.role)(party, tables[party.role], ("host",))

    outcome = run_scheduled(app.whole(("host",)), {"guest": play, "host": play}, 4)
    assert outcome.errors == {}
    own = outcome.results["host"]
    common, times = np.unique(own[own != NONE], return_counts=True)
    (simulated,) = alignment.simulate_view("host", {"common_rows": times, "joined": len(own)})
    ((_, rows),) = seen["host"]
    assert (simulated[0], simulated[1].dtype, simulated[1].shape) == ("rows", rows.dtype, rows.shape)
    assert Counter(Counter(simulated[1].tolist()).values()) == Counter(Counter(rows.tolist()).values())
    assert rows.tolist() != sorted(rows.tolist())  # a chance of far less than 2^-40
    ((name, holders),) = seen["guest"]
    (simulated,) = alignment.simulate_view("guest", {"holders": holders})
    assert (simulated[0], simulated[1].shape) == (name, holders.shape)
    assert np.array_equal(simulated[1][:, 0], holders[:, 0])
    assert len(np.unique(simulated[1][:, 1])) == len(np.unique(holders[:, 1])) == len(common)


def test_row_numbers_are_in_a_secret_order() -> None:
    """In table order they would tell the guest where in the host's table a customer stands."""
    orders = set()
    for _ in range(4):

        async def guest(party: Party) -> Any:
            return (await alignment.hear_holders(party, 40)).rows

        async def host(party: Party) -> Any:
            return await alignment.tell_holders(party, np.arange(40), np.arange(40) + 7)

        outcome = run_scheduled(alignment.declared(linked=True), {"guest": guest, "host": host}, 1)
        numbers = outcome.results["guest"]
        assert outcome.results["host"][numbers].tolist() == list(range(7, 47))
        orders.add(tuple(numbers.tolist()))
    assert len(orders) == 4
    assert tuple(range(40)) not in orders
