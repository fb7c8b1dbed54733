"""`fold`: what a strategy may answer, what sites may send, and what comes of it, with any reducer and dtype."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from hanse.aggregation import ArraySink, ArraySource, Choice, Krum, Median, NormBound, WeightedMean, ZeroWeight
from hanse.core.arrays import Array, Arrays, Layout
from hanse.core.errors import TaskError, UpdateError
from hanse.core.spec import RunSpec
from hanse.rounds.hosts.folding import fold
from hanse.rounds.hosts.items import Item
from hanse.strategies import Strategy
from hanse.strategies.fedadam import FedAdam
from hanse.strategies.fedavg import FedAvg
from hanse.strategies.numpy_strategy import NumPyStrategy
from hanse.strategies.query import Query
from hanse.strategies.strategy import FoldInput
from hanse.strategies.whole import Answers, Totals

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def items(updates: Sequence[Any], counts: Sequence[int] | None = None, kind: str = "values") -> list[Item]:
    """Ordinals are ten times the positions, so that a mix-up shows."""
    return [
        Item(
            10 * place,
            place,
            FoldInput(f"s{place}", 1 if counts is None else counts[place], 0, {}),
            kind,
            None if update is None else ArraySource(Arrays(update)),
        )
        for place, update in enumerate(updates)
    ]


def folded(
    strategy: Strategy,
    given: Sequence[Item],
    base: Any = None,
    *,
    states: Sequence[Any] = (),
    phase: str = "train",
    **spec: Any,
) -> tuple[dict[int, str], list[Arrays]]:
    sinks: list[ArraySink] = []

    def make_sink(layout: Layout) -> ArraySink:
        sinks.append(ArraySink(layout))
        return sinks[-1]

    refused = fold(
        strategy,
        RunSpec(**spec),
        given,
        make_sink,
        phase=phase,
        round_=1,
        size=given[-1].position + 1,
        base=None if base is None else ArraySource(Arrays(base)),
        states=[ArraySource(state) for state in states],
    )
    return refused, [sink.arrays for sink in sinks]


def w(*values: float, dtype: Any = np.float32) -> dict[str, Array]:
    return {"w": np.array(values, dtype)}


# ---- reducers ----


@dataclass(frozen=True)
class With(Strategy):
    """Any reducer."""

    rule: Any = None

    def reducer(self) -> Any:
        return self.rule


class Longest:
    """A Fold of one's own: the value that is largest in size."""

    def zero(self, n: int) -> Array:
        return np.zeros(n)

    def add(self, acc: Array, block: Array, weight: float) -> None:
        np.copyto(acc, block, where=np.abs(block) > np.abs(acc))

    def merge(self, a: Array, b: Array) -> Array:
        self.add(a, b, 1.0)
        return a

    def finish(self, acc: Array, total_weight: float, out: Array) -> None:
        out[:] = acc


class Nearest:
    """A Gather of one's own: only the update that is nearest to the base."""

    def measure(self, blocks: Array) -> Array:
        return np.asarray((blocks**2).sum(axis=1))

    def choose(self, stats: Array, weights: Sequence[float]) -> Choice:
        best = int(stats.argmin())
        return Choice(tuple(weight if place == best else None for place, weight in enumerate(weights)))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        pytest.param(WeightedMean(), [26.0, 0.0], id="mean"),
        pytest.param(Longest(), [98.0, -8.0], id="own fold"),
        pytest.param(Median(), [2.5, 2.0], id="select"),
        pytest.param(Nearest(), [1.0, 0.0], id="own gather"),
        pytest.param(NormBound(1e9), [26.0, 0.0], id="gather"),
    ],
)
def test_every_kind_of_reducer(rule: Any, expected: list[float]) -> None:
    updates = [w(1, 0), w(1, 4), w(4, 4), w(98, -8)]
    _, (model,) = folded(With(rule), items(updates), w(0, 0))
    np.testing.assert_allclose(model["w"], expected, rtol=1e-6)


