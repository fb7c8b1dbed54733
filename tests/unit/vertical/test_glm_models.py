"""What a user calls: tables in many forms, intersection, training, scoring, and what is refused."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hanse as hs
from hanse.channels.party import Party
from hanse.channels.protocol import Protocol
from hanse.channels.schedule import run_scheduled
from hanse.core.arrays import Arrays
from hanse.core.codec import decode, encode
from hanse.core.errors import CodecError, ConfigError, HanseError, NotFoundError, RefusedError, UnavailableError
from hanse.vertical import alignment, metrics, together
from hanse.vertical.boosting import scoring as tree_scoring
from hanse.vertical.glm import scoring
from hanse.vertical.glm.columns import prepare
from hanse.vertical.glm.families import response_of
from hanse.vertical.glm.saved import decode_part, encode_part
from hanse.vertical.glm.scoring import PartyModel
from hanse.vertical.parties import host_roles
from hanse.vertical.tables import read_table


def people(rows: int = 400, seed: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A guest and two hosts who each know other people, too, in other orders."""
    rng = np.random.default_rng(seed)
    ids = np.array([f"p{at}" for at in range(rows)])
    x = rng.standard_normal((rows, 5)) * [1, 10, 0.1, 5, 1] + [0, 3, 0, 100, -2]
    scaled = (x - x.mean(0)) / x.std(0)
    y = np.where(scaled @ [1, -2, 1, 0.5, 0] + 0.3 * rng.standard_normal(rows) > 0, "yes", "no")

    def cut(keep: Any, names: dict[str, int], **more: Any) -> dict[str, Any]:
        order = rng.permutation(np.flatnonzero(keep))
        return {
            "id": ids[order],
            **{name: x[order, at] for name, at in names.items()},
            **{k: v[order] for k, v in more.items()},
        }

    at = np.arange(rows)
    guest = cut(at < 380, {"age": 0}, y=y)
    return guest, [cut(at >= 20, {"sales": 1, "visits": 2}), cut(at % 50 != 0, {"calls": 3, "noise": 4})]


MODEL = {"epochs": 12, "batch_rows": 60}


def test_three_parties_train_and_score_together() -> None:
    guest, hosts = people()
    result = hs.vertical.simulate(hs.vertical.LogisticRegression(**MODEL), guest, hosts)
    common = set(guest["id"]) & set(hosts[0]["id"]) & set(hosts[1]["id"])
    assert {guest["id"][at] for at in result.rows} == common
    assert result.metrics["auc"] > 0.97
    assert set(result.coefficients) == {"guest", "host-1", "host-2"}
    assert set(result.coefficients["host-1"]) == {"sales", "visits"}
    assert result.coefficients["host-1"]["sales"] < 0 < result.coefficients["host-1"]["visits"]
    assert result.classes == ("no", "yes")

    rows, chances = result.predict(guest, hosts)
    names = guest["id"][rows]
    z = np.full(len(rows), float(result.parts["guest"].weights[0, 0]))
    for role, table in zip(result.parts, (guest, *hosts), strict=True):
        places = {name: at for at, name in enumerate(table["id"])}
        taken = [places[name] for name in names]
        means = dict(zip(result.parts[role].columns.names, result.parts[role].columns.means, strict=True))
        for column, weight in result.coefficients[role].items():
            if column != "(intercept)":
                z += weight * (table[column][taken] - means[column])
    assert np.abs(chances - 1 / (1 + np.exp(-z))).max() < 1e-9
    assert metrics.auc(guest["y"][rows] == "yes", chances) == pytest.approx(result.metrics["auc"], abs=1e-9)
    told = {(each.to, each.what) for each in result.reveals}
    assert ("host-1", "intersection") in told
    assert "server" not in {to for to, _ in told}
    assert {"intersection", "common_rows", "own_weights", "partial_score", "shape", "steps"} <= {
        what for _, what in told
    }


def test_a_single_row_scores_as_in_the_batch() -> None:
    guest, hosts = people()
    result = hs.vertical.simulate(hs.vertical.LogisticRegression(**MODEL), guest, hosts)
    rows, chances = result.predict(guest, hosts)
    one = {name: column[rows[:1]] for name, column in guest.items()}
    found, chance = result.predict(one, hosts)
    assert found.tolist() == [0]
    assert abs(chance[0] - chances[0]) < 1e-6


