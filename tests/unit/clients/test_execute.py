"""One task with one app: what is asked of user code, what is made of its answer, and what a failure may say."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import hanse as hs
from hanse.clients.app import App
from hanse.clients.execute import Outcome, Runtime, all_finite
from hanse.clients.numpy_client import NumPyClient
from hanse.core.arrays import Arrays
from hanse.core.blobs import manifest_of
from hanse.core.codec import decode, encode
from hanse.core.errors import PolicyError, TaskError
from hanse.core.ids import TaskId
from hanse.core.records import BlobRef, Task

MODEL = Arrays({"w": np.array([1.0, 2.0, 3.0], np.float32), "b": np.array([0.5])})


def task_of(call: str = "train", **changes: Any) -> Task:
    fields: dict[str, Any] = {
        "id": TaskId("job", "main", 1, call, 1),
        "site": "a",
        "call": call,
        "config": {"round": 1},
    }
    return Task(**{**fields, **changes})


class Doubling(NumPyClient):
    def get_parameters(self, config: Any) -> Any:
        return [np.zeros(3, np.float32), np.zeros(1)]

    def fit(self, parameters: Any, config: Any) -> Any:
        return [2 * array for array in parameters], np.int64(7), {"loss": np.float32(0.5), "r": config["round"]}

    def evaluate(self, parameters: Any, config: Any) -> Any:
        return 0.25, 3, {"accuracy": np.float64(1.0)}


def app_of(client: Any = Doubling, **settings: Any) -> App:
    app = App(**settings)
    app.client(lambda site: client() if isinstance(client, type) else client)
    return app


def run(app: App, task: Task, model: Arrays | None = MODEL, state: bytes | None = None, **more: Any) -> Outcome:
    log: list[str] = more.pop("log", [])
    return Runtime(app, site_name="a", load=lambda name: name, log=log.append).execute(task, model, state, **more)


def train_with(function: Any, **changes: Any) -> Outcome:
    app = App(initial=MODEL)
    app.train(function)
    return run(app, task_of(**changes))


def test_the_three_methods_of_a_numpy_client() -> None:
    app = app_of()
    first = run(app, task_of("parameters"), None)
    assert first.reply.ok
    assert first.arrays is not None
    assert list(first.arrays) == ["0", "1"]
    trained = run(app, task_of())
    assert trained.reply.num_examples == 7
    assert trained.reply.metrics == {"loss": 0.5, "r": 1}
    assert type(trained.reply.metrics["loss"]) is float
    assert trained.arrays == Arrays({"w": np.array([2.0, 4.0, 6.0], np.float32), "b": np.array([1.0])})
    assert trained.reply.fingerprint
    evaluated = run(app, task_of("evaluate"))
    assert evaluated.reply.metrics == {"loss": 0.25, "accuracy": 1.0}
    assert (evaluated.reply.num_examples, evaluated.arrays) == (3, None)


def test_any_object_with_the_three_methods_is_a_client() -> None:
    class Duck:
        get_parameters, fit, evaluate = Doubling.get_parameters, Doubling.fit, Doubling.evaluate

    assert run(app_of(Duck), task_of()).reply.ok


def test_a_reply_survives_the_wire() -> None:
    reply = run(app_of(), task_of()).reply
    assert type(reply).unpack(reply.pack()) == reply


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_a_delta_is_one_rounded_subtraction_in_the_dtype(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    base = (rng.standard_normal(200) * 2.0 ** rng.integers(-6, 7, 200)).astype(dtype)
    new = (rng.standard_normal(200) * 2.0 ** rng.integers(-6, 7, 200)).astype(dtype)
    app = App(initial=[base])
    app.train(lambda arrays, config, site: ([new], 1, {}))
    blob = BlobRef(manifest_of(encode(Arrays({"w": base}))))
    outcome = run(app, task_of(update_kind="delta", model=blob), Arrays({"w": base}))
    assert outcome.arrays is not None
    # oracle: subtract in the widest float that numpy has, then round once
    expected = (new.astype(np.longdouble) - base.astype(np.longdouble)).astype(np.float64).astype(dtype)
    assert np.array_equal(outcome.arrays["w"].view(np.uint8), expected.view(np.uint8))
    assert outcome.reply.update_kind == "delta"
    assert outcome.reply.base == blob.id


def test_an_integer_buffer_travels_as_delta_and_an_unsigned_fall_is_refused() -> None:
    up = App(initial=[np.array(3)])
    up.train(lambda arrays, config, site: ([arrays["n"] + 2], 1, {}))
    outcome = run(up, task_of(update_kind="delta"), Arrays({"n": np.array(3)}))
    assert outcome.arrays is not None
    assert outcome.arrays["n"] == 2
    down = App(initial=[np.array(3)])
    down.train(lambda arrays, config, site: ([arrays["n"] - np.uint8(1)], 1, {}))
    refused = run(down, task_of(update_kind="delta"), Arrays({"n": np.array(3, np.uint8)})).reply
    assert refused.error_kind == "bad_reply"
    assert "does not fit uint8" in refused.error


def test_user_code_may_change_what_it_gets_and_the_model_stays() -> None:
    model = decode(encode(MODEL))  # read-only views, as a map of a file gives

    def train(arrays: Arrays, config: Any, site: Any) -> Any:
        for array in arrays.values():
            array += 1
        return arrays, 1, {}

    app = App(initial=MODEL)
    app.train(train)
    outcome = run(app, task_of(update_kind="delta"), model)
    assert outcome.arrays is not None
    assert all((array == 1).all() for array in outcome.arrays.values())
    assert model == MODEL


def test_private_arrays_are_handed_out_without_a_copy() -> None:
    private = Arrays({name: array.copy() for name, array in MODEL.items()})
    seen: list[Arrays] = []

    def train(arrays: Arrays, config: Any, site: Any) -> Any:
        seen.append(arrays)
        return arrays, 1, {}

    app = App(initial=MODEL)
    app.train(train)
    run(app, task_of(), private=private)
    assert seen[0] is private


def test_answers_are_the_callers_own_unless_they_are_lent() -> None:
    kept = np.zeros(2)

    def train(arrays: Arrays, config: Any, site: Any) -> Any:
        kept[:] += 1
        return [kept], 1, {}

    app = App(initial=[kept])
    app.train(train)
    runtime = Runtime(app, site_name="a", load=str, log=print)
    model = Arrays({"w": np.zeros(2)})
    first = runtime.execute(task_of(), model, None).arrays
    lent = runtime.execute(task_of(), model, None, lend=True).arrays
    assert first is not None
    assert lent is not None
    assert first["w"].tolist() == [1, 1]
    assert lent["w"] is kept


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "found NoneType"),
        (([np.zeros(3, np.float32)], 1), "found 2 values"),
        ((None, 1, {}), "found nothing"),
        (([], 1, {}), "expected 2 arrays, found 0"),
        (([np.zeros(4, np.float32), np.zeros(1)], 1, {}), "expected w float32 (3,), found w float32 (4,)"),
        (([np.zeros(3), np.zeros(1)], 1, {}), "expected w float32 (3,), found w float64 (3,)"),
        (({"x": np.zeros(3, np.float32), "b": np.zeros(1)}, 1, {}), "expected w float32 (3,), found x float32"),
        (([np.array(["a"]), np.zeros(1)], 1, {}), "expected a dtype"),
        (([object(), np.zeros(1)], 1, {}), "expected a dtype"),
        (([[[1], [1, 2]], np.zeros(1)], 1, {}), "something numpy cannot take"),
        (([np.full(3, np.nan, np.float32), np.zeros(1)], 1, {}), "'w' holds NaN or infinity"),
        ((MODEL, -1, {}), "num_examples to be a whole number"),
        ((MODEL, 1.5, {}), "num_examples to be a whole number"),
        ((MODEL, True, {}), "num_examples to be a whole number"),
        ((MODEL, 2**53, {}), "num_examples to be a whole number"),
        ((MODEL, 1, None), "expected metrics to be a dict"),
        ((MODEL, 1, {"m": {}}), "'m' in metrics"),
        ((MODEL, 1, {"m": np.zeros((2, 2))}), "'m' in metrics"),
        ((MODEL, 1, {1: 2.0}), "metrics to have short names"),
        ((MODEL, 1, {"m": 2**70}), "'m' in metrics"),
    ],
)
def test_a_bad_answer_is_named(answer: Any, said: str) -> None:
    outcome = train_with(lambda arrays, config, site: answer)
    assert outcome.reply.error_kind == "bad_reply"
    assert said in outcome.reply.error
    assert outcome.arrays is None


def test_nonfinite_arrays_pass_where_the_job_allows_them() -> None:
    broken = [np.full(3, np.inf, np.float32), np.zeros(1)]
    assert train_with(lambda *_: (broken, 1, {}), allow_nonfinite=True).reply.ok


def test_a_delta_that_overflows_is_refused() -> None:
    largest = np.array([np.finfo(np.float16).max], np.float16)
    app = App(initial=[largest])
    app.train(lambda arrays, config, site: ([-largest], 1, {}))
    reply = run(app, task_of(update_kind="delta"), Arrays({"w": largest})).reply
    assert reply.error_kind == "bad_reply"


def test_metrics_take_lists_and_numpy_scalars() -> None:
    outcome = train_with(
        lambda *_: (MODEL, 1, {"l": np.arange(3), "t": (1.5, "x"), "b": np.bool_(True), "z": np.array(2)})
    )
    assert outcome.reply.metrics == {"l": [0, 1, 2], "t": [1.5, "x"], "b": True, "z": 2}


def test_an_exception_becomes_its_type_and_line_and_its_text_stays_at_the_site() -> None:
    log: list[str] = []

    def train(arrays: Arrays, config: Any, site: Any) -> Any:
        raise ValueError("patient 4711 has diabetes")

    app = App(initial=MODEL)
    app.train(train)
    outcome = run(app, task_of(), log=log)
    assert outcome.reply.error_kind == "raised"
    assert f"ValueError at {Path(__file__).name}:" in outcome.reply.error
    assert "in train" in outcome.reply.error
    assert "4711" not in outcome.reply.error
    assert "patient 4711" in "".join(log)


def test_exit_is_a_failure_of_its_own() -> None:
    def train(*_: Any) -> Any:
        raise SystemExit(3)

    assert train_with(train).reply.error_kind == "exited"


def test_our_own_errors_keep_their_text() -> None:
    def train(arrays: Arrays, config: Any, site: Any) -> Any:
        hs.FedAvgM(momentum=-1.0)

    assert "ConfigError at test_execute.py" in (error := train_with(train).reply.error)
    assert "-1.0" in error


@pytest.mark.parametrize("kind", [PolicyError, lambda text: TaskError("raised", text)])
def test_our_own_errors_raised_by_the_app_do_not(kind: Any) -> None:
    log: list[str] = []

    def train(arrays: Arrays, config: Any, site: Any) -> Any:
        raise kind("patient 4711 has diabetes")

    app = App(initial=MODEL)
    app.train(train)
    outcome = run(app, task_of(), log=log)
    assert outcome.reply.error_kind == "raised"
    assert "in train; the site's log has the rest" in outcome.reply.error
    assert "4711" not in outcome.reply.error
    assert "patient 4711" in "".join(log)


def test_an_unknown_call_and_a_missing_model_are_refused() -> None:
    assert run(app_of(), task_of("shutdown")).reply.error_kind == "refused"
    assert run(app_of(), task_of(), None).reply.error_kind == "refused"


def test_client_must_be_one() -> None:
    app = App()
    app.client(lambda site: 3)
    assert "found int" in run(app, task_of()).reply.error


# ---- state, seeds, workers ----


class Counting(NumPyClient):
    def __init__(self, site: Any) -> None:
        self.site = site

    def fit(self, parameters: Any, config: Any) -> Any:
        state = self.site.state
        state["n"] = state.get("n", 0) + 1
        state["v"] = state.get("v", np.zeros(2)) + self.site.rng.random(2)
        if config.get("fail"):
            raise RuntimeError
        noise = np.random.random(3).astype(np.float32) + np.float32(state["n"])
        return [noise, state["v"][:1]], 1, {"n": state["n"]}


def counting() -> App:
    app = App(seed=3)
    app.client(Counting)
    return app


def test_state_is_kept_with_a_success_and_not_with_a_failure() -> None:
    runtime = Runtime(counting(), site_name="a", load=str, log=lambda text: None)
    first = runtime.execute(task_of(), MODEL, None)
    failed = runtime.execute(task_of(config={"round": 2, "fail": True}), MODEL, first.state)
    assert failed.state == first.state
    second = runtime.execute(task_of(), MODEL, failed.state)
    assert second.reply.metrics["n"] == 2


def test_a_new_worker_between_two_tasks_changes_no_bit() -> None:
    def two_rounds(fresh: bool) -> list[Outcome]:
        runtime, state, outcomes = None, None, []
        for number in (1, 2):
            if runtime is None or fresh:
                runtime = Runtime(counting(), site_name="a", load=str, log=lambda text: None)
            task = task_of(id=TaskId("job", "main", number, "train", number), seed=3)
            outcomes.append(runtime.execute(task, MODEL, state))
            state = outcomes[-1].state
        return outcomes

    for warm, fresh in zip(two_rounds(False), two_rounds(True), strict=True):
        assert warm.arrays == fresh.arrays
        assert warm.state == fresh.state


def test_a_stateless_site_stores_nothing() -> None:
    assert run(app_of(), task_of()).state is None


def test_state_that_cannot_be_kept_is_named() -> None:
    def train(arrays: Arrays, config: Any, site: Any) -> Any:
        site.state["model"] = object()
        return arrays, 1, {}

    assert "site.state['model']" in train_with(train).reply.error


def test_state_is_not_to_be_had_while_the_client_is_made() -> None:
    app = App()
    app.client(lambda site: site.state)
    assert run(app, task_of()).reply.error_kind == "refused"


def test_random_streams_differ_by_site_round_and_attempt_and_repeat_otherwise() -> None:
    def drawn(site: str = "a", **changes: Any) -> tuple[float, float]:
        app = App(initial=MODEL)
        app.train(lambda arrays, config, at: (arrays, 1, {"x": at.rng.random(), "y": np.random.random()}))
        runtime = Runtime(app, site_name=site, load=str, log=lambda text: None)
        metrics = runtime.execute(task_of(**changes), MODEL, None).reply.metrics
        return metrics["x"], metrics["y"]  # type: ignore[return-value]  # two floats

    second = TaskId("job", "main", 2, "train", 2)
    draws = [drawn(), drawn("b"), drawn(id=second), drawn(attempt=1), drawn(seed=9)]
    assert drawn() == draws[0]
    assert len({value for draw in draws for value in draw}) == 10


def test_query_answers_without_a_model() -> None:
    app = App()
    answers: list[Any] = [{"count": 3}, (5, {"count": 3}), ([np.ones(2)], 5, {"count": 3})]
    app.query(lambda config, site: answers[config["which"]])
    outcomes = [run(app, task_of("query", config={"which": which}), None) for which in range(3)]
    assert [outcome.reply.num_examples for outcome in outcomes] == [0, 5, 5]
    assert all(outcome.reply.metrics == {"count": 3} for outcome in outcomes)
    assert outcomes[2].arrays == Arrays.from_list([np.ones(2)])


def test_query_stands_beside_a_client() -> None:
    app = app_of()
    app.query(lambda config, site: {"count": 1})
    assert run(app, task_of("query"), None).reply.metrics == {"count": 1}
    assert run(app, task_of()).reply.num_examples == 7


def test_data_is_loaded_once_per_worker() -> None:
    loads: list[str] = []
    app = App(initial=MODEL)
    app.train(lambda arrays, config, site: (arrays, len(site.load("patients")), {}))

    def load(name: str) -> Any:
        loads.append(name)
        return [1, 2]

    runtime = Runtime(app, site_name="a", load=load, log=lambda text: None)
    for _ in range(3):
        assert runtime.execute(task_of(), MODEL, None).reply.num_examples == 2
    assert loads == ["patients"]


def test_all_finite_looks_at_every_block() -> None:
    array = np.zeros((1 << 18) + 5, np.float32)
    assert all_finite(array)
    array[-1] = np.inf
    assert not all_finite(array)
    assert all_finite(np.zeros((0, 3)))
    assert not all_finite(np.array(np.nan, ml_dtypes.bfloat16))