def test_a_gather_and_its_update_see_values() -> None:
    class Half(With):
        def update(self, model: Array, reduced: Array, state: Any, scalars: Any) -> Array:
            return np.asarray(model + 0.5 * (reduced - model))

    _, (model,) = folded(Half(Nearest()), items([w(3, 3), w(9, 9)]), w(1, 1))
    np.testing.assert_array_equal(model["w"], [2, 2])


def test_krum_says_how_many_updates_it_needs() -> None:
    with pytest.raises(UpdateError, match="needs at least 5 updates, found 2"):
        folded(With(Krum(1)), items([w(1), w(2)]), w(0))


def test_something_else_is_no_reducer() -> None:
    with pytest.raises(TaskError, match=r"strategy With: expected reducer.* found str"):
        folded(With("mean"), items([w(1)]), w(0))


# ---- dtypes, states, weights ----


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16, np.float32, np.float64, np.int8, np.int64, np.uint16])
def test_every_dtype_of_a_model_keeps_it(dtype: Any) -> None:
    _, (model,) = folded(FedAvg(), items([w(1, 2, dtype=dtype), w(3, 4, dtype=dtype)]), w(0, 0, dtype=dtype))
    assert model["w"].dtype == dtype
    assert model["w"].astype(float).tolist() == [2, 3]


def test_integers_take_the_plain_mean_and_their_state_stays() -> None:
    base = {"w": np.zeros(2, BFLOAT16), "steps": np.array([10], np.int64)}
    update = {"w": np.ones(2, BFLOAT16), "steps": np.array([4], np.int64)}
    _, (model, m, u) = folded(FedAdam(), items([update, update], kind="delta"), base)
    assert model["steps"].tolist() == [14]
    assert model["w"].dtype == BFLOAT16
    assert float(model["w"][0]) != 0
    assert [str(array.dtype) for array in m.values()] == ["float64", "float64"]
    assert m["steps"].tolist() == u["steps"].tolist() == [0]
    np.testing.assert_allclose(m["w"], 0.1)
    _, again = folded(FedAdam(), items([update, update], kind="delta"), model, states=(m, u))
    np.testing.assert_allclose(again[1]["w"], 0.19)


def test_states_that_are_not_the_strategys_are_named() -> None:
    with pytest.raises(TaskError, match=r"state_names\(\) as before, 1"):
        folded(FedAdam(), items([w(1)], kind="delta"), w(0), states=[Arrays(w(0, dtype=np.float64))])


@dataclass(frozen=True)
class Weighing(Strategy):
    answer: Any = None

    def weigh(self, replies: Sequence[FoldInput]) -> Any:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ([1.0], "expected weigh.. to return 2 weights, found 1"),
        (None, "to return 2 weights, found NoneType"),
        ([1.0, float("nan")], "finite numbers ≥ 0, found nan for s1"),
        ([-1.0, 1.0], "finite numbers ≥ 0, found -1 for s0"),
        ([1.0, float("inf")], "found inf for s1"),
        ([1.0, "2"], "found str for s1"),
    ],
)
def test_nonsense_weights_are_the_strategys_fault_and_no_sites(answer: Any, says: str) -> None:
    with pytest.raises(TaskError, match=f"strategy Weighing: .*{says}") as caught:
        folded(Weighing(answer), items([w(1), w(2)]), w(0))
    assert caught.value.kind == "bad_reply"


def test_weights_of_zero() -> None:
    with pytest.raises(ZeroWeight):
        folded(Weighing([0.0, 0.0]), items([w(1), w(2)]), w(0))
    _, (model,) = folded(Weighing(np.array([0, 2])), items([w(1), w(2)]), w(0))
    assert model["w"].tolist() == [2]
    _, (model,) = folded(FedAvg(), items([w(1), w(2)], counts=[0, 0]), w(0))
    assert model["w"].tolist() == [1.5]


@pytest.mark.parametrize("made", [None, 1.0, np.zeros(1), np.zeros(2, np.float32)])
def test_an_update_that_returns_no_block_is_named(made: Any) -> None:
    class Wrong(Strategy):
        def update(self, model: Array, reduced: Array, state: Any, scalars: Mapping[str, float]) -> Any:
            return made

    with pytest.raises(TaskError, match=r"strategy Wrong: expected update\(\) to return float64 \(2,\)"):
        folded(Wrong(), items([w(1, 2)]), w(0, 0))