def test_a_host_that_is_offline() -> None:
    guest, hosts = people()
    result = hs.vertical.simulate(hs.vertical.LogisticRegression(**MODEL), guest, hosts)
    with pytest.raises(UnavailableError, match="host-2"):
        result.predict(guest, [hosts[0], None])
    rows, chances = result.predict(guest, [hosts[0], None], if_offline="default")
    assert len(rows) > 300
    assert 0.9 < metrics.auc(guest["y"][rows] == "yes", chances) < result.metrics["auc"]


def test_training_goes_on_from_an_earlier_result() -> None:
    guest, hosts = people()
    model = hs.vertical.LogisticRegression(**{**MODEL, "epochs": 2, "learning_rate": 0.1})
    first = hs.vertical.simulate(model, guest, hosts)
    second = hs.vertical.simulate(model, guest, hosts, start=first.weights())
    assert second.metrics["log_loss"] < first.metrics["log_loss"]


@pytest.mark.parametrize("family", ["linear", "poisson"])
def test_numbers_and_counts_in_a_common_order_with_weights(family: str) -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((500, 3))
    y = x @ [1, 2, 3] + 50 if family == "linear" else rng.poisson(np.exp(x @ [0.3, 0.2, 0.1] + 1))
    kind = hs.vertical.LinearRegression if family == "linear" else hs.vertical.PoissonRegression
    model = kind(label="value", key=None, weight="w", epochs=40, batch_rows=100, learning_rate=0.1)
    guest = {"value": y, "w": rng.random(500), "a": x[:, 0]}
    result = hs.vertical.simulate(model, guest, {"b": x[:, 1], "c": x[:, 2]})
    assert result.rows.tolist() == list(range(500))
    if family == "linear":
        assert result.metrics["r2"] > 0.999
        spread = result.response.scale
        found = [
            spread * result.coefficients[role][name] for role, name in (("guest", "a"), ("host", "b"), ("host", "c"))
        ]
        assert np.abs(np.subtract(found, [1, 2, 3])).max() < 0.05
    else:
        assert result.metrics["d2"] > 0.1


def test_several_classes() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((600, 4))
    y = np.array(["a", "b", "c"])[(x[:, :3] + 0.1 * rng.standard_normal((600, 3))).argmax(1)]
    model = hs.vertical.LogisticRegression(key=None, epochs=20, batch_rows=100)
    result = hs.vertical.simulate(model, {"y": y, "p": x[:, 0]}, {"q": x[:, 1], "r": x[:, 2], "s": x[:, 3]})
    assert result.metrics["accuracy"] > 0.85
    assert len(result.coefficients["host"]["q"]) == 3


@pytest.mark.parametrize("protocol", ["dealer", "arbiter", "dealer-free", "own-gradient"])
def test_every_protocol_ends_alike(protocol: str) -> None:
    guest, hosts = people(60)
    model = hs.vertical.LogisticRegression(protocol=protocol, epochs=2, batch_rows=30)
    result = hs.vertical.simulate(model, guest, hosts[0])
    assert result.metrics["auc"] > 0.8
    assert ("own_gradient" in {each.what for each in result.reveals}) == (protocol in ("own-gradient", "arbiter"))


def test_two_hosts_without_a_dealer_are_refused() -> None:
    guest, hosts = people(60)
    with pytest.raises(ConfigError, match="expected one for dealer-free, found 2; take the protocol dealer"):
        hs.vertical.simulate(hs.vertical.LogisticRegression(protocol="dealer-free"), guest, hosts)


