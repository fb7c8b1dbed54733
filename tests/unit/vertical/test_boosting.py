"""Trees of several parties against the oracle: the same SHA-256 over generated tables, pooled and over channels."""

import importlib.util
from collections.abc import Callable
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
from hanse.vertical.boosting import guest, host
from hanse.vertical.boosting.ciphers import KEEPERS, Layout
from hanse.vertical.boosting.columns import BinnedColumns, binned, groups_of
from hanse.vertical.boosting.pooled import pooled
from hanse.vertical.boosting.protocol import protocol
from hanse.vertical.boosting.response import Response, response_of
from hanse.vertical.boosting.settings import Settings
from hanse.vertical.boosting.splits import Told, best_split, derivatives, largest
from hanse.vertical.boosting.view import simulate_view
from hanse.vertical.glm.dealer import data_roles
from tests.unit.vertical import boosting_oracle as oracle

KINDS = {"binary": 2, "multiclass": 3, "regression": 0}
VALUES = st.sampled_from([0.0, -0.0, 1.0, 2.0, 2.5, 7.0, -3.0, 1e300, -1e300, 5e-324, float("nan"), float("nan")])


@st.composite
def tasks(draw: Any) -> tuple[list[np.ndarray], np.ndarray, str, dict[str, Any]]:
    """Tables with ties, constants, missing values and few rows; labels of three kinds, targets over many magnitudes."""
    rows = draw(st.integers(6, 40))
    tables = []
    for _ in range(draw(st.integers(1, 3))):
        columns = draw(
            st.lists(
                st.one_of(
                    st.lists(VALUES, min_size=rows, max_size=rows),
                    st.lists(st.integers(-50, 50).map(float), min_size=rows, max_size=rows),
                    VALUES.map(lambda value: [value] * rows),
                ),
                min_size=1,
                max_size=3,
            )
        )
        tables.append(np.array(columns).T)
    kind = draw(st.sampled_from(list(KINDS)))
    if kind == "regression":
        numbers = st.sampled_from([0.0, 1.0, -1.0, 1e-200, 3.0, 1e6, -1e90, 0.1])
        label = np.array(draw(st.lists(numbers, min_size=rows, max_size=rows)))
    else:
        label = np.array(draw(st.permutations([at % KINDS[kind] for at in range(rows)])))
    options = {
        "num_trees": draw(st.integers(1, 3)),
        "depth": draw(st.integers(1, 4)),
        "learning_rate": draw(st.sampled_from([0.3, 1.0, 1e-3, 50.0])),
        "reg_lambda": draw(st.sampled_from([1.0, 0.0, 0.3])),
        "min_split_gain": draw(st.sampled_from([0.0, 0.05])),
        "min_child_weight": draw(st.sampled_from([0.0, 0.5])),
        "min_bin_rows": draw(st.sampled_from([1, 2, 5])),
        "max_bins": draw(st.sampled_from([2, 3, 8])),
        "guest_trees": draw(st.integers(0, 1)),
        "seed": draw(st.integers(0, 2**63 - 1)),
    }
    if draw(st.booleans()):
        options |= {"top_rate": 0.3, "other_rate": 0.4}
    if draw(st.booleans()):
        options |= {"held_out": 0.25, "patience": 1}
    return tables, label, kind, options


def prepared(
    tables: list[Any], label: Any, kind: str, options: dict[str, Any]
) -> tuple[list[BinnedColumns], Response, Settings]:
    held = Settings(**{"cipher": "mock"} | options)
    columns = [binned(table, [f"c{at}" for at in range(table.shape[1])], held.max_bins) for table in tables]
    return columns, response_of(label, "regression" if kind == "regression" else "classification"), held


def oracles(tables: list[Any], response: Response, kind: str, s: Settings) -> str:
    parties = [[column.tolist() for column in table.T] for table in tables]
    held = oracle.Settings(
        s.num_trees, s.depth, s.learning_rate, s.reg_lambda, s.min_split_gain, s.min_child_weight, s.min_bin_rows,
        s.max_bins, s.top_rate, s.other_rate, s.guest_trees, s.held_out, s.patience, s.seed,
    )  # fmt: skip
    return oracle.Booster(parties, kind, response.target.tolist(), len(response.classes), held).digest()