# ---- what sites send ----


def test_refused_updates_are_named_by_ordinal() -> None:
    given = items([w(1), None, {"other": np.zeros(1, np.float32)}, w(np.nan), w(5)])
    refused, _ = folded(FedAvg(), given, w(0))
    assert refused == {10: "expected arrays, found none"}
    refused, _ = folded(FedAvg(), [given[0], *given[2:]], w(0))
    assert list(refused) == [20]
    refused, _ = folded(FedAvg(), [given[0], *given[3:]], w(0))
    assert list(refused) == [30]
    assert "not finite" in refused[30]
    refused, _ = folded(FedAvg(), items([w(1)], kind="delta"), w(0))
    assert refused == {0: "expected values, found delta"}


def test_values_that_are_not_finite_pass_where_the_run_allows_them() -> None:
    given = items([w(1, np.nan), w(3, 4)])
    refused, (model,) = folded(FedAvg(), given, w(0, 0), allow_nonfinite=True)
    assert not refused
    assert model["w"][0] == 2
    assert np.isnan(model["w"][1])


def test_without_a_model_there_is_nothing_to_fold_into() -> None:
    with pytest.raises(TaskError, match="no model to fold into"):
        folded(FedAvg(), items([w(1)]))


# ---- queries ----


def test_a_query_sums_what_the_sites_answer_and_reads_no_model() -> None:
    counts = [{"n": np.array([2**40 + 1, 3], np.int64)}, {"n": np.array([5, 4], np.int64)}]
    _, (model,) = folded(Query(), items(counts, [7, 0]), w(0))
    assert model["n"].tolist() == [2**40 + 6, 7]
    _, (model,) = folded(Query("mean"), items([w(1), w(4)], [1, 2]))
    assert model["w"].tolist() == [3]


def test_a_query_without_arrays_reduces_nothing() -> None:
    assert folded(Query(), items([None, None])) == ({}, [])


def test_a_site_without_arrays_where_others_answer_some_is_refused() -> None:
    refused, _ = folded(Query(), items([w(1), None]))
    assert refused == {10: "expected arrays, found none"}


# ---- NumPyStrategy ----


class Middle(NumPyStrategy):
    def aggregate_fit(self, round: int, results: Any) -> Any:
        assert round == 1
        for _, arrays, _ in results:
            arrays[0] += 0  # they are the strategy's own
        return [np.median(np.stack(layer), axis=0) for layer in zip(*(arrays for _, arrays, _ in results), strict=True)]


def test_a_numpy_strategy_gets_every_result() -> None:
    seen: list[Any] = []

    class Seeing(Middle):
        def aggregate_fit(self, round: int, results: Any) -> Any:
            seen.extend((site, [array.dtype for array in arrays], count) for site, arrays, count in results)
            return super().aggregate_fit(round, results)

    base = {"w": np.zeros((1, 2), np.float32), "n": np.array([0], np.int32)}
    updates = [{"w": np.full((1, 2), v, np.float32), "n": np.array([v], np.int32)} for v in (1, 2, 6, 7)]
    _, (model,) = folded(Seeing(), items(updates, [1, 2, 3, 4]), base)
    assert model["w"].tolist() == [[4, 4]]
    assert [str(array.dtype) for array in model.values()] == ["float32", "int32"]
    assert model["n"].tolist() == [4]
    assert seen[1] == ("s1", [np.dtype(np.float32), np.dtype(np.int32)], 2)


def test_a_numpy_strategy_has_a_guard_on_size() -> None:
    class Small(Middle):
        max_bytes = 15

    with pytest.raises(UpdateError, match="2 updates are 16 bytes together, more than max_bytes=15; write a Fold"):
        folded(Small(), items([w(1, 2), w(3, 4)]), w(0, 0))
    assert NumPyStrategy.max_bytes == 256 * 2**20


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (None, "list of 1 arrays, found NoneType"),
        ([], "list of 1 arrays, found 0"),
        ([np.zeros(3)], r"return w float32 \(2,\), found float64 \(3,\)"),
        ([np.array([1.0, np.inf])], "not finite or do not fit"),
        ([np.array(["a", "b"])], "return w float32"),
    ],
)
def test_a_numpy_strategy_that_answers_nonsense_is_named(made: Any, says: str) -> None:
    class Wrong(NumPyStrategy):
        def aggregate_fit(self, round: int, results: Any) -> Any:
            return made

    with pytest.raises(TaskError, match=f"strategy Wrong: .*{says}"):
        folded(Wrong(), items([w(1, 2)]), w(0, 0))