def test_a_saved_part_scores_as_before(tmp_path: Path) -> None:
    guest, hosts = people(120)
    result = hs.vertical.simulate(
        hs.vertical.LogisticRegression(**{**MODEL, "epochs": 2, "clip": 3.0}), guest, hosts[0]
    )
    result.save(tmp_path / "model")
    assert {each.name for each in (tmp_path / "model").iterdir()} == {"guest.safetensors", "host.safetensors"}
    z = np.zeros((len(result.rows), 1))
    for role, names in (("guest", ["age"]), ("host", ["sales", "visits"])):
        part, response = decode_part((tmp_path / "model" / f"{role}.safetensors").read_bytes())
        table = guest if role == "guest" else hosts[0]
        places = {name: at for at, name in enumerate(table["id"])}
        rows = [places[guest["id"][at]] for at in result.rows]
        z += part.part(np.column_stack([table[name][rows] for name in names]))
        assert (response is None) == (role == "host")
    assert np.abs(z - result.scores).max() < 1e-12
    guest_response = decode_part((tmp_path / "model" / "guest.safetensors").read_bytes())[1]
    assert guest_response is not None
    assert guest_response.classes == ("no", "yes")
    assert np.array_equal(guest_response.predict(z), result.response.predict(z))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_file_that_is_no_part_is_refused(data: st.DataObject) -> None:
    response = response_of(np.array([0, 1, 2] * 3), "logistic")
    good = encode_part(PartyModel(prepare(np.eye(9)[:, :2], intercept=True), np.ones((3, 3))), response)
    assert decode_part(good)[1] is not None
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(good) - 1))
        bad = good[:at] + bytes([data.draw(st.integers(0, 255))]) + good[at + 1 :]
    else:
        arrays: dict[str, Any] = dict(decode(good))
        name = data.draw(st.sampled_from(list(arrays)))
        value = st.sampled_from([np.zeros(3), np.full((3, 3), np.nan), np.zeros((3, 3), np.float32), np.zeros((0, 3))])
        text = st.sampled_from(
            [
                b"",
                b"[]",
                b'{"v":1}',
                b'{"v":1,"names":["a","a","b"]}',
                b'{"v":2}',
                b'{"v":1,"names":["a","b","c"],"hosts":-1}',
                b"[" * 100_000,
            ]
        )
        arrays[name] = np.frombuffer(data.draw(text), np.uint8) if name == "about" else data.draw(value)
        bad = encode(Arrays(arrays))
    try:
        part, _ = decode_part(bad)
    except CodecError:
        return
    assert part.weights.shape[0] == len(part.columns.names)
    assert np.isfinite(part.weights).all()


# ---- tables ----