def play(
    columns: list[BinnedColumns], response: Response, held: Settings, seed: int = 0, *, spoil: Any = None
) -> Outcome:
    """All roles under the seeded scheduler; `spoil(name, array)` changes what is sent."""

    class Spoilt(Party):
        async def send(self, to: str, name: str, value: Array) -> None:
            await super().send(to, name, value if spoil is None else spoil(self.role, name, value))

    def program(role: str, own: BinnedColumns) -> Callable[[Party], Any]:
        async def body(party: Party) -> Any:
            party.__class__ = Spoilt
            if role == "guest":
                return await guest.guest(party, own, response, held)
            return await host.host(party, own, held)

        return body

    roles = data_roles(len(columns) - 1)
    programs = {role: program(role, own) for role, own in zip(roles, columns, strict=True)}
    return run_scheduled(protocol(len(columns) - 1, held), programs, seed)


def digest(outcome: Outcome) -> str:
    assert outcome.errors == {}
    questions = [outcome.results["guest"].questions, *list(outcome.results.values())[1:]]
    found: str = outcome.results["guest"].grown.forest.digest(questions)
    return found


@settings(max_examples=80, deadline=None)
@given(tasks())
def test_pooled_trees_are_the_oracles(task: Any) -> None:
    tables, label, kind, options = task
    columns, response, held = prepared(tables, label, kind, options)
    assert pooled(columns, response, held).digest == oracles(tables, response, kind, held)


@settings(max_examples=40, deadline=None)
@given(tasks(), st.integers(0, 2**32))
def test_joint_trees_are_the_oracles(task: Any, seed: int) -> None:
    tables, label, kind, options = task
    tables = tables if len(tables) > 1 else [tables[0], -tables[0]]
    columns, response, held = prepared(tables, label, kind, options)
    assert digest(play(columns, response, held, seed)) == oracles(tables, response, kind, held)


# ---- cross-validation ----


@settings(max_examples=8, deadline=None)
@given(tasks(), st.integers(2, 3), st.lists(st.integers(1, 3), unique=True, max_size=2), st.integers(0, 2**32))
def test_cross_validation_is_the_pooled_one_and_the_oracles(
    task: Any, folds: int, depths: list[int], seed: int
) -> None:
    tables, label, kind, options = task
    tables = tables if len(tables) > 1 else [tables[0], -tables[0]]
    options = {name: value for name, value in options.items() if name not in ("held_out", "patience")}
    options |= {"cross_validate": folds, "depths": tuple(depths)}
    columns, response, held = prepared(tables, label, kind, options)
    expected = pooled(columns, response, held)
    outcome = play(columns, response, held, seed)
    assert digest(outcome) == expected.digest
    found = outcome.results["guest"].selection
    assert expected.selection is not None
    assert found.losses.tobytes() == expected.selection.losses.tobytes()
    assert (found.depth, found.num_trees) == (expected.selection.depth, expected.selection.num_trees)

    parties = [[column.tolist() for column in table.T] for table in tables]
    slow = oracle.Settings(
        held.num_trees, held.depth, held.learning_rate, held.reg_lambda, held.min_split_gain, held.min_child_weight,
        held.min_bin_rows, held.max_bins, held.top_rate, held.other_rate, held.guest_trees, 0.0, 0, held.seed, folds,
    )  # fmt: skip
    target = response.target.tolist()
    sums = oracle.cross_validated(parties, kind, target, len(response.classes), slow, list(held.tried))
    scale = 2 * len(target) if kind == "regression" else len(target) << 26
    assert np.allclose(found.losses, [[float(each / scale) for each in row] for row in sums], rtol=1e-9, atol=1e-12)
    parts = [outcome.results["guest"].questions, *list(outcome.results.values())[1:]]
    assert sum(len(each.column) for each in parts) == int((outcome.results["guest"].grown.forest.party >= 0).sum())