def test_a_numpy_strategy_never_sees_what_does_not_fit() -> None:
    refused, _ = folded(Middle(), items([w(1), w(np.inf), w(2)]), w(0))
    assert list(refused) == [10]
    refused, _ = folded(Middle(), items([w(1), w(1, 2)]), w(0))
    assert list(refused) == [10]


# ---- protocols of phases ----


@dataclass(frozen=True)
class InPhases(Strategy):
    """`names` reads what each site says; `count` adds up as many numbers as there are names."""

    name = "in-phases"
    needs_model = False
    stepwise = True

    def reducer_of(self, phase: str, model: Arrays | None) -> Any:
        if phase == "names":
            return Answers(
                lambda told: "" if list(told) == ["said"] else "expected 'said'",
                lambda told: Arrays({site: arrays["said"] for site, arrays in told}),
                max_bytes=64,
            )
        assert model is not None
        layout = Arrays({"count": np.zeros(len(model), np.int64)}).layout
        return Totals(layout, lambda totals: Arrays({**model, "total": totals["count"]}))


def said(*values: int) -> dict[str, Array]:
    return {"said": np.array(values, np.uint8)}


def test_answers_of_any_layout_make_the_model() -> None:
    refused, made = folded(InPhases(), items([said(1, 2), said(), said(7)]), phase="names")
    assert not refused
    assert {name: array.tolist() for name, array in made[0].items()} == {"s0": [1, 2], "s1": [], "s2": [7]}


def test_answers_that_are_wrong_or_too_long_are_refused_by_name() -> None:
    refused, made = folded(InPhases(), items([said(1), {"other": [1]}, said(*range(40)), None]), phase="names")
    assert not made
    assert refused == {30: "expected arrays, found none"}
    refused, _ = folded(InPhases(), items([said(1), {"other": [1]}, said(*range(40))]), phase="names")
    assert set(refused) == {10, 20}
    assert "expected 'said'" in refused[10]
    assert "at most 21 bytes, found 40" in refused[20]


def test_totals_are_added_and_the_model_changes_its_shape() -> None:
    base = {"a": np.zeros(3, np.uint8), "b": np.zeros(1, np.uint8)}
    updates = [{"count": np.array([n, 2**50 + n])} for n in (1, 2, 3)]
    refused, made = folded(InPhases(), items(updates), base, phase="count")
    assert not refused
    assert made[0]["total"].tolist() == [6, 3 * 2**50 + 6]
    assert list(made[0]) == ["a", "b", "total"]


def test_totals_of_another_layout_are_refused_even_from_the_first_site() -> None:
    updates = [{"count": np.zeros(3, np.int64)}, {"count": np.zeros(2, np.int64)}, {"count": np.zeros(2)}]
    refused, _ = folded(InPhases(), items(updates), {"a": [0], "b": [0]}, phase="count")
    assert set(refused) == {0, 20}
    assert "expected count int64 (2,)" in refused[0]


def test_totals_that_cannot_be_exact_are_no_totals() -> None:
    for value in (2**52, -(2**52)):
        updates = [{"count": np.array([0, value])}] * 2
        with pytest.raises(UpdateError, match="2\\*\\*53"):
            folded(InPhases(), items(updates), {"a": [0], "b": [0]}, phase="count")


def test_a_phase_ends_with_arrays() -> None:
    @dataclass(frozen=True)
    class Wrong(InPhases):
        def reducer_of(self, phase: str, model: Arrays | None) -> Any:
            return Answers(lambda told: "", lambda told: 7)  # type: ignore[arg-type, return-value]  # on purpose

    with pytest.raises(TaskError, match=r"hs\.Arrays, found int"):
        folded(Wrong(), items([said(1)]))