class Frame:
    """As pandas and polars look from here."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.columns = list(data)
        self._data = data

    def __getitem__(self, name: str) -> Any:
        return self._data[name]


class ArrowTable(Frame):
    """As pyarrow looks: `columns` are not names."""

    @property
    def column_names(self) -> list[str]:
        return list(self._data)


def test_tables_in_many_forms_are_the_same(tmp_path: Path) -> None:
    data = {"id": ["a", "b", "c"], "y": [0, 1, 0], "x": [1.5, np.nan, 2.0]}
    text = "id,y,x\na,0,1.5\nb,1,\nc,0,2\n"
    (tmp_path / "t.csv").write_text(text)
    with gzip.open(tmp_path / "t.csv.gz", "wt") as file:
        file.write(text)
    objects = {**data, "id": np.array(data["id"], object), "x": np.array([1.5, float("nan"), 2], object)}
    sources: list[Any] = [data, Frame(data), ArrowTable(data), objects, tmp_path / "t.csv", str(tmp_path / "t.csv.gz")]
    for source in sources:
        table = read_table(source, key="id", label="y")
        assert table.ids is not None
        assert table.ids.tolist() == ["a", "b", "c"]
        assert table.names == ("x",)
        assert np.array_equal(table.values, [[1.5], [np.nan], [2.0]], equal_nan=True)
        assert table.label is not None
        assert table.label.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ({"x": [1, 2]}, {"key": "id"}, "expected a column 'id' as the key"),
        ({"id": [1, 2]}, {"key": "id", "label": "y"}, "expected a column 'y' as the label"),
        ({"id": [1, 2], "y": [0, 1]}, {"key": "id", "not_here": "y"}, "belongs to the guest"),
        ({"id": [1, 2], "x": [0, 1, 2]}, {"key": "id"}, "columns of one length"),
        ({"id": [1, 2], "x": ["red", "blue"]}, {"key": "id"}, "1 columns of other kinds: 'x'; encode categories"),
        ({"id": [1, 2], "x": [[0], [1]]}, {"key": "id"}, "one dimension, found 2 in 'x'"),
        ({"id": [1, 2], "y": ["red", None]}, {"key": "id", "label": "y"}, "text in every row of 'y'.*other kinds"),
        ({"id": [1, 2], "y": ["red", ""]}, {"key": "id", "label": "y"}, "a value in every row of 'y'.*found 1 empty"),
        ({"id": [1, 2], "y": [0, 1], "w": ["red"] * 2}, {"key": "id", "label": "y", "weight": "w"}, "numbers in 'w'"),
        ({}, {"key": "id"}, "found none"),
        (7, {"key": "id"}, "a mapping, a data frame or the path of a CSV or Parquet file, found int"),
    ],
)
def test_tables_that_do_not_fit_are_refused(source: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        read_table(source, **options)
    assert "red" not in str(refused.value)


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no file"):
        read_table(tmp_path / "missing.csv", key="id")
    for content in (b"", b"a,a\n1,2\n", b"a,b\n1\n", b"\xff\xfe\x00"):
        (tmp_path / "bad.csv").write_bytes(content)
        with pytest.raises(ConfigError, match=r"bad.csv: expected"):
            read_table(tmp_path / "bad.csv", key="a")
    (tmp_path / "short.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n")[:-9])
    with pytest.raises(ConfigError, match="found EOFError"):
        read_table(tmp_path / "short.csv.gz", key="a")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda g, h: h[0].update(y=h[0]["sales"]), "belongs to the guest"),
        (lambda g, h: h[0].update(id=np.arange(len(h[0]["id"]))), "expected one kind"),
        (lambda g, h: h[0]["id"].__setitem__(0, h[0]["id"][1]), "expected each once"),
        (lambda g, h: h[0].update(id=np.char.add("z", h[0]["id"])), "found none in common"),
        (lambda g, h: h[0].update(sales=np.full(len(h[0]["id"]), 7.25)), "1 that are constant|found 1 that do not"),
        (lambda g, h: h[0]["sales"].__setitem__(5, np.inf), "1 with missing or infinite"),
        (lambda g, h: g.update(y=np.full(len(g["y"]), "no")), "expected 2 to 64 classes, found 1"),
        (lambda g, h: g.pop("y"), "expected a column 'y' as the label"),
    ],
)
def test_parties_that_do_not_fit_each_other_are_refused(change: Any, words: str) -> None:
    guest, hosts = people(120)
    change(guest, hosts)
    with pytest.raises(HanseError, match=words) as refused:
        hs.vertical.simulate(hs.vertical.LogisticRegression(**{**MODEL, "epochs": 1}), guest, hosts)
    assert "7.25" not in str(refused.value)
    assert "p1" not in str(refused.value)


def test_unequal_rows_without_a_key_are_refused() -> None:
    model = hs.vertical.LogisticRegression(key=None)
    with pytest.raises(ConfigError, match=r"found \[10, 11\]"):
        hs.vertical.simulate(model, {"y": [0, 1] * 5, "a": range(10)}, {"b": range(11)})


def test_scores_beyond_the_series_are_named() -> None:
    x = np.random.default_rng(0).standard_normal((200, 2))
    model = hs.vertical.LogisticRegression(key=None, epochs=60, batch_rows=20, learning_rate=8.0)
    with pytest.raises(ConfigError, match=r"set wide_scores|diverged"):
        hs.vertical.simulate(model, {"y": (x.sum(1) > 0).astype(int), "a": x[:, 0]}, {"b": x[:, 1]})


@pytest.mark.parametrize("options", [{"protocol": "magic"}, {"epochs": 0}, {"learning_rate": -1}])
def test_models_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        hs.vertical.LogisticRegression(**options)


def test_what_a_model_declares_is_plain_data() -> None:
    for count in (1, 3):
        declared = hs.vertical.LogisticRegression(tolerance=0.1).whole(host_roles(count))
        assert Protocol.from_json(json.loads(json.dumps(declared.describe()))) == declared
    assert {name for name in dir(hs.vertical) if not name.startswith("_")} >= {"LogisticRegression", "simulate"}
    with pytest.raises(AttributeError):
        _ = hs.vertical.nothing


# ---- alignment and scoring, as protocols ----


def test_rows_that_were_not_met_are_refused() -> None:
    for rows in ([0, 0], [-1], [5]):
        outcome = run_scheduled(
            alignment.PROTOCOL,
            {
                "guest": lambda party, rows=rows: alignment.guest(party, np.array(rows)),
                "host": lambda party: alignment.host(party, np.arange(5)),
            },
            0,
        )
        assert isinstance(outcome.errors["host"], RefusedError)


def part(width: int, *, intercept: bool) -> tuple[PartyModel, Any]:
    table = np.random.default_rng(width).standard_normal((20, width))
    columns = prepare(table, intercept=intercept)
    return PartyModel(columns, np.ones((width + intercept, 1))), table


def views(programs: dict[str, Any], protocol: Protocol) -> dict[str, list[Any]]:
    """What each role received, in order."""
    seen: dict[str, list[Any]] = {role: [] for role in programs}

    class Recording(Party):
        async def recv(self, sender: str, name: str) -> Any:
            value = await super().recv(sender, name)
            seen[self.role].append((name, value))
            return value

    def recorded(program: Any) -> Any:
        async def body(party: Party) -> Any:
            party.__class__ = Recording
            return await program(party)

        return body

    outcome = run_scheduled(protocol, {role: recorded(program) for role, program in programs.items()}, 0)
    assert outcome.errors == {}
    return seen


def assert_same(view: list[Any], made: list[Any]) -> None:
    assert [name for name, _ in view] == [name for name, _ in made]
    for (_, real), (_, simulated) in zip(view, made, strict=True):
        assert (real.dtype, real.tolist()) == (simulated.dtype, simulated.tolist())


def test_views_of_scoring_are_what_is_revealed() -> None:
    (own, table), (other, theirs), (third, more) = (part(each, intercept=each == 2) for each in (2, 3, 4))
    rows = np.array([3, 3, 17])
    seen = views(
        {
            "guest": lambda party: scoring.guest(party, own, table[rows], rows),
            "host-1": lambda party: scoring.host(party, other, theirs),
            "host-2": lambda party: scoring.host(party, third, more),
        },
        scoring.protocol(2),
    )
    parts = [other.part(theirs[rows]), third.part(more[rows])]
    assert_same(seen["guest"], scoring.simulate_view("guest", {"partial_score": parts}))
    for host in ("host-1", "host-2"):
        assert_same(seen[host], scoring.simulate_view(host, {"scored_rows": rows.tolist()}))

    data = np.random.default_rng(5).standard_normal((60, 4))
    label = (data.sum(axis=1) > 0).astype(int)
    bank = {"y": label, "a": data[:, 0], "b": data[:, 1]}
    model, rows = hs.vertical.Boosting(num_trees=2, depth=2, cipher="mock", key=None), np.arange(0, 60, 7)
    parts = hs.vertical.simulate(model, bank, {"c": data[:, 2], "d": data[:, 3]}).parts
    seen = views(
        {
            "guest": lambda party: tree_scoring.guest(party, parts["guest"], data[rows, :2], rows),
            "host": lambda party: tree_scoring.host(party, parts["host"], data[:, 2:]),
        },
        tree_scoring.protocol(1),
    )
    answers = [parts["host"].questions.lefts(data[rows, 2:])]
    assert answers[0].any()
    assert_same(seen["guest"], tree_scoring.simulate_view("guest", {"split_answers": answers}))
    assert_same(seen["host"], tree_scoring.simulate_view("host", {"scored_rows": rows}))


@pytest.mark.parametrize(
    ("rows", "max_rows", "words"),
    [([0] * 5, 4, "1 to 4 rows, found 5"), ([-1], 9, "rows from 0 to 19"), ([20], 9, "rows from 0 to 19")],
)
def test_questions_beyond_the_rows_are_refused(rows: list[int], max_rows: int, words: str) -> None:
    own, table = part(2, intercept=True)
    other, theirs = part(3, intercept=False)
    outcome = run_scheduled(
        scoring.protocol(),
        {
            "guest": lambda party: scoring.guest(party, own, table[: len(rows)], np.array(rows)),
            "host": lambda party: scoring.host(party, other, theirs, max_rows=max_rows),
        },
        0,
    )
    assert words in str(outcome.errors["host"])
    assert isinstance(outcome.errors["guest"], UnavailableError)


@pytest.mark.parametrize("answer", [np.zeros((2, 1)), np.full((3, 1), np.nan), np.zeros((3, 2))])
def test_parts_that_do_not_fit_are_refused(answer: Any) -> None:
    own, table = part(2, intercept=True)

    async def host(party: Any) -> None:
        await party.recv("guest", "rows")
        await party.send("guest", "part", answer)

    outcome = run_scheduled(
        scoring.protocol(),
        {"guest": lambda party: scoring.guest(party, own, table[:3], np.arange(3), if_offline="default"), "host": host},
        0,
    )
    assert isinstance(outcome.errors["guest"], RefusedError)


@pytest.mark.parametrize(("rows", "policy"), [(np.arange(2), "refuse"), (np.arange(3), "guess")])
def test_bad_questions_are_refused_at_home(rows: Any, policy: Any) -> None:
    own, table = part(2, intercept=True)
    outcome = run_scheduled(
        scoring.protocol(), {"guest": lambda party: scoring.guest(party, own, table[:3], rows, if_offline=policy)}, 0
    )
    assert isinstance(outcome.errors["guest"], ConfigError)


def test_models_room_is_what_the_front_door_shows() -> None:
    assert hs.vertical.simulate is together.simulate