def test_the_guest_may_choose_only_what_was_tried() -> None:
    columns, response = small(hosts=1)
    held = Settings(num_trees=2, depth=2, cipher="mock", cross_validate=2, depths=(1, 2))
    for wrong in ([3, 1], [2, 3], [2, 0]):

        def spoil(role: str, name: str, value: Array, wrong: list[int] = wrong) -> Array:
            return np.array(wrong, np.int64) if name == "selected" else value

        outcome = play(columns, response, held, spoil=spoil)
        assert "one of the depths that were tried" in str(outcome.errors["host"])


# ---- under ciphers ----


def small(kind: str = "classification", rows: int = 90, hosts: int = 2) -> tuple[list[BinnedColumns], Response]:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((rows, 2 + 3 * hosts))
    x[:, 3] = rng.integers(0, 3, rows)
    z = x @ rng.standard_normal(x.shape[1])
    x[rng.random(x.shape) < 0.1] = np.nan
    tables = [x[:, :2], *(x[:, 2 + 3 * at : 5 + 3 * at] for at in range(hosts))]
    label = z if kind == "regression" else (z > 0).astype(int)
    return [binned(table, [f"c{at}" for at in range(table.shape[1])], 8) for table in tables], response_of(label, kind)


needs_gmpy2 = pytest.mark.skipif(importlib.util.find_spec("gmpy2") is None, reason="needs gmpy2, the extra `vertical`")
OPTIONS: dict[str, Any] = {"num_trees": 2, "depth": 3, "max_bins": 8, "min_bin_rows": 5, "min_child_weight": 0.1}


@needs_gmpy2
@pytest.mark.parametrize(
    ("cipher", "kind"),
    [("okamoto-uchiyama", "classification"), ("okamoto-uchiyama", "regression"), ("paillier", "regression")],
)
def test_a_cipher_changes_nothing(cipher: str, kind: str) -> None:
    columns, response = small(kind)
    held = Settings(**OPTIONS, cipher=cipher, top_rate=0.4, other_rate=0.3)
    expected = pooled(columns, response, held)
    assert set(np.unique(expected.grown.forest.party)) == {-1, 0, 1, 2}
    assert digest(play(columns, response, held)) == expected.digest


def test_depth_and_guest_trees() -> None:
    columns, response = small()
    forest = pooled(columns, response, Settings(**OPTIONS, guest_trees=1)).grown.forest
    assert set(np.unique(forest.party[0])) == {-1, 0}
    assert forest.party[1].max() > 0
    assert (forest.party[:, 7:] == -1).all()


# ---- widths ----


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 1 << 20), st.integers(1, 1 << 33), st.integers(1, 1 << 33), st.integers(1, 9))
def test_sums_fit_at_the_bound_and_more_are_seen(rows: int, g_most: int, h_most: int, cells: int) -> None:
    if rows * max(g_most, h_most) >= 1 << 53:
        with pytest.raises(ConfigError, match="expected fewer"):
            Layout.of(g_most, h_most, rows, 680)
        return
    layout = Layout.of(g_most, h_most, rows, 680)
    ends = [(sign * g_most, h) for sign in (-1, 1) for h in (0, h_most)] * 3
    g, h = np.array(ends[:cells]).T
    messages = layout.messages(g, h)
    assert max(map(abs, messages)) * rows <= layout.packing.bound < 1 << 680

    def answers(times: int) -> list[int]:
        whole = [times * each + layout.offset for each in messages]
        starts = range(0, cells, layout.per)
        return [sum(x << layout.bits * k for k, x in enumerate(whole[at : at + layout.per])) for at in starts]

    assert len(answers(rows)) == layout.num_answers(cells)
    assert max(answers(rows)) < 1 << 680
    found = layout.cells(answers(rows), cells)
    assert np.array_equal(found[0], rows * g)
    assert np.array_equal(found[1], rows * h)
    with pytest.raises(RefusedError, match="larger"):
        layout.cells(answers(rows + 1), cells)
    with pytest.raises(ConfigError, match="bounds"):
        layout.messages(g + np.sign(g), h)


@given(st.floats(0.01, 0.9), st.sampled_from(["classification", "regression"]), st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_derivatives_keep_to_their_bounds(top: float, kind: str, seed: int) -> None:
    _, response = small(kind)
    held = Settings(top_rate=top, other_rate=(1 - top) / 60, seed=seed)
    margins = np.random.default_rng(seed).standard_normal((1, 90)) * 30
    g, h = response.objective.gradients(margins, response.target)
    found = derivatives(g[0], h[0], np.ones(90, np.bool_), 0, response.objective, held)
    g_most, h_most = largest(response.objective, held)
    assert np.abs(found.g).max() <= g_most
    assert 0 <= found.h.min() <= found.h.max() <= h_most
    assert found.sample.sum() == int(top * 90) + int((1 - top) / 60 * 90)


# ---- exact comparison, groups ----


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-2, 2)), min_size=2, max_size=8), st.integers(30, 48))
def test_the_best_split_is_exact_where_floats_are_not(near: list[tuple[int, int]], bits: int) -> None:
    """Columns of two groups whose scores differ in the last of a hundred bits."""
    base = 1 << bits
    sums = [(base + a, 2 * base + b) for a, b in near]
    total = 3 * base, 5 * base
    flat = np.array([[side for g, h in sums for side in ((g, h), (total[0] - g, total[1] - h))]])[0]
    told = Told(flat[:, 0], flat[:, 1], np.full(len(sums), 2), np.zeros(len(sums), np.bool_))
    held = Settings(reg_lambda=0.0, min_child_weight=0.0)

    def score(g: int, h: int) -> Fraction:
        return Fraction(g * g, h) + Fraction((total[0] - g) ** 2, total[1] - h)

    scores = [score(*each) for each in sums]
    found = best_split([told], total, 0, held)
    if max(scores) <= Fraction(total[0] ** 2, total[1]):
        assert found is None
    else:
        assert found is not None
        assert found.column == scores.index(max(scores))


@given(st.lists(st.lists(st.integers(0, 30), min_size=6, max_size=6), min_size=1, max_size=4), st.integers(1, 25))
def test_every_group_has_its_rows(rows: list[list[int]], least: int) -> None:
    counted = np.array(rows)
    found = groups_of(counted, np.full(len(rows), 4), least)
    for column, mine in enumerate(counted):
        assert (np.diff(found.group[column, :5]) >= 0).all()
        sums = np.bincount(found.group[column], weights=mine)
        assert len(sums) == found.num_groups[column] + found.apart[column]
        if len(sums) > 1:
            assert sums.min() >= least
        ends = found.last_bin[column, : found.num_groups[column]]
        assert ends[-1] == 4
        assert [int(found.group[column, end]) for end in ends] == list(range(len(ends)))


# ---- what travels ----


class Recording(Party):
    """Keeps what it receives."""

    seen: list[tuple[str, Array]]

    async def recv(self, sender: str, name: str) -> Array:
        value = await super().recv(sender, name)
        self.seen.append((name, value))
        return value


def views(columns: list[BinnedColumns], response: Response, held: Settings) -> dict[str, list[tuple[str, Array]]]:
    seen: dict[str, list[tuple[str, Array]]] = {"guest": [], "host": []}

    def program(role: str, own: BinnedColumns) -> Callable[[Party], Any]:
        async def body(party: Party) -> Any:
            party.__class__ = Recording
            party.seen = seen[role]  # type: ignore[attr-defined]
            if role == "guest":
                return await guest.guest(party, own, response, held)
            return await host.host(party, own, held)

        return body

    programs = {role: program(role, own) for role, own in zip(seen, columns, strict=True)}
    assert run_scheduled(protocol(1, held), programs, 0).errors == {}
    return seen


def schema(view: list[tuple[str, Array]]) -> list[Any]:
    return [(name, value.dtype, value.shape) for name, value in view]


@needs_gmpy2
def test_views_are_simulated_from_what_is_revealed() -> None:
    columns, response = small(hosts=1)
    held = Settings(**{**OPTIONS, "num_trees": 1}, top_rate=0.4, other_rate=0.3)
    real = views(columns, response, held)
    clear = views(
        columns, response, Settings(**{**OPTIONS, "num_trees": 1}, top_rate=0.4, other_rate=0.3, cipher="mock")
    )
    assert {role: schema(view) for role, view in real.items()} == {role: schema(view) for role, view in clear.items()}
    layout = Layout.of(*largest(response.objective, held), 90, 680)
    counts = [int(value[..., 0].sum()) for name, value in real["guest"] if name == "counts"]
    for role in ("guest", "host"):
        reveals, left = [], list(counts)
        for name, value in clear[role]:
            shown = value
            if name == "sums":
                g, h = layout.cells([int.from_bytes(each.tobytes(), "little") for each in value], left.pop(0))
                shown = np.stack([g, h], axis=1)
            elif name == "hello":  # the settings differ in the cipher
                shown = next(each for at, each in real[role] if at == "hello")
            reveals.append((name, shown))
        made = simulate_view(held.cipher, layout, reveals)
        assert schema(made) == schema(real[role])
        masked = ("sums", "derivatives", "public_key")
        for (name, ours), (_, theirs) in zip(made, real[role], strict=True):
            if name not in masked:
                assert np.array_equal(ours, theirs), name
        for view in (made, real[role]):
            sealed = np.concatenate([value for name, value in view if name in ("sums", "derivatives")])
            low = sealed[:, :128].astype(np.float64)  # the lower half of a ciphertext is uniform
            assert abs(low.mean() - 127.5) < 6 * 73.9 / np.sqrt(low.size)
            assert len(np.unique(sealed, axis=0)) == len(sealed)


@needs_gmpy2
@pytest.mark.parametrize("cipher", ["okamoto-uchiyama", "paillier"])
def test_answers_are_rerandomised(cipher: str) -> None:
    keeper = KEEPERS[cipher]()
    layout = Layout.of(1 << 26, 1 << 26, 100, keeper.capacity_bits)
    adder = KEEPERS[cipher].adder(keeper.public())
    numbers = adder.read(keeper.encrypt([5, 7 << layout.h_bits], layout))
    first, second = adder.answers(numbers, layout), adder.answers(numbers, layout)
    assert not np.array_equal(first, second)
    assert keeper.decrypt(first, layout) == keeper.decrypt(second, layout)
    found = layout.cells(keeper.decrypt(first, layout), 2)
    assert [each.tolist() for each in found] == [[0, 7], [5, 0]]


def test_hosts_are_told_less_than_they_need_not_know() -> None:
    """Of a split at the guest a host hears nothing but who went left."""
    columns, response = small(hosts=1)
    held = Settings(**OPTIONS, cipher="mock")
    for name, value in views(columns, response, held)["host"]:
        if name == "chosen":
            assert ((value == -1).all(axis=1) | (value[:, 0] >= 0)).all()


# ---- bad input ----


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_garbage_ends_by_name(data: Any) -> None:
    columns, response = small(hosts=1)
    held = Settings(**{**OPTIONS, "num_trees": 1}, cipher="mock", top_rate=0.4, other_rate=0.3)
    names = ("hello", "tree", "sample", "counts", "sums", "chosen", "sides", "grown", "moved", "derivatives")
    name, turn = data.draw(st.sampled_from(names)), data.draw(st.integers(0, 2))
    how = data.draw(st.sampled_from(["random", "shorter", "longer", "negative"]))
    seed = data.draw(st.integers(0, 1000))
    sent = {"count": 0}

    def spoil(role: str, at: str, value: Array) -> Array:
        if at != name:
            return value
        sent["count"] += 1
        if sent["count"] != turn + 1:
            return value
        rng = np.random.default_rng(seed)
        fixed = at in ("hello", "tree")
        if how == "random" or (fixed and how in ("shorter", "longer")):
            top = 256 if value.dtype == np.uint8 else 40
            return rng.integers(0, top, value.shape).astype(value.dtype)
        if how == "shorter":
            return value[:-1]
        if how == "longer":
            return np.concatenate([value, value[-1:]])
        return (255 - value if value.dtype == np.uint8 else -1 - value).astype(value.dtype)

    outcome = play(columns, response, held, spoil=spoil)
    for error in outcome.errors.values():
        assert isinstance(error, RefusedError | UnavailableError)


def test_sums_that_do_not_add_up_to_the_node_are_refused() -> None:
    columns, response = small(hosts=1)

    def spoil(role: str, name: str, value: Array) -> Array:
        if name != "sums":
            return value
        value = value.copy()
        value[0, 0] ^= 1  # the last bit of one Σh
        return value

    outcome = play(columns, response, Settings(**OPTIONS, cipher="mock"), spoil=spoil)
    assert "expected sums that add up to those of the node" in str(outcome.errors["guest"])


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (0, 3 * 64)])
def test_a_host_answers_each_tree_once_and_no_more_than_were_agreed(first: int, second: int) -> None:
    columns, response = small(hosts=1)
    held = Settings(**{**OPTIONS, "num_trees": 3}, cipher="mock")
    numbers = iter((first, second))

    def spoil(role: str, name: str, value: Array) -> Array:
        return np.array([next(numbers, 2), value[1]], np.int64) if name == "tree" else value

    outcome = play(columns, response, held, spoil=spoil)
    assert f"expected a tree from {first + 1} to 191, found {second}" in str(outcome.errors["host"])


def test_another_number_of_rows_or_other_settings_are_refused() -> None:
    columns, response = small(hosts=1)
    held = Settings(**OPTIONS, cipher="mock")
    short = binned(np.zeros((89, 1)), ["c"], 8)
    outcome = play([columns[0], short], response, held)
    assert "expected 90 rows as here, found 89" in str(outcome.errors["guest"])

    async def other(party: Party) -> Any:
        return await host.host(party, columns[1], Settings(**{**OPTIONS, "depth": 2}, cipher="mock"))

    programs = {"guest": lambda party: guest.guest(party, columns[0], response, held), "host": other}
    outcome = run_scheduled(protocol(1, held), programs, 0)
    assert "expected the settings of the training as here" in str(outcome.errors["host"])


@needs_gmpy2
def test_numbers_that_are_no_ciphertexts_are_refused() -> None:
    keeper = KEEPERS["okamoto-uchiyama"]()
    adder = KEEPERS["okamoto-uchiyama"].adder(keeper.public())
    good = keeper.encrypt([1, 2, 3], Layout.of(1 << 26, 1 << 26, 100, 680))
    for bad in (np.zeros(256, np.uint8), np.full(256, 255, np.uint8), keeper.public()[0]):
        spoilt = good.copy()
        spoilt[1] = bad
        with pytest.raises(RefusedError, match="coprime"):
            adder.read(spoilt)
    with pytest.raises(RefusedError, match="exactly 2048 bits"):
        KEEPERS["okamoto-uchiyama"].adder(np.ones((3, 256), np.uint8) * np.arange(256, dtype=np.uint8) // 200)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, "depth: expected a whole number from 1 to 10"),
        ({"learning_rate": 0.0}, "learning_rate: expected a number above 0"),
        ({"top_rate": 0.2}, "expected both 0, or both above 0"),
        ({"top_rate": 0.9, "other_rate": 0.001}, "other_rate: expected at least"),
        ({"patience": 3}, "expected both, for early stopping"),
        ({"cross_validate": 1}, "cross_validate: expected 2 folds or more"),
        ({"cross_validate": 3, "held_out": 0.2, "patience": 1}, "without held_out and patience"),
        ({"depths": (2, 3)}, "depths go with it"),
        ({"cross_validate": 3, "depths": (2, 2)}, "depths: expected different whole numbers from 1 to 10"),
        ({"cross_validate": 3, "fold": 4}, "fold: expected a whole number from 0 to 3"),
        ({"cipher": "rot13"}, "cipher: expected one of okamoto-uchiyama, paillier, mock"),
        ({"reg_lambda": float("nan")}, "reg_lambda: expected a number from 0"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings(**options)


def test_tables_and_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="found 1 infinite"):
        binned(np.array([[1.0], [np.inf]]), ["a"], 8)
    for label, kind, message in (
        (np.zeros(5), "classification", "2 to 64 classes, found 1"),
        (np.array([1.0, np.nan]), "regression", "1 that are not"),
        (np.array(["a", "b"]), "regression", "expected numbers"),
        (np.zeros(5), "ranking", "expected one of classification, regression"),
    ):
        with pytest.raises(ConfigError, match=message):
            response_of(label, kind)
